"""Accepts TLS sockets so that they are counted and timed from the TCP accept on, before the TLS handshake.

If uvicorn were given the certificate, the event loop would put TLS below the guard and create the guard's transport only after the TLS
handshake: until then nothing would count the socket, and a silent peer would be held for a minute. So the listener is a plain one, and the
first protocol of a socket does what the loop would have done, with a guard that knows the socket from the accept on. That guard also sees
the output waiting below TLS: the TLS transport counts only what is not yet encrypted.
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
"""How much longer the event loop's own TLS timeout is than the guard's, which is the effective one."""


class Securing(asyncio.Protocol):
    """The first protocol of an accepted socket: connects it with TLS, and TLS with a guard."""

    acceptor: ClassVar[Acceptor]
    guard: ClassVar[type[Guard]]
    certificate: ClassVar[ssl.SSLContext]

    def __init__(
        self, config: UvicornConfig, server_state: ServerState, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self._loop = _loop or asyncio.get_running_loop()
        self._guard = self.guard(config, server_state, app_state, self._loop)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket was accepted; TLS calls the guard's `connection_made` when its handshake is complete."""
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
    """The class that this loop puts between a socket and its protocol; undocumented, a test checks what is used of it."""
    if isinstance(loop, asyncio.BaseEventLoop):
        from asyncio.sslproto import SSLProtocol
    else:
        from uvloop.loop import SSLProtocol  # type: ignore[attr-defined,no-redef]
    return SSLProtocol


def _ended(up: asyncio.Future[None], guard: Guard) -> None:
    """The TLS handshake has ended, with or without success."""
    error = None if up.cancelled() else up.exception()
    if guard.securing:
        logger.debug("TLS 握手失败 / TLS handshake failed", peer=guard.peer, reason=str(error or "no TLS"))
        guard.abandoned()
