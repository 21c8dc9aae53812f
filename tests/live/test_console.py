"""The console in a real browser: somebody logs in, looks, chooses a language, calls a tool; and nobody's words become a script."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from browser import Watched, acting
from console import console, tool, toolbox
from recorded import NOW, call, recorded
from running import KEY
from served import served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from websockets.asyncio.client import connect

from mcp_endpoint.access.tokens import TokenCodec
from mcp_endpoint.recorder.export import side_of
from mcp_endpoint.recorder.store import Record, Session
from mcp_endpoint.settings.schema import Config, Providers

PAYLOADS = (
    "<script>xss(1)</script>",
    "</script><script>xss(2)</script>",
    "<img src=x onerror=xss(3)>",
    "<svg onload=xss(4)>",
    "<svg><script>xss(5)</script></svg>",
    '"><script>xss(6)</script>',
    "'><script>xss(7)</script>",
    '" onmouseover="xss(8)" autofocus onfocus="xss(8)',
    "' onfocus='xss(9)' autofocus='",
    "</title><script>xss(10)</script>",
    "</textarea><script>xss(11)</script>",
    "</pre><img src=x onerror=xss(12)>",
    "</option></select><img src=x onerror=xss(13)>",
    "javascript:xss(14)",
    "data:text/html,<script>xss(15)</script>",
    "<iframe srcdoc='<script>parent.xss(16)</script>'>",
    "<a href=javascript:xss(17)>a</a>",
    "<form action=javascript:xss(18)><button>",
    "<body onload=xss(19)>",
    "<details open ontoggle=xss(20)>",
    "<video><source onerror=xss(21)></video>",
    "<math><mi xlink:href='javascript:xss(22)'>",
    "<object data='javascript:xss(23)'>",
    "<base href='//evil.example/'>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<style>@import '//evil.example/x.css'</style>",
    "{{ 7*7 }}{% for x in ().__class__.__base__.__subclasses__() %}x{% endfor %}",
    "${xss(29)}`${xss(29)}`",
    "<!--><script>xss(30)</script>-->",
)
"""What somebody would write into a name, a description or an answer to run a script in an operator's browser."""


def nasty(word: str) -> dict[str, Any]:
    """A tool that says a payload wherever it can."""
    return {**tool(word, f"{word} {word}", **{word: {"type": "string", "title": word, "enum": [word, "b"]}}), "title": word}


async def log_in(tab: Watched) -> None:
    await tab.page.goto("/console")
    await tab.page.fill("input[type=password]", KEY)
    async with tab.page.expect_navigation():
        await tab.page.click("main button")


async def wide(tab: Watched) -> bool:
    """Whether the page has to be pushed sideways."""
    return bool(await tab.page.evaluate("document.documentElement.scrollWidth > innerWidth"))


async def test_somebody_logs_in_chooses_a_language_and_leaves_and_no_address_has_the_key(tmp_path: Path) -> None:
    async with console(root=tmp_path) as (server, _), acting(f"http://127.0.0.1:{server.port}", language="zh-CN") as tab:
        page = tab.page
        await page.goto(f"/console/tools?key={KEY[:-1]}x")
        assert "密钥错误" in await page.inner_text("main") and "key" not in page.url
        await page.goto(f"/console/tools?endpoint=kitchen&key={KEY}")
        assert page.url.endswith("/console/tools?endpoint=kitchen")
        assert "工具" in await page.inner_text("h1")
        async with page.expect_navigation():
            await page.click("text=English")
        assert page.url.endswith("/console/tools?endpoint=kitchen") and await page.inner_text("h1") == "Tools"
        async with page.expect_navigation():
            await page.click("text=Log out")
        await page.goto("/console/overview")
        assert await page.inner_text("h1") == "Log in"
        await log_in(tab)
        assert await page.inner_text("h1") == "Overview"
        assert not tab.wrong
    assert not [name for name in ("key", KEY) if name in page.url]


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without"])
async def test_a_tool_is_called_from_its_form(scripts: bool, tmp_path: Path) -> None:
    add = tool("add", "adds", a={"type": "integer"}, b={"type": "integer", "default": 2})
    async with (
        console(root=tmp_path) as (server, _),
        toolbox(server.port, [add]) as calls,
        acting(f"http://127.0.0.1:{server.port}", scripts=scripts) as tab,
    ):
        await log_in(tab)
        await tab.page.click("nav >> text=Tools")
        await tab.page.click("#tools >> text=add")
        await tab.page.fill("[name='arg.a']", "9007199254740993")
        await tab.page.click("#form button:text-is('Call')")
        await tab.page.wait_for_selector("#result .good")
        shown = await tab.page.inner_text("#result")
        assert "9007199254740993" in shown and " ms" in shown
        assert calls == [{"name": "add", "arguments": {"a": 9007199254740993, "b": 2}}]
        assert not tab.wrong


