"""Removes secrets from records before they are written to a disk.

Looked for are, in this order: members whose key sounds like a secret, in JSON, in JSON inside of its strings, in forms and
queries; texts of the shape of a key or a token; and the secrets this server knows, by their value. What is found becomes
`***~3fa9c2`: six digits of an HMAC under the server's own key, so that equal secrets can be told to be equal, and nothing can be
guessed.

Everything is done on bytes: what is no text is searched too. Most of what comes holds nothing, and that is seen in a few microseconds.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final
from urllib.parse import quote

NEEDLES: Final = (
    *(
        "token",
        "secret",
        "passw",
        "passphrase",
        "api_key",
        "apikey",
        "authoriz",
        "cookie",
        "jwt",
        "credential",
        "private_key",
        "privatekey",
    ),
    *("access_key", "accesskey"),
)
"""A key or a header that has one of these in its name, `-` counting as `_`, holds a secret."""
QUERY_NAMES: Final = frozenset(("key", "sig", "signature", "code", "auth", "pwd"))
"""Fields of a query that hold one beside those; too common as keys of JSON."""
HEADERS: Final = frozenset(("x-goog-api-key", "x-amz-security-token", "x-forwarded-authorization", "sec-websocket-key"))
LONGEST_KEY: Final = 128
"""Bytes of a key that may follow a needle."""
SHORTEST_NAME: Final = 3
"""Letters of the shortest name that is looked for: a shorter one is in every second key."""
SHORTEST_SECRET: Final = 8
"""Bytes of the shortest known secret that is looked for by value: a shorter one is in every second word."""
MARK: Final = b"***~"

_COUNTS: Final = b"token"
"""A number under such a key is a count (`max_tokens`, `usage.total_tokens`) and stays."""
_LITERAL: Final = re.compile(rb"-?[0-9][0-9.eE+-]*|true|false|null")
_UNQUOTED: Final = re.compile(
    rb"[A-Za-z0-9_.-]{0,64}\s{0,4}(?:=|%3[Dd]|:)\s{0,4}(?:(?:[Bb]earer|[Bb]asic)\s{1,4})?([^\s\"'&,;<>(){}\[\]\\]{3,})"
)
_STRING_OR_NUMBER: Final = re.compile(rb"\\{0,64}[\"']|-?[0-9][0-9.eE+-]*")
_END_OF_KEY: Final = re.compile(rb"(?:[^\"'\\\n]|\\{1,64}u[0-9A-Fa-f]{4}){0,%d}(\\{0,64}[\"'])" % LONGEST_KEY)
_PROGRESS: Final = b"progress"
"""MCP's own progressToken is no secret, and in every second call."""
_AFTER_KEY: Final = re.compile(rb"\s*:\s*")
_HIDDEN: Final = re.compile(rb"(?<!\\)\\{1,64}u00([2-7][0-9A-Fa-f])")
_SLASH: Final = re.compile(rb"(?<!\\)\\{1,64}/")
_SCHEME: Final = re.compile(rb"(?i)(bearer|basic|token|digest)\s+")
_BASE64: Final = bytes(120 if (chr(code).isalnum() and code < 128) or code in b"+/" else 32 for code in range(256))
"""Every letter of base64 becomes an x: a long word is then found without a regular expression."""
_LONG: Final = b"x" * 43
"""Letters of the shortest xiaozhi token, without the `=` behind it."""
_HEX: Final = re.compile(rb"[0-9A-Fa-f]+")
LONGEST_TOKEN: Final = 1024
"""Letters of the longest word that may be a xiaozhi token; longer ones are pictures and sounds in base64."""
_SHAPES: Final = (
    (b"sk-", re.compile(rb"(?i)(?<![A-Za-z0-9])()(sk-[A-Za-z0-9_-]{8,})")),
    (b"mep1.", re.compile(rb"(?i)()(mep1\.[A-Za-z0-9_.%=-]+)")),
    (b"eyj", re.compile(rb"()(?<![A-Za-z0-9_-])(eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]*)?)")),
    (b"bearer", re.compile(rb"(?i)(\bbearer(?:\s|%20|\+){1,4})([^\s\"',;&<>\\]+)")),
    (b"://", re.compile(rb"(://[^\s\"'<>\\/?#@:]{0,64}:)([^\s\"'<>\\/?#@]{1,256})(?=@)")),
    (b"basic ", re.compile(rb"(?i)(\bbasic\s{1,4})([A-Za-z0-9+/=_-]{8,})")),
)
"""What must be there in small letters, and the shape: what stays, and what goes."""


