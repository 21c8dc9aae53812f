"""An exchange crosses to another process: it is an array in MessagePack, and comes out as it went in."""

from __future__ import annotations

import msgspec

from mcp_endpoint.exchanges import Exchange


def test_an_exchange_comes_out_of_messagepack_as_it_went_in() -> None:
    exchange = Exchange(
        started=1.5,
        ms=20.0,
        first_ms=None,
        endpoint=None,
        label="openrouter",
        client="127.0.0.1",
        method="POST",
        path="/v1/chat/completions?a=b",
        status=0,
        ending="broken",
        request_headers=[(b"host", b"localhost")],
        request_body=b"{}",
        answer_headers=[],
        answer_chunks=[(0.1, b"data: x")],
        seen_bytes=9,
        truncated=False,
    )
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(exchange), type=Exchange)
    assert msgspec.to_builtins(again) == msgspec.to_builtins(exchange)