@pytest.mark.parametrize(("width", "dark", "language"), [(400, True, "zh-CN"), (400, False, "en-US"), (1280, True, "en-US")])
async def test_every_page_fits_a_phone_and_a_screen(width: int, dark: bool, language: str, tmp_path: Path) -> None:
    long = "a_tool_with_a_name_that_is_as_long_as_names_of_tools_may_be_" * 2
    (tmp_path / "mcp.json").write_text(json.dumps({"mcpServers": {"x" * 90: {"command": "/nowhere/" + "y" * 200}}}))
    config = Config(providers=Providers(file="mcp.json"))
    async with (
        console(config, root=tmp_path) as (server, _),
        toolbox(server.port, [tool(long[:100], "很长的说明" * 60, **{"p" * 80: {"type": "object", "description": "z" * 300}})]),
        acting(f"http://127.0.0.1:{server.port}", width=width, dark=dark, language=language) as tab,
    ):
        await tab.page.goto("/console")
        assert not await wide(tab)
        await log_in(tab)
        for path in ("", "/connect", "/tools", f"/tools?tool={long[:100]}", "/servers", "/nowhere"):
            await tab.page.goto(f"/console{path}")
            assert not await wide(tab), path
        colour = await tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (int(colour.removeprefix("rgb(").partition(",")[0]) < 60) == dark
        assert not tab.wrong


async def test_nobodys_words_become_a_script(tmp_path: Path) -> None:
    tools = [nasty(word) for word in PAYLOADS]
    said = f"import sys; sys.exit({PAYLOADS[2]!r})"
    (tmp_path / "mcp.json").write_text(json.dumps({"mcpServers": {PAYLOADS[0]: {"command": sys.executable, "args": ["-c", said]}}}))
    config = Config(providers=Providers(file="mcp.json"))
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": PAYLOADS[2], "version": "1"}}
    token = TokenCodec(KEY).make_signed("single_module")
    async with (
        console(config, root=tmp_path) as (server, _),
        toolbox(server.port, tools) as calls,
        connect(f"ws://127.0.0.1:{server.port}/mcp_endpoint/call/?token={token}") as device,
        acting(f"http://127.0.0.1:{server.port}") as tab,
    ):
        await device.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}))
        await log_in(tab)
        await tab.page.goto("/console/tools")
        links = await tab.page.eval_on_selector_all("#tools a", "all => all.map(one => one.href)")
        assert len(links) == len(PAYLOADS) == 30
        for path in ("", "/servers", f"?find={PAYLOADS[5]}", f"/connect?endpoint={PAYLOADS[6]}", f"/nowhere/{PAYLOADS[2]}"):
            await tab.page.goto(f"/console{path}")
        for number, link in enumerate(links):
            await tab.page.goto(link)
            assert await tab.page.inner_text("#form h2") == " ".join(PAYLOADS[number].split())
            if number % 6 == 0:
                await tab.page.select_option("#form select", index=1)
                await tab.page.click("#form button:text-is('Call')")
                await tab.page.wait_for_selector("#result .good")
        assert len(calls) == 5
        await tab.page.evaluate("new Promise(done => setTimeout(done, 0))")  # what a page has begun may end
        assert not tab.wrong


async def test_a_page_of_another_site_calls_no_tool_of_somebody_who_is_logged_in(tmp_path: Path) -> None:
    """Its forms are sent, with or without the cookie, and refused."""
    form = (
        "<form method=post action='http://127.0.0.1:PORT/console/call'><input name=endpoint value=single_module>"
        "<input name=tool value=lamp><input name=form_token value=guess><button>go</button></form>"
        "<script>fetch('http://127.0.0.1:PORT/console/call', {method: 'POST', mode: 'no-cors', credentials: 'include', body: 'tool=lamp'})"
        ".finally(() => document.title = 'tried')</script>"
    )

    async def evil(request: Request) -> Response:
        return HTMLResponse(form.replace("PORT", request.query_params["port"]))

    async with (
        console(root=tmp_path) as (server, _),
        toolbox(server.port, [tool("lamp")]) as calls,
        served(Starlette(routes=[Route("/", evil)])) as (theirs, _),
        acting(f"http://127.0.0.1:{server.port}") as tab,
    ):
        await log_in(tab)
        await tab.page.goto(f"http://127.0.0.1:{theirs}/?port={server.port}")  # the same host: its browser sends the cookie along
        await tab.page.wait_for_function("document.title == 'tried'")
        async with tab.page.expect_navigation() as sent:
            await tab.page.click("button")
        answer = await sent.value
        assert answer is not None and answer.status == 403
        assert not calls
        await tab.page.goto("/console/overview")
        assert await tab.page.inner_text("h1") == "Overview"


