"""One call, one record; every other frame one; with references to what was said and nothing more."""

from __future__ import annotations

from typing import Any

from plays import INITIALIZED, Play, answer, call, initialize, notification, welcome

from mcp_endpoint.exchanges import Exchange
from mcp_endpoint.recorder.batch import Called, Exchanged, Framed, Linked, decode_batch, frame
from mcp_endpoint.recorder.queue import Queue
from mcp_endpoint.recorder.taps import SESSIONS, Taps

EPOCH = 1_000_000.0
"""Seconds since 1970 when the play's clock says 1000."""


class Stage:
    """A greeted tool, a device, and the taps that hear both."""

    def __init__(self, *patterns: str, call_bytes: int = 1_000) -> None:
        self.queue = Queue(10**6, 10**6, lambda: EPOCH, lambda whole: None, lambda: 0)
        self.taps = Taps(self.queue, patterns or ("*",), lambda: 1000.0, lambda: EPOCH, call_bytes, 100)
        self.play = Play(tap=self.taps)
        self.tool, self.device = self.play.tool("house"), self.play.device()
        self.device.says(initialize(client="lamp"), INITIALIZED)
        self.tool.says(welcome(self.tool.hear()["id"]))
        self.tool.hears(INITIALIZED)
        self.device.hear()
        self.greeting = self.taken()

    def taken(self) -> list[Any]:
        """What the writer would read."""
        return decode_batch(frame((1, self.queue.take()[0]))[1]).items


def test_a_call_is_one_record_with_both_sides_and_its_times() -> None:
    stage = Stage()
    stage.device.says(call(7, "who", city="北京"))
    stage.play.wait(0.5)
    number = stage.tool.hear()["id"]
    stage.tool.says(answer(number, text="晴"))
    heard = stage.device.hears_bytes()
    (called,) = stage.taken()
    (named,) = [item for item in stage.greeting if isinstance(item, Linked) and item.event == "named"]
    assert named.name == "lamp"
    assert isinstance(called, Called)
    assert (called.at, called.ms) == (EPOCH, 500.0)
    assert (called.endpoint, called.label, called.method, called.tool, called.outcome) == ("kitchen", "house", "tools/call", "who", "")
    assert called.first + called.second == heard and "北京" in called.request.decode()
    assert called.session == named.session > EPOCH * SESSIONS
    assert called.size == len(called.request) + len(heard) and not called.truncated


def test_a_call_without_an_answer_and_one_that_comes_late_are_records_too() -> None:
    stage = Stage()
    stage.device.says(call(1, "who"))
    number = stage.tool.hear()["id"]
    stage.device.says(notification("notifications/cancelled", requestId=1))
    stage.tool.hear()
    stage.tool.says(answer(number, text="too late"))
    items = stage.taken()
    (called,) = [item for item in items if isinstance(item, Called)]
    assert (called.outcome, called.first) == ("cancelled", b"")
    late = items[-1]
    assert isinstance(late, Framed) and late.late and late.direction == "in" and b"too late" in late.data and late.label == "house"


def test_sessions_begin_and_end_with_their_links() -> None:
    stage = Stage()
    opened = [item for item in stage.greeting if isinstance(item, Linked)]
    assert [(item.event, item.side) for item in opened if item.event == "opened"] == [("opened", "tool"), ("opened", "device")]
    assert any(isinstance(item, Framed) and b"initialize" in item.data and item.direction == "out" for item in stage.greeting)
    stage.device.leaves(1001, "bye")
    closed = stage.taken()[-1]
    assert isinstance(closed, Linked)
    assert (closed.event, closed.side, closed.name, closed.code, closed.reason) == ("closed", "device", "lamp", 1001, "bye")
    stage.taps.linked(stage.device.party, "detached", 1001, "bye", 1.0)
    assert not stage.taken(), "a link closes once"


def test_what_is_long_is_cut_and_counted() -> None:
    stage = Stage(call_bytes=100)
    stage.taken()
    before = stage.queue.truncated
    stage.device.says(call(1, "who", text="x" * 300))
    stage.tool.says(answer(stage.tool.hear()["id"], text="y" * 300))
    stage.tool.says(notification("notifications/message", data="z" * 300))
    called, told = [item for item in stage.taken() if not isinstance(item, Linked)][:2]
    assert isinstance(called, Called) and isinstance(told, Framed)
    assert len(called.request) == 100 and len(called.first + called.second) == 100 and called.truncated and called.size > 400
    assert len(told.data) == 100 and told.size > 300
    assert stage.queue.truncated >= before + 2


def test_an_endpoint_that_is_not_to_be_recorded_leaves_nothing() -> None:
    stage = Stage("bath*", "cellar")
    stage.device.says(call(1, "who"))
    stage.tool.says(answer(stage.tool.hear()["id"], text="hello"))
    stage.device.says(notification("notifications/progress"))
    stage.device.leaves()
    assert not stage.greeting and not stage.taken() and stage.queue.seen == 0
    assert Stage("kit*").greeting


def test_an_exchange_is_handed_on_as_it_is() -> None:
    stage = Stage()
    exchange = Exchange(
        1.0, 2.0, None, None, "openrouter", "here", "POST", "/v1", 200, "ok", [(b"a", b"b")], b"{}", [], [(0.1, b"chunk")], 7, True
    )
    before = stage.queue.bytes
    stage.taps.exchanges.exchange(exchange)
    assert stage.queue.bytes - before > 7 and stage.queue.truncated == 1 and stage.taps.exchanges.body_bytes == 100
    (item,) = stage.taken()
    assert isinstance(item, Exchanged) and item.exchange.answer_chunks == [(0.1, b"chunk")]
