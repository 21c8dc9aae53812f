"""Verifies and makes JSON Web Tokens (RFC 7519) of the HTTP API.

Only the configured algorithm is accepted (RFC 8725 §3.1: the token's own header decides nothing), `exp` is required, and all invalid tokens
look alike to the client. The claims `tools` and `servers` limit a token: lists of names with the wildcards `*`, `?` and `[…]`; without them
everything is permitted.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple

import jwt
from starlette.requests import Request

from ...access.admission import token_of
from ...errors import ConfigError

ALGORITHMS: Final = ("HS256", "HS384", "HS512")
SECRET_BYTES: Final = 32
"""Shortest secret: as long as the hash of HS256 (RFC 7518 §3.2)."""
LEEWAY_SECONDS: Final = 10.0
"""Tolerated clock difference."""
TOKEN_CHARS: Final = 8192
PATTERN_CHARS: Final = 200
"""Longest pattern in a claim: bounds the time of matching."""
ISSUER: Final = "mcp-proxy"
"""The issuer of tokens made here: the predecessor's name, which its clients may check."""
SAMPLES: Final = ("your-secret-key", "change-me", "changeme", "secret-key-here", "-----begin")
"""Texts of example secrets, and the beginning of an asymmetric key: not accepted as secrets."""


class BadClaim(Exception):
    """The claim `tools` or `servers` of a valid token is not a list of patterns; the text is the claim's name."""


class Holder(NamedTuple):
    """The holder of a valid token."""

    user: str
    """`user_id`, else `sub`, else the token's signature. Not for printing."""
    tools: tuple[str, ...] | None = None
    """Patterns of permitted tools; None permits all."""
    servers: tuple[str, ...] | None = None
    """Patterns of permitted servers, by the names in `GET /servers`; None permits all."""

    def may_call(self, tool: str) -> bool:
        """Whether the token permits the tool."""
        return self.tools is None or any(fnmatchcase(tool, pattern) for pattern in self.tools)

    def may_use(self, server: str) -> bool:
        """Whether the token permits the server."""
        return self.servers is None or any(fnmatchcase(server, pattern) for pattern in self.servers)


class Bearers:
    """Verifies and makes the tokens of one API."""

    def __init__(self, secret: str, algorithm: str, *, old_secrets: Sequence[str] = (), issuer: str = "", audience: str = "") -> None:
        """`secret` signs; tokens signed with one of `old_secrets` are valid too.

        With `issuer` and `audience` a token must have them in `iss` and `aud`. Raises ConfigError for an invalid secret.
        """
        _check_secret(secret, "[api] secret / JWT_SECRET")
        for old in old_secrets:
            _check_secret(old, "[api] old_secrets / JWT_OLD_SECRETS")
        self._secrets = (secret, *old_secrets)
        self._algorithm = algorithm
        self._issuer = issuer
        self._audience = audience

    def make(self, user: str, seconds: float, tools: Sequence[str] | None = None, servers: Sequence[str] | None = None) -> str:
        """A token for `user`, valid for `seconds`; `tools` and `servers` are the patterns it permits, None for all."""
        now = int(time.time())
        claims: dict[str, Any] = {"user_id": user, "iat": now, "exp": now + int(seconds), "iss": self._issuer or ISSUER}
        if self._audience:
            claims["aud"] = self._audience
        for name, patterns in (("tools", tools), ("servers", servers)):
            if patterns is not None:
                claims[name] = list(patterns)
        return jwt.encode(claims, self._secrets[0], self._algorithm)

    def verify(self, request: Request) -> Holder | None:
        """The holder of a request's token (`Authorization: Bearer` or `?token=`); None without a valid one.

        Raises TwoTokens, and BadClaim for a valid token with a malformed permission claim.
        """
        shown = token_of(request.query_params.multi_items(), request.headers.getlist)
        if not shown or len(shown) > TOKEN_CHARS:
            return None
        claims = self._claims(shown)
        if claims is None:
            return None
        user = next((str(claims[name]) for name in ("user_id", "sub") if isinstance(claims.get(name), str | int)), "")
        return Holder(user or shown.rpartition(".")[2], _patterns(claims, "tools"), _patterns(claims, "servers"))

    def _claims(self, shown: str) -> dict[str, Any] | None:
        for secret in self._secrets:
            try:
                claims: dict[str, Any] = jwt.decode(
                    shown,
                    secret,
                    algorithms=[self._algorithm],
                    options={"require": ["exp"]},
                    leeway=LEEWAY_SECONDS,
                    issuer=self._issuer or None,
                    audience=self._audience or None,
                )
            except jwt.InvalidSignatureError:
                continue
            except (jwt.InvalidTokenError, UnicodeError, RecursionError, OverflowError):
                return None
            return claims
        return None


def _patterns(claims: dict[str, Any], name: str) -> tuple[str, ...] | None:
    found = claims.get(name)
    if found is None and name not in claims:
        return None
    if not isinstance(found, list) or not all(isinstance(pattern, str) and len(pattern) <= PATTERN_CHARS for pattern in found):
        raise BadClaim(name)
    return tuple(found)


def _check_secret(secret: str, place: str) -> None:
    if len(secret.encode()) < SECRET_BYTES:
        raise ConfigError(
            f"the JWT secret has fewer than {SECRET_BYTES} bytes; make one with: openssl rand -hex 32",
            f"JWT 密钥少于 {SECRET_BYTES} 字节；可用 openssl rand -hex 32 生成",
            place=place,
        )
    if any(sample in secret.lower() for sample in SAMPLES) or len(set(secret)) < 8:
        raise ConfigError(
            "the JWT secret is an example or too simple; make one with: openssl rand -hex 32",
            "JWT 密钥是示例值或过于简单；可用 openssl rand -hex 32 生成",
            place=place,
        )
