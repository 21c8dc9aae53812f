"""The cookie of somebody who has logged in."""

from __future__ import annotations

from mcp_endpoint.console.session import SECONDS, Sessions

NOW = 1_800_000_000.0


def test_a_cookie_says_who_until_its_end() -> None:
    sessions = Sessions("a key")
    cookie = sessions.make("张三", NOW)
    found = sessions.read(cookie, NOW + SECONDS - 1)
    assert found is not None and found.user == "张三"
    assert sessions.read(cookie, NOW + SECONDS) is None


def test_nobody_else_can_make_or_change_one() -> None:
    sessions = Sessions("a key")
    cookie = sessions.make("operator", NOW)
    assert Sessions("another key").read(cookie, NOW) is None
    user, end, nonce, mac = cookie.split(".")
    for forged in (f"{user}.{int(end) + 1}.{nonce}.{mac}", f"YWRtaW4.{end}.{nonce}.{mac}", cookie[:-1], cookie + "A", "", "é" * 9):
        assert sessions.read(forged, NOW) is None, forged


def test_every_login_has_a_form_token_of_its_own_that_is_not_in_the_cookie() -> None:
    sessions = Sessions("a key")
    cookies = [sessions.make("operator", NOW) for _ in range(2)]
    tokens = [found.form_token for cookie in cookies if (found := sessions.read(cookie, NOW))]
    assert len(set(tokens)) == 2 and not any(token in cookie for token in tokens for cookie in cookies)
