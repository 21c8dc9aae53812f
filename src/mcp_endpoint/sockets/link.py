"""A link: one WebSocket, from its handshake to the last byte.

uvicorn makes one for each upgrade request (`ws=` of its Config), hands over the transport and the request's head, and has no further part
in it. The websockets library's `ServerProtocol` does the handshake and is dropped. From then on bytes become messages in `frames`, and
messages go to the party that the broker gave us; what the broker sends is collected and leaves in one write per loop turn.

A link ends once, in one of these ways, and `broker.detach` hears of it once:

- `close`: we say goodbye; the queue goes out first, then the close frame; messages are no longer delivered; the socket is closed when the
  peer has answered, cut off after `close_timeout`. Detached at the end of the loop turn, because the broker itself may be the caller.
- `ended`: the peer says goodbye; it is answered and the socket is closed. Detached at once, with the peer's code.
- `failed`: the peer broke the protocol; it is told and only our half is closed, so that it can read why. Detached at once.
- the socket ends without a close frame. Detached with 1006.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, ClassVar, Final, cast

from loguru import logger
from uvicorn.config import Config as UvicornConfig
from uvicorn.server import ServerState
from websockets.exceptions import SecurityError
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from ..access.addresses import FREE_FORM, free_form
from ..access.admission import Refusal
from ..errors import INTERNAL, NOT_READING, OVER_BUDGET, RESTARTING, CloseReason
from ..protocol.jsonrpc import too_large
from .frames import PROTOCOL_LOGGER, SHORT, SHORT_HEADS, Frames, close_frame, ping_frame, text_head
from .handshake import Acceptor, Admission

JOINED_BYTES: Final = 64 * 1024
"""A queue below this many bytes leaves as one piece; above it, large parts are handed to the socket as they are."""
LARGE_PART: Final = 16 * 1024
"""Bytes from which a part is not copied together with its neighbours."""
HIGH_WATER: Final = 64 * 1024
"""Bytes a transport may hold before we keep the rest ourselves."""
READ_PER_TURN: Final = 64 * 1024
"""Bytes from which one read ends the turn of a link: uvloop would read up to 8 MB from one socket before it looks at the next."""
SUBPROTOCOL: Final = "mcp"
"""What MCP SDKs offer in `Sec-WebSocket-Protocol`; some clients insist on having it confirmed."""
PING: Final = b"mcp-endpoint"
CLOCK_STEP: Final = 0.001
"""Steps in which uvloop's clock goes: what came within the step of a ping came before it."""
ABNORMAL: Final = 1006

_SIDES: Final = {"tool": ("工具端", "tool"), "device": ("使用端", "device")}
_HINTS: Final = {
    1000: "正常关闭 / closed normally",
    1001: "对方退出 / going away",
    1002: "违反 WebSocket 协议 / broke the WebSocket protocol",
    1005: "正常关闭 / closed without a code",
    1006: "网络中断或对方进程结束 / the network or the peer's process broke off",
    1007: "文本不是 UTF-8 / text that is not UTF-8",
    1008: "违反规则，见原因 / broke a rule, see the reason",
    1009: "消息过大，见 [limits] provider_message_bytes、consumer_message_bytes / message too big, see [limits]",
    1011: "对方或本端出错，或心跳超时 / an error, or no answer to pings",
    1012: "重启 / restart",
    1013: "对方不读取数据，或等待的字节过多 / it does not read, or too many bytes wait, see [limits] buffered_bytes",
}


class Greeter(ServerProtocol):
    """The library's handshake, which also confirms `mcp` as sub-protocol to those who offer it."""

    def select_subprotocol(self, subprotocols: Sequence[Subprotocol]) -> Subprotocol | None:
        """Whatever else is offered is passed over (RFC 6455 §4.2.2)."""
        return Subprotocol(SUBPROTOCOL) if SUBPROTOCOL in subprotocols else None


class LargeAnswers:
    """What becomes of a tool's message above the limit: an answer ends its call alone, anything else the link."""

    def begins(self, party: Any, beginning: bytes) -> bool:
        """Whether it begins as an answer."""
        return too_large(beginning, b"", 0) is not None

    def passed(self, party: Any, beginning: bytes, end: bytes, now: float) -> None:
        """It has been passed over: whoever waits for it hears so."""
        party.endpoint.provider_said_too_much(party, beginning, end, now)


LARGE_ANSWERS: Final = LargeAnswers()


