"""What an endpoint hears of a server by URL, and what it does not."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest

from mcp_endpoint.core.parties import Counters, Provider
from mcp_endpoint.protocol.jsonrpc import Frame, parse
from mcp_endpoint.providers.remote import link as module
from mcp_endpoint.providers.remote.failure import Failure, refused
from mcp_endpoint.providers.remote.link import Lost, ServerLink
from mcp_endpoint.providers.tool_filter import ToolFilter

BOUND = 20.0
LIST = b'{"jsonrpc":"2.0","id":5,"method":"tools/list","params":{}}'
CHANGED = "notifications/tools/list_changed"


class Heard:
    """The endpoint's side."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[Any] = asyncio.Queue()

    def receive(self, provider: Any, data: bytes, now: float, utf8: bool, frame: Frame | None = None) -> None:
        self.frames.put_nowait(json.loads(data))

    async def next(self) -> Any:
        return await asyncio.wait_for(self.frames.get(), BOUND)


def made(*, deny: tuple[str, ...] = ()) -> tuple[ServerLink, Heard]:
    heard = Heard()
    hide = lambda text: text.replace("hush", "***")  # noqa: E731
    link = ServerLink(ToolFilter((), deny), asyncio.get_running_loop(), lambda: 1.0, hide, Counters())
    link.provider = cast(Provider, heard)
    return link, heard


async def test_the_endpoints_greeting_is_answered_with_the_servers_own_words() -> None:
    link, heard = made()
    link.welcome, link.version = b'{"jsonrpc":"2.0","id":"hello","result":{"n":1}}', "2025-06-18"
    link.send(b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}')
    link.send(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
    assert await heard.next() == {"jsonrpc": "2.0", "id": 1, "result": {"n": 1}}
    assert link.queued == 0


async def test_what_is_for_the_server_waits_for_the_transport_and_is_counted() -> None:
    link, heard = made(deny=("no",))
    link.send(LIST[:20], LIST[20:])
    assert link.queued == len(LIST)
    link.send(b'{"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"no"}}')
    assert await link.next() == (LIST, parse(LIST))
    assert link.queued == 0
    assert (await heard.next())["error"]["code"] == -32602


async def test_answers_to_our_own_requests_are_not_the_endpoints() -> None:
    link, heard = made()
    mine: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    link.own[b'"health"'] = mine
    link.received(b'{"jsonrpc":"2.0","id":"health","result":{}}')
    assert (await mine)[0] == b'{"jsonrpc":"2.0","id":"health","result":{}}'
    unread: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    link.own[b'"hello"'] = unread
    link.received(b'{"jsonrpc":"2.0","id":"hello","result":{"n":NaN}}')
    with pytest.raises(Lost, match="cannot be read"):
        await unread
    assert heard.frames.empty()


@pytest.mark.parametrize("again", [True, False])
async def test_a_list_that_fails_is_announced_again(again: bool) -> None:
    link, heard = made()
    link.send(LIST)
    code = -32603 if again else -32601
    link.received(b'{"jsonrpc":"2.0","id":5,"error":{"code":%d,"message":"hush"}}' % code)
    assert (await heard.next())["error"]["code"] == code
    assert ("tools/list failed" in link.why_list) is again
    assert "hush" not in link.why_list
    if again:
        assert (await heard.next())["method"] == CHANGED
        link.send(LIST)
        link.received(b'{"jsonrpc":"2.0","id":5,"result":{"tools":[]}}')
        assert link.why_list == ""
    else:
        link.leave()


async def test_a_list_that_does_not_come_is_announced_again_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIST_SECONDS", 0.01)
    link, heard = made()
    link.send(LIST)
    assert (await heard.next())["method"] == CHANGED
    assert "no answer within" in link.why_list


async def test_the_list_of_the_handshake_is_given_on_once() -> None:
    link, heard = made(deny=("no",))
    tools = b'[{"name":"yes"},{"name":"no"}]'
    for question, kept in ((LIST.replace(b"{}}", b'{"cursor":"2"}}'), True), (LIST, False), (LIST, False)):
        link.first_list = link.first_list or b'{"jsonrpc":"2.0","id":"list","result":{"tools":%b}}' % tools if kept else link.first_list
        link.listed = asyncio.get_running_loop().time()
        link.send(question)
    assert (await heard.next()) == {"jsonrpc": "2.0", "id": 5, "result": {"tools": [{"name": "yes"}]}}
    assert link.queued == len(LIST.replace(b"{}}", b'{"cursor":"2"}}')) + len(LIST)
    link.first_list = b"{}"
    link.received(b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}')
    assert link.first_list == b""


async def test_lists_that_are_never_given_are_forgotten() -> None:
    link, _ = made()
    for number in range(module.LISTS_REMEMBERED + 10):
        link.send(b'{"jsonrpc":"2.0","id":%d,"method":"tools/list"}' % number)
    assert len(link._lists) == module.LISTS_REMEMBERED


async def test_a_failure_is_told_without_the_entrys_secrets() -> None:
    link, heard = made()
    link.failed(b"5", Failure("why: hush", "原因：hush", None))
    told = await heard.next()
    assert told["error"]["data"]["hint"] == "原因：*** / why: ***"


async def test_a_stream_of_announcements_that_breaks_off_is_opened_again_and_one_that_is_refused_is_not() -> None:
    link, heard = made()
    listen = b'{"jsonrpc":"2.0","id":9,"method":"subscriptions/listen","params":{}}'
    link.send(listen)
    assert await link.next() == (listen, parse(listen))
    link.failed(b"9", Failure("broke off", "中断", None))
    assert await asyncio.wait_for(link.next(), BOUND) == (listen, parse(listen))
    assert (await heard.next())["method"] == CHANGED
    link.failed(b"9", refused(404, b""))
    assert "HTTP 404" in (await heard.next())["error"]["data"]["hint"]


async def test_what_ends_a_connection_is_its_first_failure() -> None:
    link, _ = made()
    lost = []
    link.lost_session = lambda: lost.append(1)
    link.stream_ended(Failure("", "", False, session_lost=True))
    assert lost and not link.over.done()
    link.stream_ended(Failure("first", "", None))
    link.close(1008, "second")
    assert link.over.result().en == "first"


async def test_what_cannot_be_read_goes_to_the_endpoint_which_knows_whose_it_may_be() -> None:
    class Raw(Heard):
        def receive(self, provider: Any, data: bytes, now: float, utf8: bool, frame: Frame | None = None) -> None:
            self.frames.put_nowait(data)

    link, _ = made()
    heard = Raw()
    link.provider = cast(Provider, heard)
    broken = b'{"jsonrpc":"2.0","id":5,"result":{"n":NaN}}'
    link.received(broken)
    assert await heard.next() == broken
    link.received(b"\xef\xbb\xbf" + LIST)
    assert parse(await heard.next()).method == "tools/list"
