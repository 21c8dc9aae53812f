"""What an operator does to keys with the command line, and what a running server makes of it."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from running import BOUND, KEY, get, running

from mcp_endpoint.commands import keys
from mcp_endpoint.credentials.pool import Credential
from mcp_endpoint.credentials.store import Ban, BansFile, read_bans, stamp_of, write_bans
from mcp_endpoint.errors import ConfigError, EndpointError
from mcp_endpoint.settings.schema import Config, CredentialSettings, Providers, Server

SECRETS = ["sk-" + letter * 40 for letter in "abc"]
CREDENTIALS = [Credential(secret) for secret in SECRETS]
PRINTS = [credential.fingerprint for credential in CREDENTIALS]
CONFIG = Config(server=Server(port=1, key=KEY), credentials={"fly": CredentialSettings(accounts="accounts.txt")})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "accounts.txt").write_text("".join(f"ann|pw|{secret}\n" for secret in SECRETS))
    kept = BansFile(banned={PRINTS[0]: Ban(stamp_of(0), 401)}, resting={PRINTS[1]: stamp_of(4e9), PRINTS[2]: stamp_of(1)})
    write_bans(tmp_path / "data/fly.bans.json", kept)
    return tmp_path


def kept(root: Path) -> BansFile:
    return read_bans(root / "data/fly.bans.json")


def test_the_list_shows_the_state_of_each_key_and_no_key(root: Path) -> None:
    lines = list(keys.listed(CONFIG, root, {}, None))
    assert ["banned" in lines[0], "resting" in lines[1], "available" in lines[2]] == [True] * 3
    assert "1970-01-01T00:00:00Z (401)" in lines[0] and PRINTS[0][:8] in lines[0] and "ann" in lines[0]
    assert lines == list(keys.listed(CONFIG, root, {}, "fly"))
    for secret in SECRETS:
        assert secret not in "".join(lines)


def test_a_key_rests_for_so_long_and_an_old_rest_is_forgotten(root: Path) -> None:
    [line] = keys.rest(CONFIG, root, {}, "fly", [PRINTS[0][:6].upper()], 60)
    assert "rests until" in line
    assert set(kept(root).resting) == {PRINTS[0], PRINTS[1]}
    assert "rests no longer" in next(iter([*keys.rest(CONFIG, root, {}, "fly", [PRINTS[1]], 0)]))
    assert set(kept(root).resting) == {PRINTS[0]}
    assert set(kept(root).banned) == {PRINTS[0]}


def test_bans_are_lifted_one_by_one_or_all(root: Path) -> None:
    assert "was not banned" in "".join(keys.unban(CONFIG, root, {}, "fly", [PRINTS[1]]))
    assert "ban lifted" in "".join(keys.unban(CONFIG, root, {}, "fly", [PRINTS[0]]))
    assert kept(root).banned == {}
    for shown in (CREDENTIALS[1].shown, CREDENTIALS[1].preview):
        assert "was not banned" in "".join(keys.unban(CONFIG, root, {}, "fly", [shown]))
    write_bans(root / "data/fly.bans.json", BansFile(banned=dict.fromkeys(PRINTS[:2], Ban("", 403))))
    assert len(list(keys.unban(CONFIG, root, {}, "fly", []))) == 2
    assert kept(root).banned == {}


def test_mistakes_are_one_clear_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for prefix, words in (("ffff", "matches no key"), (PRINTS[0][:3], "too short")):
        with pytest.raises(EndpointError, match=words):
            list(keys.unban(CONFIG, root, {}, "fly", [prefix]))
    with pytest.raises(ConfigError, match="there is: fly"):
        list(keys.listed(CONFIG, root, {}, "unheard"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keys, "write_bans", full)
    with pytest.raises(EndpointError, match="No space left"):
        list(keys.unban(CONFIG, root, {}, "fly", []))


def test_without_a_pool_in_the_configuration_it_is_that_of_the_gateway_alone(root: Path) -> None:
    assert [line.split()[0] for line in keys.listed(Config(server=Server(port=1)), root, {}, None)] == ["accounts"] * 3


async def test_a_running_server_takes_it_up_and_tells_its_figures(root: Path) -> None:
    entry = {"mcpServers": {"far": {"url": "http://127.0.0.1:1/mcp", "credentials": "fly", "place": "bearer"}}}
    (root / "mcp.json").write_text(json.dumps(entry))
    config = Config(server=Server(key=KEY), credentials=CONFIG.credentials, providers=Providers(file="mcp.json"))
    async with running(config, root=root) as server:
        there = Config(server=Server(port=server.port, key=KEY), credentials=CONFIG.credentials)

        async def states(expected: list[str]) -> list[str]:
            async with asyncio.timeout(BOUND):
                while True:
                    lines = await asyncio.to_thread(lambda: list(keys.listed(there, root, os.environ, "fly")))
                    figures: list[dict[str, Any]] = (await asyncio.to_thread(keys.check.stats, there))["rooms"]["keys"]["fly"]["keys"]
                    if [figure["state"] for figure in figures] == expected:
                        return lines
                    await asyncio.sleep(0.05)

        await states(["banned", "resting", "available"])
        list(keys.unban(there, root, os.environ, "fly", []))
        list(keys.rest(there, root, os.environ, "fly", [PRINTS[1]], 0))
        list(keys.rest(there, root, os.environ, "fly", [PRINTS[2]], 600))
        lines = await states(["available", "available", "resting"])
        metrics = (await get(server.port, f"/metrics?key={KEY}")).body.decode()
        assert 'mcp_endpoint_keys{pool="fly",state="resting"} 1.0' in metrics and SECRETS[2] not in metrics
        assert "until" in lines[2] and any("requests" in line for line in lines)
