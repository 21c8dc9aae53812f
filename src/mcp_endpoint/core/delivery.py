"""Sends a request to its provider, or answers or parks it if there is none."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UNSET

from .. import errors
from ..errors import Code
from ..protocol import methods
from ..protocol.jsonrpc import Frame, Malformed, parse, renumbered
from .ledger import Ledger, Rename, number_text, outgoing
from .lifecycle import Lifecycle
from .parties import Call, Provider, State
from .roster import Roster
from .waiting import WaitingRequests

KEPT_BYTES: Final = 16 * 1024
"""Largest request that is kept to be sent again after a handshake; a larger one is sent once."""

_fields_decoder: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


class LastClose(NamedTuple):
    """When and how the last provider left; `at` is on the core's clock."""

    at: float
    code: int
    reason: str

    def when(self, epoch: float) -> str:
        """The time in UTC; `epoch` plus the core's clock gives seconds since 1970."""
        return datetime.fromtimestamp(self.at + epoch, UTC).isoformat(timespec="seconds")

    def describe(self, epoch: float) -> dict[str, Any]:
        """For an operator, ready for JSON."""
        return {"at": self.when(epoch), "code": self.code, "reason": self.reason}


class Delivery:
    """Sends requests to providers."""

    __slots__ = ("_elsewhere", "_epoch", "counters", "last_close", "ledger", "lifecycle", "limits", "roster", "waiting")

    def __init__(
        self,
        roster: Roster,
        waiting: WaitingRequests,
        lifecycle: Lifecycle,
        ledger: Ledger,
        *,
        epoch: float,
        elsewhere: Callable[[], int],
        last_close: LastClose | None,
    ) -> None:
        """`epoch`, `elsewhere` and `last_close` as for the endpoint."""
        self.roster = roster
        self.waiting = waiting
        self.lifecycle = lifecycle
        self.ledger = ledger
        self.limits = ledger.limits
        self.counters = ledger.counters
        self._epoch = epoch
        self._elsewhere = elsewhere
        self.last_close = last_close

    def carry(self, provider: Provider, call: Call, frame: Frame, data: bytes, rename: Rename | None = None) -> None:
        """Send a request to a provider: its id is replaced by a number of that link, everything else is unchanged.

        Raises `Malformed` for a frame with repeated keys.
        """
        link = provider.link
        if link.queued > self.limits.queued_bytes_per_link:
            self.counters.busy += 1
            self.ledger.fail(call, errors.BUSY, "the tool does not read what it is sent / 工具端没有读取数据", delivered=False)
            return
        if provider is not self.roster.direct or call.method == methods.TOOLS_LIST:
            self._before_carrying(provider, call, data)
        number = provider.pending.add(call)
        try:
            first, second = outgoing(call, frame, data, number, rename)
        except Malformed:
            del provider.pending.calls[number]
            raise
        call.provider = provider
        if call.deadline < self.waiting.wake:
            self.waiting.wake_at(call.deadline)
        self.counters.carried += 1
        send_frame = provider.send_frame
        if send_frame is None or not _is_same(call, frame, rename):
            link.send(first, second)
        else:
            send_frame(renumbered(frame, number_text(number)), first, second)

    def _before_carrying(self, provider: Provider, call: Call, data: bytes) -> None:
        """Bookkeeping, and the end of the handshake, before a request is sent."""
        if provider.state is State.NEW:
            provider.carried = True
            if len(data) <= KEPT_BYTES and (not provider.proven or call.method == methods.TOOLS_LIST):
                call.data = data
        elif call.method != methods.PING or provider.greeter is not call.consumer:
            self.lifecycle.finish_handshake(provider)
        if call.method == methods.TOOLS_LIST and call.consumer is not None:
            call.consumer.knows(b"a list that was carried")
            if _asks_for_all(data):
                call.purpose = "whole list"

    def to_bare(self, call: Call, frame: Frame, data: bytes, otherwise: Code) -> None:
        """Send it to the newest bare provider, which may know it; `otherwise` is the error if there is none."""
        for provider in reversed(self.roster.providers):
            if provider.state is State.BARE:
                self.carry(provider, call, frame, data)
                return
        self.ledger.fail(call, otherwise, "no provider of this endpoint has it / 此接入点没有工具端提供它", delivered=False)

    def nobody(self, call: Call) -> None:
        """Answer a call for which there is no provider."""
        self.counters.no_provider += 1
        self.ledger.fail(call, errors.NO_PROVIDER, self.why_nobody(), delivered=False)

    def park(self, call: Call, data: bytes, now: float) -> None:
        """Let a call wait briefly for its provider to return."""
        until = call.started + self.limits.grace_call_seconds
        if now >= until or self.waiting.draining:
            self.nobody(call)
            return
        self.waiting.park(call, data, now, until)

    def why_nobody(self) -> str:
        """Why there is no tool for a call, for the user of the device."""
        failed = [provider.failed for provider in self.roster.providers if provider.failed]
        if failed:
            return f"initialize failed: {failed[-1]} / 与工具端握手失败：{failed[-1]}"
        hint = self.last_close_text() if self.last_close is not None else "never connected / 从未连接"
        others = self._elsewhere() if not self.roster.providers else 0
        if others:
            hint += f" · {others} tools are connected under another token / 有 {others} 个工具端连接在其他令牌下"
        return hint

    def last_close_text(self) -> str:
        """When and how the last provider left, as text."""
        assert self.last_close is not None
        when = self.last_close.when(self._epoch)
        told = f"{self.last_close.code} {self.last_close.reason}".strip()
        return f"left at {when} with {told} / 已于 {when} 断开，代码 {told}"

    def last_close_described(self) -> dict[str, Any] | None:
        """The same, ready for JSON; None if no provider has left."""
        return None if self.last_close is None else self.last_close.describe(self._epoch)

    def provider_left(self, code: int, reason: str, now: float) -> None:
        """Remember how the last provider left."""
        self.last_close = LastClose(now, code, reason)

    def lately(self, now: float) -> bool:
        """Whether a provider has left recently and may return."""
        return self.last_close is not None and now < self.last_close.at + self.limits.grace_seconds


def _is_same(call: Call, frame: Frame, rename: Rename | None) -> bool:
    """Whether `outgoing` has changed nothing but the id."""
    return rename is None and not call.token and (frame.params is UNSET or bytes(frame.params) != b"null")


def _asks_for_all(data: bytes) -> bool:
    """Whether a `tools/list` requests the whole list: without cursor or other parameters that a server may take for a filter."""
    params = parse(data, utf8=True).params
    if params is UNSET:
        return True
    try:
        return _fields_decoder.decode(params).keys() <= {methods.META}
    except (msgspec.DecodeError, RecursionError):
        return bytes(params) == b"null"
