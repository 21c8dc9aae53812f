"""A calculator made with FastMCP."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from fastmcp import FastMCP

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

server = FastMCP("fast")


@server.tool
def calculator(python_expression: str) -> dict[str, Any]:
    """Multiplies whole numbers, written with `*`."""
    product = 1
    for factor in python_expression.split("*"):
        product *= int(factor)
    return {"success": True, "result": product}


if __name__ == "__main__":
    server.run(show_banner=False)
