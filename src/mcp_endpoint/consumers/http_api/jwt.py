"""Who holds a valid JSON Web Token (RFC 7519), and how one is made.

The algorithm is the configured one and no other (RFC 8725 §3.1: what the token's own header says decides nothing), `exp` must be there,
and every reason to refuse looks the same from outside.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import jwt
from starlette.requests import Request

from ...access.admission import token_of
from ...errors import ConfigError

ALGORITHMS: Final = ("HS256", "HS384", "HS512")
SECRET_BYTES: Final = 32
"""Shortest secret: as long as the hash of HS256 (RFC 7518 §3.2)."""
LEEWAY_SECONDS: Final = 10.0
"""By how much clocks may differ."""
TOKEN_CHARS: Final = 8192
ISSUER: Final = "mcp-proxy"
"""What tokens made here name as their issuer; the predecessor's name, which its clients may look for."""
SAMPLES: Final = ("your-secret-key", "change-me", "changeme", "secret-key-here", "-----begin")
"""What stands in examples, and how a key of the asymmetric kind begins: no secrets."""


def user_of(claims: Mapping[str, Any]) -> str:
    """Who a token was made for: its `user_id`, else its `sub`; "" where it names nobody."""
    for name in ("user_id", "sub"):
        if isinstance(claims.get(name), str | int):
            return str(claims[name])
    return ""


class Bearers:
    """Looks at tokens, and makes them."""

    def __init__(self, secret: str, algorithm: str) -> None:
        """Raises ConfigError for a secret that is none."""
        if len(secret.encode()) < SECRET_BYTES:
            raise ConfigError(
                f"the JWT secret has fewer than {SECRET_BYTES} bytes; make one with: openssl rand -hex 32",
                f"JWT 密钥少于 {SECRET_BYTES} 字节；可用 openssl rand -hex 32 生成",
                place="[api] secret / JWT_SECRET",
            )
        if any(sample in secret.lower() for sample in SAMPLES) or len(set(secret)) < 8:
            raise ConfigError(
                "the JWT secret is an example or no secret; make one with: openssl rand -hex 32",
                "JWT 密钥是示例值或过于简单；可用 openssl rand -hex 32 生成",
                place="[api] secret / JWT_SECRET",
            )
        self._secret = secret
        self._algorithm = algorithm

    def make(self, user: str, seconds: float) -> str:
        """A token for `user`, valid from now for so long."""
        now = int(time.time())
        return jwt.encode({"user_id": user, "iat": now, "exp": now + int(seconds), "iss": ISSUER}, self._secret, self._algorithm)

    def opened(self, request: Request) -> dict[str, Any] | None:
        """The claims of a request's token (`Authorization: Bearer` or `?token=`); None if it has no valid one. Raises TwoTokens."""
        shown = token_of(request.query_params.multi_items(), request.headers.getlist)
        if not shown or len(shown) > TOKEN_CHARS:
            return None
        try:
            claims: dict[str, Any] = jwt.decode(
                shown, self._secret, algorithms=[self._algorithm], options={"require": ["exp"]}, leeway=LEEWAY_SECONDS
            )
        except (jwt.InvalidTokenError, UnicodeError, RecursionError, OverflowError):
            return None
        return claims
