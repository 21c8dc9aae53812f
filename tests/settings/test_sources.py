"""Where values come from: the file in both of its forms, the environment and the command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from live_file import complaint, load

from mcp_endpoint.errors import ConfigError
from mcp_endpoint.settings import load as config
from mcp_endpoint.settings.first_start import convert
from mcp_endpoint.settings.schema import Config
from mcp_endpoint.settings.sources import FILE


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    assert load(tmp_path, "[server]\nport = 1", {"MES_SERVER_PORT": "", "MES_ODD": ""}).config.server.port == 1


def test_a_variable_that_is_no_setting_is_a_warning_with_the_one_that_was_meant(tmp_path: Path) -> None:
    loaded = load(tmp_path, "", {"MES_SERVER_PROT": "1", "MES_Q": "1", "PATH": "x"})
    assert [en for en, _ in loaded.warnings] == [
        "environment variable MES_Q is not a setting and is ignored",
        "environment variable MES_SERVER_PROT is not a setting and is ignored; did you mean MES_SERVER_PORT?",
    ]


OLD = "limits.greeting_seconds is now called limits.own_initialize_seconds; the old name works until the next release"


def test_an_old_name_works_in_every_source_and_the_warning_says_the_new_one(tmp_path: Path) -> None:
    inis = "[limits]\ngreeting_seconds: 7  ; as before"
    for text, environ, overrides in (
        ("[limits]\ngreeting_seconds = 7", {}, {}),
        (inis, {}, {}),
        ("", {"MES_LIMITS_GREETING_SECONDS": "7"}, {}),
        ("", {}, {"limits.greeting_seconds": "7"}),
    ):
        loaded = load(tmp_path, text, environ, overrides)
        assert loaded.config.limits.own_initialize_seconds == 7
        assert OLD in [en for en, _ in loaded.warnings]
        assert loaded.sources["limits.own_initialize_seconds"] != "default"
    assert load(tmp_path, convert(inis)).config.limits.own_initialize_seconds == 7


def test_an_old_name_beside_the_new_one_is_a_mistake_with_its_place(tmp_path: Path) -> None:
    wrong = complaint(tmp_path, "[limits]\nown_initialize_seconds = 3\ngreeting_seconds = 7")
    assert "limits.own_initialize_seconds is given twice" in wrong.en and wrong.place == f"{FILE}:3:20"
    # In two sources it is as with every name: the command line goes before the file.
    loaded = load(tmp_path, "[limits]\nown_initialize_seconds = 3", {}, {"limits.greeting_seconds": "7"})
    assert loaded.config.limits.own_initialize_seconds == 7


@pytest.mark.row("D20")
@pytest.mark.parametrize("spelling", ['["http://a", "http://b"]', '"http://a,http://b"', '" http://a , ,http://b "'])
def test_a_list_may_be_written_as_a_list_or_with_commas(tmp_path: Path, spelling: str) -> None:
    assert load(tmp_path, f"[security]\nallowed_origins = {spelling}").config.security.allowed_origins == ("http://a", "http://b")


def test_the_time_limit_of_one_tool_stands_under_its_name(tmp_path: Path) -> None:
    text = '[endpoint.tools."get_weather"]\ntimeout = 60\n[endpoint.tools."查 天气.v2"]\ntimeout = 2.5\n[endpoint.tools.empty]\n'
    loaded = load(tmp_path, text)
    assert {name: tool.timeout for name, tool in loaded.config.endpoint.tools.items()} == {"get_weather": 60, "查 天气.v2": 2.5}
    assert loaded.sources["endpoint.tools.查 天气.v2.timeout"] == f"{FILE}:4"


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("[server]\n  prot = 1", "2:3", 'did you mean "port"'),
        ("[websocket]\nport = 1", "2:1", "belongs under [server]"),
        ("[server]\nzzzz = 1", "2:1", 'no key "zzzz"'),
        ("[sever]\nport = 1", "1:2", 'did you mean "server"'),
        ("[zzzz]", "1:2", 'no section "zzzz"'),
        ("port = 1", "1:1", "belongs under [server]"),
        ("server = 3", "1:1", "[server] on its own line"),
        ("[[server]]\nport = 1", "1:3", "[server] on its own line"),
        ("server = { port = 1, prot = 2 }", "1:1", 'did you mean "port"'),
        ("server.prot = 1", "1:1", 'did you mean "port"'),
        ('[server]\n"\\u0007" = 1', "2:1", 'no key "\\x07"'),
        ("[endpoint]\ntools = 3", "2:1", "endpoint.tools."),
        ("[endpoint.tools]\nx = 3", "2:1", "endpoint.tools."),
        ("[endpoint.tools.x]\ntime = 3", "2:1", 'did you mean "timeout"'),
        ("[endpoint.tools.x]\ntimeout = 301", "2:11", "at most 300"),
    ],
)
def test_an_unknown_name_is_told_with_its_place_and_the_one_that_was_meant(tmp_path: Path, text: str, place: str, words: str) -> None:
    error = complaint(tmp_path, text)
    assert error.place == f"{FILE}:{place}"
    assert words in error.en
    assert error.exit_code == 78


DIAL = "[[dial]]\nname = 'x'\nurl = 'wss://h/?token=t'\n"
GATEWAY = "[[gateway]]\nname = 'x'\ntarget = 'http://h'\n"


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("gateway = 1", "1:1", "write [[gateway]] on its own line"),
        ("[gateway]\nname = 'x'", "1:2", "write [[gateway]]"),
        ("[[gateway]]", "1:3", "is empty"),
        (GATEWAY + "plaec = 'bearer'", "4:1", 'did you mean "place"?'),
        ("[dial]\nname = 'x'", "1:2", "write [[dial]]"),
        (DIAL + "endpiont = 'a'", "4:1", 'did you mean "endpoint"?'),
        ("credentials = 1", "1:1", "write [credentials.NAME]"),
        ("[credentials]\na = 1", "2:1", "write [credentials.NAME]"),
        ("[credentials.'a b']\nenv = 'X'", "1:2", "NAME is letters, digits"),
        ("[credentials.a]\nevn = 'X'", "2:1", 'did you mean "env"?'),
        ("[gatewya]\nname = 'x'", "1:2", 'did you mean "gateway"?'),
    ],
)
def test_a_mistake_in_a_table_that_may_be_repeated_is_told_with_its_place(tmp_path: Path, text: str, place: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert caught.value.place.endswith(f".cfg:{place}"), caught.value.place
    assert words in caught.value.en


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('[server]\nhost = "a', "2:10"),
        ('[server]\nhost = "a"\nport = ', "3:8"),
        ('[server]\nhost = "a"\ndebug = True', "3:9"),
        ('[server]\nhost = "a"\nhost = "b"', "3:11"),
        ("[server", "1:8"),
        ('[server]\nhost = "a"\nport = ' + "9" * 5000, "1:1"),
    ],
)
def test_toml_that_cannot_be_read_is_told_with_its_place(tmp_path: Path, text: str, place: str) -> None:
    error = complaint(tmp_path, text)
    assert error.place == f"{FILE}:{place}"
    assert "not valid TOML" in error.en


def test_nesting_beyond_reason_is_a_complaint_and_not_a_crash(tmp_path: Path) -> None:
    assert "not valid TOML" in complaint(tmp_path, "[security]\nagents = " + "[" * 100_000).en


@pytest.mark.parametrize(
    ("raw", "place"), [(b"[server]\n# \xe4\xb8\xad\xff", "2:4"), (b"\xff\xfeh", "1:1"), ("# 中文".encode("gbk"), "1:3")]
)
def test_a_file_that_is_not_utf_8_is_told_with_its_place(tmp_path: Path, raw: bytes, place: str) -> None:
    error = complaint(tmp_path, raw)
    assert (error.place, "UTF-8" in error.en) == (f"{FILE}:{place}", True)


def test_a_file_that_cannot_be_read_is_a_complaint(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir(parents=True)
    with pytest.raises(ConfigError, match="cannot be read") as raised:
        config.load(tmp_path, {})
    assert raised.value.place == FILE


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX has FIFOs")
def test_a_file_in_whose_place_stands_a_fifo_is_a_complaint_and_nobody_waits(tmp_path: Path) -> None:
    (tmp_path / FILE).parent.mkdir()
    os.mkfifo(tmp_path / FILE)
    with pytest.raises(ConfigError, match="not a regular file"):
        config.load(tmp_path, {})


def test_a_data_folder_that_is_a_file_holds_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    assert config.load(tmp_path, {}).config == Config()


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("MES_SERVER_PORT", "tcp://10.0.0.1:80"),
        ("MES_SERVER_PORT", "８００４"),
        ("MES_SERVER_PORT", "8_0"),
        ("MES_SERVER_DEBUG", "maybe"),
        ("MES_WEBSOCKET_PING_INTERVAL", "1e3"),
        ("MES_WEBSOCKET_PING_INTERVAL", "fast"),
        ("MES_SERVER_PORT", "1" * 5000),
    ],
)
def test_a_mistake_in_the_environment_is_told_with_the_variable(tmp_path: Path, variable: str, text: str) -> None:
    error = complaint(tmp_path, "", {variable: text})
    assert error.place == f"environment {variable}"
    assert len(error.en) < 300, "long values are cut"


@pytest.mark.parametrize(("name", "words"), [("server.prot", 'mean "port"'), ("port", "belongs under [server]"), ("zzz", "no section")])
def test_a_name_on_the_command_line_that_is_no_setting_is_refused(tmp_path: Path, name: str, words: str) -> None:
    error = complaint(tmp_path, overrides={name: "1"})
    assert error.place == "command line"
    assert words in error.en


def test_a_mistake_in_an_old_file_is_told_with_its_place(tmp_path: Path) -> None:
    assert complaint(tmp_path, "[server]\nhost = a\ndebug =  maybe").place == f"{FILE}:3:10"


def test_an_old_file_is_read_with_a_warning_and_its_unknown_names_are_others(tmp_path: Path) -> None:
    loaded = load(tmp_path, "[server]\nhost = a\nprot = 81\n")
    assert loaded.config.server.host == "a"
    assert loaded.sources["server.host"] == f"{FILE}:2"
    assert [en for en, _ in loaded.warnings][1:] == [f'{FILE}:3:1: [server] has no key "prot"; did you mean "port"? (ignored)']


def test_tables_that_may_be_repeated_have_names_of_their_own(tmp_path: Path) -> None:
    loaded = load(tmp_path, "[credentials.fly]\nenv = 'X'\n" + GATEWAY)
    assert loaded.config.credentials["fly"].env == "X"
    assert loaded.sources["gateway.1.target"] == f"{FILE}:5"


def test_what_the_command_line_gives_is_named_after_it(tmp_path: Path) -> None:
    loaded = load(tmp_path, "[server]\nport = 1", overrides={"server.port": "3"})
    assert (loaded.config.server.port, loaded.sources["server.port"]) == (3, "command line")
