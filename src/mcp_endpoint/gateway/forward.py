"""One request on its way to an upstream: the state of its gateway, and what of the request is kept for a second attempt."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

import httpx2
import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request

from ..credentials.pool import Credential
from ..credentials.store import CredentialStore
from ..settings.schema import GatewaySettings
from .rewrite import Target


class Rpc(msgspec.Struct):
    """The fields of a JSON-RPC message that the gateway needs; the rest is not decoded."""

    jsonrpc: str
    method: str | UnsetType = UNSET
    id: msgspec.Raw | UnsetType = UNSET


_rpc: Final = msgspec.json.Decoder(Rpc)


class Counts(msgspec.Struct):
    """Counters of one gateway since the start of the server."""

    requests: int = 0
    local: int = 0
    """Answered by the gateway itself."""
    retries: int = 0
    failed: int = 0
    """The upstream could not be reached, or its response ended early."""


class Upstream(NamedTuple):
    """The state of one `[[gateway]]`."""

    settings: GatewaySettings
    target: Target
    url: httpx2.URL
    """`target.origin`, parsed once."""
    place: str
    """Where a key goes: that of the settings, or that of the environment's key."""
    ring: CredentialStore | None
    own: Credential | None
    """The key that the environment has for the target (`kind = "llm"`)."""
    transport: httpx2.AsyncHTTPTransport
    sessions: OrderedDict[str, Credential]
    counts: Counts


class Forwarded(NamedTuple):
    """One request to be sent to an upstream."""

    upstream: Upstream
    request: Request
    path: bytes
    """The raw path that is added to the target's."""
    query: bytes
    """The raw query, without this server's own key."""
    prefix: str
    """The gateway's own path, for redirects."""
    near: bool
    """Whether a program of this machine sends it, with no proxy in between."""
    begun: bytes
    """The request body, or the first part of one that is too large to be buffered."""
    rest: AsyncIterator[bytes] | None
    """The rest of such a body."""
    rpc: Rpc | None


class SplitBody(httpx2.AsyncByteStream):
    """A request body whose first part has already been read."""

    def __init__(self, begun: bytes, rest: AsyncIterator[bytes]) -> None:
        self._begun = begun
        self._rest = rest

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._begun
        async for piece in self._rest:
            if piece:
                yield piece


def rpc_of(body: bytes) -> Rpc | None:
    try:
        return _rpc.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None
