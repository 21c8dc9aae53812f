"""What the core asks of a link: four members, which every kind of link here has; and what a link within this process is given beside."""

from __future__ import annotations

import json
from typing import Any

import pytest
from plays import INITIALIZED, Actor, Play, answer, call, failure, initialize, request

from mcp_endpoint.core.links import FrameLink, Link
from mcp_endpoint.core.translator import Translator
from mcp_endpoint.protocol.jsonrpc import Frame, one_line, parse
from mcp_endpoint.sockets.link import WebSocketLink


def test_the_core_asks_four_things_of_a_link() -> None:
    asked = {name for name in vars(Link) if not name.startswith("_")}
    assert asked == {"send", "close", "ping", "queued"}
    assert {name for name in vars(FrameLink) if not name.startswith("_")} - asked == {"send_frame"}


@pytest.mark.parametrize("kind", [WebSocketLink, Translator])
def test_a_link_has_what_the_core_asks_of_it(kind: type) -> None:
    assert {"send", "close", "ping", "queued"} <= set(dir(kind))


def said(frame: Frame) -> list[Any]:
    return [
        bytes(part) if not isinstance(part, str) and part else part for part in (getattr(frame, name) for name in frame.__struct_fields__)
    ]


class Insider(Actor):
    """A party within this process: what it is given as read is what stands in the bytes, however it is given them."""

    def __init__(self, play: Play, role: str) -> None:
        super().__init__(play, role)
        self.read: list[bytes] = []
        if role == "tool":
            self.party = play.endpoint.attach_provider(self, play.now)
        else:
            self.party = play.endpoint.attach_consumer(self, play.now, in_process=True)

    def send_frame(self, frame: Frame, first: Any, second: Any) -> None:
        self.send(first, second)
        assert said(frame) == said(parse(self.heard[-1]))
        self.read.append(self.heard[-1])

    def says(self, *frames: Any) -> None:
        """Frames as it has read them already."""
        for frame in frames:
            data = frame if isinstance(frame, bytes) else json.dumps(frame).encode()
            before = said(read := parse(data))
            self.party.receive(self.party, data, self.play.now, True, read)
            assert said(read) == before, "what was handed on is not changed"


def greeted() -> tuple[Play, Insider, Insider]:
    play = Play()
    tool, device = Insider(play, "tool"), Insider(play, "device")
    device.says(initialize(0), INITIALIZED)
    tool.is_greeted("calc", ["add"])
    assert "result" in device.hear()
    tool.heard.clear()
    device.heard.clear()
    device.read.clear()
    tool.read.clear()
    return play, tool, device


CALLS: list[Any] = [
    call("seven", "add"),
    b'{"method":"tools/call","params":{"name":"add","arguments":{"a":1.00}},"jsonrpc":"2.0","id":-3}',
    request(5, "odd/method"),
    {"jsonrpc": "2.0", "id": 6, "method": "odd/method"},
]


@pytest.mark.parametrize("asked", CALLS)
def test_parties_within_this_process_hand_on_what_they_have_read(asked: Any) -> None:
    _, tool, device = greeted()
    device.says(asked)
    number = tool.hear()["id"]
    assert len(tool.read) == 1
    tool.says(answer(number, n=1))
    assert device.hear()["result"] == {"n": 1} and len(device.read) == 1
    device.says(asked)
    tool.says(failure(tool.hear()["id"], -32000, "no"))
    assert device.hear()["error"]["message"] == "no" and len(device.read) == 2


CHANGED: list[Any] = [
    request(1, "tools/call", name="add", _meta={"progressToken": "t"}),
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":null}',
]


@pytest.mark.parametrize("asked", CHANGED)
def test_a_request_that_is_changed_on_its_way_is_read_anew(asked: Any) -> None:
    _, tool, device = greeted()
    device.says(asked)
    assert len(tool.heard) == 1 and not tool.read


def test_a_request_whose_line_ends_are_taken_out_says_the_same() -> None:
    _, tool, device = greeted()
    asked = b'{"jsonrpc":"2.0","id":1,"method":"m",\n"params":{"a":1}}'
    device.says(asked)
    assert tool.hears_bytes() == one_line(asked).replace(b'"id":1', b'"id":%d' % json.loads(tool.read[0])["id"])


def test_an_answer_that_is_changed_on_its_way_is_read_anew() -> None:
    play, tool, device = greeted()
    device.party.answer_bytes = 150
    for reply in (answer(0, text="x" * 300), {"jsonrpc": "2.0", "id": 0, "result": {}, "error": {"code": 1, "message": "both"}}):
        device.says(call(1, "add"))
        tool.says(reply | {"id": tool.hear()["id"]})
        assert "result" not in device.hear() and not device.read
    device.says(call(2, "add"))
    device.queued = play.endpoint.limits.queued_bytes_per_link + 1
    tool.says(answer(tool.hear()["id"], n=1))
    assert device.hear()["error"] and not device.read


def test_a_provider_whose_words_are_translated_is_told_them_to_be_read() -> None:
    play = Play()
    tool = Insider(play, "tool")
    play.endpoint.lifecycle.translate(tool.party)
    assert tool.party.send_frame is None
