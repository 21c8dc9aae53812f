"""Makes and verifies tokens, which name an endpoint and a side, and makes the server's key.

There are three kinds, in name spaces that cannot overlap:

- *signed*, `mep1.PAYLOAD.MAC`: base64url of a JSON payload and of its HMAC-SHA-256; contains an endpoint, a role and optionally an
  expiry.
- *xiaozhi*: base64 of AES-ECB with PKCS#7 padding over `{"agentId": "ID"}`, as manager-api of xiaozhi-esp32-server makes
  them. The format has no integrity: blocks of two tokens can be joined to a third. An allow-list of agents prevents that.
- *opaque* (free-form): any other text; it is the name of its own endpoint.

The shape decides the kind: a text with the shape of a signed or xiaozhi token must verify as one and is never taken as opaque.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import math
import re
import secrets
import string
from typing import Final, Literal, NamedTuple

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Role = Literal["tool", "device", "both"]

TOKEN_BYTES: Final = 4_096
"""Longest token in UTF-8 bytes; JWTs of other services, which are opaque here, are well below."""
SINGLE_MODULE: Final = "single_module"
"""The agent of an installation without manager-api; its token is printed at start."""
NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Valid names of agents and signed endpoints."""

_SIGNED: Final = "mep1."
_BLOCK: Final = 16
_AGENT: Final = re.compile(rb'\{"agentId": ?"([A-Za-z0-9_-]{1,64})"\}')
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_HEX: Final = re.compile(r"[0-9A-Fa-f]+")
_OTHER_SPELLINGS: Final = str.maketrans(" -_", "++/")
_PLACEHOLDER: Final = re.compile(
    r"[.…*]{2,}|…|[<\[{].+[>\]}]|\$\{?\w+\}?|%\w+%|TOKEN|[你您]的\s?(?:令牌|token|TOKEN)"
    r"|(?i:(?:your|my)[ _-]?(?:\w{1,16}[ _-])?token(?:[ _-]?here)?)"
)
"""Placeholders of documents in the place of a token: `...`, `<token>`, `TOKEN`, `YOUR_TOKEN`, an unset variable."""
_PURPOSE: Final = b"mcp-endpoint-server: signed tokens, version 1"
_DRAWS: Final = 8


class TokenRefused(Exception):
    """The token is not valid. `why` is a short English reason for the log; the peer is not told. It never contains the token."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Grant(NamedTuple):
    """What a valid token grants."""

    endpoint: str
    """Unique name inside the program: `agent:ID`, `signed:NAME` or `opaque:TOKEN`. Not for printing."""
    shown: str
    """Safe to print: the agent's id, the signed name, or `opaque-` and 8 hex digits of SHA-256."""
    role: Role
    kind: Literal["xiaozhi", "signed", "opaque"]


