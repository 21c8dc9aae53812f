"""Admission: which token opens which endpoint, from where, and how often a bad one may be shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mcp_endpoint.access.admission import Authenticator, BadTokens, Origin, Origins, Refusal, Source, Values, host_of
from mcp_endpoint.access.tokens import Grant, TokenCodec
from mcp_endpoint.settings.schema import Config, Limits, Security, Server

KEY = "Zx93mQ0aLw4TfYb7HsRn2VuPc6DgJe15"
CODEC = TokenCodec(KEY)
GOOD = CODEC.make_signed("home")
BAD = GOOD + "x"
NEAR = ("127.0.0.1", 40_000)
FAR = ("203.0.113.9", 40_000)


class Clock:
    """Time stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def authenticator(clock: Clock | None = None, server: dict[str, Any] | None = None, **rest: Any) -> Authenticator:
    clock = clock or Clock()
    return Authenticator(Config(server=Server(key=KEY, **(server or {})), **rest), CODEC, clock=clock, epoch=clock)


def headers(**named: str | list[str]) -> Values:
    found = {name.lower().replace("_", "-"): [value] if isinstance(value, str) else value for name, value in named.items()}

    def values(name: str) -> Sequence[str]:
        return found.get(name.lower(), [])

    return values


def opens(
    at: Authenticator,
    token: str | None,
    *,
    peer: tuple[str, int] = NEAR,
    local: str = "127.0.0.1",
    side: Any = "device",
    **named: str | list[str],
) -> Grant | Refusal:
    values = headers(**named)
    fields = [] if token is None else [("other", "x"), ("token", token)]
    return at.admit(fields, values, at.source(peer, local, values), side)


def status(found: Grant | Refusal) -> int:
    return found.status if isinstance(found, Refusal) else 200


# Tokens


def test_a_token_opens_its_endpoint_from_the_query_or_as_bearer() -> None:
    for found in (opens(authenticator(), GOOD), opens(authenticator(), None, Authorization=f"BEARER  {GOOD}")):
        assert isinstance(found, Grant) and found.endpoint == "signed:home"


def test_no_token_is_401() -> None:
    assert status(opens(authenticator(), None)) == status(opens(authenticator(), None, Authorization="Basic Zm9vOmJhcg==")) == 401


@pytest.mark.parametrize("header", [f"Bearer {GOOD}", ["Basic Zm9vOmJhcg==", f"bearer {GOOD}"], [f"Bearer {GOOD}", f"Bearer {GOOD}"]])
def test_an_empty_token_is_none_and_one_shown_twice_is_one(header: str | list[str]) -> None:
    for shown in ("", GOOD):
        found = opens(authenticator(), shown, Authorization=header)
        assert isinstance(found, Grant) and found.endpoint == "signed:home"
    for empty in ("Bearer", "Bearer "):
        assert status(opens(authenticator(), GOOD, Authorization=empty)) == 200


def test_a_plus_that_became_a_blank_is_no_second_token() -> None:
    token = next(token for token in map(CODEC.make_xiaozhi, map(str, range(100))) if "+" in token)
    assert status(opens(authenticator(), token.replace("+", " "), Authorization=f"Bearer {token}")) == 200


@pytest.mark.parametrize("header", [f"Bearer {GOOD}", [f"Bearer {GOOD}", "Bearer friend"]])
def test_two_tokens_that_differ_are_400_whichever_is_good(header: str | list[str]) -> None:
    at = authenticator()
    for shown in ("friend", BAD, KEY, GOOD[:-1]):
        found = opens(at, shown, Authorization=header, peer=FAR)
        assert isinstance(found, Refusal) and (found.status, found.error) == (400, "two tokens")
        assert GOOD not in found.body.decode()
    assert len(at.bad_tokens) == 0


def test_a_signed_token_opens_its_side_only() -> None:
    for role, tool, device in (("both", 200, 200), ("tool", 200, 403), ("device", 403, 200)):
        token = CODEC.make_signed("home", role)  # type: ignore[arg-type]
        assert status(opens(authenticator(), token, side="tool", peer=FAR)) == tool
        assert status(opens(authenticator(), token, side="device", peer=FAR)) == device


