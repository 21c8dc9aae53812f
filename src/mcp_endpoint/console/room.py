"""The room of the console: its paths; the other modules are imported at the first request.

Nothing else of the console is imported before that: one that nobody opens costs nothing.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from loguru import logger
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

PATH: Final = "/console"
MISSING: Final = """\
The console needs the Python package {0}, which is not installed.
Run: pip install -r requirements.txt (or pip install {0}), then load this page again.
控制台需要 Python 软件包 {0}，但尚未安装。
请运行 pip install -r requirements.txt（或 pip install {0}），然后重新打开本页面。
"""


class Pages(Protocol):
    """What answers: `shell.Shell`."""

    async def answer(self, request: Request) -> Response:
        """The answer to one request. Raises ClientDisconnect when its client has left."""

    def close(self) -> None:
        """Give back what is held."""


class Console:
    """The room of the console."""

    name = "console"
    owed = 0

    def __init__(self, make: Callable[[], Pages]) -> None:
        """`make` puts together what answers, in the loop; called once, with the first request."""
        self._make = make
        self.shell: Any = None
        """What `make` gave; None before the first request."""

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """Every path below /console: what does not exist is answered in the same form."""
        return [Route(path, _App(self)) for path in (PATH, PATH + "/{path:path}")]

    def refuses_pages(self, request: Request) -> bool:
        """All, but for a link that leads a person here: their cookie does not come along, and there is no key in it to try."""
        headers = request.headers
        led = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        return request.method != "GET" or not led or "origin" in headers or "key" in request.query_params

    async def start(self) -> None:
        """Nothing waits for anybody."""

    async def stop(self) -> None:
        """Leave the endpoints whose tools were looked at, and end the streams."""
        if self.shell is not None:
            self.shell.close()

    def describe(self) -> Mapping[str, Any]:
        """What an operator may know of it."""
        return {"opened": self.shell is not None}

    async def answer(self, request: Request) -> Response:
        """The answer to one request. Raises ClientDisconnect when its client has left."""
        if self.shell is None:
            try:
                await asyncio.to_thread(importlib.import_module, ".shell", __package__)  # nobody's calls wait for it
            except ModuleNotFoundError as error:  # an update of the program, and not of its packages
                logger.error("控制台缺少软件包 / the console lacks a package", package=error.name)
                return PlainTextResponse(MISSING.format(error.name), 503, {"Cache-Control": "no-store"})
            self.shell = self.shell or self._make()
        response: Response = await self.shell.answer(request)
        return response


class _App:
    """One path as an ASGI application, so that Starlette hands every method through."""

    def __init__(self, room: Console) -> None:
        self._room = room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._room.answer(Request(scope, receive, send))
        except ClientDisconnect:
            return  # it left before its answer
        await response(scope, receive, send)
