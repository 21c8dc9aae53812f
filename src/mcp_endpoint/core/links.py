"""The interfaces that the core needs: a link that takes frames, and a receiver of rare events."""

from __future__ import annotations

from typing import Protocol

from ..protocol.jsonrpc import Frame, Part


class Link(Protocol):
    """What the core needs of anything that attaches: a socket, a child process, an HTTP session."""

    def send(self, first: Part, second: Part = b"") -> None:
        """Take one frame, `first` followed by `second`. Never waits, never raises, and never calls back before it has returned.

        Does nothing on a closing link.
        """

    def close(self, code: int, reason: str) -> None:
        """Start the closing handshake (RFC 6455 §7), once."""

    def ping(self) -> None:
        """Ping now, so that a half-open socket is found within the ping timeout."""

    @property
    def queued(self) -> int:
        """Bytes taken by `send` that the peer has not read."""


class FrameLink(Link, Protocol):
    """A link to another part of this process, which also takes a parsed frame, so that it is not parsed again."""

    def send_frame(self, frame: Frame, first: Part, second: Part) -> None:
        """As `send`; `frame` is `first` and `second` as parsed. It must not be changed."""


class Watch(Protocol):
    """Receives rare events, for the log; never single valid frames."""

    def tell(self, event: str, shown: str, **fields: object) -> None:
        """`event` is a short name, `shown` the endpoint's printable name; fields contain no secrets."""