def test_a_token_ends_by_the_wall_clock() -> None:
    clock = Clock()
    at = authenticator(clock)
    token = CODEC.make_signed("home", expires=2_000.0)
    assert status(opens(at, token)) == 200
    clock.now = 2_000.0
    assert status(opens(at, token)) == 401


@pytest.mark.parametrize(
    ("expected", "server", "peer", "local", "header"),
    [
        (200, {}, NEAR, "127.0.0.1", None),
        (200, {"public_url": "http://[::1]:8004/x"}, NEAR, "::1", None),
        (401, {"public_url": "https://mcp.example.com"}, NEAR, "127.0.0.1", None),
        (401, {"host": "0.0.0.0"}, NEAR, "127.0.0.1", None),
        (401, {}, FAR, "127.0.0.1", None),
        (401, {}, NEAR, "192.168.1.5", None),
        (401, {}, NEAR, "127.0.0.1", "X-Real-IP"),
    ],
)
def test_a_token_of_free_choice_opens_only_between_local_peers(
    expected: int, server: dict[str, Any], peer: tuple[str, int], local: str, header: str | None
) -> None:
    named = {header: "1.2.3.4"} if header else {}
    assert status(opens(authenticator(server=server), "friend", peer=peer, local=local, **named)) == expected


def test_who_may_not_use_a_token_of_free_choice_hears_what_may_be_wrong_with_it() -> None:
    found = opens(authenticator(), "cut-off", peer=FAR)
    assert isinstance(found, Refusal) and found.status == 401
    assert "made with another key" in found.message and "自定义令牌" in found.message


def test_tokens_of_free_choice_can_be_allowed_for_everybody_or_for_nobody() -> None:
    always = authenticator(server={"host": "0.0.0.0"}, security=Security(opaque_tokens="always"))
    assert status(opens(always, "friend", peer=FAR, Forwarded="for=1.2.3.4")) == 200
    assert status(opens(authenticator(security=Security(opaque_tokens="never")), "friend")) == 401


def test_the_servers_own_key_is_recognised_and_nothing_else_is_taken_for_it() -> None:
    at = authenticator()
    assert at.is_key([("token", KEY)], headers())
    assert at.is_key([], headers(Authorization=f"Bearer {KEY}"))
    for token in ("", KEY[:-1], KEY.lower(), GOOD, "\udc80"):
        assert not at.is_key([("token", token)], headers())
    assert at.is_key([("token", KEY), ("token", "")], headers(Authorization=f"Bearer {KEY}"))
    assert not at.is_key([("token", KEY)], headers(Authorization=f"Bearer {GOOD}"))


# Bad tokens


def test_the_eleventh_bad_token_of_an_address_within_a_minute_is_429_and_a_good_one_never_is() -> None:
    clock = Clock()
    at = authenticator(clock)
    heard = [opens(at, BAD, peer=FAR) for _ in range(11)]
    assert [status(one) for one in heard] == [401] * 10 + [429]
    assert isinstance(heard[-1], Refusal) and heard[-1].headers == (("Retry-After", "61"),)
    assert status(opens(at, GOOD, peer=FAR)) == 200
    clock.now += 60
    assert status(opens(at, BAD, peer=FAR)) == 401


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "10.0.0.5", "::ffff:10.0.0.5"])
def test_loopback_and_trusted_proxies_are_never_counted(host: str) -> None:
    at = authenticator(server={"trusted_proxies": ("10.0.0.0/24",)})
    assert {status(opens(at, BAD, peer=(host, 1))) for _ in range(20)} == {401}
    assert len(at.bad_tokens) == 0


