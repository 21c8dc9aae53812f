"""Building blocks of MCP responses over HTTP: content negotiation, errors, streams."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import UNSET, Raw
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

from ...errors import Code
from ...protocol import jsonrpc
from ...protocol.stateless import INTERNAL, Error
from .envelope import STATUS
from .streams import HEADERS

LATER: Final = {"retry-after": "5"}
"""Headers for a client that may retry later."""

_encode: Final = msgspec.json.Encoder().encode


def accepts(request: Request) -> tuple[bool, bool]:
    """Whether the client accepts JSON, and whether it accepts an event stream; without an Accept header it gets JSON."""
    kinds = {kind.partition(";")[0].strip().lower() for kind in ",".join(request.headers.getlist("accept")).split(",")}
    anything = "*/*" in kinds or kinds == {""}
    return anything or bool(kinds & {"application/json", "application/*"}), "*/*" in kinds or bool(kinds & {"text/event-stream", "text/*"})


def refused(status: int, code: Code, why: str, id: bytes = b"null", *, headers: Mapping[str, str] | None = None) -> Response:
    """An HTTP error with a JSON-RPC error as its body; codes that only devices know are replaced."""
    number = code.number if code.number < -32099 else INTERNAL
    body = jsonrpc.failure(id, _encode({"code": number, "message": f"{code.message}: {why}"}))
    return Response(body, status, headers, media_type="application/json")


class StreamedAnswer(Response):
    """A response that is an event stream."""

    media_type = "text/event-stream"

    def __init__(self, stalled_seconds: float) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers(HEADERS)
        self._stalled_seconds = stalled_seconds

    async def _begin(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

    async def _write(self, send: Send, piece: bytes, *, more: bool = True) -> None:
        async with asyncio.timeout(self._stalled_seconds):
            await send({"type": "http.response.body", "body": piece, "more_body": more})


def json_answer(body: bytes, status: int) -> Response:
    """A JSON response."""
    return Response(body, status, media_type="application/json")


def error_frame(id: bytes, code: int, message: str, data: object = UNSET) -> tuple[bytes, int]:
    """A JSON-RPC error, and the HTTP status that revision 2026-07-28 defines for its code."""
    error = Error(code, message, UNSET if data is UNSET else Raw(_encode(data)))
    return jsonrpc.failure(id, _encode(error)), STATUS.get(code, 200)


def error_answer(id: bytes, code: int, message: str, data: object = UNSET) -> Response:
    """The same as an HTTP response."""
    return json_answer(*error_frame(id, code, message, data))
