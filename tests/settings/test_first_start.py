"""What the first start writes, and the old form rewritten."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest
import tomli
from live_file import KEY, load, put

from mcp_endpoint.access import tokens
from mcp_endpoint.errors import ConfigError
from mcp_endpoint.settings import first_start
from mcp_endpoint.settings import load as config
from mcp_endpoint.settings.first_start import EXAMPLE, Prepared, convert
from mcp_endpoint.settings.sources import FILE

NOTHING = Prepared("", (), ())


def prepare(root: Path, environ: Mapping[str, str] = {}, overrides: Mapping[str, str] = {}) -> Prepared:
    return first_start.prepare(root, tokens.make_key, environ, overrides)


def example(root: Path, text: str) -> None:
    (root / EXAMPLE).write_text(text, encoding="utf-8", newline="")


@pytest.mark.row("E6", "U2", "D31")
def test_the_first_start_copies_the_example_with_a_key_and_nothing_else_changed(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    text = (request.config.rootpath / EXAMPLE).read_text("utf-8")
    example(tmp_path, text)
    prepared = prepare(tmp_path)
    assert [en for en, _ in prepared.notes] == [f"created {FILE}", f"made a new [server] key in {FILE}"]
    assert (prepared.key, prepared.warnings) == ("", ())
    loaded = config.load(tmp_path, {})
    key = loaded.config.server.key
    assert re.fullmatch(r"[A-Za-z0-9]{32}", key)
    assert not tokens.refused_by_xiaozhi(tokens.TokenCodec(key).make_xiaozhi(tokens.SINGLE_MODULE))
    assert (tmp_path / FILE).read_text("utf-8") == text.replace('key = ""', f'key = "{key}"', 1)
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert os.listdir(tmp_path / "data") == [".mcp-endpoint-server.cfg"], "nothing is left beside it"
    assert (tmp_path / EXAMPLE).read_text("utf-8") == text
    assert prepare(tmp_path) == NOTHING
    assert config.load(tmp_path, {}).config.server.key == key, "the second start changes nothing"


def test_another_root_gets_the_annotated_example_of_the_checkout_the_program_runs_from(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """As after `pip install -e .`, with `--root` elsewhere."""
    assert prepare(tmp_path).notes[0] == (f"created {FILE}", f"已创建 {FILE}")
    text = (request.config.rootpath / EXAMPLE).read_text("utf-8")
    key = config.load(tmp_path, {}).config.server.key
    assert (tmp_path / FILE).read_text("utf-8") == text.replace('key = ""', f'key = "{key}"', 1)


@pytest.mark.row("E6")
def test_the_live_file_wins_over_the_example(tmp_path: Path) -> None:
    example(tmp_path, "[server]\nport = 1")
    path = put(tmp_path, f"[server]\nport = 2\nkey = '{KEY}'")
    before = path.read_bytes()
    assert prepare(tmp_path) == NOTHING
    assert path.read_bytes() == before
    assert config.load(tmp_path, {}).config.server.port == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX has FIFOs")
def test_a_fifo_in_the_place_of_the_file_is_a_complaint_and_nobody_waits(tmp_path: Path) -> None:
    (tmp_path / FILE).parent.mkdir()
    os.mkfifo(tmp_path / FILE)
    with pytest.raises(ConfigError, match="not a regular file"):
        prepare(tmp_path)


def test_without_an_example_the_first_start_still_makes_a_file_with_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_start, "CHECKOUT", tmp_path / "none")
    prepare(tmp_path)
    assert list(tomli.loads((tmp_path / FILE).read_text("utf-8"))["server"]) == ["key"]


@pytest.mark.row("D31")
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '[server]\nkey = "K"\n'),
        ("# c\n[websocket]\nping_timeout = 3", '# c\n[websocket]\nping_timeout = 3\n[server]\nkey = "K"\n'),
        ("[websocket]\n", '[websocket]\n[server]\nkey = "K"\n'),
        ("[server] # here\r\nport = 3\r\n", '[server] # here\r\nkey = "K"\r\nport = 3\r\n'),
        ("[server]\nport = 3\nkey = '' # c\n", '[server]\nport = 3\nkey =  "K"  # c\n'),
        ("[server]\nkey = '''''' # c\n", '[server]\nkey = "K" # c\n'),
        ("server.port = 3\nserver.key = ''", 'server.port = 3\nserver.key = "K"'),
        ("server = { port = 3, key = '' }", None),
        ("server = { port = 3 }", None),
        ("server.port = 3", None),
        ("[server]\nkey = '''\n'''", None),
        ("; c\n[server]\nhost = a ; b\n", "; c\n[server]\nkey = K\nhost = a ; b\n"),
        ("[server]\r\nhost = a\r\nkey = # c\r\n", "[server]\r\nhost = a\r\nkey =  K # c\r\n"),
        ("[server]\nhost = a\nkey =", "[server]\nhost = a\nkey = K "),
        ("[logging]\nlog_file = a\n", "[logging]\nlog_file = a\n[server]\nkey = K\n"),
    ],
)
def test_a_key_is_written_into_a_file_without_one_and_every_other_byte_stays(tmp_path: Path, before: str, after: str | None) -> None:
    path = put(tmp_path, before)
    prepared = prepare(tmp_path)
    if after is None:
        assert path.read_bytes() == before.encode(), "a file too unusual to be changed is left alone"
        assert len(prepared.key) == 32
        ((en, _),) = prepared.warnings
        assert "memory" in en
    else:
        loaded = config.load(tmp_path, {})
        written = path.read_bytes().decode().replace(loaded.config.server.key, "K")
        assert re.sub(" +", " ", written) == re.sub(" +", " ", after)
        assert [en for en, _ in prepared.notes] == [f"made a new [server] key in {FILE}"]


@pytest.mark.parametrize(
    ("before", "after"),
    [("[server]\nkey = 'short' # c\n", '[server]\nkey = "K" # c\n'), ("[server]\nkey=short;x # c\n", "[server]\nkey=K # c\n")],
)
def test_a_key_too_short_for_the_original_is_replaced_as_the_original_did_and_that_is_told(tmp_path: Path, before: str, after: str) -> None:
    path = put(tmp_path, before)
    ((en, _),) = prepare(tmp_path).warnings
    assert "fewer than 32" in en
    assert path.read_bytes().decode().replace(config.load(tmp_path, {}).config.server.key, "K") == after


def test_a_usable_key_is_never_replaced(tmp_path: Path) -> None:
    for text in (f"[server]\nkey = {KEY}\nhost = a\n", f"[server]\nkey = '{KEY}'", f"[server]\nkey = '{KEY * 3}'"):
        path = put(tmp_path, text)
        assert prepare(tmp_path) == NOTHING
        assert path.read_bytes() == text.encode()


@pytest.mark.parametrize(
    ("text", "environ", "overrides"),
    [
        ("[server]\nport = 70000", {}, {}),
        ("[server]\nprot = 1", {}, {}),
        ('[server]\nhost = "', {}, {}),
        ("[server]\nkey = 'a/" + KEY + "'", {}, {}),
        ("[server]\n", {"MES_SERVER_PORT": "x"}, {}),
        ("[server]\n", {"MES_SERVER_KEY": "short"}, {}),
        ("[server]\n", {}, {"server.prot": "1"}),
    ],
)
def test_nothing_is_written_while_anything_is_wrong(tmp_path: Path, text: str, environ: dict[str, str], overrides: dict[str, str]) -> None:
    path = put(tmp_path, text)
    with pytest.raises(ConfigError):
        prepare(tmp_path, environ, overrides)
    assert path.read_bytes() == text.encode()
    path.unlink()
    example(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        prepare(tmp_path, environ, overrides)
    assert not path.exists()
    assert raised.value.place.startswith((f"{EXAMPLE}:", "environment ", "command line"))


def test_a_key_from_the_environment_is_not_written_down(tmp_path: Path) -> None:
    example(tmp_path, "[server]\nkey = ''\n")
    prepared = prepare(tmp_path, {"MES_SERVER_KEY": KEY})
    assert [en for en, _ in prepared.notes] == [f"created {FILE}"]
    assert (tmp_path / FILE).read_text() == "[server]\nkey = ''\n"


def test_a_change_that_would_say_anything_else_than_the_key_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path, "[server]\nport = 1\n")
    monkeypatch.setattr(first_start, "_with_key", lambda text, key: f"[server]\nport = 2\nkey = '{key}'")
    assert len(prepare(tmp_path).key) == 32
    assert path.read_text() == "[server]\nport = 1\n"


def refuse_to_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(source: object, target: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "replace", read_only)


def test_where_nothing_can_be_written_the_key_lives_in_memory_and_that_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_to_replace(monkeypatch)
    prepared = prepare(tmp_path)
    ((en, zh),) = prepared.warnings
    assert "memory" in en
    assert "MES_SERVER_KEY" in zh
    assert prepared.key not in en + zh
    loaded = config.load(tmp_path, {}, made_key=prepared.key)
    assert (loaded.config.server.key, loaded.sources["server.key"]) == (prepared.key, "memory")
    assert os.listdir(tmp_path / "data") == [], "nothing is left behind"
    assert prepare(tmp_path, {"MES_SERVER_KEY": KEY}) == NOTHING, "nothing to tell where nothing was needed"


def test_a_folder_that_cannot_be_made_is_the_same_as_a_read_only_one(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    assert len(prepare(tmp_path).key) == 32


# The old form


def test_an_old_file_loads_with_a_warning_and_converts_to_the_same_values(tmp_path: Path) -> None:
    text = "[server]\nhost = a # b\nport = 0080\nodd = 1\n"
    text += "[websocket]\nping_timeout = 2.50\nping_interval = 30\n[odd]\ndebug = Yes\n[logging]\n"
    loaded = load(tmp_path, text)
    assert [en.partition(": ")[0] for en, _ in loaded.warnings[1:]] == [f"{FILE}:4:1", f"{FILE}:9:1"]
    converted = convert(text)
    assert converted.splitlines()[1:3] == ['host = "a" # b', "port = 80"]
    assert converted.splitlines()[5:7] == ["ping_timeout = 2.5", "ping_interval = 30"]
    assert load(tmp_path, converted).config == loaded.config
    assert load(tmp_path, converted).warnings == ()
    with pytest.raises(ConfigError, match="already"):
        convert(converted)
