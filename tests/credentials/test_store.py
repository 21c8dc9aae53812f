"""Keys are read from where people keep them, and bans outlive a restart."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from loguru import logger

from mcp_endpoint.credentials import store as module
from mcp_endpoint.credentials.pool import Credential
from mcp_endpoint.credentials.refusals import Answer
from mcp_endpoint.credentials.store import Ban, BansFile, CredentialStore, credential_store, read_bans, stamp_of, write_bans
from mcp_endpoint.errors import ConfigError
from mcp_endpoint.settings.schema import CredentialSettings

KEYS = [f"sk-{letter * 40}" for letter in "abc"]


@pytest.fixture
def told() -> Iterator[list[str]]:
    lines: list[str] = []
    number = logger.add(lambda line: lines.append(f"{line} {line.record['extra']}"))
    yield lines
    logger.remove(number)


def ring(root: Path, environ: dict[str, str] | None = None, **settings: object) -> CredentialStore:
    return credential_store("fly", CredentialSettings(**settings), root, environ or {}, lambda: 0.0)  # type: ignore[arg-type]


def refuse(found: CredentialStore, credential: Credential) -> None:
    """The service refuses this key, and takes another for the same request."""
    found.pool.ban(credential, 401, 0.0)


def secrets(found: CredentialStore) -> list[str]:
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
    with pytest.raises(ConfigError, match="more than 1 bytes"):
        ring(tmp_path, file="keys")


def test_there_are_not_endlessly_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    with pytest.raises(ConfigError, match="more than 2 keys"):
        ring(tmp_path, {"KEYS": "a b c"}, env="KEYS")


@pytest.mark.row("R4")
def test_a_ban_survives_a_restart_and_holds_no_key(tmp_path: Path, told: list[str]) -> None:
    found = ring(tmp_path, {"KEYS": " ".join(KEYS)}, env="KEYS")
    first = found.pool.credentials[0]
    refuse(found, first)
    refuse(found, first)
    file = tmp_path / "data/fly.bans.json"
    if os.name == "posix":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    written = file.read_text()
    assert json.loads(written)["banned"][first.fingerprint]["status"] == 401
    again = ring(tmp_path, {"KEYS": " ".join(KEYS)}, env="KEYS")
    assert again.pool.banned_credentials()[0].secret == first.secret
    assert first.secret not in {credential.secret for credential in [again.pool.take(0.0) for _ in range(6)] if credential is not None}
    lines = "".join(told)
    assert lines.count("key banned, tried again after 86400 s") == 1
    for secret in KEYS:
        assert secret not in written + lines


def test_a_ban_is_checked_again_after_its_time_counted_over_restarts(tmp_path: Path, told: list[str]) -> None:
    found = ring(tmp_path, {"KEYS": " ".join(KEYS)}, env="KEYS")
    refuse(found, found.pool.credentials[0])
    file = tmp_path / "data/fly.bans.json"
    kept = json.loads(file.read_text())
    [ban] = kept["banned"].values()
    for since, recheck, tried in (
        (stamp_of(time.time() - 90), 100.0, False),
        (stamp_of(time.time() - 110), 100.0, True),
        (stamp_of(time.time() - 110), 0.0, False),
        ("long ago", 100.0, False),
    ):
        ban["since"] = since
        file.write_text(json.dumps(kept))
        again = ring(tmp_path, {"KEYS": " ".join(KEYS)}, env="KEYS", recheck_seconds=recheck)
        assert (again.pool.take(0.0) is again.pool.credentials[0]) is tried, (since, recheck)
        if tried:
            again.pool.worked(again.pool.credentials[0], None)
            assert json.loads(file.read_text())["banned"] == {}
            assert "its ban is lifted" in "".join(told)


def test_a_ban_that_cannot_be_written_is_told_and_holds_until_the_end(tmp_path: Path, told: list[str]) -> None:
    found = ring(tmp_path, {"KEYS": "a b"}, env="KEYS")
    (tmp_path / "bans").mkdir()
    found.bans = tmp_path / "bans"
    refuse(found, found.pool.credentials[0])
    assert "cannot be written" in "".join(told)
    assert found.pool.counts(0.0).banned == 1


def test_a_broken_file_of_bans_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "bans.json").write_text("{")
    with pytest.raises(ConfigError, match="remove it to begin anew") as caught:
        ring(tmp_path, {"KEYS": "a"}, env="KEYS", bans="bans.json")
    assert caught.value.place == str(tmp_path / "bans.json")


def test_what_rests_and_what_is_taken_up_again_is_told(tmp_path: Path, told: list[str]) -> None:
    found = ring(tmp_path, {"KEYS": KEYS[0]}, env="KEYS")
    rotation = found.rotation(None)
    first = rotation.take(0.0)
    assert first is not None
    rotation.answered(first, Answer(None), 0.0, repeatable=True)
    assert found.rotation(None).take(0.0) is first
    lines = "".join(told)
    assert "key rests" in lines
    assert "所有token都已失效" in lines
    assert KEYS[0] not in lines


async def test_an_edit_is_taken_over_and_what_cannot_be_used_changes_nothing(tmp_path: Path, told: list[str]) -> None:
    accounts = tmp_path / "accounts.txt"
    accounts.write_text(f"ann|pw|{KEYS[0]}\n")
    found = ring(tmp_path, accounts="accounts.txt")
    before = found.pool.credentials[0]
    await found.look()
    assert "read again" not in "".join(told)
    accounts.write_text(f"bob|pw|{KEYS[1]}\nann|pw|{KEYS[0]}\n")
    await found.look()
    assert secrets(found) == [KEYS[1], KEYS[0]]
    assert found.pool.credentials[1] is before
    accounts.write_text("nothing of use here\n")
    await found.look()
    assert secrets(found) == [KEYS[1], KEYS[0]]
    assert "they stay as they were" in "".join(told)
    accounts.unlink()
    await found.look()
    if hasattr(os, "mkfifo"):
        os.mkfifo(accounts)
        await found.look()
        assert "not a regular file" in "".join(told)
    assert secrets(found) == [KEYS[1], KEYS[0]]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX has FIFOs")
async def test_bans_in_whose_place_stands_a_fifo_or_a_huge_file_stay_as_they_were(tmp_path: Path, told: list[str]) -> None:
    found = ring(tmp_path, {"KEYS": " ".join(KEYS)}, env="KEYS")
    refuse(found, found.pool.credentials[0])
    found.bans.unlink()
    os.mkfifo(found.bans)
    await found.look()
    assert "not a regular file" in "".join(told)
    found.bans.unlink()
    with found.bans.open("wb") as file:
        file.truncate(module.BANS_BYTES + 1)
    await found.look()
    assert f"more than {module.BANS_BYTES} bytes" in "".join(told)
    assert found.pool.counts(0.0).banned == 1


def test_the_bans_of_a_full_pool_fit_into_the_file_that_is_read() -> None:
    ban = Ban("2026-01-01T00:00:00Z", 401)
    size = len(msgspec.json.format(msgspec.json.encode(BansFile(banned={f"{number:064}": ban for number in range(100)})), indent=1))
    assert size / 100 <= module.BANS_BYTES / module.MOST


async def test_bans_and_rests_that_an_operator_writes_count_beside_our_own(tmp_path: Path, told: list[str]) -> None:
    found = ring(tmp_path, {"KEYS": " ".join(KEYS)}, env="KEYS")
    a, b, c = found.pool.credentials
    refuse(found, a)
    await found.look()
    assert "read again" not in "".join(told), "what we wrote ourselves is no edit"
    kept = BansFile(resting={b.fingerprint: stamp_of(time.time() + 100), c.fingerprint: stamp_of(time.time() - 100)})
    write_bans(found.bans, kept)
    refuse(found, c)
    assert found.pool.counts(0.0).banned == 2
    await found.look()
    assert [figure["state"] for figure in found.figures(9)] == ["available", "resting", "banned"]
    assert read_bans(found.bans).resting == kept.resting
    assert "by hand" in "".join(told)
    again = ring(tmp_path, {"KEYS": " ".join(KEYS)}, env="KEYS")
    assert [figure["state"] for figure in again.figures(9)] == ["available", "resting", "banned"]
    write_bans(again.bans, BansFile())
    await again.look()
    assert again.pool.counts(0.0).available == 3


def test_the_figures_show_no_key_and_times_in_utc(tmp_path: Path) -> None:
    found = ring(tmp_path, {"KEYS": " ".join(KEYS)}, env="KEYS")
    found.pool.take(0.0)
    found.pool.answered(found.pool.credentials[0], 200)
    found.pool.rest(found.pool.credentials[1], 429, 0.0)
    first, second, _ = found.figures(3)
    assert (first["requests"], first["last_status"], first["resting_until"]) == (1, 200, None)
    assert first["last_used"].endswith("Z") and second["resting_until"] > first["last_used"]
    assert first["key"] == found.pool.credentials[0].shown
    assert len(found.figures(1)) == 1
    assert KEYS[0] not in str(found.figures(9))


def test_why_no_key_is_left(tmp_path: Path) -> None:
    found = ring(tmp_path, {"KEYS": "a"}, env="KEYS")
    found.pool.rest(found.pool.credentials[0], 429, 0.0, 1.5)
    assert found.none_left()[0] == 1.5 and "2 s" in found.none_left()[1]
    refuse(found, found.pool.credentials[0])
    assert found.none_left()[0] is None and "banned" in found.none_left()[1]


def test_a_pickle_of_bans_is_never_opened_and_one_line_says_what_to_do(tmp_path: Path, told: list[str]) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "blacklist.pkl").write_bytes(f"cposix\nsystem\n(S'touch {ran}'\ntR.".encode())
    ring(tmp_path, {"KEYS": "a"}, env="KEYS")
    assert not ran.exists()
    assert "".join(told).count("blacklist.pkl is never read") == 1


def test_a_credential_knows_no_more_than_it_was_given() -> None:
    assert Credential("short").preview == "sh..."
    assert Credential("short").shown.startswith("… (sha256 ")