@pytest.mark.parametrize(
    ("forwarded", "shown", "counted"),
    [
        ("1.1.1.1, 198.51.100.7, 10.0.0.6", "198.51.100.7 via 10.0.0.5", "198.51.100.7"),
        ('1.2.3.4, "[2001:db8::7]:443"', "2001:db8::7 via 10.0.0.5", "2001:db8::7"),
        ("198.51.100.7:5555", "198.51.100.7 via 10.0.0.5", "198.51.100.7"),
        ("127.0.0.1", "127.0.0.1 via 10.0.0.5", ""),
        ("10.0.0.6, 10.0.0.5", "10.0.0.5:1", ""),
        ("unknown", "10.0.0.5:1", ""),
        ("", "10.0.0.5:1", ""),
    ],
)
def test_behind_a_trusted_proxy_the_address_it_forwards_counts(forwarded: str, shown: str, counted: str) -> None:
    at = authenticator(server={"trusted_proxies": ("10.0.0.5", "10.0.0.6")})
    assert at.source(("10.0.0.5", 1), "10.0.0.1", headers(X_Forwarded_For=forwarded)) == Source("10.0.0.5", "10.0.0.1", shown, counted)


def test_who_is_no_trusted_proxy_counts_itself_whatever_it_says() -> None:
    at = authenticator(server={"trusted_proxies": ("10.0.0.5",)})
    assert at.source(FAR, "10.0.0.1", headers(X_Forwarded_For="9.9.9.9")).counted == FAR[0]
    assert at.source(("", 0), "", headers()).counted == ""  # a Unix socket has no address
    assert at.source(("2001:db8::1", 7), "::1", headers()).shown == "[2001:db8::1]:7"


def test_the_addresses_of_one_ipv6_customer_count_together_and_the_table_is_bounded() -> None:
    bad = BadTokens(2, 100)
    assert bad.another("2001:db8:1:2::1", 0.0) == bad.another("2001:db8:1:2:ffff::9", 0.0) == 0
    assert bad.another("2001:db8:1:2::3%eth0", 1.0) == 60
    assert bad.another("::ffff:192.0.2.1", 1.0) == 0
    for number in range(300):
        bad.another(f"10.0.{number // 256}.{number % 256}", 1.0)
    assert len(bad) == 100


def test_the_limits_of_bad_tokens_are_the_configured_ones() -> None:
    at = authenticator(limits=Limits(failed_tokens_per_minute=1, failed_token_addresses=1))
    assert [status(opens(at, BAD, peer=FAR)) for _ in range(2)] == [401, 429]


# Origins


@pytest.mark.parametrize(
    ("origins", "allowed"),
    [
        ([], True),
        (["HTTPS://APP.example.com"], True),
        (["http://127.0.0.1:8004"], True),
        (["https://127.0.0.1:8004"], True),
        (["http://localhost:8004"], True),
        (["http://127.0.0.1:8005"], False),
        (["https://app.example.com", "https://app.example.com"], False),
        (["null"], False),
    ],
)
def test_a_web_page_may_connect_only_from_an_allowed_origin(origins: list[str], allowed: bool) -> None:
    at = authenticator(security=Security(allowed_origins=("https://app.example.com",)))
    assert at.origins.allow(headers(Origin=origins, Host="127.0.0.1:8004"), tls=False) is allowed
    assert authenticator().origins.allow(headers(Origin=origins), tls=True)


def test_behind_tls_our_own_origin_is_https() -> None:
    at = authenticator(security=Security(allowed_origins=("https://app.example.com",)))
    for origin, ours in (("https://here.test", True), ("https://HERE.test:443", True), ("http://here.test", False)):
        assert at.origins.allow(headers(Origin=origin, Host="here.test"), tls=True) is ours
        assert at.origins.foreign(headers(Origin=origin, Host="here.test:443"), tls=True) is not ours


def test_a_board_that_says_it_is_a_file_needs_a_secret_or_is_listed() -> None:
    """links2004/arduinoWebSockets sends `Origin: file://` unless told otherwise."""
    for listed, token, expected in (("*", GOOD, 200), ("*", "friend", 403), ("file://", "friend", 200), ("file://", GOOD, 200)):
        at = authenticator(security=Security(allowed_origins=(listed,), opaque_tokens="always"))
        values = headers(Origin="file://", Host="nas:8004")
        assert at.origins.allow(values, tls=False)
        assert status(opens(at, token, peer=FAR, Origin="file://", Host="nas:8004")) == expected


