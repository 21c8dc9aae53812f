"""Tokens: which endpoint and which side each one opens, and how they and the key are made.

Three kinds, in name spaces that cannot meet:

- *signed*, `mep1.PAYLOAD.MAC`: base64url of a JSON payload and of its HMAC-SHA-256; names an endpoint, a role and, if
  wanted, an end.
- *xiaozhi*: base64 of AES-ECB with PKCS#7 padding over `{"agentId": "ID"}`, as manager-api of xiaozhi-esp32-server makes
  them. The format has no integrity: blocks of two tokens can be joined to a third. An allow-list of agents closes that.
- *opaque*: any other text; it is the name of its own endpoint.

The shape decides the kind: what looks like a signed or a xiaozhi token must open as one and is never taken as opaque.
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
"""Longest token in UTF-8; JWTs of other services, which are opaque here, stay well below."""
SINGLE_MODULE: Final = "single_module"
"""The agent of an installation without manager-api; its token is printed at start."""
NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What agents and signed endpoints may be called."""

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
"""What stands in documents where a token belongs: `...`, `<token>`, `TOKEN`, `YOUR_TOKEN`, a variable nobody has filled in."""
_PURPOSE: Final = b"mcp-endpoint-server: signed tokens, version 1"
_DRAWS: Final = 8


class Refused(Exception):
    """The token opens nothing. `why` is a short English word for the log; the peer is not told it. It never holds the token."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Grant(NamedTuple):
    """What a token opens."""

    endpoint: str
    """Unique name inside the program: `agent:ID`, `signed:NAME` or `opaque:TOKEN`. Not for printing."""
    shown: str
    """Safe to print: the agent's id, the signed name, or `opaque-` and 8 hex digits of SHA-256."""
    role: Role
    kind: Literal["xiaozhi", "signed", "opaque"]


class _Claims(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The payload of a signed token."""

    n: str = ""
    """Filling, chosen so that the text holds no word a peer refuses; first, so that it moves everything behind it."""
    e: str = ""
    """The endpoint's name."""
    r: Role = "both"
    x: float | None = None
    """First moment, in seconds since 1970, at which the token no longer opens."""


class TokenCodec:
    """Opens and makes the tokens of one key.

    `agents`, if not empty, are the only agents whose xiaozhi tokens open. Raises ValueError for an empty key, under which
    everybody could make tokens.
    """

    def __init__(self, key: str, *, agents: tuple[str, ...] = ()) -> None:
        if not key:
            raise ValueError("the key is empty")
        self._aes = algorithms.AES(pad_key(key))
        self._mac = hmac.digest(key.encode(), _PURPOSE, "sha256")
        self._agents = frozenset(agents)

    def open(self, token: str, now: float) -> Grant:
        """What `token` opens at `now` (seconds since 1970). Raises Refused.

        Whether an opaque token is allowed here is for the caller to decide.
        """
        raw = token.encode("utf-8", "surrogatepass")
        if not raw:
            raise Refused("missing")
        if len(raw) > TOKEN_BYTES:
            raise Refused("too-long")
        if token.startswith(_SIGNED):
            return self._open_signed(raw, now)
        agent = self._agent(_respelled(token))
        if agent:
            if self._agents and agent not in self._agents:
                raise Refused("agent-not-allowed")
            return Grant(f"agent:{agent}", agent, "both", "xiaozhi")
        if _must_open(token):
            raise Refused("not-ours")
        if is_placeholder(token):
            raise Refused("placeholder")
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
            raise Refused("bad-signature")
        claims = msgspec.json.decode(_un64(body[len(_SIGNED) :]), type=_Claims)
        if claims.x is not None and now >= claims.x:
            raise Refused("expired")
        return Grant(f"signed:{claims.e}", claims.e, claims.r, "signed")

    def _agent(self, token: str) -> str:
        """The agent whose token this is, down to the last bit; empty if there is none."""
        sealed = _blocks(token)
        if not sealed or base64.b64encode(sealed).decode() != token:
            return ""
        decryptor = Cipher(self._aes, modes.ECB()).decryptor()
        padded = decryptor.update(sealed) + decryptor.finalize()
        found = _AGENT.fullmatch(padded[: len(padded) - padded[-1]])
        if not found:
            return ""
        agent = found[1].decode()
        same = hmac.compare_digest(sealed, self._seal(agent, b" ")) | hmac.compare_digest(sealed, self._seal(agent, b""))
        return agent if same else ""

    def _seal(self, agent_id: str, blank: bytes) -> bytes:
        plain = b'{"agentId":%b"%b"}' % (blank, agent_id.encode())
        fill = _BLOCK - len(plain) % _BLOCK
        encryptor = Cipher(self._aes, modes.ECB()).encryptor()
        return encryptor.update(plain + bytes([fill]) * fill) + encryptor.finalize()


def pad_key(key: str) -> bytes:
    """The AES key of a configured key: 16, 24 or 32 bytes as they are, else filled with zeros or cut to 32 (as manager-api does)."""
    raw = key.encode()
    return raw if len(raw) in (16, 24, 32) else raw[:32].ljust(32, b"\0")


def make_key() -> str:
    """A new key of 32 letters and digits whose printed token no peer refuses."""
    alphabet = string.ascii_letters + string.digits
    while True:
        key = "".join(secrets.choice(alphabet) for _ in range(32))
        if not refused_by_xiaozhi(TokenCodec(key).make_xiaozhi(SINGLE_MODULE)):
            return key


def refused_by_xiaozhi(text: str) -> bool:
    """Whether a single-module xiaozhi-server refuses an address because `text` is in it: it looks for "key" and "call", in any case."""
    lower = text.lower()
    return "key" in lower or "call" in lower


def is_placeholder(token: str) -> bool:
    """Whether somebody has copied an example and not put a token into it."""
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
    """Whether a token has the shape of a xiaozhi token as manager-api writes them."""
    long = len(token) == 44 or (len(token) >= 64 and not _HEX.fullmatch(token))
    return long and len(_blocks(token)) >= 2 * _BLOCK


def _respelled(token: str) -> str:
    """The token as it was before a client or an address bar broke it: a blank for +, the URL-safe alphabet, = lost."""
    text = token.translate(_OTHER_SPELLINGS).rstrip("=")
    return text + "=" * (-len(text) % 4)


def _url64(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _un64(text: bytes) -> bytes:
    return base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
