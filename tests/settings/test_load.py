"""config: where each value comes from, what is refused and what the first start writes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st
from live_file import KEY, complaint, load, put

from mcp_endpoint.errors import ConfigError
from mcp_endpoint.settings import load as config
from mcp_endpoint.settings.described import SETTINGS, Setting, environment_name
from mcp_endpoint.settings.first_start import EXAMPLE, Prepared
from mcp_endpoint.settings.schema import Config, CredentialSettings
from mcp_endpoint.settings.sources import FILE

NOTHING = Prepared("", (), ())


def value(loaded: Config, setting: Setting) -> Any:
    return getattr(getattr(loaded, setting.section), setting.key)


def sample(setting: Setting) -> tuple[str, object]:
    """A right value other than the default: as text and as what it loads to."""
    own: dict[str, tuple[str, object]] = {
        "server.key": (KEY, KEY),
        "server.public_url": ("https://mcp.example.com/", "https://mcp.example.com"),
        "server.trusted_proxies": ("10.0.0.0/8, ::1", ("10.0.0.0/8", "::1/128")),
        "server.log_level": ("debug", "DEBUG"),
        "security.allowed_origins": ("https://A.example/, http://b:1, file://", ("https://a.example", "http://b:1", "file://")),
        "security.allowed_hosts": ("A.example,b", ("a.example", "b")),
        "security.agents": ("a,b", ("a", "b")),
    }
    if setting.name in own:
        return own[setting.name]
    match setting.kind:
        case "bool":
            return str(not setting.default).lower(), not setting.default
        case "int":
            return "77", 77
        case "size":
            return "3KB", 3000
        case "float":
            return "7.5", 7.5
        case "choice":
            other = next(word for word in setting.expected[0].removeprefix("one of ").split(", ") if word != setting.default)
            return other, other
        case "list":
            return "a, b", ("a", "b")
        case _:
            return "some text", "some text"


EVERY = pytest.mark.parametrize("setting", SETTINGS.values(), ids=list(SETTINGS))
PAIR = {"server.tls_cert": "[server]\ntls_key = 'k'\n", "server.tls_key": "[server]\ntls_cert = 'c'\n"}

# Authority


@pytest.mark.row("E7", "E8", "E9", "E10", "E11", "E12", "E13", "E14", "E15", "E16", "E17", "E18", "E19")
def test_without_a_file_every_setting_has_its_documented_default(tmp_path: Path) -> None:
    loaded = config.load(tmp_path, {})
    assert loaded.config == Config()
    assert set(loaded.sources.values()) == {"default"}
    assert loaded.warnings == ()
    assert loaded.path == tmp_path / FILE
    assert not loaded.path.exists(), "loading writes nothing"
    server, websocket, security, log = loaded.config.server, loaded.config.websocket, loaded.config.security, loaded.config.logging
    assert (server.host, server.port, server.debug, server.log_level) == ("127.0.0.1", 8004, False, "INFO")
    assert (websocket.max_connections, websocket.ping_interval, websocket.ping_timeout, websocket.close_timeout) == (1000, 30, 10, 10)
    assert (security.allowed_origins, security.enable_cors) == (("*",), True)
    assert (log.log_file, log.max_file_size, log.backup_count) == ("logs/mcp_server.log", 10_000_000, 5)


@EVERY
def test_every_setting_is_taken_from_the_environment_and_the_command_line(tmp_path: Path, setting: Setting) -> None:
    text, wanted = sample(setting)
    variable = environment_name(setting)
    loaded = load(tmp_path, PAIR.get(setting.name, ""), {variable: text})
    assert value(loaded.config, setting) == wanted
    assert loaded.sources[setting.name] == f"environment {variable}"
    loaded = load(tmp_path, PAIR.get(setting.name, ""), overrides={setting.name: text})
    assert value(loaded.config, setting) == wanted
    assert loaded.sources[setting.name] == "command line"


@EVERY
def test_every_setting_is_taken_from_the_file_in_both_forms(tmp_path: Path, setting: Setting) -> None:
    text, wanted = sample(setting)
    bare = setting.kind in ("bool", "int", "float")
    pair = PAIR.get(setting.name, f"[{setting.section}]\n")
    loaded = load(tmp_path, pair + f"{setting.key} = {text if bare else repr(text)}")
    assert value(loaded.config, setting) == wanted
    assert loaded.sources[setting.name] == f"{FILE}:{len(pair.splitlines()) + 1}"
    old = pair.replace("'", "") + f"{setting.key} = {text}\n[nowhere]\nsome = thing"
    assert value(load(tmp_path, old).config, setting) == wanted


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    text, environ = "[server]\nport = 1\nhost = 'a'\ndebug = true", {"MES_SERVER_PORT": "2", "MES_SERVER_HOST": "b"}
    loaded = load(tmp_path, text, environ, {"server.port": "3"})
    assert (loaded.config.server.port, loaded.config.server.host, loaded.config.server.debug) == (3, "b", True)
    assert [loaded.sources[f"server.{key}"] for key in ("port", "host", "debug", "drain_seconds")] == [
        "command line",
        "environment MES_SERVER_HOST",
        f"{FILE}:4",
        "default",
    ]


# Complaints


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("[server]\nport = 70000", "2:8", "at most 65535"),
        ("[server]\nport = -1", "2:8", "at least 0"),
        ("[server]\nport = '8004'", "2:8", "a whole number"),
        ("[server]\nport = true", "2:8", "a whole number"),
        ("[server]\nport = 1.5", "2:8", "a whole number"),
        ("[server]\nhost = ''", "2:8", "text in quotes"),
        ("[server]\nhost = 1", "2:8", "text in quotes"),
        ("[server]\ndebug = 1", "2:9", "true or false"),
        ("[server]\nlog_level = 'LOUD'", "2:13", "one of"),
        ("[server]\npublic_url = 'ws://a'", "2:14", "http(s)://"),
        ("[server]\npublic_url = 'http://a/?b'", "2:14", "http(s)://"),
        ("[server]\npublic_url = 'http://u:p@a'", "2:14", "http(s)://"),
        ("[server]\npublic_url = 'http://a/mcp/b'", "2:14", "mcp"),
        ("[server]\npublic_url = 'http://a/mcp'", "2:14", "mcp"),
        ("[server]\ntrusted_proxies = ['nginx']", "2:19", "IP addresses"),
        ("[server]\ntls_cert = 'c'", "2:12", "go together"),
        ("[server]\ntls_key = 'k'", "2:11", "go together"),
        ("[websocket]\nping_interval = 0", "2:17", "above 0"),
        ("[websocket]\nping_timeout = -1", "2:16", "above 0"),
        ("[websocket]\nclose_timeout = nan", "2:17", "above 0"),
        ("[websocket]\nclose_timeout = inf", "2:17", "above 0"),
        ("[websocket]\nmax_connections = 0", "2:19", "at least 1"),
        ("[security]\nagents = [\n  'a b']", "2:10", "agent ids"),
        ("[security]\nagents = ['a\\n']".replace("'", '"'), "2:10", "agent ids"),
        ("[security]\nallowed_origins = [1]", "2:19", "a list"),
        ("[security]\nopaque_tokens = 'sometimes'", "2:17", "loopback"),
        ("[logging]\nmax_file_size = '10XB'", "2:17", "a size"),
        ("[logging]\nmax_file_size = 'big'", "2:17", "a size"),
        ("[logging]\nmax_file_size = 10", "2:17", "at least 1000 "),
        ("[logging]\nmax_file_size = '9999GB'", "2:17", "at most 1000000000000"),
        ("[logging]\nbackup_count = -1", "2:16", "at least 0"),
        ("[endpoint]\ncall_timeout = 301", "2:16", "at most 300 seconds"),
        ("[limits]\nfragments = 0", "2:13", "at least 1"),
        ("[limits]\nhandshake_bytes = 1", "2:19", "at least 1024"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_line_column_and_what_would_be_right(tmp_path: Path, text: str, place: str, words: str) -> None:
    error = complaint(tmp_path, text)
    assert error.place == f"{FILE}:{place}"
    assert words in error.en
    assert error.exit_code == 78


def test_a_mistake_is_told_also_where_another_source_has_the_last_word(tmp_path: Path) -> None:
    assert complaint(tmp_path, "[server]\nport = 70000", {"MES_SERVER_PORT": "1"}).place == f"{FILE}:2:8"


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=60) | st.text("[]server.port=\"' \n#;1", max_size=60))
def test_any_text_at_all_loads_or_is_one_complaint_with_a_place(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    try:
        loaded = load(tmp_path_factory.getbasetemp(), text)
    except ConfigError as error:
        assert re.fullmatch(rf"{re.escape(FILE)}:\d+:\d+", error.place)
    else:
        assert msgspec.convert(msgspec.to_builtins(loaded.config), Config) == loaded.config, "what loads is in range"


# What works but will surprise


@pytest.mark.parametrize("origin", ["a.example", "https://a/b", "https://u@a", "HTTPS:a"])
def test_an_origin_no_browser_sends_is_a_warning(tmp_path: Path, origin: str) -> None:
    ((en, zh),) = load(tmp_path, f"[security]\nallowed_origins = ['{origin}', 'null', '*', 'file://', 'http://[::1]:80']").warnings
    assert origin.lower() in en
    assert origin.lower() in zh


@pytest.mark.parametrize("url", ["https://monKey.example", "https://a/caller"])
def test_an_address_that_a_single_module_refuses_is_a_warning(tmp_path: Path, url: str) -> None:
    ((en, _),) = load(tmp_path, f"[server]\npublic_url = '{url}'").warnings
    assert "single-module" in en


# The key


@pytest.mark.row("U2")
@pytest.mark.parametrize("bad", ["/", "+", "&", "%", "#", " ", "密", '"', "\\", "<"])
def test_a_key_that_breaks_the_addresses_made_with_it_is_refused_and_never_shown(tmp_path: Path, bad: str) -> None:
    key = KEY[:-4] + bad + KEY[-4:]
    error = complaint(tmp_path, "[server]\nkey = " + msgspec.json.encode(key).decode())
    assert error.place == f"{FILE}:2:7"
    assert KEY[:8] not in str(error)
    assert complaint(tmp_path, "", {"MES_SERVER_KEY": key}).place == "environment MES_SERVER_KEY"


@pytest.mark.parametrize(("text", "environ"), [(f"[server]\nkey = '{KEY[:31]}'", {}), ("", {"MES_SERVER_KEY": "short"})])
def test_a_short_key_is_refused_by_loading(tmp_path: Path, text: str, environ: dict[str, str]) -> None:
    error = complaint(tmp_path, text, environ)
    assert "fewer than 32" in error.en


def test_a_key_made_for_this_run_fills_the_gap_but_never_takes_the_place_of_a_given_one(tmp_path: Path) -> None:
    made = "m" * 32
    for text in ("", "[server]\nkey = ''", "[server]\nkey = 'short'"):
        put(tmp_path, text)
        loaded = config.load(tmp_path, {}, made_key=made)
        assert (loaded.config.server.key, loaded.sources["server.key"]) == (made, "memory")
    put(tmp_path, f"[server]\nkey = '{KEY}'")
    assert config.load(tmp_path, {}, made_key=made).config.server.key == KEY
    with pytest.raises(ConfigError, match="fewer"):
        config.load(tmp_path, {"MES_SERVER_KEY": "short"}, made_key=made)


# The tables


@pytest.mark.row("E6")
def test_the_example_shows_every_setting_at_its_default_in_order(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    text = (request.config.rootpath / EXAMPLE).read_text("utf-8")
    loaded = load(tmp_path, text)
    assert loaded.config == Config()
    assert loaded.warnings == ()
    assert [name for name in SETTINGS if loaded.sources[name] == "default"] == []
    assert [f"{section}.{key}" for section, table in tomli.loads(text).items() for key in table] == list(SETTINGS)
    tool = load(tmp_path, text.replace('# [endpoint.tools."', '[endpoint.tools."').replace("# timeout = 60", "timeout = 60"))
    assert [tool.timeout for tool in tool.config.endpoint.tools.values()] == [60]


def test_every_comment_of_the_example_is_in_both_languages(request: pytest.FixtureRequest) -> None:
    text = (request.config.rootpath / EXAMPLE).read_text("utf-8")
    blocks = re.findall(r"(?:^# .*\n|^#\n)+", text, re.MULTILINE)
    assert len(blocks) > 40
    for block in blocks:
        assert re.search("[\u4e00-\u9fff]", block), block
        assert re.search(r"[A-Za-z]+ [A-Za-z]+", block), block


# Tables that a file may hold several of


def test_pools_of_credentials_and_gateways_are_read_from_tables_of_their_own(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        """
[credentials.fly]
accounts = "accounts.txt"
retries = 2
[[gateway]]
name = "air"
target = "https://air.example/mcp/"
credentials = "fly"
place = "query:api_key"
[[gateway]]
name = "plain"
target = "http://127.0.0.1:9"
timeout = 3
""",
    )
    assert loaded.config.credentials == {"fly": CredentialSettings(accounts="accounts.txt", retries=2)}
    assert [(gateway.name, gateway.credentials, gateway.place, gateway.timeout) for gateway in loaded.config.gateway] == [
        ("air", "fly", "query:api_key", 300.0),
        ("plain", "", "bearer", 3.0),
    ]
    assert loaded.sources["gateway.2.timeout"].endswith(":13")
    assert loaded.sources["credentials.fly.retries"].endswith(":4")


def test_targets_to_dial_are_read_in_their_order_and_their_variables_are_left_for_the_start(tmp_path: Path) -> None:
    text = """
