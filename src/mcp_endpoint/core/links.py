"""What the core asks of its surroundings: a link that takes frames, and somebody who is told of rare events."""

from __future__ import annotations

from typing import Protocol

from ..protocol.jsonrpc import Frame, Part


class Link(Protocol):
    """What the heart needs of whatever attaches: a socket, a child process, an HTTP session."""

    def send(self, first: Part, second: Part = b"") -> None:
        """Take one frame, `first` followed by `second`. Never waits, never raises, and never answers before it has returned.

        Does nothing on a link that is closing.
        """

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake (RFC 6455 §7), once."""

    def ping(self) -> None:
        """Ask for a sign of life now, so that a half-open socket is found within the ping timeout."""

    @property
    def queued(self) -> int:
        """Bytes taken by `send` that the peer has not taken yet."""


class FrameLink(Link, Protocol):
    """A link to another part of this process, which takes a frame as it was read, so that nobody reads it again."""

    def send_frame(self, frame: Frame, first: Part, second: Part) -> None:
        """As `send`; `frame` is what `first` and `second` say. It is not changed, by nobody."""


class Watch(Protocol):
    """Who is told of what is rare enough to be told; never of a single good frame."""

    def tell(self, event: str, shown: str, **fields: object) -> None:
        """`event` is a word, `shown` the endpoint's printable name; the fields hold no secret."""
