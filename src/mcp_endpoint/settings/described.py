"""Describes each setting by its full name: type, default, accepted values; and suggests a name for an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Struct

from ..errors import ConfigError
from .schema import Config, CredentialSettings, DialSettings, GatewaySettings, ToolSettings

ENVIRONMENT: Final = "MES_"
"""Prefix of environment variables: `MES_SERVER_PORT` is `[server] port`. An empty variable counts as not set."""
TOOL: Final = "endpoint.tools."
GATEWAY: Final = "gateway."
"""Prefixes of full names in these tables: `endpoint.tools.NAME.timeout`, `credentials.NAME.file`, `gateway.1.target`."""


class Setting(NamedTuple):
    """The description of one setting, for error messages, `config show`, the example file and the documentation."""

    name: str
    """The full name, such as `server.port`."""
    section: str
    key: str
    type: Any
    """The annotated type, as used by msgspec."""
    kind: Literal["text", "bool", "int", "size", "float", "list", "choice"]
    default: object
    unit: str
    """`seconds`, `bytes` or empty."""
    reason: str
    """What it does, or why it is bounded; English."""
    expected: tuple[str, str]
    """The accepted values, in English and Chinese."""


_Number = msgspec.inspect.IntType | msgspec.inspect.FloatType


def _number(number: _Number, noun: tuple[str, str], unit: str) -> tuple[str, str]:
    """The accepted values of a number, in English and Chinese."""
    above, low = ("above", number.gt) if number.gt is not None else ("of at least", number.ge)
    seconds = (" seconds", " 秒") if unit == "seconds" else ("", "")
    chinese = "大于" if number.gt is not None else "不小于"
    return (
        f"{noun[0]} {above} {low:.15g} and at most {number.le:.15g}{seconds[0]}",
        f"{noun[1]}，{chinese} {low:.15g}，不大于 {number.le:.15g}{seconds[1]}",
    )


def _describe(section: str, field: msgspec.structs.FieldInfo) -> Setting:
    """The Setting of a field of a section's Struct."""
    info = msgspec.inspect.type_info(field.type)
    assert isinstance(info, msgspec.inspect.Metadata)
    extra = info.extra or {}
    unit = str(extra.get("unit", ""))
    kind: Literal["text", "bool", "int", "size", "float", "list", "choice"]
    match info.type:
        case msgspec.inspect.BoolType():
            kind, expected = "bool", ("true or false", "true 或 false")
        case msgspec.inspect.IntType() as number if unit == "bytes":
            kind, expected = (
                "size",
                _number(number, ('a size such as 8388608, "10MB" or "8MiB"', '大小，例如 8388608、"10MB" 或 "8MiB"'), unit),
            )
        case msgspec.inspect.IntType() as number:
            kind, expected = "int", _number(number, ("a whole number", "整数"), unit)
        case msgspec.inspect.FloatType() as number:
            kind, expected = "float", _number(number, ("a number", "数字"), unit)
        case msgspec.inspect.LiteralType(values=values):
            names = ", ".join(str(value) for value in values)
            kind, expected = "choice", (f"one of {names}", f"以下之一：{names}")
        case msgspec.inspect.VarTupleType():
            kind, expected = "list", ('a list such as ["a", "b"], or "a, b"', '列表，例如 ["a", "b"]，也可写成 "a, b"')
        case _:
            kind, expected = "text", ("text in quotes", "加引号的文字")
    return Setting(
        f"{section}.{field.name}",
        section,
        field.name,
        field.type,
        kind,
        field.default,
        unit,
        str((info.extra_json_schema or {}).get("description", "")),
        (extra.get("en", expected[0]), extra.get("zh", expected[1])),
    )


SECTIONS: Final[dict[str, type[Struct]]] = {
    field.name: field.type for field in msgspec.structs.fields(Config) if field.name not in ("credentials", "gateway", "dial")
}
SETTINGS: Final[Mapping[str, Setting]] = {
    setting.name: setting
    for section, struct in SECTIONS.items()
    for setting in (_describe(section, field) for field in msgspec.structs.fields(struct) if field.name != "tools")
}
"""Every setting by its full name, in the order of the example file, without `[endpoint.tools."NAME"]`: see TOOL_TIMEOUT."""
RENAMED: Final = {"limits.greeting_seconds": "limits.own_initialize_seconds"}
"""Old full name → the present one; the old name is accepted, with a warning, until the next release."""
TOOL_TIMEOUT: Final = _describe("endpoint.tools.NAME", msgspec.structs.fields(ToolSettings)[0])
REPEATED: Final[Mapping[str, Mapping[str, Setting]]] = {
    "credentials": {field.name: _describe("credentials.NAME", field) for field in msgspec.structs.fields(CredentialSettings)},
    "gateway": {field.name: _describe("gateway", field) for field in msgspec.structs.fields(GatewaySettings)},
    "dial": {field.name: _describe("dial", field) for field in msgspec.structs.fields(DialSettings)},
}
"""The keys of tables that may occur several times: `[credentials.NAME]`, `[[gateway]]` and `[[dial]]`."""
IN_REPEATED: Final = tuple(f"{section}." for section in REPEATED)
"""Prefixes of the full names of these keys."""


def environment_name(setting: Setting) -> str:
    """`server.port` → `MES_SERVER_PORT`."""
    return f"{ENVIRONMENT}{setting.section}_{setting.key}".upper()


def setting_of(name: str) -> Setting:
    """The Setting for a full name."""
    if name.startswith(TOOL):
        return TOOL_TIMEOUT
    if name.startswith(IN_REPEATED):
        section, _, key = name.split(".")
        return REPEATED[section][key]
    return SETTINGS[name]


def closest(word: str, names: Mapping[str, object] | list[str]) -> str:
    """The most similar of `names`; empty if none is similar."""
    return next(iter(difflib.get_close_matches(word, list(names), n=1)), "")


def unknown_name(place: str, section: str, key: str) -> ConfigError:
    """The error for an unknown name, with a suggestion."""
    keys = [*REPEATED.get(section, ()), *(setting.key for setting in SETTINGS.values() if setting.section == section)]
    elsewhere = [setting.section for setting in SETTINGS.values() if setting.key == key]
    shown = repr(key)[1:-1]
    if not section:
        guess = closest(key, [*SECTIONS, *REPEATED])
        en, zh = f'there is no section "{shown}"', f"没有 [{shown}] 这一节"
    else:
        guess = "timeout" if section == "endpoint.tools" else closest(key, keys)
        en, zh = f'[{section}] has no key "{shown}"', f'[{section}] 中没有 "{shown}" 这个设置项'
    if elsewhere:
        en, zh = f"{en}; it belongs under [{elsewhere[0]}]", f"{zh}；它应写在 [{elsewhere[0]}] 下面"
    elif guess:
        en, zh = f'{en}; did you mean "{guess}"?', f'{zh}；是否想写 "{guess}"？'
    return ConfigError(en, zh, place=place)
