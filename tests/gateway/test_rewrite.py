"""Addresses and headers on their way to an upstream and back."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_endpoint.gateway.rewrite import Scrub, Target, climbs, request_headers, response_headers, unkeyed

AVIATION = Target.at("https://ai.example/servers/aviation/mcp/")


@pytest.mark.parametrize(
    ("target", "path", "query", "expected"),
    [
        ("http://h/a/", b"", b"", b"/a/"),
        ("http://h/a/", b"/", b"", b"/a/"),
        ("http://h/a/", b"b/c", b"", b"/a/b/c"),
        ("http://h/a", b"/b%20c", b"x=1&y=%E4", b"/a/b%20c?x=1&y=%E4"),
        ("http://h", b"", b"", b"/"),
        ("http://h?fixed=1", b"v1/models", b"x", b"/v1/models?fixed=1&x"),
        ("http://h/\u4f60", b"", b"", b"/%E4%BD%A0"),
    ],
)
def test_a_path_is_added_to_the_targets(target: str, path: bytes, query: bytes, expected: bytes) -> None:
    assert Target.at(target).join(path, query, "bearer", "secret") == expected


@pytest.mark.row("R3")
@pytest.mark.parametrize("query", [b"", b"api_key=mine", b"a=1&api_key=x&b=2&api_key=y", b"api%5fkey=sly&a=1&b=2"])
def test_a_key_of_the_query_stands_there_once_and_is_ours(query: bytes) -> None:
    target = AVIATION.join(b"", query, "query:api_key", "sk-one+two")
    assert target.startswith(b"/servers/aviation/mcp/?")
    assert target.count(b"api_key") == 1
    assert target.endswith(b"api_key=sk-one%2Btwo")
    if b"a=1" in query:
        assert b"a=1&b=2&" in target


def test_hosts_and_ports_of_a_target() -> None:
    assert Target.at("https://user:pw@h:8443/x")[:2] == (b"h:8443", "https://h:8443")
    assert Target.at("http://例子.example/")[0] == b"xn--fsqu00a.example"


CLIMBING = [
    *(b"..", b"a/../b", b"/./a", b"%2e%2E/a", b"a/.%2e", b"a\\..\\b"),
    *(b"..%2fx", b"%2e%2e%2fx", b"..%5Cx", b"..;/x", b"..;v=1/x", b"a%2F..%3bx/y", b"..%3fx", b"..%23x"),
    *(b"%252e%252e/x", b"..%252fx", b"%25252e%25252e%25252fx", b"%2%65%2e/x", b"%u002e%u002e/x"),
    *(b"%c0%ae%c0%ae/x", b"..%c0%afx", b"%e0%80%ae./x", b"%f0%80%80%ae./x", b"..%c1%9cx", b"\xc0\xae\xc0\xae/x"),
    *(b"..%20/x", b".%09./x", b"..%0d%0a/x", b"x%00", b"x%2500", b"%c0%80", b"%" + b"25" * 20 + b"41"),
]


@pytest.mark.parametrize("path", CLIMBING)
def test_a_path_that_climbs_is_seen_however_it_is_spelled(path: bytes) -> None:
    assert climbs(path)


INNOCENT = [
    *(b"", b"a.b/..c", b"...", b"a/b..", b"%2f", b"a%2Fb", b"a%20b", b"x;v=1/y", b"%E4%BD%A0/%e5%a5%bd", b"a%252Fb", b"100%25", b"%zz"),
    *(b"v1.2/.well-known/x", b"a//b", b"C%23", b"q%3Fx", b"a..%2fb", b"caf\xc3\xa9", b"%"),
]


@pytest.mark.parametrize("path", INNOCENT)
def test_a_path_that_does_not_climb_keeps_its_bytes(path: bytes) -> None:
    assert not climbs(path)
    carried = AVIATION.join(path, b"", "bearer", "s")
    assert unquote_to_bytes(carried) == unquote_to_bytes(b"/servers/aviation/mcp/" + path)
    assert path.isascii() is False or carried == b"/servers/aviation/mcp/" + path


def landed(path: bytes, rounds: int, ends: bytes) -> bool:
    """Whether a server that decodes so often, and takes these for ends of a step, stays in the folder where the path begins."""
    for _ in range(rounds):
        path = unquote_to_bytes(path)
    depth = 0
    for step in re.split(b"[%b]" % re.escape(ends), path):
        depth += {b"..": -1, b".": 0, b"": 0}.get(step, 1)
        if depth < 0:
            return False
    return True


PIECES = ["a", "b.c", "...", ".", "..", "/", "\\", ";", "%2e", "%2E", "%2f", "%5C", "%3b", "%25", "%252e", "%252F", "%20", "%c0%ae", ";v=1"]


@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_what_is_let_through_leaves_the_folder_at_no_server(text: str) -> None:
    path = text.encode()
    if not climbs(path):
        for rounds in range(4):
            for ends in (b"/", b"/\\", b"/;", b"/\\;"):
                assert landed(path, rounds, ends), (path, rounds, ends)


@pytest.mark.row("R8")
def test_every_header_goes_out_but_the_host_and_those_of_the_connection() -> None:
    given = [
        (b"host", b"localhost:8000"),
        (b"connection", b"keep-alive, X-Mine"),
        (b"x-mine", b"hop"),
        (b"keep-alive", b"timeout=5"),
        (b"te", b"trailers"),
        (b"transfer-encoding", b"chunked"),
        (b"upgrade", b"h2c"),
        (b"proxy-authorization", b"x"),
        (b"content-length", b"5"),
        (b"x-endpoint-key", b"ours"),
        (b"x-twice", b"1"),
        (b"x-twice", b"2"),
        (b"accept", b"text/plain"),
        (b"authorization", b"Basic x"),
    ]
    kept = [(b"x-twice", b"1"), (b"x-twice", b"2"), (b"accept", b"text/plain")]
    assert request_headers(given, AVIATION, "query:api_key", "s", mcp=False) == [
        (b"host", b"ai.example"),
        *kept,
        (b"authorization", b"Basic x"),
    ]
    assert request_headers(given, AVIATION, "bearer", "s", mcp=False) == [(b"host", b"ai.example"), *kept, (b"authorization", b"Bearer s")]
    assert request_headers(given, AVIATION, "header:X-Key", "s", mcp=False)[-1] == (b"x-key", b"s")
    assert request_headers(given, AVIATION, "bearer", "", mcp=False)[-1] == (b"authorization", b"Basic x")


@pytest.mark.row("R11")
@pytest.mark.parametrize(
    ("given", "accepts"),
    [
        ([], b"application/json, text/event-stream"),
        ([b"*/*"], b"application/json, text/event-stream"),
        ([b"application/json"], b"application/json"),
        ([b"application/json, text/event-stream"], b"application/json, text/event-stream"),
    ],
)
def test_mcp_gets_the_accept_it_insists_on(given: list[bytes], accepts: bytes) -> None:
    found = request_headers([(b"accept", value) for value in given], AVIATION, "bearer", "", mcp=True)
    assert [value for name, value in found if name == b"accept"] == [accepts]


def test_answers_lose_what_belongs_to_the_connection() -> None:
    given = [(b"Content-Type", b"a/b"), (b"Transfer-Encoding", b"chunked"), (b"Date", b"x"), (b"Connection", b"x-it"), (b"X-It", b"1")]
    assert response_headers([*given, (b"Set-Cookie", b"a"), (b"Set-Cookie", b"b")]) == [
        (b"content-type", b"a/b"),
        (b"set-cookie", b"a"),
        (b"set-cookie", b"b"),
    ]


def test_a_length_that_means_nothing_is_not_carried() -> None:
    length = (b"content-length", b"3")
    assert response_headers([length, (b"Transfer-Encoding", b"chunked")]) == []
    assert response_headers([length], 204) == []
    assert response_headers([length], 304) == response_headers([length]) == [length]


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (b"https://ai.example/servers/aviation/mcp/x?a=1&api_key=k#top", b"/gateway/air/x?a=1#top"),
        (b"http://ai.example/servers/aviation/mcp", b"/gateway/air"),
        (b"/servers/aviation/mcp/x", b"/gateway/air/x"),
        (b"/servers/aviation/mcpx", b"/servers/aviation/mcpx"),
        (b"/elsewhere", b"/elsewhere"),
        (b"x", b"x"),
        (b"https://other.example/servers/aviation/mcp/", b"https://other.example/servers/aviation/mcp/"),
        (b"mailto:/servers/aviation/mcp/", b"mailto:/servers/aviation/mcp/"),
        (b"http://[", b"http://["),
    ],
)
def test_a_redirect_within_the_target_stays_within_the_gateway(location: bytes, expected: bytes) -> None:
    assert AVIATION.back(location, "/gateway/air", "query:api_key") == expected


def test_a_redirect_to_the_top_of_a_target_that_is_a_whole_server() -> None:
    assert Target.at("http://h").back(b"http://h", "", "bearer") == b"/"
    assert Target.at("http://h").back(b"http://h/a?api_key=x", "", "bearer") == b"/a?api_key=x"


@pytest.mark.row("R16")
def test_a_key_in_a_stream_becomes_stars_however_it_is_cut() -> None:
    secret, text = "sk-a/b+c", b"1 sk-a/b+c 2 sk-a%2Fb%2Bc 3 sk-a/b+ 4"
    expected = b"1 ******** 2 ************ 3 sk-a/b+ 4"
    for cut in range(len(text) + 1):
        scrub = Scrub(secret)
        assert scrub.feed(text[:cut]) + scrub.feed(text[cut:]) + scrub.end() == expected
    assert Scrub(secret).over(text) == expected


def test_the_servers_own_key_leaves_a_query_and_nothing_else_does() -> None:
    assert unkeyed(b"a=1&key=mine&b=2&key=theirs&monkey=mine", b"mine") == b"a=1&b=2&key=theirs&monkey=mine"
    assert unkeyed(b"", b"mine") == b""


@pytest.mark.parametrize("shown", [b"%6bey=mine", b"key=%6d%69ne", b"k%65y=mi%6Ee"])
def test_our_key_is_taken_out_however_it_is_spelled(shown: bytes) -> None:
    assert unkeyed(b"a=%31&" + shown + b"&key=m%25ine", b"mine") == b"a=%31&key=m%25ine"


def test_blanks_around_a_header_are_none_of_it() -> None:
    assert (b"mcp-name", b"look up") in request_headers([(b"mcp-name", b" \tlook up ")], AVIATION, "bearer", "", mcp=False)
