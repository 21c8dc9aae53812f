"""The old file is recognised, read and rewritten as TOML."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tomli
from hypothesis import given, settings
from hypothesis import strategies as st
from live_file import load

from mcp_endpoint.errors import ConfigError
from mcp_endpoint.settings import ini as config_ini
from mcp_endpoint.settings.described import SETTINGS, Setting
from mcp_endpoint.settings.first_start import convert
from mcp_endpoint.settings.schema import Config, Server
from mcp_endpoint.settings.sources import FILE

DOCUMENTED = """\
[server]
host = 127.0.0.1          # 服务器监听地址
port = 8004               # 服务器监听端口
debug = false             # 调试模式
log_level = INFO          # 日志级别

[websocket]
max_connections = 1000    # 最大连接数
ping_interval = 30        # 心跳间隔(秒)
ping_timeout = 10         # 心跳超时(秒)
close_timeout = 10        # 关闭超时(秒)

[security]
allowed_origins = *       # 允许的源
enable_cors = true        # 启用CORS

[logging]
log_file = logs/mcp_server.log  # 日志文件路径
max_file_size = 10MB            # 日志文件最大大小
backup_count = 5                # 日志备份数量
"""
"""The block of the original's documents, to the letter."""

KEY = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
WRITTEN = f"""\
[server]
host = 0.0.0.0
port = 8004
debug = False
log_level = INFO
key = {KEY}

[websocket]
max_connections = 1000
ping_interval = 30
ping_timeout = 10
close_timeout = 10

[security]
allowed_origins = *
enable_cors = True

[logging]
log_file = logs/mcp_server.log
max_file_size = 10MB
backup_count = 5

"""
"""A file as the original's start-up leaves it behind: its key written in, no comments."""


def complaint(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as raised:
        list(config_ini.read(text, "old.cfg"))
    return raised.value


def comments(text: str) -> list[str]:
    """The words of every comment in order, whatever the sign before them."""
    return [found.strip() for found in re.findall(r"(?:^|\s)[#;](.*)", text, re.MULTILINE)]


# Recognising


@pytest.mark.row("E20", "D26")
@pytest.mark.parametrize(
    "text",
    [
        DOCUMENTED,
        WRITTEN,
        "[server]\nhost = localhost",
        "[server]\ndebug = True",
        "[server]\nport = 80o4",
        "; old\n[server]\nport=1",
        "[server]\nkey =",
    ],
)
def test_an_old_file_is_recognised_by_its_content(text: str) -> None:
    assert config_ini.recognised(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing",
        "[server]\nport = 8004",
        'host = "a"',
        '[server]\nhost = "a"\ndebug = True',
        "[server]\nhost = 'a\nport = x",
        "[security]\nagents = [a]",
        "[server]\nx = {a}",
        "just words",
        "[server",
        "[server]\nport = " + "9" * 5000 + '\nhost = "a"',
    ],
)
def test_toml_with_or_without_a_mistake_is_not_taken_for_an_old_file(text: str) -> None:
    assert not config_ini.recognised(text)


# Reading


@pytest.mark.row("E20", "D26")
def test_the_block_of_the_originals_documents_loads_to_the_documented_values(tmp_path: Path) -> None:
    loaded = load(tmp_path, DOCUMENTED)
    assert loaded.config == Config()
    assert loaded.sources["logging.backup_count"] == f"{FILE}:20"
    (warning,) = loaded.warnings
    assert all("mcp-endpoint config convert" in words for words in warning)


@pytest.mark.row("U2")
def test_the_file_the_original_leaves_behind_keeps_its_key(tmp_path: Path) -> None:
    server = load(tmp_path, WRITTEN).config.server
    assert (server.key, server.host, server.debug) == (KEY, "0.0.0.0", False)


def test_comments_begin_with_either_sign_after_a_blank_and_nowhere_else() -> None:
    text = "[a] ; one\nb = c#d;e # f ; g\nh: i=j\t;k\nl = # m\nn = ;\n  o =\n# p = q\n  ;r"
    lines = [line for line in config_ini.read(text, "old.cfg") if line.kind == "pair"]
    assert [(line.key, line.value, line.comment) for line in lines] == [
        ("b", "c#d;e", "# f ; g"),
        ("h", "i=j", ";k"),
        ("l", "", "# m"),
        ("n", "", ";"),
        ("o", "", ""),
    ]
    assert [(line.number, line.column, line.value_column) for line in lines] == [(2, 1, 5), (3, 1, 4), (4, 1, 5), (5, 1, 5), (6, 3, 6)]


