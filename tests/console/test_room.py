"""The console as one of the server's rooms: nothing of it is loaded before somebody opens it."""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from console import BEARER, PAGE, console
from running import KEY
from starlette.requests import Request
from starlette.responses import Response

from mcp_endpoint.console.room import Console
from mcp_endpoint.settings.schema import Config, ConsoleSettings


async def test_the_console_is_not_there_when_it_is_off(tmp_path: Path) -> None:
    async with console(Config(console=ConsoleSettings(on=False)), root=tmp_path) as (_, visitor):
        assert (await visitor.get("/console", headers=PAGE | BEARER)).status_code == 404


@pytest.mark.parametrize("on", [True, False])
def test_nothing_is_loaded_before_the_first_page_and_no_console_where_it_is_off(on: bool, tmp_path: Path) -> None:
    code = f"""
import asyncio, json, sys
from mcp_endpoint.serving.server import create_server
from mcp_endpoint.settings.schema import Config, ConsoleSettings, Server
async def go():
    create_server(Config(server=Server(key={KEY!r}), console=ConsoleSettings(on={on})))
asyncio.run(go())
found = [name for name in sorted(sys.modules) if name.partition(".")[0] in ("jinja2", "segno") or ".console" in name]
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=30)
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert loaded == (["mcp_endpoint.console", "mcp_endpoint.console.room"] if on else [])


class Shell:
    """A shell that answers with its number."""

    made = 0

    def __init__(self) -> None:
        Shell.made += 1
        self.closed = False

    async def answer(self, request: Request) -> Response:
        return Response(str(Shell.made))

    def close(self) -> None:
        self.closed = True


async def test_a_package_that_is_not_installed_is_named_and_the_next_request_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program was updated and its packages were not: the page says what to run, and no restart is needed afterwards."""
    real = importlib.import_module

    def lacking(name: str, package: str | None = None) -> ModuleType:
        if name == ".shell":
            raise ModuleNotFoundError("No module named 'segno'", name="segno")
        return real(name, package)

    async with console(root=tmp_path) as (_, visitor):
        with monkeypatch.context() as patch:
            patch.setattr(importlib, "import_module", lacking)
            answer = await visitor.get("/console", headers=PAGE | BEARER)
        assert answer.status_code == 503
        assert "segno" in answer.text and "pip install -r requirements.txt" in answer.text and "未安装" in answer.text
        assert (await visitor.get("/console", headers=PAGE | BEARER)).status_code == 200


async def test_the_first_requests_share_one_shell_which_is_closed_with_the_room() -> None:
    room = Console(Shell)
    await room.stop()
    assert room.describe() == {"opened": False}
    request = Request({"type": "http", "method": "GET", "headers": []})
    answers = await asyncio.gather(*(room.answer(request) for _ in range(3)))
    assert [answer.body for answer in answers] == [b"1"] * 3 and room.describe() == {"opened": True}
    await room.stop()
    assert room.shell.closed
