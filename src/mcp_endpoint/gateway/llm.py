"""The rules of a gateway to a model API: the path below its target, the endpoint a path pins, and whose key a request uses.

A client of such an API has a base URL that ends in `/v1`, and so have most targets; the part counts once. A client that sends a key uses
its own. For one that sends none, the key that the environment has for the target's host is used, for programs of this machine only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit

Header = tuple[bytes, bytes]

KEY_HEADERS: Final = frozenset((b"authorization", b"api-key", b"x-api-key", b"x-goog-api-key"))
"""Request headers in which model APIs take a key."""
LONGEST_PIN: Final = 128
"""Characters of an endpoint's name in a path."""

_VERSION: Final = re.compile(rb"/(v[0-9]+)/?\Z")
_DEPLOYMENT: Final = re.compile(rb"/deployments/[^/]+/?\Z")
_USABLE: Final = re.compile(r"[\x21-\x7e]{1,4096}")


class EnvironmentKey(NamedTuple):
    """Which variable of the environment holds the key for a host, and where in a request the key goes (as `[[gateway]] place`)."""

    variable: str
    place: str


HOSTS: Final[Mapping[str, EnvironmentKey]] = {
    "openrouter.ai": EnvironmentKey("OPENROUTER_API_KEY", "bearer"),
    "api.openai.com": EnvironmentKey("OPENAI_API_KEY", "bearer"),
    "openai.azure.com": EnvironmentKey("AZURE_OPENAI_API_KEY", "header:api-key"),
    "cognitiveservices.azure.com": EnvironmentKey("AZURE_OPENAI_API_KEY", "header:api-key"),
    "services.ai.azure.com": EnvironmentKey("AZURE_OPENAI_API_KEY", "header:api-key"),
    "api.anthropic.com": EnvironmentKey("ANTHROPIC_API_KEY", "header:x-api-key"),
}
"""Host → its key; a name below the host counts as the host."""


def environment_key(target: str) -> EnvironmentKey | None:
    """The key that the environment may have for a target; None for other hosts, and for `http://`, where the network would see it."""
    parts = urlsplit(target)
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme != "https":
        return None
    return next((key for known, key in HOSTS.items() if host == known or host.endswith(f".{known}")), None)


def environment_keys(environ: Mapping[str, str]) -> set[str]:
    """All keys of model APIs that the environment has."""
    return {environ[key.variable].strip() for key in HOSTS.values() if environ.get(key.variable, "").strip()}


def usable(secret: str) -> bool:
    """Whether a key can stand in a header."""
    return _USABLE.fullmatch(secret) is not None


def shows_key(headers: Iterable[Header]) -> bool:
    """Whether a request brings a key of its own; a header without a value, or with the word `Bearer` only, brings none."""
    return any(value.strip().lower() not in (b"", b"bearer") for name, value in headers if name in KEY_HEADERS)


def keyless(headers: Iterable[Header]) -> list[Header]:
    """The headers without those in which a key may stand."""
    return [(name, value) for name, value in headers if name not in KEY_HEADERS]


def pinned(path: bytes) -> tuple[str, bytes]:
    """The endpoint that a path below the gateway pins (`@ENDPOINT/…`), and the path without it; an empty name where it pins none."""
    step, _, rest = path.lstrip(b"/").partition(b"/")
    text = unquote_to_bytes(step).decode("utf-8", "replace")
    at, name = text[:1], text[1:]
    return (name, rest) if at == "@" and 0 < len(name) <= LONGEST_PIN else ("", path)


def below(target: bytes, path: bytes) -> bytes:
    """What of a request's path is added to the target's.

    A `/vN` that ends the target and begins the path counts once. A target that ends in `/deployments/NAME` (Azure) takes the path without
    its `/v1`.
    """
    step, slash, rest = path.lstrip(b"/").partition(b"/")
    version = _VERSION.search(target)
    if (version is not None and step == version[1]) or (step == b"v1" and _DEPLOYMENT.search(target)):
        return slash + rest
    return path


def beside(target: bytes, query: bytes) -> bytes:
    """A request's query without the fields of the target's query: the target's `api-version` is used."""
    taken = {_name(field) for field in target.split(b"&") if field}
    return b"&".join(field for field in query.split(b"&") if _name(field) not in taken)


def _name(field: bytes) -> bytes:
    return unquote_to_bytes(field.partition(b"=")[0].replace(b"+", b" "))
