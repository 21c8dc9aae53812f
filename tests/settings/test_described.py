"""What each setting takes, and the name that was meant by a wrong one."""

from __future__ import annotations

import msgspec
import pytest

from mcp_endpoint.settings.described import REPEATED, SETTINGS, TOOL_TIMEOUT, Setting, closest, environment_name, setting_of, unknown_name
from mcp_endpoint.settings.schema import Limits

EVERY = pytest.mark.parametrize("setting", SETTINGS.values(), ids=list(SETTINGS))


@EVERY
def test_every_setting_says_its_reason_range_and_unit(setting: Setting) -> None:
    assert setting.reason
    assert all(setting.expected)
    assert setting.unit == ("bytes" if setting.kind == "size" else "seconds" if setting.kind == "float" else "")
    if setting.section == "limits":
        assert setting.unit in setting.key or not setting.unit
    assert msgspec.convert(msgspec.to_builtins(setting.default), setting.type) == setting.default, "the default is in range"


def test_every_limit_of_the_program_is_a_setting() -> None:
    assert [setting.key for setting in SETTINGS.values() if setting.section == "limits"] == [
        field.name for field in msgspec.structs.fields(Limits)
    ]


@pytest.mark.parametrize(
    ("name", "english", "chinese"),
    [
        ("server.debug", "true or false", "true 或 false"),
        ("server.port", "a whole number of at least 0 and at most 65535", "整数，不小于 0，不大于 65535"),
        ("websocket.ping_interval", "a number above 0 and at most 86400 seconds", "数字，大于 0，不大于 86400 秒"),
        ("logging.format", "one of json, text", "以下之一：json, text"),
        ("providers.endpoints", 'a list such as ["a", "b"], or "a, b"', '列表，例如 ["a", "b"]，也可写成 "a, b"'),
        ("logging.log_file", "text in quotes", "加引号的文字"),
        ("security.agents", "agent ids of 1 to 64 letters, digits, _ and -", "智能体 id，1 到 64 个字母、数字、_ 和 -"),
    ],
)
def test_what_a_right_value_looks_like_is_said_in_both_languages(name: str, english: str, chinese: str) -> None:
    assert SETTINGS[name].expected == (english, chinese)


def test_every_full_name_has_its_setting() -> None:
    assert all(setting_of(name) is setting for name, setting in SETTINGS.items())
    assert setting_of("endpoint.tools.get.weather.timeout") is TOOL_TIMEOUT
    assert setting_of("credentials.fly.file") is REPEATED["credentials"]["file"]
    assert setting_of("gateway.2.target") is REPEATED["gateway"]["target"]


def test_a_variable_is_named_after_section_and_key() -> None:
    assert environment_name(SETTINGS["server.port"]) == "MES_SERVER_PORT"


@pytest.mark.parametrize(
    ("section", "key", "words"),
    [
        ("", "sever", 'there is no section "sever"; did you mean "server"?'),
        ("", "port", 'there is no section "port"; it belongs under [server]'),
        ("websocket", "port", '[websocket] has no key "port"; it belongs under [server]'),
        ("server", "prot", '[server] has no key "prot"; did you mean "port"?'),
        ("server", "zzzz", '[server] has no key "zzzz"'),
        ("endpoint.tools", "time", '[endpoint.tools] has no key "time"; did you mean "timeout"?'),
        ("gateway", "plaec", '[gateway] has no key "plaec"; did you mean "place"?'),
    ],
)
def test_a_wrong_name_is_told_with_the_one_that_was_meant(section: str, key: str, words: str) -> None:
    error = unknown_name("file:1:1", section, key)
    assert (error.place, error.en) == ("file:1:1", words)


def test_a_word_that_is_like_none_has_no_closest_one() -> None:
    assert (closest("prot", ["host", "port"]), closest("zzzz", ["host", "port"])) == ("port", "")