class Redactor:
    """The rules of one server."""

    def __init__(self, key: bytes, names: Iterable[str] = (), values: Iterable[str] = ()) -> None:
        """`key` makes the marks; `names` are needles beside NEEDLES; `values` are secrets the server knows."""
        self._key = key
        self._needles = tuple(dict.fromkeys(_plain(name.lower().encode()) for name in (*NEEDLES, *names) if len(name) >= SHORTEST_NAME))
        spellings = {
            spelling
            for value in values
            if len(value.encode()) >= SHORTEST_SECRET
            for spelling in (value, quote(value, safe=""), value.replace("/", "\\/"))
        }
        # The longest first: one that holds another is taken as a whole.
        self._values = tuple(spelling.encode() for spelling in sorted(spellings, key=len, reverse=True))
        self.short = lru_cache(1024)(self._short)
        """`body` for names and other short texts that come again and again."""

    def mark(self, secret: bytes) -> bytes:
        """What stands in the place of a secret."""
        return MARK + hmac.digest(self._key, secret, "sha256").hex()[:6].encode()

    def body(self, data: bytes) -> bytes:
        """What may be written of a body, of a piece of JSON, of any text."""
        if b"\\u00" in data or b"\\/" in data:
            plain = _SLASH.sub(b"/", _HIDDEN.sub(_shown, data))
            clean = self._clean(plain)
            return data if clean == plain else clean
        return self._clean(data)

    def bodies(self, bodies: Sequence[bytes]) -> Sequence[bytes]:
        """`body` of many short ones, which are looked through together."""
        return bodies if self._is_clean(b"\n".join(bodies)) else [self.body(body) for body in bodies]

    def header(self, name: str, value: str) -> str:
        """What may be written of a header's value."""
        low = name.lower()
        if low in HEADERS or self._is_secret(low.encode()):
            data = value.encode("utf-8", "surrogateescape")
            scheme = _SCHEME.match(data)
            start = scheme.end() if scheme else 0
            return (data[:start] + self.mark(data[start:].strip())).decode("utf-8", "replace")
        return self.short(value)

    def headers(self, headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """The same of all headers of a message."""
        return [(self.short(name), self.header(name, value)) for name, value in headers]

    def path(self, path: str) -> str:
        """What may be written of a path with its query."""
        before, mark, query = path.partition("?")
        if not mark:
            return self.short(path)
        fields = []
        for field in query.split("&"):
            name, equals, value = field.partition("=")
            if value and (name.lower() in QUERY_NAMES or self._is_secret(name.lower().encode())):
                value = self.mark(value.encode("utf-8", "surrogateescape")).decode()
            fields.append(name + equals + value)
        return self.short(before) + mark + self.short("&".join(fields))

    def _short(self, text: str) -> str:
        return self.body(text.encode("utf-8", "surrogateescape")).decode("utf-8", "replace")

    def _is_secret(self, low: bytes) -> bool:
        plain = _plain(low)
        return any(needle in plain for needle in self._needles)

    def _is_clean(self, data: bytes) -> bool:
        """Whether nothing is in there that could have to do with a secret."""
        if b"\\u00" in data or b"\\/" in data:
            return False
        low = data.lower()
        plain = _plain(low)
        return not (
            any(needle in plain for needle in self._needles)
            or any(needle in low for needle, _ in _SHAPES)
            or _LONG in data.translate(_BASE64)
            or any(value in data for value in self._values)
        )

    def _clean(self, data: bytes) -> bytes:
        low = data.lower()
        plain = _plain(low)
        if any(needle in plain for needle in self._needles):
            changed = self._members(data, plain)
            if changed is not data:
                data, low = changed, changed.lower()
        for needle, shape in _SHAPES:
            if needle in low:
                data = shape.sub(self._marked, data)
        if _LONG in (letters := data.translate(_BASE64)):
            data = self._tokens(data, letters)
        for value in self._values:
            if value in data:
                data = data.replace(value, self.mark(value))
        return data

    def _marked(self, found: re.Match[bytes]) -> bytes:
        return found[0] if found[2].startswith(MARK) else found[1] + self.mark(found[2])

    def _tokens(self, data: bytes, letters: bytes) -> bytes:
        """Words of the shape of a xiaozhi token, which is base64 of AES blocks; hashes in hex are no secret."""
        edits: list[tuple[int, int, bytes]] = []
        at = letters.find(_LONG)
        while at >= 0:
            end = letters.find(b" ", at)
            end = len(data) if end < 0 else end
            padding = len(data[end : end + 2]) - len(data[end : end + 2].lstrip(b"="))
            size = end - at
            if (size == 43 and padding) or (64 <= size <= LONGEST_TOKEN and _HEX.fullmatch(data, at, end) is None):
                edits.append((at, end + padding, self.mark(data[at : end + padding])))
            at = letters.find(_LONG, end)
        return _edited(data, edits)

    def _members(self, data: bytes, plain: bytes) -> bytes:
        """The values whose key sounds like a secret, replaced."""
        places = sorted((place, len(needle), needle) for needle in self._needles if needle in plain for place in _places(plain, needle))
        edits: list[tuple[int, int, bytes]] = []
        end = 0
        for place, size, needle in places:
            if place < end:
                continue
            span = self._value(data, place, place + size, needle, edits)
            end = max(end, span)
        return _edited(data, edits)

    def _value(self, data: bytes, start: int, end: int, needle: bytes, edits: list[tuple[int, int, bytes]]) -> int:
        """Mark the value that belongs to the needle found there; gives where it ends, or 0 if it is no key."""
        if data[max(0, start - len(_PROGRESS)) : start].lower() == _PROGRESS:
            return 0
        key, after = _rest_of_key(data, end)
        if after is None:
            # No JSON: `password=…` in a form, `Authorization: …` in a text.
            loose = _UNQUOTED.match(data, end)
            if loose is None or (_LITERAL.fullmatch(loose[1]) and needle.startswith(_COUNTS)):
                return 0
            if not loose[1].startswith(MARK):
                edits.append((loose.start(1), loose.end(1), self.mark(loose[1])))
            return loose.end(1)
        at = after.end()
        quotes = _quotes(data, at)
        if quotes:
            stop = _end_of_string(data, at + len(quotes), quotes)
            self._edit(data, at + len(quotes), stop, edits)
            return stop
        if data[at : at + 1] in (b"{", b"["):
            return self._inner(data, at, needle, key, edits)
        literal = _LITERAL.match(data, at)
        if literal is not None and literal[0][:1] not in (b"t", b"f", b"n") and not needle.startswith(_COUNTS):
            edits.append((at, literal.end(), b"%b%b%b" % (key, self.mark(literal[0]), key)))
        return at

    def _edit(self, data: bytes, start: int, stop: int, edits: list[tuple[int, int, bytes]]) -> None:
        secret = data[start:stop]
        scheme = _SCHEME.match(secret)
        kept = scheme.end() if scheme else 0
        if len(secret) > kept and not secret.startswith(MARK, kept):
            edits.append((start + kept, stop, self.mark(secret[kept:])))

    def _inner(self, data: bytes, at: int, needle: bytes, quotes: bytes, edits: list[tuple[int, int, bytes]]) -> int:
        """An object or a list under such a key: every text in it, and every number unless it is a count. `quotes` are those of the key."""
        depth = 0
        while at < len(data):
            letter = data[at : at + 1]
            if letter in (b"{", b"["):
                depth += 1
            elif letter in (b"}", b"]"):
                depth -= 1
                if not depth:
                    return at + 1
            else:
                found = _STRING_OR_NUMBER.match(data, at)
                if found is not None and found[0][-1:] in (b'"', b"'"):
                    stop = _end_of_string(data, found.end(), found[0])
                    past = stop + len(found[0])
                    after = _AFTER_KEY.match(data, past)
                    if after is None:
                        self._edit(data, found.end(), stop, edits)
                    at = past
                    continue
                if found is not None:
                    if not needle.startswith(_COUNTS):
                        edits.append((at, found.end(), b"%b%b%b" % (quotes, self.mark(found[0]), quotes)))
                    at = found.end()
                    continue
            at += 1
        return at


def _plain(low: bytes) -> bytes:
    return low.replace(b"-", b"_")


def _shown(found: re.Match[bytes]) -> bytes:
    """A letter that was hidden as \\u0041; quotes and backslashes stay hidden, they have a meaning of their own."""
    letter = bytes((int(found[1], 16),))
    return found[0] if letter in b"\"'\\" else letter


def _places(plain: bytes, needle: bytes) -> Iterable[int]:
    place = plain.find(needle)
    while place >= 0:
        yield place
        place = plain.find(needle, place + len(needle))


def _quotes(data: bytes, at: int) -> bytes:
    """The quote that stands there with the backslashes before it; empty where there is none."""
    end = at
    while data[end : end + 1] == b"\\":
        end += 1
    return data[at : end + 1] if data[end : end + 1] in (b'"', b"'") and end < len(data) else b""


def _rest_of_key(data: bytes, at: int) -> tuple[bytes, re.Match[bytes] | None]:
    """The quotes of the key around a needle that ends there, and the colon behind them; no colon where this is no key."""
    last = at + LONGEST_KEY
    while at < last and (end := _END_OF_KEY.match(data, at)) is not None:
        after = _AFTER_KEY.match(data, end.end())
        if after is not None or end[1].endswith(b'"'):
            return end[1], after
        at = end.end()  # an apostrophe
    return b"", None


def _end_of_string(data: bytes, at: int, quotes: bytes) -> int:
    """Where the string ends that began with these quotes; the end of the data for one that was cut.

    JSON in a string has its backslashes doubled and its quotes escaped once more at each level. With n backslashes before its quotes, a
    quote of the text itself has 2n + 1, and each backslash of the text adds 2n + 2. Fewer than n: the string around it ends, and this one
    was cut.
    """
    depth = len(quotes) - 1
    letter = quotes[-1:]
    start = at
    while True:
        found = data.find(letter, at)
        if found < 0:
            return len(data)
        before = found
        while before > start and data[before - 1] == 0x5C:
            before -= 1
        rest = (found - before) % (2 * depth + 2)
        if rest != 2 * depth + 1:
            return found - rest
        at = found + 1


def _edited(data: bytes, edits: Sequence[tuple[int, int, bytes]]) -> bytes:
    if not edits:
        return data
    parts: list[bytes] = []
    end = 0
    for start, stop, text in edits:
        parts += data[end:start], text
        end = stop
    parts.append(data[end:])
    return b"".join(parts)
