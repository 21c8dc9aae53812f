"""One WebSocket link of the server, from its handshake to the last byte.

uvicorn creates one for each upgrade request (`ws=` of its Config) and hands over the transport and the request head. The websockets
library's `ServerProtocol` does the handshake and is dropped. From then on `frames` parses bytes into messages for the party that the
broker attached; frames that the broker sends are collected and leave in one write per turn of the event loop.

A link ends in one of these ways, and `broker.detach` is called once:

- `close`: this side closes. The queue is sent first, then the close frame; no message is delivered any more; the socket is closed when
  the peer has answered, or cut after `close_timeout`. Detached at the end of the turn, because the broker itself may be the caller.
- `ended`: the peer closes. It is answered and the socket is closed. Detached at once, with the peer's code.
- `failed`: the peer violated the protocol. It gets a close frame and only our half is closed, so that it can read the reason. Detached at
  once.
- The socket ends without a close frame. Detached with 1006.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from itertools import islice
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
"""A queue below this many bytes is joined to one piece; above it, large parts are passed to the transport as they are."""
LARGE_PART: Final = 16 * 1024
"""Parts from this many bytes on are not joined with their neighbours."""
HIGH_WATER: Final = 64 * 1024
"""Bytes the transport may hold before the rest is kept here."""
READ_PER_TURN: Final = 64 * 1024
"""A read of this many bytes ends the link's turn: uvloop would read up to 8 MB from one socket before it serves the next."""
SUBPROTOCOL: Final = "mcp"
"""What MCP SDKs offer in `Sec-WebSocket-Protocol`; some clients require that it is confirmed."""
PING: Final = b"mcp-endpoint"
HANDSHAKES_PER_TURN: Final = 8
"""Handshakes done per turn of the event loop, 3 ms of work: when everybody comes back at once, those already here are served between."""
CLOCK_STEP: Final = 0.001
"""Resolution of uvloop's clock: bytes received in the same step as a ping count as earlier."""
ABNORMAL: Final = 1006

_SIDES: Final = {"tool": ("工具端", "tool"), "device": ("使用端", "device")}
_HINTS: Final = {
    1000: "正常关闭 / closed normally",
    1001: "对方退出 / going away",
    1002: "违反 WebSocket 协议 / broke the WebSocket protocol",
    1005: "正常关闭 / closed without a code",
    1006: "网络中断或对方进程结束 / the network or the peer's process broke off",
    1007: "文本不是 UTF-8：请让对方以 UTF-8 发送（Windows 上的 Python：设置 PYTHONUTF8=1）"
    " / text that is not UTF-8: let the peer send UTF-8 (Python on Windows: set PYTHONUTF8=1)",
    1008: "违反规则，见原因 / broke a rule, see the reason",
    1009: "消息过大，见 [limits] provider_message_bytes、consumer_message_bytes / message too big, see [limits]",
    1011: "对方或本端出错，或心跳超时 / an error, or no answer to pings",
    1012: "重启 / restart",
    1013: "对方不读取数据，或等待的字节过多 / the peer does not read, or too many bytes wait, see [limits] buffered_bytes",
}


class McpHandshake(ServerProtocol):
    """The library's handshake, with `mcp` as the only sub-protocol."""

    def select_subprotocol(self, subprotocols: Sequence[Subprotocol]) -> Subprotocol | None:
        """Confirm `mcp` if it is offered; ignore every other (RFC 6455 §4.2.2)."""
        return Subprotocol(SUBPROTOCOL) if SUBPROTOCOL in subprotocols else None


class LargeAnswers:
    """A provider's message above the limit: a response fails its own call only, anything else ends the link."""

    def begins(self, party: Any, beginning: bytes) -> bool:
        """Whether the message begins like a response."""
        return too_large(beginning, b"", 0) is not None

    def passed(self, party: Any, beginning: bytes, end: bytes, now: float) -> None:
        """The response was discarded: its caller gets an error."""
        party.endpoint.provider_said_too_much(party, beginning, end, now)