class _Claims(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The payload of a signed token."""

    n: str = ""
    """Padding, chosen so that the token contains no word that a peer refuses; first, so that it shifts everything after it."""
    e: str = ""
    """The endpoint's name."""
    r: Role = "both"
    x: float | None = None
    """Expiry in seconds since 1970."""


class TokenCodec:
    """Makes and verifies the tokens of one key.

    `agents`, if not empty, are the only agents whose xiaozhi tokens are valid. Raises ValueError for an empty key, with which
    everybody could make tokens.
    """

    def __init__(self, key: str, *, agents: tuple[str, ...] = ()) -> None:
        if not key:
            raise ValueError("the key is empty")
        self._aes = algorithms.AES(pad_key(key))
        # ECB keeps nothing from one block to the next, so that one context opens all tokens.
        self._unseal = Cipher(self._aes, modes.ECB()).decryptor().update
        self._mac = hmac.digest(key.encode(), _PURPOSE, "sha256")
        self._agents = frozenset(agents)

    def open(self, token: str, now: float) -> Grant:
        """What `token` grants at `now` (seconds since 1970). Raises TokenRefused.

        The caller decides whether opaque tokens are accepted.
        """
        raw = token.encode("utf-8", "surrogatepass")
        if not raw:
            raise TokenRefused("missing")
        if len(raw) > TOKEN_BYTES:
            raise TokenRefused("too-long")
        if token.startswith(_SIGNED):
            return self._open_signed(raw, now)
        agent = self._agent(_respelled(token))
        if agent:
            if self._agents and agent not in self._agents:
                raise TokenRefused("agent-not-allowed")
            return Grant(f"agent:{agent}", agent, "both", "xiaozhi")
        if _must_open(token):
            raise TokenRefused("not-ours")
        if is_placeholder(token):
            raise TokenRefused("placeholder")
        return Grant(f"opaque:{token}", "opaque-" + hashlib.sha256(raw).hexdigest()[:8], "both", "opaque")

    def make_xiaozhi(self, agent_id: str) -> str:
        """The token manager-api makes for this agent. Raises ValueError if the id does not match NAME."""
        if not NAME.fullmatch(agent_id):
            raise ValueError("an agent id is 1 to 64 letters, digits, _ and -")
        return base64.b64encode(self._seal(agent_id, b" ")).decode()

    def make_signed(self, endpoint: str, role: Role = "both", expires: float | None = None) -> str:
        """A signed token for an endpoint, until `expires` (seconds since 1970). Raises ValueError if the name does not match NAME."""
        if not NAME.fullmatch(endpoint):
            raise ValueError("an endpoint's name is 1 to 64 letters, digits, _ and -")
        if expires is not None and not math.isfinite(expires):
            raise ValueError("an end is a finite time")
        drawn = [self._sign(_Claims("x" * draw, endpoint, role, expires)) for draw in range(_DRAWS)]
        return next((token for token in drawn if not refused_by_xiaozhi(token)), drawn[0])

    def _sign(self, claims: _Claims) -> str:
        body = _SIGNED.encode() + _url64(msgspec.json.encode(claims))
        return (body + b"." + _url64(hmac.digest(self._mac, body, "sha256"))).decode()

    def _open_signed(self, raw: bytes, now: float) -> Grant:
        body, _, mac = raw.rpartition(b".")
        if not hmac.compare_digest(mac, _url64(hmac.digest(self._mac, body, "sha256"))):
            raise TokenRefused("bad-signature")
        claims = msgspec.json.decode(_un64(body[len(_SIGNED) :]), type=_Claims)
        if claims.x is not None and now >= claims.x:
            raise TokenRefused("expired")
        return Grant(f"signed:{claims.e}", claims.e, claims.r, "signed")

    def _agent(self, token: str) -> str:
        """The agent of a xiaozhi token, verified to the last bit; empty if it is none."""
        sealed = _blocks(token)
        if not sealed or base64.b64encode(sealed).decode() != token:
            return ""
        padded = self._unseal(sealed)
        found = _AGENT.fullmatch(padded[: len(padded) - padded[-1]])
        if not found:
            return ""
        agent = found[1].decode()
        # AES is one to one: whoever opens to these bytes was sealed from them.
        same = hmac.compare_digest(padded, _padded(agent, b" ")) | hmac.compare_digest(padded, _padded(agent, b""))
        return agent if same else ""

    def _seal(self, agent_id: str, blank: bytes) -> bytes:
        encryptor = Cipher(self._aes, modes.ECB()).encryptor()
        return encryptor.update(_padded(agent_id, blank)) + encryptor.finalize()


def _padded(agent_id: str, blank: bytes) -> bytes:
    """What is sealed in a xiaozhi token, with PKCS #7 padding."""
    plain = b'{"agentId":%b"%b"}' % (blank, agent_id.encode())
    fill = _BLOCK - len(plain) % _BLOCK
    return plain + bytes([fill]) * fill


def pad_key(key: str) -> bytes:
    """The AES key for a configured key: 16, 24 or 32 bytes unchanged, else padded with zeros or cut to 32 (as manager-api does)."""
    raw = key.encode()
    return raw if len(raw) in (16, 24, 32) else raw[:32].ljust(32, b"\0")


def make_key() -> str:
    """A new key of 32 letters and digits, whose single-module token no peer refuses."""
    alphabet = string.ascii_letters + string.digits
    while True:
        key = "".join(secrets.choice(alphabet) for _ in range(32))
        if not refused_by_xiaozhi(TokenCodec(key).make_xiaozhi(SINGLE_MODULE)):
            return key


def refused_by_xiaozhi(text: str) -> bool:
    """Whether a single-module xiaozhi-server refuses an address that contains `text`: it searches for "key" and "call", in any case."""
    lower = text.lower()
    return "key" in lower or "call" in lower


def is_placeholder(token: str) -> bool:
    """Whether the text is the placeholder of an example."""
    return _PLACEHOLDER.fullmatch(token) is not None


def _blocks(token: str) -> bytes:
    """The AES blocks of a base64 text; empty if it is not base64 or not whole blocks."""
    if not _BASE64.fullmatch(token):
        return b""
    try:
        blocks = base64.b64decode(token, validate=True)
    except binascii.Error:
        return b""
    return b"" if len(blocks) % _BLOCK else blocks


def _must_open(token: str) -> bool:
    """Whether a text has the shape of a xiaozhi token as manager-api writes them."""
    long = len(token) == 44 or (len(token) >= 64 and not _HEX.fullmatch(token))
    return long and len(_blocks(token)) >= 2 * _BLOCK


def _respelled(token: str) -> str:
    """The token with the usual damage undone: a blank for +, the URL-safe alphabet, missing = signs."""
    text = token.translate(_OTHER_SPELLINGS).rstrip("=")
    return text + "=" * (-len(text) % 4)


def _url64(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _un64(text: bytes) -> bytes:
    return base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
