"""Converts a given value to the type of its setting, and checks its range."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from ..errors import ConfigError
from .described import Setting, setting_of
from .schema import KIB, MIB


class Found(NamedTuple):
    """A given value and its place."""

    name: str
    raw: object
    text: bool
    """Whether `raw` is text (environment, command line, INI) or a TOML value."""
    source: str
    place: str


_BINARY: Final = {"kib": KIB, "mib": MIB, "gib": 1024 * MIB}
_DECIMAL: Final = {"": 1, "b": 1, "kb": 1_000, "mb": 1_000_000, "gb": 1_000_000_000}
_SIZE: Final = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>[A-Za-z]*)")
_INT: Final = re.compile(r"[+-]?[0-9]{1,18}")
_FLOAT: Final = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{0,18})?")
_BOOL: Final = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_SECRET: Final = ("server.key", "api.secret", "api.old_secrets", "api.urls", "gateway.target", "dial.url")
"""Settings whose values are or may contain secrets."""


def read_value(found: Found) -> object:
    """The value in its setting's type and range. Raises ConfigError."""
    setting = setting_of(found.name)
    try:
        value = _read_text(setting, found.raw.strip()) if found.text and isinstance(found.raw, str) else _read_toml(setting, found.raw)
        return _settled(setting, msgspec.convert(value, setting.type))
    except ValueError as error:
        # A secret is never shown, not even an invalid one.
        shown = "" if setting.name in _SECRET else f" = {clipped(found.raw)}"
        en, zh = setting.expected
        raise ConfigError(
            f"{found.name}{shown} is not right: expected {en}", f"{found.name}{shown} 不正确：应为{zh}", place=found.place
        ) from error


def clipped(raw: object) -> str:
    """A value for an error message: at most 80 characters, control characters escaped."""
    text = ascii(raw) if not isinstance(raw, str) else repr(raw)
    return text if len(text) <= 80 else text[:77] + "..."


def _read_text(setting: Setting, text: str) -> object:
    """Convert text from the environment, the command line or an INI file. Raises ValueError."""
    match setting.kind:
        case "bool":
            return _BOOL.get(text.lower(), text)
        case "int":
            return int(text) if _INT.fullmatch(text) else text
        case "float":
            return float(text) if _FLOAT.fullmatch(text) else text
        case "size" | "list":
            return _read_toml(setting, text)
        case _:
            return text.upper() if setting.name == "server.log_level" else text


def _read_toml(setting: Setting, raw: object) -> object:
    """Convert a TOML value. Raises ValueError."""
    if isinstance(raw, str):
        if setting.kind == "list":
            return tuple(part for part in map(str.strip, raw.split(",")) if part)
        if setting.kind == "size":
            size = _SIZE.fullmatch(raw.strip())
            scale = _DECIMAL | _BINARY
            return int(float(size["number"]) * scale[size["unit"].lower()]) if size and size["unit"].lower() in scale else raw
        if setting.name == "server.log_level":
            return raw.upper()
    return raw


def _settled(setting: Setting, value: Any) -> object:
    """Normalize a value. Raises ValueError."""
    match setting.name:
        case "server.public_url":
            return value.rstrip("/")
        case "server.trusted_proxies":
            return tuple(str(ipaddress.ip_network(part, strict=False)) for part in value)
        case "security.allowed_origins":
            return tuple(part.lower() if part.endswith("://") else part.lower().rstrip("/") for part in value)
        case "dial.url" if "${" not in value and urlsplit(value).port == 0:  # .port also raises ValueError
            raise ValueError("port 0")
        case "security.allowed_hosts":
            return tuple(part.lower() for part in value)
        case _:
            return value