LARGE_ANSWERS: Final = LargeAnswers()


class Turn:
    """What the links of one server share in the current turn of the event loop: the output to write, and the handshakes that wait."""

    __slots__ = ("_arrived", "arriving", "call_soon", "links", "time")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.links: list[WebSocketLink] = []
        self._arrived = 0
        """Handshakes done in this turn."""
        self.arriving: dict[WebSocketLink, list[bytes]] = {}
        """Links that wait for their handshake, and what each has received: one read at most beyond its head, then reading is paused."""
        self.time = loop.time
        self.call_soon = loop.call_soon

    def arrive(self, link: WebSocketLink, data: bytes) -> None:
        """Do a handshake, in a later turn if this one has had its share."""
        waiting = self.arriving.get(link)
        if waiting is not None:
            waiting.append(data)
        elif self.arriving or self._arrived >= HANDSHAKES_PER_TURN:
            self.arriving[link] = [data]
            link.wait()
        else:
            if not self._arrived:
                self.call_soon(self._next_arrivals)
            self._arrived += 1
            link.arrive(data)

    def _next_arrivals(self) -> None:
        links = list(islice(self.arriving, HANDSHAKES_PER_TURN))
        self._arrived = len(links)
        if links:
            self.call_soon(self._next_arrivals)
        for link in links:
            try:
                link.arrive(*self.arriving.pop(link))
            except Exception:  # noqa: BLE001 - one broken socket must not keep the others waiting
                logger.opt(exception=True).error("内部错误，连接将关闭 / internal error, the link ends", peer=link.peer)
                link.cut()

    def flush(self) -> None:
        """Write what was sent in this turn, once per link."""
        links = self.links
        self.links = []
        for link in links:
            if link._out and not link._blocked:
                try:
                    link._push()
                except Exception:  # noqa: BLE001 - one broken socket must not block the others
                    logger.opt(exception=True).error("内部错误，连接将关闭 / internal error, the link ends", peer=link.peer)
                    link.cut()


