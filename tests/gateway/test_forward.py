"""What is kept of a request on its way to an upstream."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from msgspec import UNSET

from mcp_endpoint.gateway.forward import SplitBody, rpc_of


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"jsonrpc":2}', b'{"method":"ping"}', b"[" * 100_000])
def test_what_is_no_message_is_carried_as_any_other_body(body: bytes) -> None:
    assert rpc_of(body) is None


def test_the_id_of_a_message_stays_as_it_was_written() -> None:
    rpc = rpc_of(b'{"jsonrpc":"2.0","method":"ping","id":1.0}')
    assert rpc is not None
    assert (rpc.method, bytes(rpc.id) if rpc.id is not UNSET else b"") == ("ping", b"1.0")


async def test_the_rest_of_a_body_follows_its_beginning_without_empty_pieces() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"", b"b", b"", b"c"):
            yield piece

    assert [piece async for piece in SplitBody(b"a", pieces())] == [b"a", b"b", b"c"]