[[dial]]
name = "xiaozhi"
url = "wss://api.xiaozhi.me/mcp/?token=${XIAOZHI_TOKEN}"
endpoint = "home"
[[dial]]
name = "other"
url = "${OTHER_ADDRESS}"
"""
    loaded = load(tmp_path, text)
    assert [(one.name, one.url, one.endpoint) for one in loaded.config.dial] == [
        ("xiaozhi", "wss://api.xiaozhi.me/mcp/?token=${XIAOZHI_TOKEN}", "home"),
        ("other", "${OTHER_ADDRESS}", "single_module"),
    ]
    assert loaded.sources["dial.2.url"].endswith(":8")


DIAL = "[[dial]]\nname = 'x'\nurl = 'wss://h/?token=t'\n"
GATEWAY = "[[gateway]]\nname = 'x'\ntarget = 'http://h'\n"


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("[[gateway]]\nname = 'x'", "2:8", "has no target"),
        ("[[gateway]]\ntarget = 'http://h'", "2:10", "has no name"),
        (GATEWAY + GATEWAY, "5:8", 'two gateways named "x"'),
        (GATEWAY + "credentials = 'fly'\n[credentials.flu]\nenv = 'X'", "4:15", 'did you mean "flu"?'),
        (GATEWAY + "credentials = 'fly'", "4:15", "there is no [credentials.fly]"),
        (GATEWAY + "place = 'cookie:x'", "4:9", "expected bearer, query:NAME or header:NAME"),
        ("[[gateway]]\nname = 'a b'\ntarget = 'http://h'", "2:8", "expected 1 to 64 letters"),
        ("[[dial]]\nname = 'x'", "2:8", "has no url"),
        ("[[dial]]\nurl = 'wss://h/'", "2:7", "has no name"),
        ("[[dial]]\nname = 'x'\nurl = 'https://h/'", "3:7", "expected a wss:// or ws:// address"),
        ("[[dial]]\nname = 'x'\nurl = 'wss://h:port/'", "3:7", "expected a wss:// or ws:// address"),
        (DIAL + "endpoint = 'a b'", "4:12", "expected the name of an endpoint"),
        (DIAL + DIAL, "5:8", 'two [[dial]] named "x"'),
        ("[credentials.a]\nretries = -1", "2:11", "expected a whole number"),
    ],
)
def test_a_mistake_in_such_a_table_is_told_with_its_place(tmp_path: Path, text: str, place: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert caught.value.place.endswith(f".cfg:{place}"), caught.value.place
    assert words in caught.value.en


def test_records_with_secrets_in_them_are_for_loopback_only(tmp_path: Path) -> None:
    text = "[recorder]\non = true\nraw = true\n"
    assert load(tmp_path, text).config.recorder.raw
    with pytest.raises(ConfigError, match="listens on 127") as raised:
        load(tmp_path, '[server]\nhost = "0.0.0.0"\n' + text)
    assert raised.value.place.endswith(":5:7")
