"""The page in every state it can be in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_endpoint.access.addresses import PROBE, Hint
from mcp_endpoint.web.page import LEFT_SHOWN, Address, Facts, prefers_chinese, render


def facts(tools: list[dict[str, Any]] | None = None, **changes: Any) -> Facts:
    details = [] if tools is None else [{"endpoint": "home", "in_flight": 0, "tools": tools, "devices": [], "sessions": []}]
    links = {"tool_connections": 0, "device_connections": 0, "session_connections": 0}
    snapshot = {"endpoints": len(details), **links, "endpoint_details": details}
    known: dict[str, Any] = {"state": "ready", "uptime": 0.4, "known": True, "refused": False, "addresses": (), "hints": ()}
    return Facts(snapshot=snapshot, **(known | changes))


def tool(**changes: Any) -> dict[str, Any]:
    plain = {"label": "", "state": "ready", "connected_seconds": 90_000.0, "doubtful": False, "functions": [], "why_bare": ""}
    return plain | changes


@pytest.mark.parametrize(
    ("header", "chinese"),
    [
        ("", False),
        ("zh", True),
        ("zh-Hans-CN;q=0.9", True),
        ("en", False),
        ("zh-TW,en;q=0.5", True),
        ("en,zh", False),
        ("zh,en", True),
        ("en;q=0.2, zh;q=0.7", True),
        ("fr, de", False),
        ("zh;q=0", False),
        ("zh;q=banana", False),
        ("*", False),
        (";;,,=", False),
    ],
)
def test_the_language_is_the_one_the_browser_puts_first(header: str, chinese: bool) -> None:
    assert prefers_chinese(header) is chinese


@given(st.text(max_size=200))
def test_no_header_breaks_the_choice_of_language(header: str) -> None:
    assert prefers_chinese(header) in (True, False)


def test_a_draining_server_says_so() -> None:
    assert "stopping" in render(facts(state="draining"), chinese=False)
    assert "正在停止" in render(facts(state="draining"), chinese=True)


def test_an_empty_server_says_that_nobody_is_connected() -> None:
    assert "还没有工具或设备连接" in render(facts(), chinese=True)


def test_an_endpoint_without_a_tool_says_it_in_the_words_devices_hear() -> None:
    assert "工具端未连接" in render(facts([]), chinese=True)


def test_an_endpoint_of_a_free_form_token_is_told_of_what_may_be_wrong() -> None:
    shown = facts([tool()])
    assert "free-form" not in render(shown, chinese=False)
    shown.snapshot["endpoint_details"][0]["free_form"] = True
    assert "free-form token, endpoint home" in render(shown, chinese=False)
    assert "自定义令牌" in render(shown, chinese=True)


def test_a_tool_is_shown_with_its_state_its_age_and_its_trouble() -> None:
    shown = render(facts([tool(state="bare", why_bare="no answer in 5 s", doubtful=True)]), chinese=False)
    assert "does not speak MCP" in shown
    assert "1 d 1 h" in shown
    assert "no answer in 5 s" in shown
    assert "its last call timed out" in shown


def test_why_a_tool_is_bare_is_told_in_the_language_of_the_page() -> None:
    silent = [tool(state="bare", why_bare="it did not answer initialize in time")]
    assert "未在时限内应答 initialize" in render(facts(silent), chinese=True)
    assert "it did not answer initialize in time" in render(facts(silent), chinese=False)


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        (1006, "the connection was lost"),
        (1007, "let the tool write UTF-8"),
        (1001, "its machine is shutting down"),
        (1011, "its process ended"),
        (4004, ""),
    ],
)
def test_the_last_close_is_told_with_its_code_its_reason_and_what_the_code_means(code: int, meaning: str) -> None:
    seen = facts([])
    seen.snapshot["endpoint_details"][0]["last_close"] = {"at": "2026-01-02T03:04:05+00:00", "code": code, "reason": "so long"}
    shown = render(seen, chinese=False)
    assert f"2026-01-02 03:04:05 UTC · {code} so long" in shown
    assert meaning in shown


def test_an_endpoint_without_links_is_shown_with_its_last_close_and_those_of_check_are_not() -> None:
    close_reason = {"at": "2026-01-02T03:04:05+00:00", "code": 1006, "reason": ""}
    names = ["kitchen", f"{PROBE}1", *map(str, range(99))]
    seen = facts()
    seen = seen._replace(snapshot={**seen.snapshot, "left": [{"endpoint": name, "last_close": close_reason} for name in names]})
    shown = render(seen, chinese=False)
    assert "<h3>kitchen</h3>" in shown
    assert PROBE not in shown
    assert shown.count("the connection was lost") == LEFT_SHOWN


def test_hints_stand_beside_the_addresses_they_are_about() -> None:
    seen = facts(addresses=(Address("for devices", "设备用", "ws://127.0.0.1:1/"),), hints=(Hint("only here", "仅本机"),))
    shown = render(seen, chinese=True)
    assert "仅本机" in shown
    assert "设备用" in shown
    assert "ws://127.0.0.1:1/" in shown


def test_a_name_cannot_turn_the_writing_around_it() -> None:
    assert "\u202e" not in render(facts([tool(label="evil\u202e")]), chinese=False)


@given(st.text(max_size=30))
def test_nothing_a_tool_says_becomes_markup(text: str) -> None:
    shown = render(facts([tool(label=f"<i>{text}", state=f"<i>{text}", functions=[f"<i>{text}"])]), chinese=False)
    assert "<i>" not in shown


def served(**changes: Any) -> dict[str, Any]:
    plain = {"name": "calc", "state": "running", "seconds": 3.0, "starts": 1, "why": "", "said": ["a line"], "tools": ["add"]}
    return plain | changes


def with_servers(*servers: dict[str, Any], problem: str = "") -> Facts:
    found = facts()
    room = {"file": "mcp.json", "problem": problem, "servers": list(servers)}
    return found._replace(snapshot={**found.snapshot, "rooms": {"providers": room}})


def test_managed_servers_are_shown_with_what_they_cost() -> None:
    page = render(with_servers(served(cpu_seconds=1.25, memory_bytes=64 * 1_048_576, starts=3)), chinese=False)
    for words in ("Managed servers", "mcp.json", "calc", "running", "CPU 1.2 s", "64 MiB", "starts 3", "add"):
        assert words in page
    assert "a line" not in page, "what a server says while it runs is for /stats"
    assert "MiB" not in render(with_servers(served()), chinese=False)


def test_a_managed_server_that_ended_says_why_with_its_last_words() -> None:
    page = render(with_servers(served(state="stopped", why="程序 <b> / its process ended", said=["<script>"])), chinese=True)
    for words in ("连续退出", "程序 &lt;b&gt;", "&lt;script&gt;"):
        assert words in page
    assert "a-state-of-tomorrow" in render(with_servers(served(state="a-state-of-tomorrow")), chinese=False)


def test_why_a_server_does_not_run_is_told_in_the_language_of_the_page_alone() -> None:
    wrong = {"name": "calc", "state": "error", "why": "f:1:2: 缺少 / f:1:2: it lacks", "tools": []}
    both = "坏 / bad"
    for chinese, told, other in ((False, ("f:1:2: it lacks", "bad"), ("缺少", "坏")), (True, ("f:1:2: 缺少", "坏"), ("it lacks", "bad<"))):
        page = render(with_servers(wrong, served(tools_not_changed=[both]), problem=both), chinese=chinese)
        assert all(words in page for words in told)
        assert not any(words in page for words in other)
        assert not any(f'"small">{never}<' in page for never in ("0 s", "0 秒")), "what never ran has no time"
    silent = served(why_bare="it sent no result")
    assert "应答中没有 result" in render(with_servers(silent), chinese=True)


def test_what_an_entry_says_of_tools_that_are_not_there_is_told() -> None:
    page = render(with_servers(served(tools_not_changed=["tools.<b>: the server has no tool of this name"])), chinese=False)
    assert "tools.&lt;b&gt;: the server has no tool of this name" in page


def test_a_file_of_servers_that_cannot_be_used_is_told() -> None:
    page = render(with_servers(problem="mcp.json:1:2: no"), chinese=False)
    assert "mcp.json:1:2: no" in page
    assert "The file contains no servers." in page
    assert "Managed servers" not in render(facts(), chinese=False)


def roomed(**rooms: Any) -> Facts:
    found = facts()
    return found._replace(snapshot={**found.snapshot, "rooms": rooms})


def dialled(**changes: Any) -> dict[str, Any]:
    since = "2026-01-02T03:04:05+00:00"
    return {"name": "hosted", "host": "h.example", "endpoint": "home", "state": "connected", "since": since, "reason": ""} | changes


def test_links_outwards_gateways_and_keys_are_shown_in_short_rows() -> None:
    ended = dialled(name="<b>", host="", state="refused", reason="令牌被拒绝 <i> / the token was refused <i>")
    gateway = {"upstream": "https://api.example:8443", "requests": 7, "local": 0, "retries": 1, "failed": 2}
    keys = {"available": 3, "resting": 1, "banned": 2, "keys": [{"key": "sk-...last", "fingerprint": "abcd"}]}
    seen = roomed(dial={"targets": [dialled(), ended, dialled(state="of-tomorrow")]}, gateway={"models": gateway}, keys={"fly": keys})
    english, chinese = render(seen, chinese=False), render(seen, chinese=True)
    for words in (
        "h.example · endpoint home · since 2026-01-02 03:04:05 UTC",
        "&lt;b&gt;",
        "the token was refused &lt;i&gt;",
        "of-tomorrow",
    ):
        assert words in english
    assert "/gateway/models/</strong>" in english and "api.example:8443 · requests 7 · failed 2" in english
    assert "available 3 · resting 1 · banned 2" in english and "sk-" not in english and "abcd" not in english
    for words in ("外连", "被拒绝，请重新复制地址", "令牌被拒绝 &lt;i&gt;", "请求 7 · 失败 2", "可用 3 · 休息 1 · 停用 2"):
        assert words in chinese
    assert "the token was refused" not in chinese


def test_what_is_not_configured_has_no_heading() -> None:
    page = render(roomed(dial={"targets": []}, keys={}), chinese=False)
    assert not [words for words in ("Outbound links", "Gateways", "Pools of keys") if words in page]
