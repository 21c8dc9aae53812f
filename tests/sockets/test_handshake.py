"""The handshake: who is accepted, who is refused, and with which status."""

from __future__ import annotations

import io
import ipaddress
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from sockets.peerframes import PING, TEXT, frame
from sockets.wire_server import DEVICE, KEY, TOOL, Double, configured, connection, knock, linked, request, staged
from websockets.datastructures import Headers

from mcp_endpoint.access.admission import Authenticator, BadTokens, Refusal, host_of
from mcp_endpoint.access.tokens import TokenCodec
from mcp_endpoint.errors import CROWDED_OUT, RESTARTING
from mcp_endpoint.log import setup
from mcp_endpoint.settings.schema import Config, Logging, Server
from mcp_endpoint.sockets.handshake import Acceptor, Admission

CODEC = TokenCodec(KEY)
XIAOZHI = CODEC.make_xiaozhi("0123456789abcdef0123456789abcdef")
BAD = CODEC.make_signed("home") + "x"
NEAR = ("127.0.0.1", 40_000)
FAR = ("203.0.113.9", 40_000)


class Clock:
    """Time stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def acceptor(config: Config | None = None, clock: Callable[[], float] | None = None) -> Acceptor:
    clock = clock or Clock()
    config = config or configured()
    return Acceptor(config, Double(), Authenticator(config, CODEC, clock=clock, epoch=clock))  # type: ignore[arg-type]


def asks(
    at: Acceptor, target: str, *, peer: tuple[str, int] = NEAR, local: str = "127.0.0.1", tls: bool = False, **headers: str
) -> Admission | Refusal:
    named = Headers({"Host": "127.0.0.1:8004"})
    for name, value in headers.items():
        named[name.replace("_", "-")] = value
    return at.decide(target, named, peer, local, tls=tls)


def status(found: Admission | Refusal) -> int:
    return found.status if isinstance(found, Refusal) else 101


# Paths and tokens


@pytest.mark.parametrize(("path", "side"), [(TOOL, "tool"), (TOOL[:-1], "tool"), (DEVICE, "device"), (DEVICE[:-1], "device")])
@pytest.mark.row("D24")
async def test_both_paths_work_with_and_without_the_trailing_slash(path: str, side: str) -> None:
    async with staged() as stage, linked(stage, path, token=quote(XIAOZHI, safe="")):
        party = await stage.broker.party()
        assert (party.side, party.name) == (side, "agent:0123456789abcdef0123456789abcdef")


@pytest.mark.parametrize("path", ["/", "/mcp_endpoint/", "/mcp_endpoint/mcp//", "/mcp_endpoint/mcp/x", "/MCP_endpoint/mcp/", "/api/mcp/"])
async def test_any_other_path_is_404(path: str) -> None:
    async with staged() as stage:
        answer = await knock(stage, f"{path}?token=friend")
        assert answer.status == 404
        assert "/mcp_endpoint/call/" in answer.json()["message"]
        assert not stage.broker.parties


@pytest.mark.parametrize(
    ("query", "error", "words"),
    [
        *((query, "no token", "没有令牌") for query in ("", "?", "?token=", "?token", "?Token=x", "?token=&token=")),
        *((f"?token={example}", "placeholder", "占位符") for example in ("...", "%E2%80%A6", "%3Ctoken%3E", "TOKEN", "YOUR_TOKEN")),
    ],
)
@pytest.mark.parametrize("path", [TOOL, DEVICE])
async def test_no_token_and_the_one_of_an_example_are_told_apart_from_a_wrong_one(path: str, query: str, error: str, words: str) -> None:
    async with staged() as stage:
        answer = await knock(stage, path + query)
        assert (answer.status, answer.json()["error"]) == (401, error)
        assert words in answer.json()["message"] and "mcp-endpoint url" in answer.json()["message"]
        assert not stage.broker.parties


@pytest.mark.row("D24")
async def test_a_raw_plus_that_arrives_as_a_blank_is_accepted_all_the_same() -> None:
    agent = next(name for name in (f"a{n}" for n in range(10_000)) if "+" in CODEC.make_xiaozhi(name))
    for spelling in (
        CODEC.make_xiaozhi(agent),
        CODEC.make_xiaozhi(agent).rstrip("="),
        CODEC.make_xiaozhi(agent).replace("+", "-").replace("/", "_"),
    ):
        found = asks(acceptor(), f"{DEVICE}?token={spelling}", peer=FAR)
        assert isinstance(found, Admission) and found.grant.endpoint == f"agent:{agent}"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_token_may_come_as_authorization_bearer(scheme: str) -> None:
    async with staged() as stage, connection(stage) as peer:
        peer.send(request(DEVICE, f"Authorization: {scheme}  {XIAOZHI}"))
        assert (await peer.answer()).status == 101
        assert (await stage.broker.party()).name.startswith("agent:")


def test_an_empty_token_in_the_address_leaves_the_header_and_two_that_differ_are_400() -> None:
    found = asks(acceptor(), f"{DEVICE}?token=", Authorization="Bearer header")
    assert isinstance(found, Admission) and found.grant.endpoint == "opaque:header"
    assert status(asks(acceptor(), f"{DEVICE}?token=same", Authorization="Bearer same")) == 101
    assert status(asks(acceptor(), f"{DEVICE}?token=query", Authorization="Bearer header")) == 400
    assert status(asks(acceptor(), f"{DEVICE}?token=one&token=two")) == 400
    assert status(asks(acceptor(), DEVICE, Authorization="Basic Zm9vOmJhcg==")) == 401


@pytest.mark.parametrize(
    "query", [f"?token={BAD}", f"?token={CODEC.make_signed('home', expires=1.0)}", "?token=" + "Zz09" * 16, "?token=" + "x" * 5_000]
)
@pytest.mark.row("D25")
async def test_a_bad_token_is_401_before_101_and_the_answer_does_not_say_why(query: str) -> None:
    async with staged() as stage:
        answer = await knock(stage, DEVICE + query)
        same = await knock(stage, f"{DEVICE}?token=mep1.nothing")
        assert answer.status == same.status == 401
        assert answer.body == same.body
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["content-type"].startswith("application/json")
        message = answer.json()["message"]
        assert "令牌无效" in message and "Invalid token" in message and "mcp-endpoint url" in message
        assert not stage.broker.parties and not stage.acceptor.open


def test_a_signed_token_opens_its_side_only() -> None:
    for role, tool, device in (("both", 101, 101), ("tool", 101, 403), ("device", 403, 101)):
        token = CODEC.make_signed("home", role)  # type: ignore[arg-type]
        assert status(asks(acceptor(), f"{TOOL}?token={token}", peer=FAR)) == tool
        assert status(asks(acceptor(), f"{DEVICE}?token={token}", peer=FAR)) == device


def test_a_signed_token_ends() -> None:
    clock = Clock()
    entrance = acceptor(clock=clock)
    target = f"{DEVICE}?token={CODEC.make_signed('home', expires=2_000.0)}"
    assert status(asks(entrance, target)) == 101
    clock.now = 2_000.0
    assert status(asks(entrance, target)) == 401


def test_the_name_of_a_tool_process_is_handed_on_cut_to_a_bound() -> None:
    found = asks(acceptor(), f"{TOOL}?token=t&server_id=my%20tool")
    assert isinstance(found, Admission) and found.server_id == "my tool"
    found = asks(acceptor(), f"{TOOL}?token=t&server_id={'n' * 1_000}")
    assert isinstance(found, Admission) and len(found.server_id) == 128
    found = asks(acceptor(), f"{TOOL}?token=t")
    assert isinstance(found, Admission) and found.server_id == ""


# Opaque tokens (design §4)


@pytest.mark.parametrize(
    ("expected", "server", "peer", "local", "header"),
    [
        (101, {}, NEAR, "127.0.0.1", None),
        (101, {"host": "::1"}, ("::1", 1), "::1", None),
        (101, {"host": "localhost"}, ("::ffff:127.0.0.1", 1), "127.0.0.1", None),
        (101, {"public_url": "http://localhost:8004"}, NEAR, "127.0.0.1", None),
        (101, {"public_url": "http://[::1]:8004/x"}, NEAR, "127.0.0.1", None),
        (401, {"public_url": "https://mcp.example.com"}, NEAR, "127.0.0.1", None),
        (401, {"host": "0.0.0.0"}, NEAR, "127.0.0.1", None),
        (401, {}, FAR, "127.0.0.1", None),
        (401, {}, NEAR, "192.168.1.5", None),
        (401, {}, NEAR, "127.0.0.1", "X-Forwarded-For"),
        (401, {}, NEAR, "127.0.0.1", "X-Forwarded-Proto"),
        (401, {}, NEAR, "127.0.0.1", "Forwarded"),
    ],
)
def test_an_opaque_token_pairs_only_between_local_peers(
    expected: int, server: dict[str, Any], peer: tuple[str, int], local: str, header: str | None
) -> None:
    headers = {header: "for=1.2.3.4"} if header else {}
    assert status(asks(acceptor(configured(server=server)), f"{DEVICE}?token=friend", peer=peer, local=local, **headers)) == expected


def test_opaque_tokens_can_be_allowed_for_everybody_or_for_nobody() -> None:
    always = acceptor(configured(server={"host": "0.0.0.0"}, security={"opaque_tokens": "always"}))
    assert status(asks(always, f"{DEVICE}?token=friend", peer=FAR, X_Forwarded_For="1.2.3.4")) == 101
    never = acceptor(configured(security={"opaque_tokens": "never"}))
    assert status(asks(never, f"{DEVICE}?token=friend")) == 401
    assert status(asks(never, f"{DEVICE}?token={quote(XIAOZHI)}")) == 101


# Origins


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, 101),
        ("https://app.example.com", 101),
        ("HTTPS://APP.example.com", 101),
        ("http://127.0.0.1:8004", 101),
        ("https://127.0.0.1:8004", 101),
        ("http://localhost:8004", 101),
        ("http://127.0.0.1:3000", 403),
        ("https://app.example.com:8443", 403),
        ("https://app.example.com.evil", 403),
        ("http://app.example.com", 403),
        ("https://evil.example", 403),
        ("null", 403),
        ("", 403),
    ],
)
@pytest.mark.row("D20")
def test_a_web_page_may_connect_only_from_an_allowed_origin(origin: str | None, expected: int) -> None:
    entrance = acceptor(configured(security={"allowed_origins": ("https://app.example.com",)}))
    headers = {} if origin is None else {"Origin": origin}
    assert status(asks(entrance, f"{DEVICE}?token=friend", **headers)) == expected


@pytest.mark.row("D20")
async def test_a_foreign_origin_is_refused_before_101_and_so_are_two() -> None:
    async with staged(configured(security={"allowed_origins": ("https://app.example.com",)})) as stage:
        target = f"{DEVICE}?token=friend"
        assert (await knock(stage, target, "Origin: https://evil.example")).status == 403
        assert (await knock(stage, target, "Origin: https://app.example.com", "Origin: https://evil.example")).status == 400
        assert (await knock(stage, target, "Origin: https://app.example.com")).status == 101


def test_by_default_every_page_may_connect_that_has_a_secret() -> None:
    assert status(asks(acceptor(), f"{DEVICE}?token={quote(XIAOZHI, safe='')}", Origin="https://any.example")) == 101
    assert status(asks(acceptor(), f"{DEVICE}?token=friend", Origin="https://any.example")) == 403
    assert status(asks(acceptor(), f"{TOOL}?token=friend", Origin="https://any.example")) == 403


# No room


@pytest.mark.row("D19")
async def test_more_than_max_connections_hear_503_and_those_inside_notice_nothing() -> None:
    async with staged(configured(websocket={"max_connections": 2})) as stage, linked(stage) as one, linked(stage, TOOL) as two:
        answer = await knock(stage, f"{DEVICE}?token=friend")
        assert answer.status == 503
        assert answer.headers["retry-after"] == "5"
        for peer in (one, two):
            peer.say("still here")
            assert await peer.hears() == "still here"
        one.abort()
        await stage.broker.left(0)
        async with linked(stage) as three:
            three.say("now there is room")
            assert await three.hears() == "now there is room"


async def test_who_has_every_link_gives_way_to_another_endpoint_with_the_newest() -> None:
    async with (
        staged(configured(websocket={"max_connections": 3})) as stage,
        linked(stage, token="greedy") as first,
        linked(stage, token="greedy") as second,
        linked(stage, token="greedy") as third,
        linked(stage, token="modest") as other,
    ):
        assert await third.close_reason() == tuple(CROWDED_OUT)
        assert (await knock(stage, f"{DEVICE}?token=greedy")).status == 503
        async with linked(stage, token="new") as fifth:
            for peer in (first, other, fifth):
                peer.say("still here")
                assert await peer.hears() == "still here"
            assert await second.close_reason() == tuple(CROWDED_OUT)
            assert stage.acceptor.links <= 4


async def test_a_draining_server_lets_nobody_in() -> None:
    async with staged() as stage, linked(stage) as inside:
        stage.acceptor.refuse_new = True
        answer = await knock(stage, f"{DEVICE}?token=friend")
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        inside.say("I may finish")
        assert await inside.hears() == "I may finish"
        stage.acceptor.close_all(RESTARTING)
        assert await inside.close_reason() == tuple(RESTARTING)


# Failed tokens


@pytest.mark.row("E21")
def test_the_eleventh_bad_token_of_an_address_within_a_minute_hears_429_and_a_good_one_never_does() -> None:
    clock = Clock()
    entrance = acceptor(clock=clock)
    good = f"{DEVICE}?token={quote(XIAOZHI)}"
    heard = [asks(entrance, f"{DEVICE}?token={BAD}", peer=(FAR[0], port)) for port in range(11)]
    assert [status(one) for one in heard] == [401] * 10 + [429]
    assert isinstance(heard[-1], Refusal) and heard[-1].headers == (("Retry-After", "61"),)
    assert status(asks(entrance, good, peer=FAR)) == 101
    assert status(asks(entrance, f"{DEVICE}?token={BAD}", peer=("203.0.113.10", 1))) == 401
    clock.now += 60
    assert status(asks(entrance, f"{DEVICE}?token={BAD}", peer=FAR)) == 401


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "10.0.0.5", "::ffff:10.0.0.5"])
def test_loopback_and_trusted_proxies_are_exempt(host: str) -> None:
    entrance = acceptor(configured(server={"trusted_proxies": ("10.0.0.0/24", "fd00::1")}))
    assert {status(asks(entrance, f"{DEVICE}?token={BAD}", peer=(host, 1))) for _ in range(20)} == {401}
    assert len(entrance.authenticator.bad_tokens) == 0


def test_behind_a_trusted_proxy_the_address_it_forwards_counts_and_nothing_a_client_makes_up() -> None:
    entrance = acceptor(configured(server={"trusted_proxies": ("10.0.0.5", "10.0.0.6")}))
    proxy = ("10.0.0.5", 1)

    def one(forwarded: str, peer: tuple[str, int] = proxy) -> Admission | Refusal:
        return asks(entrance, f"{DEVICE}?token={BAD}", peer=peer, X_Forwarded_For=forwarded)

    for number in range(10):
        assert status(one(f"1.1.1.{number}, 198.51.100.7, 10.0.0.6")) == 401
    assert status(one("198.51.100.7:5555")) == 429
    found = one('1.2.3.4, "[2001:db8::7]:443"')
    assert isinstance(found, Refusal) and (found.status, found.address) == (401, "2001:db8::7 via 10.0.0.5")
    found = one("10.0.0.6, 10.0.0.5")
    assert isinstance(found, Refusal) and found.address == "10.0.0.5:1"
    assert status(one("1.1.1.1", peer=("", 0))) == 401  # a Unix socket has no address
    found = one("unknown")
    assert isinstance(found, Refusal) and found.address == "10.0.0.5:1"
    # Who is no trusted proxy counts itself, whatever it says.
    for number in range(10):
        assert status(one(f"9.9.9.{number}", peer=FAR)) == 401
    assert status(one("9.9.9.99", peer=FAR)) == 429


def test_the_addresses_of_one_ipv6_customer_count_together() -> None:
    bad = BadTokens(2, 10)
    assert bad.another("2001:db8:1:2::1", 0.0) == 0
    assert bad.another("2001:db8:1:2:ffff::9", 0.0) == 0
    assert bad.another("2001:db8:1:2::3%eth0", 1.0) == 60
    assert bad.another("2001:db8:1:3::1", 1.0) == 0


def test_the_table_of_addresses_is_bounded() -> None:
    bad = BadTokens(1, 100)
    for number in range(1_000):
        assert bad.another(str(ipaddress.ip_address(number)), 0.0) == 0
    assert len(bad) == 100
    assert bad.another(str(ipaddress.ip_address(999)), 0.0) == 61
    assert bad.another(str(ipaddress.ip_address(0)), 0.0) == 0


# The handshake itself


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"Sec-WebSocket-Version: 13": "Sec-WebSocket-Version: 12"}, 400),
        ({"Sec-WebSocket-Version: 13": "X: y"}, 400),
        ({"dGhlIHNhbXBsZSBub25jZQ==": "short"}, 400),
        ({"GET ": "POST "}, 405),
        ({"HTTP/1.1": "HTTP/1.0"}, 400),
        ({"Upgrade: websocket": "Upgrade: websocket\r\nContent-Length: 3"}, 400),
    ],
)
async def test_a_wrong_handshake_gets_an_http_answer(change: dict[str, str], expected: int) -> None:
    async with staged() as stage, connection(stage) as peer:
        raw = request(f"{DEVICE}?token=friend").decode()
        for old, new in change.items():
            raw = raw.replace(old, new)
        peer.send(raw.encode() + b"abc")
        answer = await peer.answer()
        assert answer.status == expected
        assert answer.json()["error"] == "bad handshake"
        assert await peer.end() == b""
        assert not stage.broker.parties and not stage.acceptor.authenticator.bad_tokens


async def test_the_handshake_is_the_one_of_rfc_6455() -> None:
    async with staged() as stage, connection(stage) as peer:
        peer.send(request(f"{DEVICE}?token={quote(XIAOZHI, safe='')}"))
        answer = await peer.answer()
        assert answer.headers == {
            "upgrade": "websocket",
            "connection": "Upgrade",
            "sec-websocket-accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        }


async def test_who_comes_with_a_token_of_free_choice_hears_where_it_has_led() -> None:
    async with staged() as stage:
        answer = await knock(stage, f"{DEVICE}?token=friend")
        assert answer.headers["x-free-form-endpoint"] == CODEC.open("friend", 0).shown


@pytest.mark.parametrize("offer", ["permessage-deflate", "permessage-deflate; client_max_window_bits, x-webkit-deflate-frame"])
async def test_compression_is_declined(offer: str) -> None:
    async with staged() as stage, linked(stage, DEVICE, f"Sec-WebSocket-Extensions: {offer}") as peer:
        peer.say("plain")
        assert await peer.hears() == "plain"
        answer = await knock(stage, f"{DEVICE}?token=friend", f"Sec-WebSocket-Extensions: {offer}")
        assert "sec-websocket-extensions" not in answer.headers


async def test_the_subprotocol_of_mcp_is_confirmed_and_others_are_passed_over() -> None:
    async with staged() as stage:
        answer = await knock(stage, f"{DEVICE}?token=friend", "Sec-WebSocket-Protocol: chat, mcp")
        assert (answer.status, answer.headers["sec-websocket-protocol"]) == (101, "mcp")
        answer = await knock(stage, f"{DEVICE}?token=friend", "Sec-WebSocket-Protocol: chat")
        assert answer.status == 101 and "sec-websocket-protocol" not in answer.headers


async def test_frames_that_come_with_the_request_are_heard() -> None:
    async with staged() as stage, connection(stage) as peer:
        peer.send(request(f"{DEVICE}?token=friend") + frame(TEXT, b"eager") + frame(PING, b"p") + frame(TEXT, b"half of")[:9])
        assert (await peer.answer()).status == 101
        assert await peer.hears() == "eager"
        assert await peer.frame() == (0x8A, b"p")
        peer.send(frame(TEXT, b"half of")[9:])
        assert await peer.hears() == "half of"


# The log


async def test_no_token_reaches_the_log_and_no_control_character_is_written_raw() -> None:
    stream = io.StringIO()
    undo = setup(Logging(log_file=""), Server(log_level="TRACE"), stream)
    canary = "CANARY7731"
    try:
        async with staged(configured(server={"trusted_proxies": ("127.0.0.1",)})) as stage:
            for target, header in ((f"{DEVICE}?token=mep1.{canary}", "X: y"), (f"{TOOL}?x=1", f"Authorization: Bearer mep1.{canary}")):
                assert (await knock(stage, target, header, f"X-Forwarded-For: {canary}")).status == 401
            assert (await knock(stage, f"/{canary}?token={canary}")).status == 404
            async with linked(stage, token=canary) as peer:
                peer.say("x")
                assert await peer.hears() == "x"
                peer.send(frame(8, b"\x0f\xa0evil\x1b[31m\nforged \xe2\x80\xae{0.__class__} <red>"))
                await stage.broker.left()
    finally:
        undo()
    lines = stream.getvalue().splitlines()
    assert canary not in stream.getvalue()
    assert [word for line in lines for word in ("refused", "connected", "left") if f" {word} " in line] == [
        *["refused"] * 3,
        "connected",
        "left",
    ]
    assert r"code=4000 reason=evil\x1b[31m\nforged \u202e{0.__class__} <red>" in lines[-1]
    assert "\x1b" not in stream.getvalue()


def test_the_host_of_an_address() -> None:
    assert [host_of(url) for url in ("http://a.b:1/c", "https://[::1]:2", "", "//x", "ws://y/")] == ["a.b", "::1", "", "x", "y"]


def test_links_are_counted_while_their_socket_is_there() -> None:
    entrance = acceptor()
    assert entrance.links == 0
    entrance.came(object(), "home")  # type: ignore[arg-type]
    assert entrance.links == 1
