"""TLS from the TCP accept on: a socket counts and has its time before it has said anything.

Were uvicorn given the certificate, the loop would put TLS below our guard and tell the guard when TLS is up. Until then nobody counted the
socket, and a peer that says nothing was held for a minute. So the listener is a plain one, and the first protocol of a socket does what the
loop would have done, with a guard that knows of its socket from the accept on. Below TLS that guard also sees what waits for the peer: the
transport of TLS counts only what is not yet encrypted.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, ClassVar, Final, cast

from loguru import logger
from uvicorn.config import Config as UvicornConfig
from uvicorn.server import ServerState

from .guard import Guard, make_guard_class
from .handshake import Acceptor

SPARE_SECONDS: Final = 5.0
"""By how much the loop's own limit for TLS is longer than the guard's, which is the one that counts."""


class Securing(asyncio.Protocol):
    """The first protocol of an accepted socket: gives it to TLS, and TLS to a guard."""

    acceptor: ClassVar[Acceptor]
    guard: ClassVar[type[Guard]]
    certificate: ClassVar[ssl.SSLContext]

    def __init__(
        self, config: UvicornConfig, server_state: ServerState, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self._loop = _loop or asyncio.get_running_loop()
        self._guard = self.guard(config, server_state, app_state, self._loop)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket was accepted; the guard hears `connection_made` from TLS when that is up."""
        raw = cast(asyncio.Transport, transport)
        guard = self._guard
        up: asyncio.Future[None] = self._loop.create_future()
        up.add_done_callback(lambda up: _ended(up, guard))
        guard.accepted(raw)
        seconds = self.acceptor.config.limits.handshake_seconds + SPARE_SECONDS
        tls = _tls_class(self._loop)(self._loop, guard, self.certificate, up, True, None, True, seconds)
        raw.set_protocol(tls)
        tls.connection_made(raw)


def make_securing_class(acceptor: Acceptor, certificate: ssl.SSLContext) -> type[Securing]:
    """The class for uvicorn's `http=` where this server has a certificate; uvicorn itself is given none."""
    return type("Securing", (Securing,), {"acceptor": acceptor, "guard": make_guard_class(acceptor), "certificate": certificate})


def _tls_class(loop: asyncio.AbstractEventLoop) -> Any:
    """What this loop itself puts between a socket and its protocol. Neither loop documents it; a test holds both to what is used here."""
    if isinstance(loop, asyncio.BaseEventLoop):
        from asyncio.sslproto import SSLProtocol
    else:
        from uvloop.loop import SSLProtocol  # type: ignore[attr-defined,no-redef]
    return SSLProtocol


def _ended(up: asyncio.Future[None], guard: Guard) -> None:
    """TLS is up, and the guard has its transport; or it will never be."""
    error = None if up.cancelled() else up.exception()
    if guard.securing:
        logger.debug("TLS 握手失败 / TLS handshake failed", peer=guard.peer, reason=str(error or "no TLS"))
        guard.abandoned()
