"""Weather as an MCP server on stdin and stdout: two tools, whose made-up data are the same on every day and need no network.

    mcp-endpoint pipe -- python examples/weather_server.py

Needs the package `mcp` (2.x or 1.x).
"""

from __future__ import annotations

import hashlib
import sys
from typing import Any

try:
    from mcp.server.mcpserver import MCPServer
except ModuleNotFoundError:
    try:
        from mcp.server.fastmcp import FastMCP as MCPServer  # mcp 1.x
    except ModuleNotFoundError:
        sys.exit("需要 mcp 包 / the package mcp is needed: pip install mcp")

LONGEST_FORECAST_DAYS = 7
LONGEST_CITY_CHARACTERS = 100
NOTE = "演示数据 / made-up data"

KNOWN = {
    "北京": ("晴 / sunny", 26, 35),
    "上海": ("多云 / cloudy", 28, 72),
    "广州": ("雷阵雨 / thunderstorm", 31, 84),
    "深圳": ("阵雨 / showers", 30, 80),
    "杭州": ("小雨 / light rain", 24, 88),
}
"""City → sky, °C, % relative humidity."""
ENGLISH = {"beijing": "北京", "shanghai": "上海", "guangzhou": "广州", "shenzhen": "深圳", "hangzhou": "杭州"}
SKIES = ("晴 / sunny", "多云 / cloudy", "阴 / overcast", "小雨 / light rain", "阵雨 / showers", "雾 / fog")


def _drawn(city: str, day: int) -> tuple[str, int, int]:
    """Sky, °C and humidity, drawn from the name of the city and the number of the day."""
    first, second, third, *_ = hashlib.sha256(f"{city}/{day}".encode()).digest()
    return SKIES[first % len(SKIES)], 5 + second % 30, 30 + third % 60


def _city(city: str) -> str:
    name = " ".join(city.split())
    if not name or len(name) > LONGEST_CITY_CHARACTERS:
        raise ValueError(f"城市名须为 1 到 {LONGEST_CITY_CHARACTERS} 个字符 / a city has 1 to {LONGEST_CITY_CHARACTERS} characters")
    return ENGLISH.get(name.lower(), name)


server = MCPServer("weather")


@server.tool()
def get_weather(city: str) -> dict[str, Any]:
    """查询城市当前天气。The weather of a city now: sky, temperature in °C, humidity in %."""
    name = _city(city)
    sky, degrees, humidity = KNOWN.get(name) or _drawn(name, 0)
    return {"city": name, "weather": sky, "temperature": degrees, "humidity": humidity, "note": NOTE}


@server.tool()
def get_forecast(city: str, days: int = 3) -> dict[str, Any]:
    """查询城市未来 1 到 7 天的天气预报。The forecast for a city for the next 1 to 7 days; day 1 is tomorrow."""
    name = _city(city)
    if not 1 <= days <= LONGEST_FORECAST_DAYS:
        raise ValueError(f"天数须为 1 到 {LONGEST_FORECAST_DAYS} / days must be 1 to {LONGEST_FORECAST_DAYS}")
    forecast = []
    for day in range(1, days + 1):
        sky, degrees, _ = _drawn(name, day)
        forecast.append({"day": day, "weather": sky, "high": degrees + 4, "low": degrees - 4})
    return {"city": name, "forecast": forecast, "note": NOTE}


if __name__ == "__main__":
    server.run()