async def test_a_new_record_stands_on_top_at_once_and_a_pause_keeps_the_list_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with recorded(tmp_path, monkeypatch) as (server, _, writer), acting(f"http://127.0.0.1:{server.port}") as tab:
        page = tab.page
        writer.write(*(call("old", number) for number in range(3)))
        await log_in(tab)
        await page.goto("/console/records?q=tool:lamp")
        await page.wait_for_selector("#live-state:has-text('live')")
        await page.evaluate("window.sameDocument = true")
        writer.write(call("lamp", 7), call("fan"))
        await page.wait_for_selector("#live .record:has-text('lamp')")
        assert await page.locator("#live .record").count() == 1
        assert await page.get_attribute("#live .record", "href") == "/console/records/4"
        await page.click("#pause")
        writer.write(call("lamp"))
        await page.wait_for_selector("#live-state:has-text('1 new')")
        assert await page.locator("#live .record").count() == 1
        await page.click("#pause")
        await page.locator("#live .record").nth(1).wait_for(state="attached")  # a script of the test's own would be against the CSP
        # Three thousand at once: the page stays small, and says how many it does not show.
        writer.write(*(call("lamp", number) for number in range(3_000)))
        await page.wait_for_selector("#live-state:has-text('more not shown')")
        assert await page.evaluate("document.querySelectorAll('*').length") < 1_600
        assert await page.evaluate("window.sameDocument")
        await page.click("#live .record >> nth=0")
        assert await page.inner_text("h1") == "lamp"
        assert not tab.wrong


async def test_nobodys_words_in_a_record_become_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with recorded(tmp_path, monkeypatch) as (server, _, writer), acting(f"http://127.0.0.1:{server.port}") as tab:
        page = tab.page
        sessions = []
        for number, word in enumerate(PAYLOADS, 1):
            sessions.append(
                Session(id=number, kind=word, endpoint=word, side=word, name=word, began=NOW, ended=NOW, code=1006, reason=word)
            )
            writer.write(
                call(word, answer=word, session=number, endpoint=word, label=word, status=word, trace=word), sessions=sessions[-1:]
            )
        side = side_of([PAYLOADS[0].encode()], [(word, word) for word in PAYLOADS], [(0.1, 5), (0.2, 5)], client=PAYLOADS[2])
        exchange = writer.write(Record(at=NOW, kind="exchange", method=PAYLOADS[3], model=PAYLOADS[0], request=side, answer=side))
        await log_in(tab)
        await page.goto("/console/records")
        assert await page.locator(".record").count() == len(PAYLOADS) + 1
        await page.wait_for_selector("#live-state:has-text('live')")
        for word in PAYLOADS:
            writer.write(call(word, endpoint=word, label=word, status=word))
        await page.locator("#live .record").nth(len(PAYLOADS) - 1).wait_for(state="attached")
        for path in (
            "/sessions",
            f"/records/{exchange}",
            "/records?q=%22%3E%3Cscript%3Exss(1)%3C/script%3E",
            "/sessions?endpoint=%22%3E%3Csvg%20onload=xss(2)%3E",
        ):
            await page.goto(f"/console{path}")
        for number, word in enumerate(PAYLOADS, 1):
            await page.goto(f"/console/records/{number}")
            assert await page.inner_text("h1") == " ".join(word.split())
            await page.goto(f"/console/sessions/{number}")
        await page.evaluate("new Promise(done => setTimeout(done, 0))")
        assert not tab.wrong


async def test_pages_of_records_fit_a_phone_and_need_no_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "a_name_that_is_as_long_as_names_may_be_" * 3
    async with (
        recorded(tmp_path, monkeypatch) as (server, _, writer),
        acting(f"http://127.0.0.1:{server.port}", width=400, scripts=False) as tab,
    ):
        session = Session(id=1, kind="link", endpoint=long, side="device", name=long, began=NOW)
        writer.write(call(long, answer=long * 20, session=1, endpoint=long, label=long), sessions=[session])
        await log_in(tab)
        for path in ("/records", "/records/1", "/sessions", "/sessions/1"):
            await tab.page.goto(f"/console{path}")
            assert long[:100] in await tab.page.inner_text("main")
            assert not await wide(tab), path