class WebSocketLink(Frames, asyncio.Protocol):
    """One WebSocket, as the broker's `Link`. Times are the event loop's, in seconds."""

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
        """Signature required by uvicorn; only server_state.connections is used (shutdown waits for it)."""
        super().__init__()
        self._connections = cast("set[Any]", server_state.connections)
        self._transport: asyncio.Transport | None = None
        self.raw: asyncio.Transport | None = None
        """With TLS: the transport of the socket, where encrypted output waits."""
        self._out: list[bytes | memoryview] = []
        """Parts of frames not yet passed to the transport."""
        self._pending = 0
        """Bytes in `_out`."""
        self._blocked = False
        """Whether the transport is full."""
        self._paused = False
        """Whether reading is paused because the rest of a turn waits."""
        self._unfinished = 0
        """Bytes kept of an incomplete message."""
        self._close_reason: CloseReason | None = None
        """Why this side closed the link, until the broker has been told."""
        self._since = 0.0
        self.peer = ""
        """The peer's address, for the log."""
        self.due = 0
        self.seen = 0.0
        self.pinged = 0.0
        self.leaving = 0.0
        self.stuck = 0.0
        self.stuck_bytes = 0
        self.crowded = False

    # What uvicorn and the transport call.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the transport of the HTTP connection."""
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        if "turn" not in vars(type(self)):
            type(self).turn = Turn(asyncio.get_running_loop())

    def data_received(self, data: bytes) -> None:
        """First the request head, then frames."""
        if self.receive is not None:
            now = self.seen = self.turn.time()
            self._deliver(data, now)
        elif self._seeking:
            self._deliver(data, 0.0)
        elif not self.leaving:
            self.turn.arrive(self, data)
        if len(data) >= READ_PER_TURN and not self._paused:
            self._give_turn()

    def eof_received(self) -> None:
        """The peer sends no more; without a close frame that is an abnormal end. The transport closes itself."""
        self._leave()
        self._over()
        self._detach(ABNORMAL, "no close frame")

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self.turn.arriving.pop(self, None)
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
        """The transport is full: keep the rest here."""
        self._blocked = True
        self._watch_queue()
        if not self.leaving:
            self._check_queue()

    def resume_writing(self) -> None:
        """The transport has room again."""
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
        """uvicorn is shutting down; a handshake that waits for its turn is refused then."""
        if self not in self.turn.arriving:
            self.close_reason(RESTARTING)

    # What the broker calls.

    def send(self, first: bytes | memoryview, second: bytes | memoryview = b"") -> None:
        """Queue one text frame, `first` followed by `second`; it is written at the end of this turn of the event loop."""
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
        """Start the closing handshake, once; what was queued before is sent first."""
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
        """Ping the peer now; without an answer within `ping_timeout` the link ends with 1011."""
        now = self.turn.time()
        if not (self.leaving or self.pinged or self.crowded):
            self.send_ping(now)
            self.acceptor.keepalive.watch(self, now)

    @property
    def queued(self) -> int:
        """Bytes taken by `send` that wait for the peer; below `HIGH_WATER` the transport is only passing them on."""
        return self._pending + self.unsent() if self._blocked else self._pending

    # What the sweeper calls.

    def review(self, now: float) -> float:
        """Apply the keepalive rules."""
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
        """Close with an entry of the table of close reasons."""
        self.close(close_reason.code, close_reason.reason)

    def cut(self) -> None:
        """Drop the socket at once."""
        if self._transport is not None:
            reset(self._transport if self.raw is None else self.raw)

    # What the budget calls.

    def kept(self) -> int:
        """Bytes kept for this link: an incomplete message, and output that waits for the peer."""
        return self._unfinished + (self._pending + self.unsent() if self._blocked or self.stuck or self.leaving else 0)

    def pay(self) -> None:
        """The budget is exceeded, and this link uses most: close it, and cut it at once if the peer does not read."""
        deaf = self._blocked or self.stuck or self.leaving
        self.close_reason(OVER_BUDGET)
        if deaf:
            self.cut()

    # What the frames call.

    def keeps(self, size: int) -> None:
        """Count the bytes of an incomplete message, and note when it began."""
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
        """Queue a control frame."""
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
        """The peer violated the protocol: send the close frame, and let it be read before the socket is closed."""
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
        """Deliver `data`, or what the last turn left; if there is more than a turn's work, pause reading until it is done."""
        try:
            if data is None:
                more = self.go_on(now)
            elif self._held is None and self._rest is None:
                more = self._read(data, 0, now)  # the usual case: nothing is held
            else:
                more = self.take(data, now)
        except Exception:  # noqa: BLE001 - task boundary: a bug ends this link only
            logger.opt(exception=True).error("内部错误，连接将关闭 / internal error, the link ends", peer=self.peer)
            self.close_reason(INTERNAL)
            return
        if more and not self._paused:
            self._give_turn()

    def _give_turn(self) -> None:
        """Pause reading for one turn of the event loop."""
        self._paused = True
        assert self._transport is not None
        self._transport.pause_reading()
        self.turn.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        if self.crowded:
            return  # `resume_writing` resumes it
        self._paused = False
        self._deliver(None, self.turn.time())
        if not self._paused:
            self._read_on()

    def _read_on(self) -> None:
        """Resume reading, after the rest of the last turn."""
        if self._rest is not None:
            self._paused = True
            self.turn.call_soon(self._next_turn)
        elif self._transport is not None and not self.crowded:
            self._paused = False
            self._transport.resume_reading()

    # Writing.

    def flush(self) -> None:
        """Write what was queued, unless the transport is full."""
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
        """Write the last frame of the link, behind everything that waits."""
        self._out.append(frame)
        self._push()

    def _watch_queue(self) -> None:
        """From now on the output must make progress, and counts in the budget."""
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
        """Report the kept bytes to the budget."""
        self.acceptor.budget.keep(self, self.kept())

    # The end.

    def _leave(self) -> None:
        """From now on nothing is sent, and the socket is cut after `close_timeout`."""
        if not self.leaving:
            self.leaving = self.turn.time()
            self.stuck = 0.0
            self.acceptor.closes(self)
            self.acceptor.keepalive.watch(self, self.leaving + self.acceptor.keepalive.close_timeout)

    def _shut(self) -> None:
        assert self._transport is not None
        self._transport.close()

    def _detach(self, code: int, reason: str) -> None:
        """Detach from the broker and write the log line, once."""
        party = self.party
        if party is None:
            return
        self.party = None
        if self._close_reason is not None:
            code, reason = self._close_reason
        self.acceptor.counters[f"links_closed_{code if code in _HINTS else 'other'}"] += 1
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

    def wait(self) -> None:
        """The handshake has to wait for its turn: read nothing more until then."""
        self._paused = True
        assert self._transport is not None
        self._transport.pause_reading()

    def arrive(self, head: bytes, *rest: bytes) -> None:
        """It is this link's turn: do the handshake, then take what came right behind its head."""
        if self._paused:
            self._read_on()
        self._arrive(head)
        for data in rest:
            self.data_received(data)

    def _arrive(self, head: bytes) -> None:
        """The request head has arrived: accept the upgrade, or refuse it before 101."""
        transport = self._transport
        assert transport is not None
        protocol = McpHandshake(logger=PROTOCOL_LOGGER)
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
            if decision.grant.kind == "opaque":
                response.headers[FREE_FORM] = decision.grant.shown
            protocol.send_response(response)
            transport.write(b"".join(protocol.data_to_send()))
            self._attach(decision)
        else:
            self._refuse(decision)
        protocol.parser.close()  # breaks a reference cycle

    def _refuse(self, refusal: Refusal) -> None:
        transport = self._transport
        assert transport is not None
        self._leave()
        transport.write(refusal.answer())
        transport.close()
        self.acceptor.counters[f"refused_{refusal.status}"] += 1
        self.acceptor.log_refusal(refusal, refusal.address or "{}:{}".format(*_address(transport, "peername")))

    def _attach(self, admission: Admission) -> None:
        acceptor = self.acceptor
        limits = acceptor.config.limits
        assert self._transport is not None
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        self._since = self.seen = self.turn.time()
        self.peer = admission.address
        name, shown = admission.grant.endpoint, admission.grant.shown
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
        named = {"note": "{1} / {0}".format(*free_form(shown))} if admission.grant.kind == "opaque" else {}
        if admission.server_id:
            named["server_id"] = admission.server_id
        logger.info(f"{chinese}已连接 / {english} connected", endpoint=shown, peer=self.peer, **named)


def make_link_class(acceptor: Acceptor) -> type[WebSocketLink]:
    """The class for uvicorn's `ws=`: links of this acceptor, all on one event loop."""
    PROTOCOL_LOGGER.setLevel(logging.ERROR)
    return type("WebSocketLink", (WebSocketLink,), {"__slots__": (), "acceptor": acceptor})


def reset(transport: asyncio.Transport) -> None:
    """Reset the connection, so that the kernel drops its output buffer; a peer that does not read would keep it for minutes."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):  # already closed
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _unread(fault: BaseException | None) -> Refusal:
    """The refusal of a head the library could not read: too long or too many lines (RFC 6585 §5), or not a handshake."""
    if isinstance(fault, SecurityError):
        return Refusal(431, "head too large", LARGE_HEADER, str(fault))
    return Refusal(400, "bad handshake", BAD_HANDSHAKE, str(fault))


def _parts(out: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """The same bytes in fewer pieces, without copying the large ones."""
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
    "请求头过大：WebSocket 握手至多 128 行，每行至多 8 KiB"
    " / The request's head is too large: a WebSocket handshake has at most 128 lines of at most 8 KiB"
)
BAD_HANDSHAKE: Final = "WebSocket 握手有误 / The WebSocket handshake is not valid"