def test_names_are_compared_in_lower_case_as_the_original_did() -> None:
    lines = list(config_ini.read("[Server]\nPort = 1\nHOST: ::1", "old.cfg"))
    assert [(line.section, line.key, line.value) for line in lines] == [
        ("server", "", ""),
        ("server", "port", "1"),
        ("server", "host", "::1"),
    ]


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("[server]\nport = 1\n PORT : 2", "old.cfg:3:2", "line 2"),
        ("[server]\n[websocket]\n [server] # again", "old.cfg:3:2", "line 1"),
        ("# c\n  port = 1", "old.cfg:2:3", "before any"),
        ("[server]\n  words without a sign", "old.cfg:2:3", "neither"),
        ("[server]\n= 3", "old.cfg:2:1", "neither"),
        ("[server\nport = 1", "old.cfg:1:1", "neither"),
        ("[server] port = 1", "old.cfg:1:1", "neither"),
    ],
)
def test_a_line_that_cannot_be_meant_is_refused_with_its_place(text: str, place: str, words: str) -> None:
    error = complaint(text)
    assert error.place == place
    assert words in error.en
    assert re.search("[\u4e00-\u9fff]", error.zh)


@pytest.mark.parametrize("form", ["{0}", "\ufeff{0}"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_byte_order_marks_and_windows_line_ends_change_nothing(tmp_path: Path, form: str, newline: str) -> None:
    assert load(tmp_path, form.format(DOCUMENTED.replace("\n", newline))).config == Config()


def test_full_width_blanks_around_a_value_are_blanks(tmp_path: Path) -> None:
    text = "[server]\nhost =\u3000localhost\u3000# 地址"
    assert load(tmp_path, text).config.server.host == "localhost"
    assert convert(text) == '[server]\nhost = "localhost" # 地址'


def test_a_name_the_program_does_not_know_is_a_warning_with_its_place(tmp_path: Path) -> None:
    loaded = load(tmp_path, "[server]\nhost = localhost\nprot = 1\n[old]\nx = 1\n")
    assert [en.partition(" ")[0] for en, _ in loaded.warnings[1:]] == [f"{FILE}:3:1:", f"{FILE}:5:1:"]
    assert '"port"' in loaded.warnings[1][0]
    assert loaded.config == Config(server=Server(host="localhost"))


# Rewriting


@pytest.mark.row("E20")
def test_the_documented_block_becomes_toml_with_the_same_values_and_every_comment_in_its_place(tmp_path: Path) -> None:
    converted = convert(DOCUMENTED)
    assert tomli.loads(converted)["logging"] == {"log_file": "logs/mcp_server.log", "max_file_size": "10MB", "backup_count": 5}
    loaded = load(tmp_path, converted)
    assert loaded.config == Config()
    assert loaded.warnings == ()
    assert comments(converted) == comments(DOCUMENTED)
    assert converted.splitlines()[1:3] == ['host = "127.0.0.1"          # 服务器监听地址', "port = 8004               # 服务器监听端口"]


def test_the_written_file_becomes_toml_with_its_key(tmp_path: Path) -> None:
    converted = convert(WRITTEN)
    assert f'key = "{KEY}"' in converted.splitlines()
    assert load(tmp_path, converted).config == load(tmp_path, WRITTEN).config


def test_what_the_program_does_not_know_stays_as_a_comment(tmp_path: Path) -> None:
    text = "; top\n[server] ; s\n\tport = 9\t; p\nprot = 1 ; q\n[old] # o\n  x = 1\n\n[logging]\nbackup_count = 3"
    converted = convert(text)
    assert converted == "# top\n[server] # s\n\tport = 9\t# p\n# prot = 1 ; q\n# [old] # o\n#   x = 1\n\n[logging]\nbackup_count = 3"
    assert load(tmp_path, converted).config == load(tmp_path, text).config


def test_characters_toml_forbids_are_escaped(tmp_path: Path) -> None:
    text = '[server]\ntls_cert = C:\\dir\\"a"\x01\x7f.pem # \x00bell\x07\rreturn\x7f\ntls_key = k\n# \x1b[31m\n\x0c\nhost = a'
    converted = convert(text)
    tomli.loads(converted)
    assert load(tmp_path, converted).config == load(tmp_path, text).config
    assert "# \\x00bell\\x07\\x0dreturn\\x7f" in converted


def test_windows_line_ends_stay() -> None:
    converted = convert(DOCUMENTED.replace("\n", "\r\n"))
    assert converted.count("\r\n") == converted.count("\n") == DOCUMENTED.count("\n")
    assert converted.replace("\r\n", "\n") == convert(DOCUMENTED)


def test_a_file_with_a_mistake_is_not_converted() -> None:
    with pytest.raises(ConfigError) as raised:
        convert("[server]\nhost = a\nport = 70000", "old.cfg")
    assert raised.value.place == "old.cfg:3:8"


def test_toml_is_not_converted_again() -> None:
    with pytest.raises(ConfigError, match="already"):
        convert(convert(DOCUMENTED))


KEYS = st.text(st.sampled_from("abcdefghij0123456789ABCDEF"), min_size=32, max_size=40)
WORDS = st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters="\"'[{#;"), min_size=1, max_size=12)
COMMENT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\n"), max_size=20)
NUMBERS = {"int": (st.integers(10, 1000).map(str)), "float": st.integers(1, 299).map(str) | st.sampled_from(["2.5", "0010", "+3", "7."])}
OWN = {
    "server.key": KEYS,
    "server.public_url": st.just("") | st.just("https://mcp.example.com/路径"),
    "server.trusted_proxies": st.lists(st.sampled_from(["10.0.0.0/8", "::1", "192.168.1.1"]), max_size=3).map(", ".join),
    "security.agents": st.lists(st.sampled_from(["a", "b-1", "C_2"]), max_size=3).map(",".join),
    "security.allowed_origins": st.sampled_from(["*", "https://A.example/,http://b", ""]),
    "server.log_level": st.sampled_from(["INFO", "debug", "Warning"]),
    "limits.string_id_bytes": st.just("128"),
}


