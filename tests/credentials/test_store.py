"""Keys are read from where people keep them, and bans outlive a restart."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
from loguru import logger

from mcp_endpoint.credentials import store as module
from mcp_endpoint.credentials.pool import Credential, Verdict
from mcp_endpoint.credentials.store import Keyring, keyring, retry_after
from mcp_endpoint.errors import ConfigError
from mcp_endpoint.settings.load import CredentialSettings

KEYS = [f"sk-{letter * 40}" for letter in "abc"]


@pytest.fixture
def told() -> Iterator[list[str]]:
    lines: list[str] = []
    number = logger.add(lambda line: lines.append(f"{line} {line.record['extra']}"))
    yield lines
    logger.remove(number)


def ring(root: Path, environ: dict[str, str] | None = None, **settings: object) -> Keyring:
    return keyring("fly", CredentialSettings(**settings), root, environ or {})  # type: ignore[arg-type]


def secrets(found: Keyring) -> list[str]:
    return [credential.secret for credential in found.pool.credentials]


@pytest.mark.row("R1")
def test_an_accounts_file_gives_the_keys_of_its_good_lines_and_tells_the_others(tmp_path: Path, told: list[str]) -> None:
    (tmp_path / "accounts.txt").write_text(
        f"# mine\n\nann|pw1|{KEYS[0]}\nbob|pw2|{KEYS[1]}  \r\nno key here\ncarl|pw3|pk-other\ndora|pw4|sk-with blank\n|{KEYS[2]}\n", "utf-8"
    )
    found = ring(tmp_path, accounts="accounts.txt")
    assert secrets(found) == KEYS[:2]
    assert [credential.user for credential in found.pool.credentials] == ["ann", "bob"]
    lines = "".join(told)
    for number in (5, 6, 7, 8):
        assert f"accounts.txt:{number}" in lines
    assert "loaded" in lines
    for secret in (*KEYS, "pw1", "pk-other", "with blank"):
        assert secret not in lines


def test_a_plain_file_and_a_variable_give_keys_too(tmp_path: Path, told: list[str]) -> None:
    (tmp_path / "keys").write_text("\ufeffone\n# two\nthree\nbad key\n", "utf-8")
    found = ring(tmp_path, {"KEYS": "four, five;six\nseven"}, file="keys", env="KEYS")
    assert secrets(found) == ["one", "three", "four", "five", "six", "seven"]
    assert "keys:4" in "".join(told)


@pytest.mark.row("R1")
@pytest.mark.parametrize(
    ("settings", "content"),
    [({"accounts": "accounts.txt"}, None), ({"accounts": "accounts.txt"}, "only words\n"), ({"env": "NOT_SET"}, None), ({}, None)],
)
def test_without_a_key_it_says_so_in_the_words_people_search_for(tmp_path: Path, settings: dict[str, str], content: str | None) -> None:
    if content is not None:
        (tmp_path / "accounts.txt").write_text(content)
    with pytest.raises(ConfigError, match="未找到有效的token"):
        ring(tmp_path, **settings)


def test_a_file_that_cannot_be_read_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        ring(tmp_path, file="keys")
    monkeypatch.setattr(module, "FILE_BYTES", 1)
    with pytest.raises(ConfigError, match="larger than"):
        ring(tmp_path, file="keys")


def test_there_are_not_endlessly_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    with pytest.raises(ConfigError, match="more than 2 keys"):
        ring(tmp_path, {"KEYS": "a b c"}, env="KEYS")


@pytest.mark.row("R4")
def test_a_ban_survives_a_restart_and_holds_no_key(tmp_path: Path, told: list[str]) -> None:
    found = ring(tmp_path, {"KEYS": " ".join(KEYS)}, env="KEYS")
    first = found.take(0.0)
    assert first is not None
    assert found.report(first, 401, 0.0) is Verdict.BAN
    assert found.report(first, 403, 0.0) is Verdict.BAN
    file = tmp_path / "data/fly.bans.json"
    if os.name == "posix":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    written = file.read_text()
    assert json.loads(written)["banned"][first.fingerprint]["status"] == 401
    again = ring(tmp_path, {"KEYS": " ".join(KEYS)}, env="KEYS")
    assert again.pool.banned_credentials()[0].secret == first.secret
    assert first.secret not in {credential.secret for credential in [again.take(0.0) for _ in range(6)] if credential is not None}
    lines = "".join(told)
    assert lines.count("banned for good") == 1
    for secret in KEYS:
        assert secret not in written + lines


def test_a_ban_that_cannot_be_written_is_told_and_holds_until_the_end(tmp_path: Path, told: list[str]) -> None:
    found = ring(tmp_path, {"KEYS": "a b"}, env="KEYS")
    (tmp_path / "bans").mkdir()
    found.bans = tmp_path / "bans"
    first = found.take(0.0)
    assert first is not None
    found.report(first, 401, 0.0)
    assert "cannot be written" in "".join(told)
    assert found.pool.counts(0.0).banned == 1


def test_a_broken_file_of_bans_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "bans.json").write_text("{")
    with pytest.raises(ConfigError, match="remove it to begin anew") as caught:
        ring(tmp_path, {"KEYS": "a"}, env="KEYS", bans="bans.json")
    assert caught.value.place == str(tmp_path / "bans.json")


def test_what_rests_and_what_is_taken_up_again_is_told(tmp_path: Path, told: list[str]) -> None:
    found = ring(tmp_path, {"KEYS": KEYS[0]}, env="KEYS")
    first = found.take(0.0)
    assert first is not None
    assert found.report(first, 200, 0.0) is Verdict.FINE
    assert found.report(first, None, 0.0) is Verdict.REST
    assert found.take(0.0) is first
    lines = "".join(told)
    assert "key rests" in lines
    assert "所有token都已失效" in lines
    assert KEYS[0] not in lines


def test_a_pickle_of_bans_is_never_opened_and_one_line_says_what_to_do(tmp_path: Path, told: list[str]) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "blacklist.pkl").write_bytes(f"cposix\nsystem\n(S'touch {ran}'\ntR.".encode())
    ring(tmp_path, {"KEYS": "a"}, env="KEYS")
    assert not ran.exists()
    assert "".join(told).count("blacklist.pkl is never read") == 1


def test_a_credential_knows_no_more_than_it_was_given() -> None:
    assert Credential("short").preview == "sh..."
    assert Credential("short").shown.startswith("… (sha256 ")


@pytest.mark.row("R5")
def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after("120") == 120.0
    assert retry_after(" 0 ") == 0.0
    date = retry_after(formatdate(time.time() + 100, usegmt=True))
    assert date is not None and 90 < date <= 100
    assert retry_after(formatdate(0, usegmt=True)) == 0.0
    for nothing in (None, "", "soon", "-1", "²", "Mon, 99 Foo 20000000000 99:99:99 GMT"):
        assert retry_after(nothing) is None
