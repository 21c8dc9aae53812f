"""The whole way once, on this machine: a server, two tools that `pipe` brings to it, and a device that lists and calls them.

    make demo

Everything runs on a free port in a folder that is removed at the end; nothing of an installation is read or changed.
Needs the package `mcp` (2.x or 1.x), which the two tools are made with.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MAIN = HERE.parent / "main.py"
sys.path.insert(0, str(HERE.parent / "src"))

from mcp_endpoint.commands import client as device  # noqa: E402 - found by the line above, also in a bare checkout
from mcp_endpoint.errors import EndpointError  # noqa: E402

PATIENCE_SECONDS = 60.0
"""For everything together; a slow machine needs a tenth of it."""
LOOK_SECONDS = 0.05
EXPECTED = {"calculator", "get_weather", "get_forecast"}
CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("calculator", {"python_expression": "130000 * 130000"}),
    ("get_weather", {"city": "北京"}),
)


async def demo(folder: Path) -> None:
    """Start, connect, list, call, stop; each step says what it does. Raises EndpointError where one fails."""
    began = time.monotonic()
    say("1", "启动服务器", "the server starts", f"$ python main.py --root {folder} serve --port 0")
    async with program(folder, "server", "--root", str(folder), "serve", "--host", "127.0.0.1", "--port", "0") as server:
        tool_address = await printed_address(server)
        show(shown(tool_address))
        say("2", "pipe 带来两个工具", "pipe brings two tools", "$ python main.py pipe --config examples/mcp.json")
        async with (
            program(folder, "pipe", "pipe", "--config", str(HERE / "mcp.json"), endpoint=tool_address),
            device.attached(tool_address.replace("/mcp/?", "/call/?")) as terminal,
        ):
            tools = await terminal.tools()
            while not {tool.name for tool in tools} >= EXPECTED:
                await asyncio.sleep(LOOK_SECONDS)
                tools = await terminal.tools()
            say("3", "设备列出工具", "a device lists the tools", "$ python main.py list")
            for tool in tools:
                show(f"{tool.name}({', '.join(tool.arguments)})")
            for name, arguments in CALLS:
                words = json.dumps(arguments, ensure_ascii=False)
                say("4", "设备调用工具", "a device calls a tool", f"$ python main.py call {name} '{words}'")
                asked = time.monotonic()
                answer = (await terminal.call(name, arguments)).text
                show(f"{' '.join(answer.split())}   ({(time.monotonic() - asked) * 1000:.0f} ms)")
    say("5", "全部正常结束", "all of it ended in an orderly way", f"{time.monotonic() - began:.1f} s")


@asynccontextmanager
async def program(folder: Path, name: str, *arguments: str, endpoint: str = "") -> AsyncIterator[asyncio.subprocess.Process]:
    """`python main.py ARGUMENTS` as a process of its own, stopped at the end; raises EndpointError if it did not end in an orderly way."""
    ours = {variable: value for variable, value in os.environ.items() if not variable.startswith("MES_")}
    ours |= {"MCP_ENDPOINT": endpoint, "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))}
    with (folder / f"{name}.txt").open("w") as written:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(MAIN), *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=written,
            env=ours,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
            await process.communicate()
    if process.returncode and os.name == "posix":
        raise EndpointError(f"{name} ended with status {process.returncode}", f"{name} 以状态 {process.returncode} 结束")


async def printed_address(server: asyncio.subprocess.Process) -> str:
    """The address for tools, from what the server prints when it listens."""
    assert server.stdout is not None
    while line := (await server.stdout.readline()).decode("utf-8", "replace"):
        if found := re.search(r"ws://\S+/mcp_endpoint/mcp/\?token=\S+", line):
            return found[0]
    raise EndpointError("the server did not start", "服务器没有启动")


def shown(address: str) -> str:
    """The address without its token."""
    return address.partition("?")[0]


def say(step: str, zh: str, en: str, command: str) -> None:
    print(f"\n{step}. {zh} / {en}\n   {command}", flush=True)


def show(text: str) -> None:
    print(f"   {text}", flush=True)


def main() -> int:
    """0 when everything worked."""
    if find_spec("mcp") is None:
        print("需要 mcp 包 / the package mcp is needed: pip install mcp", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="mcp-endpoint-demo-") as folder:
        try:
            asyncio.run(asyncio.wait_for(demo(Path(folder)), PATIENCE_SECONDS))
        except KeyboardInterrupt:
            return 130
        except (EndpointError, TimeoutError) as error:
            for file in sorted(Path(folder).glob("*.txt")):
                print(f"--- {file.stem}\n{file.read_text('utf-8', 'replace')}", file=sys.stderr)
            print(str(error) or f"{PATIENCE_SECONDS:g} 秒内未完成 / not done within {PATIENCE_SECONDS:g} s", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