def test_null_is_let_in_where_it_is_listed_and_is_nobody_all_the_same() -> None:
    at = authenticator(security=Security(allowed_origins=("null",)))
    values = headers(Origin="null", Host="127.0.0.1:8004")
    assert at.origins.allow(values, tls=False) and at.origins.foreign(values, tls=False)


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("http://A.b", Origin("http", "a.b", 80)),
        ("https://a.b:8443", Origin("https", "a.b", 8443)),
        ("https://[2001:DB8:0::1]", Origin("https", "2001:db8::1", 443)),
        ("chrome-extension://abc", Origin("chrome-extension", "abc", 0)),
        ("file://", Origin("file", "", 0)),
        *(
            (bad, None)
            for bad in ("", "null", "a.b", "//a", "http://", "http://a/", "http://u@a", "http://a,b", "http://[::g]", "http://a:")
        ),
    ],
)
def test_an_origin_is_spelled_in_one_way(text: str, origin: Origin | None) -> None:
    assert Origin.of(text) == origin


@pytest.mark.parametrize(
    ("shown", "own"),
    [
        ({}, False),
        ({"Sec_Fetch_Site": "same-origin"}, True),
        ({"Sec_Fetch_Site": "Same-Origin", "Origin": "http://here:8004"}, True),
        ({"Origin": "http://HERE:8004"}, True),
        ({"Origin": "https://mcp.example"}, True),
        ({"Origin": "http://here"}, False),
        ({"Origin": "https://mine.example"}, False),
        ({"Origin": "null", "Sec_Fetch_Site": "same-origin"}, False),
        ({"Origin": "https://evil.example", "Sec_Fetch_Site": "same-origin"}, False),
        ({"Origin": ["http://here:8004", "http://here:8004"]}, False),
        *(({"Sec_Fetch_Site": site, "Origin": "http://here:8004"}, False) for site in ("same-site", "cross-site", "none", "")),
        ({"Sec_Fetch_Site": ["same-origin", "cross-site"]}, False),
    ],
)
def test_a_page_of_this_server_is_told_from_programs_and_from_listed_pages(shown: dict[str, str | list[str]], own: bool) -> None:
    config = Config(
        server=Server(key=KEY, public_url="https://mcp.example/x"), security=Security(allowed_origins=("*", "https://mine.example"))
    )
    assert Origins(config).own_page(headers(Host="here:8004", **shown), tls=False) is own


def test_a_page_of_somebody_else_shows_a_secret_or_is_refused_and_does_not_count_as_a_bad_token() -> None:
    at = authenticator(security=Security(opaque_tokens="always"))
    for token, expected in ((GOOD, 200), (CODEC.make_xiaozhi("home"), 200), ("friend", 403), ("", 403), (None, 403), (BAD, 401)):
        assert status(opens(at, token, peer=FAR, Origin="https://evil.example", Host="nas:8004")) == expected
        assert status(opens(at, token, peer=FAR, Sec_Fetch_Site="same-site", Host="nas:8004")) == expected
    assert at.bad_tokens.another(FAR[0], 1_000.0) == 0 and len(at.bad_tokens) == 1


# Refusals


def test_a_refusal_is_small_json_that_does_not_say_why() -> None:
    found = opens(authenticator(), BAD, peer=FAR)
    assert isinstance(found, Refusal)
    head, _, body = found.answer().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json; charset=utf-8\r\n")
    assert b"WWW-Authenticate: Bearer" in head and b"Content-Length: %d" % len(body) in head
    assert body == found.body and found.why.encode() not in body and "令牌无效".encode() in body


def test_the_host_of_an_address() -> None:
    assert [host_of(url) for url in ("http://a.b:1/c", "https://[::1]:2", "", "//x", "ws://y/")] == ["a.b", "::1", "", "x", "y"]
