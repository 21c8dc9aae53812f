"""Who holds a valid JSON Web Token (RFC 7519), and how one is made.

The algorithm is the configured one and no other (RFC 8725 §3.1: what the token's own header says decides nothing), `exp` must be there,
and every reason to refuse looks the same from outside. What a token permits it says itself: the claims `tools` and `servers` are lists of
names, in which `*`, `?` and `[…]` may be used; without them everything is permitted.
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
"""By how much clocks may differ."""
TOKEN_CHARS: Final = 8192
PATTERN_CHARS: Final = 200
"""Longest pattern of a claim: whoever signs tokens is trusted, but not to write one that takes long."""
ISSUER: Final = "mcp-proxy"
"""What tokens made here name as their issuer; the predecessor's name, which its clients may look for."""
SAMPLES: Final = ("your-secret-key", "change-me", "changeme", "secret-key-here", "-----begin")
"""What stands in examples, and how a key of the asymmetric kind begins: no secrets."""


class BadClaim(Exception):
    """A valid token whose claim `tools` or `servers` is no list of patterns; the text is the claim's name."""


class Holder(NamedTuple):
    """Whoever shows a valid token."""

    user: str
    """Its `user_id`, else its `sub`; of a token that names nobody, its signature. Not for printing."""
    tools: tuple[str, ...] | None = None
    """Patterns of the tools it may see and call; None is all."""
    servers: tuple[str, ...] | None = None
    """The same for servers, by the names that `GET /servers` shows."""

    def may_call(self, tool: str) -> bool:
        """Whether a tool is among those it may see and call."""
        return self.tools is None or any(fnmatchcase(tool, pattern) for pattern in self.tools)

    def may_use(self, server: str) -> bool:
        """Whether a server is among those it may see and use."""
        return self.servers is None or any(fnmatchcase(server, pattern) for pattern in self.servers)


class Bearers:
    """Looks at tokens, and makes them."""

    def __init__(self, secret: str, algorithm: str, *, old_secrets: Sequence[str] = (), issuer: str = "", audience: str = "") -> None:
        """`secret` signs; tokens signed with one of `old_secrets` are valid too.

        With `issuer` and `audience` a token must name them in `iss` and `aud`. Raises ConfigError for a secret that is none.
        """
        _check_secret(secret, "[api] secret / JWT_SECRET")
        for old in old_secrets:
            _check_secret(old, "[api] old_secrets / JWT_OLD_SECRETS")
        self._secrets = (secret, *old_secrets)
        self._algorithm = algorithm
        self._issuer = issuer
        self._audience = audience

    def make(self, user: str, seconds: float, tools: Sequence[str] | None = None, servers: Sequence[str] | None = None) -> str:
        """A token for `user`, valid from now for so long; `tools` and `servers` are patterns of what it permits, None is all."""
        now = int(time.time())
        claims: dict[str, Any] = {"user_id": user, "iat": now, "exp": now + int(seconds), "iss": self._issuer or ISSUER}
        if self._audience:
            claims["aud"] = self._audience
        for name, patterns in (("tools", tools), ("servers", servers)):
            if patterns is not None:
                claims[name] = list(patterns)
        return jwt.encode(claims, self._secrets[0], self._algorithm)

    def opened(self, request: Request) -> Holder | None:
        """Who shows a request's token (`Authorization: Bearer` or `?token=`); None if it has no valid one.

        Raises TwoTokens, and BadClaim for a valid token that does not say clearly what it permits.
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
            "the JWT secret is an example or no secret; make one with: openssl rand -hex 32",
            "JWT 密钥是示例值或过于简单；可用 openssl rand -hex 32 生成",
            place=place,
        )
