"""One value: how it is read from text and from TOML, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mcp_endpoint.errors import ConfigError
from mcp_endpoint.settings.values import Found, clipped, read_value


def text(name: str, raw: str) -> Any:
    """The value of a setting as the environment, the command line or an INI file gives it."""
    return read_value(Found(name, raw, True, "somewhere", "place:1:2"))


def toml(name: str, raw: object) -> Any:
    """The value of a setting as TOML gives it."""
    return read_value(Found(name, raw, False, "somewhere", "place:1:2"))


SIZES = [
    ("10KB", 10_000),
    ("10kb", 10_000),
    ("2048", 2048),
    ("2048B", 2048),
    ("1.5 mb", 1_500_000),
    ("1GB", 10**9),
    ("1KiB", 1024),
    ("2mib", 2**21),
    ("1GiB", 2**30),
]


@pytest.mark.row("E18")
@pytest.mark.parametrize(("raw", "size"), SIZES)
def test_sizes_have_units_in_any_case(raw: str, size: int) -> None:
    assert text("logging.max_file_size", raw) == toml("logging.max_file_size", raw) == size


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("server.debug", "YES", True),
        ("server.debug", "0", False),
        ("server.port", " 80 ", 80),
        ("websocket.ping_interval", "+7.5", 7.5),
        ("server.log_level", "debug", "DEBUG"),
        ("logging.log_file", "some text", "some text"),
        ("security.agents", "a, ,b", ("a", "b")),
    ],
)
def test_text_is_read_as_the_setting_takes_it(name: str, raw: str, value: object) -> None:
    assert text(name, raw) == value


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("server.debug", True, True),
        ("websocket.ping_interval", 7, 7.0),
        ("server.log_level", "info", "INFO"),
        ("logging.log_file", "some text", "some text"),
        ("security.agents", ["a", "b"], ("a", "b")),
        ("endpoint.tools.get.weather.timeout", 60, 60.0),
    ],
)
def test_a_toml_value_is_taken_as_it_is(name: str, raw: object, value: object) -> None:
    assert toml(name, raw) == value


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("server.public_url", "https://a.example/", "https://a.example"),
        ("server.trusted_proxies", "10.1.2.3/8, ::1", ("10.0.0.0/8", "::1/128")),
        ("security.allowed_origins", "HTTPS://A.example/, file://", ("https://a.example", "file://")),
        ("security.allowed_hosts", "A.example", ("a.example",)),
    ],
)
def test_what_has_several_spellings_is_kept_in_one(name: str, raw: str, value: object) -> None:
    assert text(name, raw) == value


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("server.port", "tcp://10.0.0.1:80"),
        ("server.port", "８００４"),
        ("server.port", "8_0"),
        ("server.port", "1" * 5000),
        ("server.debug", "maybe"),
        ("websocket.ping_interval", "1e3"),
        ("logging.max_file_size", "10XB"),
        ("logging.max_file_size", "big"),
        ("server.trusted_proxies", "nginx"),
        ("dial.1.url", "wss://h:0/"),
    ],
)
def test_text_that_is_no_such_value_is_told_with_its_place(name: str, raw: str) -> None:
    with pytest.raises(ConfigError, match="is not right: expected") as raised:
        text(name, raw)
    assert raised.value.place == "place:1:2"
    assert re.search("[\u4e00-\u9fff]", raised.value.zh)
    assert len(raised.value.en) < 300, "long values are cut"


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("server.key", 4711),
        ("gateway.1.target", "ftp://h/?api_key=4711"),
        ("api.old_secrets", [4711]),
        ("dial.1.url", "wss:/h/?token=4711"),
    ],
)
def test_what_may_hold_a_key_is_not_shown_when_it_is_wrong(name: str, raw: object) -> None:
    with pytest.raises(ConfigError) as raised:
        toml(name, raw)
    assert "4711" not in raised.value.en + raised.value.zh


def test_a_long_value_is_cut_where_it_is_shown() -> None:
    assert (clipped("a\n"), clipped(["a"])) == (r"'a\n'", "['a']")
    assert clipped("a" * 100) == "'" + "a" * 76 + "..."
