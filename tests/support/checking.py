"""`mcp-endpoint check` as the tests run it: its findings about a server of this process, or the whole command."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from running import BOUND, KEY, MAIN, SOURCES

from mcp_endpoint.commands.check import findings
from mcp_endpoint.commands.finding import Finding
from mcp_endpoint.settings.load import Loaded
from mcp_endpoint.settings.schema import Config, Security, Server

LIVE = "data/.mcp-endpoint-server.cfg"


def loaded(*warnings: tuple[str, str], security: Security | None = None, **server: Any) -> Loaded:
    config = Config(server=Server(**({"key": KEY} | server)), security=security or Security())
    return Loaded(config, SOURCES, warnings, Path(LIVE))


async def look(port: int, asked: str | None = None, *, contained: bool = False, **settings: Any) -> list[Finding]:
    """Everything found about a server of this process, from a thread of its own, as a command would."""
    found = await asyncio.to_thread(lambda: list(findings(loaded(port=port, **settings), asked, contained=contained)))
    for finding in found:
        assert finding.en
        assert bool(finding.remedy_en) == bool(finding.remedy_zh)
        assert re.search("[一-龥]", finding.zh + finding.remedy_zh)
        assert KEY not in str(finding)
    return found


def problems(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.mark == "PROBLEM"]


def notes(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.mark == "note"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


async def checked(root: Path, *arguments: str, environ: Mapping[str, str] | None = None) -> tuple[int | None, str]:
    """Status and output of `mcp-endpoint check`, outside of any container."""
    code = (
        "import sys; from mcp_endpoint.access import addresses; "
        "from mcp_endpoint.commands import main as cli; real = addresses.in_container; "
        "addresses.in_container = lambda environ: 'container' in environ; cli.main(arguments=sys.argv[1:])"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, "--root", str(root), "check", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"PYTHONPATH": str(MAIN.parent / "src"), "PATH": "", **(environ or {})},
    )
    output, _ = await asyncio.wait_for(process.communicate(), BOUND)
    return process.returncode, output.decode()


def live(root: Path, text: str) -> None:
    (root / LIVE).parent.mkdir(exist_ok=True)
    (root / LIVE).write_text(text, "utf-8")
