"""Who holds a valid JSON Web Token, and everybody who only looks like it."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from starlette.requests import Request

from mcp_endpoint.access.admission import TwoTokens
from mcp_endpoint.consumers.http_api.jwt import BadClaim, Bearers, Holder
from mcp_endpoint.errors import ConfigError

SECRET = "0123456789abcdef0123456789abcdefXYZ"
BEARERS = Bearers(SECRET, "HS256")
PRIVATE = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = PRIVATE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
PUBLIC = PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def request(*authorization: str, query: str = "") -> Request:
    headers = [(b"authorization", value.encode()) for value in authorization]
    return Request({"type": "http", "method": "GET", "path": "/", "query_string": query.encode(), "headers": headers})


def claims(**more: Any) -> dict[str, Any]:
    return {"user_id": "test_user", "iat": int(time.time()), "exp": int(time.time()) + 3600, "iss": "mcp-proxy"} | more


def encoded(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def signed_by_hand(secret: bytes) -> str:
    """HS256 with a public RSA key for its secret, which PyJWT itself refuses to make."""
    import hashlib
    import hmac

    text = f"{encoded({'alg': 'HS256', 'typ': 'JWT'})}.{encoded(claims())}"
    mac = hmac.digest(secret, text.encode(), hashlib.sha256)
    return f"{text}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


GOOD = jwt.encode(claims(), SECRET, "HS256")


@pytest.mark.row("H5")
@pytest.mark.parametrize("asked", [request(f"Bearer {GOOD}"), request(f"bearer   {GOOD}"), request(query=f"token={GOOD}")])
def test_a_valid_token_is_known_from_the_header_and_from_the_address(asked: Request) -> None:
    found = BEARERS.verify(asked)
    assert found == Holder("test_user")


@pytest.mark.row("H6")
@pytest.mark.parametrize(
    "token",
    [
        jwt.encode(claims(exp=int(time.time()) - 60), SECRET, "HS256"),
        jwt.encode({"user_id": "x"}, SECRET, "HS256"),
        f"{encoded({'alg': 'HS256'})}.{encoded(claims(exp='soon'))}.x",
        jwt.encode(claims(), SECRET + "x", "HS256"),
        jwt.encode(claims(), SECRET * 2, "HS512"),
        jwt.encode(claims(), PEM, "RS256"),
        signed_by_hand(PUBLIC),
        jwt.encode(claims(), "", "none"),
        f"{encoded({'alg': 'none'})}.{encoded(claims())}.",
        f"{encoded({'alg': 'NoNe'})}.{encoded(claims())}.",
        GOOD[:-2] + ("AA" if GOOD[-2:] != "AA" else "BB"),
        GOOD.rpartition(".")[0] + ".",
        GOOD + "." + GOOD,
        "",
        "x",
        "é.é.é",
        "a." * 5_000,
        jwt.encode(claims(nbf=int(time.time()) + 600), SECRET, "HS256"),
    ],
)
def test_anything_else_is_not(token: str) -> None:
    assert BEARERS.verify(request(f"Bearer {token}") if token.isascii() else request(query=f"token={token}")) is None


@pytest.mark.row("H5")
def test_two_tokens_that_differ_are_refused_and_other_schemes_are_not_looked_at() -> None:
    for twice in (request(f"Bearer {GOOD}", f"Bearer {GOOD}"), request(f"Bearer {GOOD}", query=f"token=&token={GOOD}")):
        assert BEARERS.verify(twice) is not None
    for differing in (request("Bearer wrong", query=f"token={GOOD}"), request(query=f"token={GOOD}&token=wrong")):
        with pytest.raises(TwoTokens):
            BEARERS.verify(differing)
    assert BEARERS.verify(request("Basic dXNlcg==")) is None
    assert BEARERS.verify(request("Basic dXNlcg==", query=f"token={GOOD}")) is not None
    assert BEARERS.verify(request("Bearer", query=f"token={GOOD}")) is not None


@pytest.mark.row("H12")
def test_a_token_that_is_made_here_works_at_once() -> None:
    made = BEARERS.make("somebody", 3600)
    assert BEARERS.verify(request(f"Bearer {made}")) == Holder("somebody")
    found = jwt.decode(made, SECRET, ["HS256"])
    assert found["iss"] == "mcp-proxy" and found["user_id"] == "somebody"
    assert 3590 < found["exp"] - time.time() <= 3600


@pytest.mark.row("H7")
@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_the_algorithm_is_the_configured_one(algorithm: str) -> None:
    made = Bearers(SECRET * 2, algorithm).make("x", 60)
    assert jwt.get_unverified_header(made)["alg"] == algorithm
    assert Bearers(SECRET * 2, algorithm).verify(request(f"Bearer {made}")) is not None


# -- rotation, issuer, audience ----------------------------------------------------------------------------------------------------


def bearer(token: str) -> Request:
    return request(f"Bearer {token}")


def test_tokens_of_an_old_secret_are_valid_and_the_new_one_signs() -> None:
    new = "fedcba9876543210" * 2
    both = Bearers(new, "HS256", old_secrets=(SECRET * 2, SECRET))
    assert both.verify(bearer(GOOD)) == Holder("test_user")
    made = both.make("x", 60)
    assert both.verify(bearer(made)) == Bearers(new, "HS256").verify(bearer(made)) == Holder("x")
    assert BEARERS.verify(bearer(made)) is None
    assert both.verify(bearer(jwt.encode(claims(exp=int(time.time()) - 60), SECRET, "HS256"))) is None
    with pytest.raises(ConfigError) as caught:
        Bearers(new, "HS256", old_secrets=("short",))
    assert "old_secrets" in caught.value.place


def test_issuer_and_audience_are_asked_for_where_they_are_configured() -> None:
    strict = Bearers(SECRET, "HS256", issuer="us", audience="here")
    assert strict.verify(bearer(strict.make("x", 60))) == Holder("x")
    for wrong in (claims(aud="here"), claims(iss="us"), claims(iss="us", aud="there"), {"exp": int(time.time()) + 60}):
        assert strict.verify(bearer(jwt.encode(wrong, SECRET, "HS256"))) is None
    assert strict.verify(bearer(jwt.encode(claims(iss="us", aud=["there", "here"]), SECRET, "HS256"))) is not None
    assert BEARERS.verify(bearer(jwt.encode(claims(aud="there"), SECRET, "HS256"))) is None, "meant for somebody else (RFC 7519 §4.1.3)"


# -- what a token permits ------------------------------------------------------------------------------------------------------------


def test_a_token_says_what_it_permits() -> None:
    holder = BEARERS.verify(bearer(BEARERS.make("x", 60, ["light_*", "get_weather"], ["home"])))
    assert holder is not None
    assert holder.may_call("light_on") and holder.may_call("get_weather")
    assert not any(holder.may_call(name) for name in ("Light_on", "reboot", "light", ""))
    assert holder.may_use("home") and not holder.may_use("home2")
    nothing = BEARERS.verify(bearer(BEARERS.make("x", 60, [], [])))
    assert nothing is not None and not nothing.may_call("x") and not nothing.may_use("x")
    everything = BEARERS.verify(bearer(GOOD))
    assert everything is not None and everything.may_call("x") and everything.may_use("x")


@pytest.mark.parametrize("name", ["tools", "servers"])
@pytest.mark.parametrize("value", [None, "light_*", {}, 7, [7], [None], ["x" * 1_000]])
def test_a_claim_that_is_no_list_of_patterns_is_not_taken_for_everything(name: str, value: Any) -> None:
    with pytest.raises(BadClaim, match=name):
        BEARERS.verify(bearer(jwt.encode(claims(**{name: value}), SECRET, "HS256")))


def test_a_user_is_who_the_token_names() -> None:
    def user(**named: Any) -> str:
        found = BEARERS.verify(bearer(jwt.encode({"exp": int(time.time()) + 60} | named, SECRET, "HS256")))
        assert found is not None
        return found.user

    assert user(user_id="a", sub="b") == "a"
    assert user(user_id=7) == "7"
    assert user(user_id=["a"], sub="b") == "b"
    assert user() and user() == user() != user(jti="another")


@pytest.mark.parametrize("secret", ["", "short", "a" * 64, "your-secret-key-here-and-some-more-text-behind", PUBLIC.decode(), "ab" * 30])
def test_a_secret_that_is_none_is_refused_at_the_start_and_not_shown(secret: str) -> None:
    with pytest.raises(ConfigError, match="openssl rand") as caught:
        Bearers(secret, "HS256")
    if secret:
        assert secret not in str(caught.value)