class Turn:
    """What goes out when the current turn of the event loop is over, for all links of one server."""

    __slots__ = ("call_soon", "links", "time")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.links: list[Link] = []
        self.time = loop.time
        self.call_soon = loop.call_soon

    def flush(self) -> None:
        """Write what was sent in this turn, once per link."""
        links = self.links
        self.links = []
        for link in links:
            if link._out and not link._blocked:
                try:
                    link._push()
                except Exception:  # noqa: BLE001 - a fault at one socket must not keep what was sent to the others
                    logger.opt(exception=True).error("内部错误，连接将关闭 / internal error, the link ends", peer=link.peer)
                    link.cut()


class Link(Frames, asyncio.Protocol):
    """One WebSocket; what the broker knows as a `Link`. Times are the event loop's, in seconds."""

    __slots__ = (
        "_blocked",
        "_close_reason",
        "_connections",
        "_out",
        "_paused",
        "_pending",
        "_since",
        "_transport",
        "_unfinished",
        "crowded",
        "due",
        "leaving",
        "peer",
        "pinged",
        "raw",
        "seen",
        "stuck",
        "stuck_bytes",
    )

    acceptor: ClassVar[Acceptor]
    turn: ClassVar[Turn]

    def __init__(
        self, config: UvicornConfig, server_state: ServerState, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        """As uvicorn calls it; of all it offers we need the set of connections that its shutdown waits for."""
        super().__init__()
        self._connections = cast("set[Any]", server_state.connections)
        self._transport: asyncio.Transport | None = None
        self.raw: asyncio.Transport | None = None
        """Below TLS: the transport of the socket. What TLS has encrypted waits there."""
        self._out: list[bytes | memoryview] = []
        """Parts of frames not yet given to the transport."""
        self._pending = 0
        """Bytes in `_out`."""
        self._blocked = False
        """Whether the transport holds as much as it may."""
        self._paused = False
        """Whether reading stands still because the rest of a turn waits."""
        self._unfinished = 0
        """Bytes kept of a message that is not complete."""
        self._close_reason: CloseReason | None = None
        """How we ended it, as long as the broker has not heard."""
        self._since = 0.0
        self.peer = ""
        """Where it comes from, for the log."""
        self.due = 0
        self.seen = 0.0
        self.pinged = 0.0
        self.leaving = 0.0
        self.stuck = 0.0
        self.stuck_bytes = 0
        self.crowded = False

    # What uvicorn and the transport call.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport of the HTTP connection is ours now."""
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        if "turn" not in vars(type(self)):
            type(self).turn = Turn(asyncio.get_running_loop())

    def data_received(self, data: bytes) -> None:
        """First the request's head, then frames."""
        if self.receive is not None:
            now = self.seen = self.turn.time()
            self._deliver(data, now)
        elif self._seeking:
            self._deliver(data, 0.0)
        elif not self.leaving:
            self._arrive(data)
        if len(data) >= READ_PER_TURN and not self._paused:
            self._give_turn()

    def eof_received(self) -> None:
        """The peer will send no more; without a close frame that is an abnormal end. The transport closes itself."""
        self._leave()
        self._over()
        self._detach(ABNORMAL, "no close frame")

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._leave()
        self._over()
        self._seeking = False
        self._transport = self.raw = None
        self._out.clear()
        self._pending = 0
        self._detach(ABNORMAL, str(exc) if exc else "no close frame")
        self.acceptor.keepalive.forget(self)
        self.acceptor.budget.keep(self, 0)
        self.acceptor.gone(self)
        self._connections.discard(self)

    def pause_writing(self) -> None:
        """The transport holds as much as it may: the rest waits here."""
        self._blocked = True
        self._watch_queue()
        if not self.leaving:
            self._check_queue()

    def resume_writing(self) -> None:
        """The transport can take more."""
        self._blocked = False
        self.stuck = 0.0
        self.flush()
        self._count()
        if self.crowded and not self._blocked:
            self.crowded = False
            self.seen = self.turn.time()
            self.acceptor.keepalive.watch(self, self.seen)
            self._read_on()

    def shutdown(self) -> None:
        """uvicorn is shutting down."""
        self.close_reason(RESTARTING)

    # What the broker calls.

    def send(self, first: bytes | memoryview, second: bytes | memoryview = b"") -> None:
        """Take one text frame, `first` followed by `second`; it leaves when this turn of the loop is over."""
        if self.leaving:
            return
        out = self._out
        if not out:
            turn = self.turn
            if not turn.links:
                turn.call_soon(turn.flush)
            turn.links.append(self)
        size = len(first) + len(second)
        head = SHORT_HEADS[size] if size < SHORT else text_head(size)
        out += (head, first, second) if second else (head, first)
        self._pending += size + len(head)
        if self._blocked:
            self._check_queue()

    def close(self, code: int, reason: str) -> None:
        """Say goodbye, once; what was sent before goes out first."""
        if self.leaving:
            return
        self._close_reason = CloseReason(code, reason)
        self._leave()
        if self._close_reason == NOT_READING:
            self._out.clear()
            self._pending = 0
        self._write(close_frame(code, reason))
        self.stop_messages()
        self.crowded = False
        self._read_on()
        self.turn.call_soon(self._detach, code, reason)

    def ping(self) -> None:
        """Ask for a sign of life now; without one within `ping_timeout` the link ends with 1011."""
        now = self.turn.time()
        if not (self.leaving or self.pinged or self.crowded):
            self.send_ping(now)
            self.acceptor.keepalive.watch(self, now)

    @property
    def queued(self) -> int:
        """Bytes taken by `send` that wait for the peer; below `HIGH_WATER` nothing waits, the transport is only passing it on."""
        return self._pending + self.unsent() if self._blocked else self._pending

    # What the sweeper calls.

    def review(self, now: float) -> float:
        """The rules of keepalive."""
        if self.stuck and not self._blocked and not self.unsent():
            self.stuck = 0.0
            self._count()
        return self.acceptor.keepalive.review(self, now)

    def unsent(self) -> int:
        """Bytes in the transport that the kernel has not taken."""
        if self._transport is None:
            return 0
        return self._transport.get_write_buffer_size() + (0 if self.raw is None else self.raw.get_write_buffer_size())

    def send_ping(self, now: float) -> None:
        """Ping the peer."""
        self.pinged = now
        self.seen = min(self.seen, now - CLOCK_STEP)
        self.reply(ping_frame(PING))

    def close_reason(self, close_reason: CloseReason) -> None:
        """Close with an entry of the table."""
        self.close(close_reason.code, close_reason.reason)

    def cut(self) -> None:
        """Drop the socket at once."""
        if self._transport is not None:
            reset(self._transport if self.raw is None else self.raw)

    # What the budget calls.

    def kept(self) -> int:
        """Bytes kept for this link: of an unfinished message, and those that wait for the peer."""
        return self._unfinished + (self._pending + self.unsent() if self._blocked or self.stuck or self.leaving else 0)

    def pay(self) -> None:
        """All links together keep too much, and this one most: it hears so unless it does not read."""
        deaf = self._blocked or self.stuck or self.leaving
        self.close_reason(OVER_BUDGET)
        if deaf:
            self.cut()

    # What the frames say.

    def keeps(self, size: int) -> None:
        """Count the bytes of an unfinished message, and when it began."""
        if size == self._unfinished or (self.leaving and size):
            return
        budget = self.acceptor.budget
        if not size:
            budget.ends(self)
        elif not self._unfinished:
            budget.begins(self, self.seen)
        self._unfinished = size
        self._count()

    def reply(self, frame: bytes) -> None:
        """A control frame takes its place in the queue."""
        if not self._out:
            if not self.turn.links:
                self.turn.call_soon(self.turn.flush)
            self.turn.links.append(self)
        self._out.append(frame)
        self._pending += len(frame)
        if self._blocked:
            self._check_queue()

    def ended(self, code: int, reason: str, frame: bytes) -> None:
        """The peer has closed: answer, and close the socket."""
        self._leave()
        self._write(frame)
        self._shut()
        self._detach(code, reason)

    def failed(self, close_reason: CloseReason, frame: bytes) -> None:
        """The peer broke the protocol: tell it, and let it read that before the socket is closed."""
        self._leave()
        self._write(frame)
        transport = self._transport
        assert transport is not None
        if transport.can_write_eof():
            transport.write_eof()
        else:
            self._shut()
        self._detach(*close_reason)

    def answered(self) -> None:
        """Both close frames have been exchanged."""
        self._shut()

    # Reading.

    def _deliver(self, data: bytes | None, now: float) -> None:
        """Take `data`, or what the last turn left; with more than a turn's work, read nothing until that is done."""
        try:
            if data is None:
                more = self.go_on(now)
            elif self._held is None and self._rest is None:
                more = self._read(data, 0, now)  # nothing waits for these bytes: nearly always
            else:
                more = self.take(data, now)
        except Exception:  # noqa: BLE001 - the one boundary: a fault of ours ends this link and no other
            logger.opt(exception=True).error("内部错误，连接将关闭 / internal error, the link ends", peer=self.peer)
            self.close_reason(INTERNAL)
            return
        if more and not self._paused:
            self._give_turn()

    def _give_turn(self) -> None:
        """Read nothing until the others have had their turn."""
        self._paused = True
        assert self._transport is not None
        self._transport.pause_reading()
        self.turn.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        if self.crowded:
            return  # `resume_writing` comes back to it
        self._paused = False
        self._deliver(None, self.turn.time())
        if not self._paused:
            self._read_on()

    def _read_on(self) -> None:
        """Read again, after the rest of the last turn."""
        if self._rest is not None:
            self._paused = True
            self.turn.call_soon(self._next_turn)
        elif self._transport is not None and not self.crowded:
            self._paused = False
            self._transport.resume_reading()

    # Writing.

    def flush(self) -> None:
        """Write what has been sent, unless the transport is full."""
        if self._out and not self._blocked:
            self._push()

    def _push(self) -> None:
        transport = self._transport
        out = self._out
        assert transport is not None
        if self._pending < JOINED_BYTES:
            whole = b"".join(out)
            out.clear()
            self._pending = 0
            transport.write(whole)
        else:
            parts = _parts(out)
            out.clear()
            self._pending = 0
            transport.writelines(parts)
        if self.raw is not None and not self.stuck and self.raw.get_write_buffer_size() > HIGH_WATER:
            self._watch_queue()

    def _write(self, frame: bytes) -> None:
        """The last frame of the link, behind everything that waits."""
        self._out.append(frame)
        self._push()

    def _watch_queue(self) -> None:
        """From now on what waits for the peer must move, and counts."""
        if not self.leaving:
            self.stuck = self.turn.time()
            self.stuck_bytes = self.unsent()
            self.acceptor.keepalive.watch(self, self.stuck)
        self._count()

    def _check_queue(self) -> None:
        """The transport is full: bound what waits for the peer."""
        self._count()
        queued = self.queued
        limits = self.acceptor.config.limits
        limit = limits.queued_bytes_per_link
        if queued > limit * limits.overfull_times:
            self.close_reason(NOT_READING)
        elif queued > limit and not self.crowded and self.party is not None and self.party.side == "device":
            self.crowded = True
            assert self._transport is not None
            self._transport.pause_reading()

    def _count(self) -> None:
        """Tell the budget what is kept here."""
        self.acceptor.budget.keep(self, self.kept())

    # The end.

    def _leave(self) -> None:
        """From now on nothing is sent, and the socket is cut off after `close_timeout`."""
        if not self.leaving:
            self.leaving = self.turn.time()
            self.stuck = 0.0
            self.acceptor.closes(self)
            self.acceptor.keepalive.watch(self, self.leaving + self.acceptor.keepalive.close_timeout)

    def _shut(self) -> None:
        assert self._transport is not None
        self._transport.close()

    def _detach(self, code: int, reason: str) -> None:
        """Tell the broker and the log, once."""
        party = self.party
        if party is None:
            return
        self.party = None
        if self._close_reason is not None:
            code, reason = self._close_reason
        self.acceptor.counters[f"goodbyes_{code if code in _HINTS else 'other'}"] += 1
        logger.info(
            f"{_SIDES[party.side][0]}已断开 / {_SIDES[party.side][1]} left",
            endpoint=party.endpoint.shown,
            peer=self.peer,
            seconds=int(self.turn.time() - self._since),
            code=code,
            reason=reason,
            hint=_HINTS.get(code, "对方自定义的代码 / a code of its own"),
        )
        self.acceptor.broker.detach(party, code, reason)

    # The handshake.

    def _arrive(self, head: bytes) -> None:
        """The request's head is here: come in, or be refused before 101."""
        transport = self._transport
        assert transport is not None
        protocol = Greeter(logger=PROTOCOL_LOGGER)
        protocol.receive_data(head)
        request = next(iter(protocol.events_received()), None)
        decision: Admission | Refusal
        if not isinstance(request, Request):
            decision = _unread(protocol.handshake_exc)
        else:
            response = protocol.accept(request)
            if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
                extra = tuple((name, response.headers[name]) for name in ("Allow", "Upgrade") if name in response.headers)
                decision = Refusal(response.status_code, "bad handshake", BAD_HANDSHAKE, str(protocol.handshake_exc), headers=extra)
            else:
                peer, local = _address(transport, "peername"), _address(transport, "sockname")
                tls = transport.get_extra_info("sslcontext") is not None
                decision = self.acceptor.decide(request.path, request.headers, peer, local[0], tls=tls)
        if isinstance(decision, Admission):
            del response.headers["Date"]
            if decision.opened.kind == "opaque":
                response.headers[FREE_FORM] = decision.opened.shown
            protocol.send_response(response)
            transport.write(b"".join(protocol.data_to_send()))
            self._attach(decision)
        else:
            self._refuse(decision)
        protocol.parser.close()  # it and the protocol hold each other

    def _refuse(self, refusal: Refusal) -> None:
        transport = self._transport
        assert transport is not None
        self._leave()
        transport.write(refusal.answer())
        transport.close()
        self.acceptor.counters[f"refused_{refusal.status}"] += 1
        self.acceptor.tell_refusal(refusal, refusal.address or "{}:{}".format(*_address(transport, "peername")))

    def _attach(self, admission: Admission) -> None:
        acceptor = self.acceptor
        limits = acceptor.config.limits
        assert self._transport is not None
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        self._since = self.seen = self.turn.time()
        self.peer = admission.address
        name, shown = admission.opened.endpoint, admission.opened.shown
        party: Any
        if admission.side == "tool":
            party = acceptor.broker.attach_provider(name, shown, self, server_id=admission.server_id, stateless=admission.stateless)
            most = limits.provider_message_bytes
        else:
            party = acceptor.broker.attach_consumer(name, shown, self)
            most = limits.consumer_message_bytes
        self.start_messages(party.receive, party, most, limits.fragments, LARGE_ANSWERS if admission.side == "tool" else None)
        acceptor.came(self, name)
        acceptor.keepalive.watch(self, self.seen + acceptor.keepalive.interval)
        acceptor.counters["links_accepted"] += 1
        chinese, english = _SIDES[admission.side]
        named = {"note": "{1} / {0}".format(*free_form(shown))} if admission.opened.kind == "opaque" else {}
        if admission.server_id:
            named["server_id"] = admission.server_id
        logger.info(f"{chinese}已连接 / {english} connected", endpoint=shown, peer=self.peer, **named)


def make_link_class(acceptor: Acceptor) -> type[Link]:
    """The class for uvicorn's `ws=`: links of this door, all on one event loop."""
    PROTOCOL_LOGGER.setLevel(logging.ERROR)
    return type("Link", (Link,), {"__slots__": (), "acceptor": acceptor})


def reset(transport: asyncio.Transport) -> None:
    """Drop the socket, and with it what its kernel holds for a peer that does not read; such a peer would keep that for minutes."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):  # it is gone already
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _unread(fault: BaseException | None) -> Refusal:
    """Why the library did not read the head: a line or a number of headers that it does not take (RFC 6585 §5), or no handshake at all."""
    if isinstance(fault, SecurityError):
        return Refusal(431, "head too large", LARGE_HEADER, str(fault))
    return Refusal(400, "bad handshake", BAD_HANDSHAKE, str(fault))


def _parts(out: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """The same bytes in few pieces, without copying the large ones."""
    parts: list[bytes | memoryview] = []
    small: list[bytes | memoryview] = []
    for part in out:
        if len(part) < LARGE_PART:
            small.append(part)
        else:
            if small:
                parts.append(b"".join(small))
                small.clear()
            parts.append(part)
    if small:
        parts.append(b"".join(small))
    return parts


def _address(transport: asyncio.Transport, name: str) -> tuple[str, int]:
    """Host and port of one end of the socket."""
    found = transport.get_extra_info(name)
    return (str(found[0]), int(found[1])) if isinstance(found, tuple) else ("", 0)


LARGE_HEADER: Final = (
    "请求头过大：WebSocket 握手每行至多 8 KiB，至多 128 行"
    " / The request's head is too large: a WebSocket handshake has at most 128 lines of at most 8 KiB"
)
BAD_HANDSHAKE: Final = "WebSocket 握手有误 / The WebSocket handshake is not right"