def spelled(setting: Setting) -> st.SearchStrategy[str]:
    """Right values of a setting, as people wrote them in old files."""
    if setting.name in OWN:
        return OWN[setting.name]
    match setting.kind:
        case "bool":
            return st.sampled_from(["true", "False", "YES", "no", "on", "0", "1"])
        case "int" | "float":
            return NUMBERS[setting.kind]
        case "size":
            return st.sampled_from(["10MB", "2048", "1.5 mb", "64KiB"])
        case "choice":
            return st.sampled_from(setting.expected[0].removeprefix("one of ").split(", "))
        case "list":
            return st.lists(WORDS, max_size=3).map(" , ".join)
        case _:
            return WORDS


@st.composite
def old_files(draw: st.DrawFn) -> str:
    """Old files: known and unknown names in any order and case, with comments of both signs and any spacing."""
    names = draw(st.lists(st.sampled_from(sorted(SETTINGS)), unique=True, min_size=1, max_size=12))
    certificate = {"server.tls_cert", "server.tls_key"}
    names = [name for name in names if name not in certificate] + (sorted(certificate) if certificate & set(names) else [])
    lines = ["[server]" + draw(st.sampled_from(["", " # s", "\t; s"])), "host = somewhere.example"]
    sections = draw(st.permutations(sorted({SETTINGS[name].section for name in names} - {"server"} | {"strange"})))
    lines.extend(f"[{section}]" for section in sections)
    for name in names:
        if name == "server.host":
            continue
        section, key = name.split(".")
        at = next(index for index, line in enumerate(lines) if line.lower().startswith(f"[{section}]"))
        value = draw(spelled(SETTINGS[name]))
        tail = draw(st.just("") | COMMENT.map(lambda words: f"  # {words}") | COMMENT.map(lambda words: f"\t;{words}"))
        sign = draw(st.sampled_from([" = ", "=", ": ", " :\t"]))
        lines.insert(at + 1, draw(st.sampled_from(["", "  "])) + draw(st.sampled_from([key, key.upper()])) + sign + value + tail)
    for _ in range(draw(st.integers(0, 4))):
        filler = draw(st.just("") | COMMENT.map(lambda words: f"#{words}") | COMMENT.map(lambda words: f" ;{words}"))
        lines.insert(draw(st.integers(0, len(lines))), filler)
    lines.insert(len(lines), f"unknown_{draw(st.integers(0, 9))} = x # y")
    return draw(st.sampled_from(["\n", "\r\n"])).join(lines)


@settings(max_examples=200)
@given(text=old_files())
def test_any_old_file_loads_to_the_same_values_after_conversion_with_comments_and_order_kept(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    root = tmp_path_factory.mktemp("old")
    before = load(root, text)
    converted = convert(text)
    after = load(root, converted)
    assert after.config == before.config
    assert {name for name, source in after.sources.items() if source != "default"} == {
        name for name, source in before.sources.items() if source != "default"
    }
    assert after.sources == before.sources, "every setting stands in the line it stood in"
    old, new = text.split("\n"), converted.split("\n")
    assert len(old) == len(new)
    for was, now in zip(old, new, strict=True):
        comment = re.search(r"(?:^|\s)[#;](.*)", was)
        assert comment is None or printable(comment[1]) in printable(now)


def printable(text: str) -> str:
    """Without what TOML forbids in a comment, raw or escaped."""
    return re.sub(r"\\x[0-9a-f]{2}|[\x00-\x1f\x7f]", "", text).strip()
