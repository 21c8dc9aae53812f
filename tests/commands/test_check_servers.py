"""Each way in which the servers an installation brings itself can be broken is found, with and without the server running."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from checking import checked, free_port, live, look, notes, problems
from running import KEY, program, running
from upstream import reply, says, upstream
from url_server import Small

from mcp_endpoint.commands import check_servers
from mcp_endpoint.commands.check_servers import of_files, of_stats
from mcp_endpoint.commands.finding import Finding
from mcp_endpoint.credentials.pool import Credential
from mcp_endpoint.credentials.store import Ban, BansFile, write_bans
from mcp_endpoint.errors import EXIT_CONFIG, EndpointError
from mcp_endpoint.settings.schema import Config, CredentialSettings, GatewaySettings, Providers

ENVIRON = {"PATH": os.environ["PATH"], "SECRET": "hunter22"}
CALCULATOR = {"command": sys.executable, "args": [str(Path(__file__).parents[2] / "examples" / "calculator.py")]}


def written(root: Path, **entries: Mapping[str, Any]) -> Config:
    """A configuration with an `mcp.json` of these entries."""
    (root / "mcp.json").write_text(json.dumps({"mcpServers": entries}), "utf-8")
    return Config(providers=Providers(file="mcp.json"))


async def of_these(root: Path, config: Config) -> tuple[list[Finding], bool]:
    files = await asyncio.to_thread(of_files, config, root, ENVIRON)
    for finding in files.findings:
        assert re.search("[一-龥]", finding.zh + finding.remedy_zh)
        assert bool(finding.remedy_en) == bool(finding.remedy_zh)
        assert "hunter22" not in str(finding)
    return list(files.findings), files.fatal


# The file


async def test_without_a_file_and_without_gateways_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert await of_these(tmp_path, Config()) == ([], False)


@pytest.mark.parametrize(
    ("make", "words", "remedy"),
    [
        (lambda file: None, "does not exist", "the right path"),
        (lambda file: file.mkdir(), "not a regular file", "the right path"),
        (lambda file: os.mkfifo(file), "not a regular file", "the right path"),
        (lambda file: file.write_text('{"mcpServers": {"a": {]}}'), "mcp.json:1:", "correct it there"),
        (lambda file: file.write_text("[]"), "mcpServers", "correct it there"),
        (lambda file: file.write_bytes(b'{"mcpServers": "\xff"}'), "UTF-8", "correct it there"),
    ],
    ids=["missing", "folder", "fifo", "broken", "list", "gbk"],
)
async def test_a_file_that_ends_the_start_is_told_as_that(tmp_path: Path, make: Any, words: str, remedy: str) -> None:
    make(tmp_path / "mcp.json")
    (finding,), fatal = await of_these(tmp_path, Config(providers=Providers(file="mcp.json")))
    assert fatal
    assert finding.mark == "PROBLEM"
    assert f"does not start (exit code {EXIT_CONFIG})" in finding.en
    assert words in finding.en
    assert "Errno" not in finding.en + finding.zh
    assert remedy in finding.remedy_en


async def test_the_server_does_not_start_and_check_says_that_and_why_before_it_says_start_it(tmp_path: Path) -> None:
    """The exit code it names is the one that the start ends with."""
    port = free_port()
    live(tmp_path, f'[server]\nkey = "{KEY}"\nport = {port}\n\n[providers]\nfile = "nowhere.json"\n')
    async with program(tmp_path, "--root", str(tmp_path), "serve") as server:
        assert await server.ends() == EXIT_CONFIG
    status, output = await checked(tmp_path)
    assert status == 1
    assert "[PROBLEM] 服务器因 [providers] file 无法启动（退出码 78）" in output
    assert output.index("nowhere.json") < output.index(f"nothing runs at http://127.0.0.1:{port}")
    assert "→ first fix what keeps the server from starting" in output


async def test_the_file_may_be_named_as_for_serve_and_is_looked_at_before_there_is_a_key(tmp_path: Path) -> None:
    (tmp_path / "mcp.json").write_text("{")
    status, output = await checked(tmp_path, "--providers", str(tmp_path / "mcp.json"))
    assert status == 1
    assert "mcp.json:1:" in output
    assert "there is no key yet" in output


# Entries, where no server runs


async def test_each_entry_is_told_by_its_name_with_its_remedy(tmp_path: Path) -> None:
    config = written(
        tmp_path,
        good={"command": sys.executable, "args": ["-c", "pass"]},
        off={"command": "x", "disabled": True},
        typo={"command": "pythonn", "args": ["x.py"]},
        script={"command": sys.executable, "args": ["-u", "nosuch.py"]},
        folder={"command": sys.executable, "cwd": "nowhere"},
        unset={"command": sys.executable, "env": {"A": "${NO_SUCH_VARIABLE}"}},
        null={"command": sys.executable, "env": {"A": None}},
        poolless={"command": sys.executable, "credentials": "none", "place": "env:A"},
        secret={"command": "/${SECRET}/x"},
    )
    found, fatal = await of_these(tmp_path, config)
    assert not fatal
    told = {re.match(r"server (\w+)", finding.en)[1]: finding for finding in found}  # type: ignore[index]
    assert {name: finding.mark for name, finding in told.items()} == {
        **dict.fromkeys(("good", "off"), "ok"),
        **dict.fromkeys(("typo", "script", "folder", "unset", "null", "poolless", "secret"), "PROBLEM"),
    }
    assert "'pythonn' was not found" in told["typo"].en
    assert "there is no file nosuch.py" in told["script"].en
    assert "(cwd) does not exist" in told["folder"].en
    assert "mcp.json:1:" in told["unset"].en
    assert "NO_SUCH_VARIABLE" in told["unset"].en
    assert "[credentials.none]" in told["poolless"].en
    assert all("mcp.json" in finding.remedy_en for finding in problems(found))


async def test_what_an_interpreter_runs_is_looked_for_where_it_would_be_run(tmp_path: Path) -> None:
    (tmp_path / "here.py").touch()
    entry = {"command": sys.executable, "args": ["here.py"]}
    (there, away), _ = await of_these(tmp_path, written(tmp_path, there=entry | {"cwd": "."}, away=entry))
    assert there.mark == "ok"
    assert "here.py" in away.en


async def test_a_server_by_url_is_greeted_as_the_running_server_would(tmp_path: Path) -> None:
    async with upstream(Small()) as well, upstream(says(reply(401, b'{"message":"who are you"}'))) as closed:
        config = written(
            tmp_path,
            well={"url": f"http://127.0.0.1:{well.port}/mcp"},
            closed={"url": f"http://127.0.0.1:{closed.port}/mcp", "headers": {"Authorization": "${SECRET}"}},
            dead={"url": f"http://127.0.0.1:{free_port()}/mcp"},
        )
        (fine, no_key, nothing), fatal = await of_these(tmp_path, config)
    assert not fatal
    assert fine.mark == "ok"
    assert (no_key.mark, nothing.mark) == ("PROBLEM", "PROBLEM")
    assert "HTTP 401" in no_key.en
    assert "who are you" in no_key.zh
    assert "connection refused" in nothing.en
    assert "连接被拒绝" in nothing.zh


async def test_a_server_that_takes_the_greeting_and_is_silent_is_not_waited_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_servers, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (finding,), _ = await of_these(tmp_path, written(tmp_path, mute={"url": f"http://127.0.0.1:{silent.getsockname()[1]}/"}))
    assert "no answer within 0.2 s" in finding.en


async def test_missing_packages_end_the_start_for_servers_by_url_and_for_gateways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str, extra: str) -> None:
        raise EndpointError(f"pip install mcp-endpoint-server[{extra}]", "请安装")

    monkeypatch.setattr(check_servers, "imported", missing)
    (packages,), fatal = await of_these(tmp_path, written(tmp_path, one={"url": "http://127.0.0.1:9/"}))
    assert fatal
    assert "pip install mcp-endpoint-server[http]" in packages.remedy_en


# Keys and gateways


def gateway(target: str, pool: str = "") -> GatewaySettings:
    return GatewaySettings(name="flights", target=target, credentials=pool)


async def test_a_gateway_whose_target_is_dead_is_found_with_and_without_the_server(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        alive = gateway(f"http://127.0.0.1:{there.getsockname()[1]}/mcp")
        assert [finding.mark for finding in (await of_these(tmp_path, Config(gateway=(alive,))))[0]] == ["ok"]
    dead = Config(gateway=(gateway(f"http://127.0.0.1:{free_port()}/mcp"),))
    nameless = Config(gateway=(gateway("http://no-such-name.invalid/mcp"),))
    for config, words in ((dead, "connection refused"), (nameless, "cannot be resolved")):
        (without,), _ = await of_these(tmp_path, config)
        (beside,) = await asyncio.to_thread(lambda config=config: list(of_stats(config, {})))
        assert without == beside
        assert without.mark == "PROBLEM"
        assert words in without.en


async def test_keys_that_are_missing_or_all_banned_are_found_in_the_files(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("one-key\nother-key\n")
    settings = CredentialSettings(file="keys")
    config = written(tmp_path, one={"command": sys.executable, "credentials": "pool", "place": "env:A"})
    config = Config(providers=config.providers, credentials={"pool": settings})
    assert [finding.mark for finding in (await of_these(tmp_path, config))[0]] == ["ok", "ok"]
    (tmp_path / "data").mkdir()
    bans = {Credential(key).fingerprint: Ban("2026-01-01T00:00:00Z", 401) for key in ("one-key", "other-key")}
    write_bans(tmp_path / "data" / "pool.bans.json", BansFile(banned=bans))
    banned, _ = (await of_these(tmp_path, config))[0]
    assert banned.mark == "PROBLEM"
    assert "mcp-endpoint keys unban pool --all" in banned.remedy_en
    (tmp_path / "keys").unlink()
    (finding,), fatal = await of_these(tmp_path, config)
    assert not fatal
    assert "there is no such file" in finding.en
    # A gateway cannot do without its keys: the server does not start.
    found, fatal = await of_these(tmp_path, Config(gateway=(gateway("http://127.0.0.1:9/", "pool"),), credentials={"pool": settings}))
    assert fatal
    assert f"exit code {EXIT_CONFIG}" in found[0].en


def test_the_pools_of_a_running_server_are_told_by_their_counts() -> None:
    pools = {"fine": (2, 1, 0), "banned": (2, 2, 0), "resting": (2, 1, 1)}
    stats = {
        "rooms": {"keys": {name: {"total": total, "banned": banned, "resting": rest} for name, (total, banned, rest) in pools.items()}}
    }
    fine, banned, resting = of_stats(Config(), stats)
    assert (fine.mark, banned.mark, resting.mark) == ("ok", "PROBLEM", "PROBLEM")
    assert "keys list resting" in resting.remedy_en


# As a running server says


def stats_of(*servers: Mapping[str, Any], problem: str = "") -> Mapping[str, Any]:
    usual = {"wire": "stdio", "seconds": 60.0, "why": "", "last_error": "", "starts": 1, "tools": ["add"], "serves": ["*"], "said": []}
    return {"rooms": {"providers": {"file": "mcp.json", "problem": problem, "servers": [{**usual, "name": "x", **one} for one in servers]}}}


@pytest.mark.parametrize(
    ("told", "mark", "words", "remedy"),
    [
        ({"state": "running"}, "ok", "runs: add", ""),
        ({"state": "running", "last_error": "坏 / bad"}, "ok", "runs: add", ""),
        ({"state": "running", "tools": []}, "note", "no tools yet", "allow"),
        ({"state": "running", "why_bare": "it sent no result", "said": ["hello"]}, "PROBLEM", "last output: hello", "manually"),
        ({"state": "running", "seconds": 2.0, "starts": 3, "last_error": "坏 / bad"}, "PROBLEM", "started 3 times", "manually"),
        ({"state": "starting", "seconds": 2.0, "tools": []}, "ok", "being started", ""),
        ({"state": "starting", "seconds": 60.0, "tools": []}, "note", "for 60 s", "log"),
        ({"state": "starting", "seconds": 0.1, "why": "坏 / bad"}, "PROBLEM", "bad", "manually"),
        ({"state": "waiting", "why": "坏 / bad", "starts": 0}, "PROBLEM", "cannot be started (tried again): bad", '"command"'),
        ({"state": "stopped", "why": "坏 / bad", "starts": 8, "said": ["a / b"]}, "PROBLEM", "last output: a / b", "file is saved"),
        ({"state": "error", "why": "f:1:2: x：坏 / x: bad", "wire": ""}, "PROBLEM", "x: bad", "mcp.json"),
        ({"state": "waiting", "why": "坏 / bad", "wire": "any"}, "PROBLEM", "cannot be used: bad", '"url"'),
        ({"state": "starting", "why": "坏 / bad", "wire": "http"}, "PROBLEM", "cannot be used: bad", '"url"'),
        ({"state": "running", "why": "坏 / bad", "wire": "http", "tools": []}, "note", "no tools yet: bad", "log"),
        ({"state": "running", "seconds": 2.0, "last_error": "坏 / bad", "wire": "http"}, "note", "last error: bad", "entry"),
    ],
)
def test_every_state_of_a_managed_server_is_told(told: Mapping[str, Any], mark: str, words: str, remedy: str) -> None:
    (finding,) = of_stats(Config(), stats_of(told))
    assert finding.mark == mark
    assert words in finding.en
    assert remedy in finding.remedy_en
    assert re.search("[一-龥]", finding.zh)


def test_a_file_that_went_bad_and_a_server_that_has_not_read_it_are_told() -> None:
    (bad,) = of_stats(Config(), stats_of(problem="f:1:1: 坏 / f:1:1: bad"))
    assert f"the next start would end with exit code {EXIT_CONFIG}: f:1:1: bad" in bad.en
    (unread,) = of_stats(Config(providers=Providers(file="mcp.json")), {"rooms": {}})
    assert "restart the server" in unread.remedy_en


async def test_a_running_server_with_all_kinds_of_them(tmp_path: Path) -> None:
    config = written(
        tmp_path,
        calc=CALCULATOR,
        typo={"command": "pythonn"},
        crash={"command": "sh", "args": ["-c", "echo bad luck >&2; sleep 0.2; exit 3"]},
        dead={"url": f"http://127.0.0.1:{free_port()}/mcp"},
        unset={"command": "sh", "env": {"A": "${NO_SUCH_VARIABLE}"}},
    )
    async with running(config, root=tmp_path) as server, asyncio.timeout(20):
        told: dict[str, Any] = {}
        while {state["state"] for state in told.values()} != {"running", "waiting", "error"} or not told["calc"]["tools"]:
            await asyncio.sleep(0.05)
            room = next(room for room in server._rooms if room.name == "providers")
            told = {one["name"]: one for one in room.describe()["servers"]}
        found = await look(server.port)
    marks = {name: next(finding for finding in found if finding.en.startswith(f"server {name} ")) for name in told}
    assert marks["calc"].mark == "ok"
    assert all(marks[name].mark == "PROBLEM" for name in ("typo", "crash", "dead", "unset"))
    assert "last output: bad luck" in marks["crash"].en
    # A tool there is: nobody is told to start one.
    assert not any("no tool" in finding.en for finding in found)
    assert all("server" in finding.en for finding in problems(found))
    assert notes(found)
