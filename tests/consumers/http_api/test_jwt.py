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
from mcp_endpoint.consumers.http_api.jwt import Bearers
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
    return {"user_id": "test_user", "iat": int(time.time()), "exp": int(time.time()) + 60, "iss": "mcp-proxy"} | more


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
    found = BEARERS.opened(asked)
    assert found is not None
    assert found["user_id"] == "test_user"


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
    assert BEARERS.opened(request(f"Bearer {token}") if token.isascii() else request(query=f"token={token}")) is None


@pytest.mark.row("H5")
def test_two_tokens_that_differ_are_refused_and_other_schemes_are_not_looked_at() -> None:
    for twice in (request(f"Bearer {GOOD}", f"Bearer {GOOD}"), request(f"Bearer {GOOD}", query=f"token=&token={GOOD}")):
        assert BEARERS.opened(twice) is not None
    for differing in (request("Bearer wrong", query=f"token={GOOD}"), request(query=f"token={GOOD}&token=wrong")):
        with pytest.raises(TwoTokens):
            BEARERS.opened(differing)
    assert BEARERS.opened(request("Basic dXNlcg==")) is None
    assert BEARERS.opened(request("Basic dXNlcg==", query=f"token={GOOD}")) is not None
    assert BEARERS.opened(request("Bearer", query=f"token={GOOD}")) is not None


@pytest.mark.row("H12")
def test_a_token_that_is_made_here_works_at_once() -> None:
    made = BEARERS.make("somebody", 3600)
    found = BEARERS.opened(request(f"Bearer {made}"))
    assert found is not None
    assert found["iss"] == "mcp-proxy" and found["user_id"] == "somebody"
    assert 3590 < found["exp"] - time.time() <= 3600


@pytest.mark.row("H7")
@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_the_algorithm_is_the_configured_one(algorithm: str) -> None:
    made = Bearers(SECRET * 2, algorithm).make("x", 60)
    assert jwt.get_unverified_header(made)["alg"] == algorithm
    assert Bearers(SECRET * 2, algorithm).opened(request(f"Bearer {made}")) is not None


@pytest.mark.parametrize("secret", ["", "short", "a" * 64, "your-secret-key-here-and-some-more-text-behind", PUBLIC.decode(), "ab" * 30])
def test_a_secret_that_is_none_is_refused_at_the_start_and_not_shown(secret: str) -> None:
    with pytest.raises(ConfigError, match="openssl rand") as caught:
        Bearers(secret, "HS256")
    if secret:
        assert secret not in str(caught.value)
