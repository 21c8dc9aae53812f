"""The gateway as people start it: a program of its own, with its predecessor's file and variables, killed and started again."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from running import BOUND, MAIN, Program, program
from upstream import Seen, Upstream, reply, upstream

from mcp_endpoint.errors import EXIT_CONFIG
from mcp_endpoint.settings.sources import FILE

KEYS = [f"sk-{letter * 45}" for letter in "xyz"]
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


def settle(root: Path, target: str) -> None:
    """A folder with accounts and a configuration that leads to `target` instead of the service far away."""
    (root / "data").mkdir()
    (root / FILE).write_text(
        f"[credentials.accounts]\naccounts = 'accounts.txt'\n"
        f"[[gateway]]\nname = 'air'\ntarget = '{target}'\ncredentials = 'accounts'\nplace = 'query:api_key'\n"
    )
    lines = [f"anna|pass|{KEYS[0]}", "# a comment", "", "ben|pass", f"{KEYS[1]}", "carl|pass|pk-1", *[f"d|p|{key}" for key in KEYS[1:]]]
    (root / "accounts.txt").write_text("\n".join(lines))


def arguments_of(pid: int) -> str:
    """What everybody on this machine sees of a process, where there is a /proc."""
    file = Path(f"/proc/{pid}/cmdline")
    return file.read_text() if file.exists() else ""


@asynccontextmanager
async def gateway(root: Path, *arguments: str, environ: Mapping[str, str]) -> AsyncIterator[tuple[Program, str]]:
    """It runs, as `python main.py --as gateway`; its address, from its log."""
    async with program(root, "--root", str(root), "--as", "gateway", *arguments, environ=environ) as started:
        async with asyncio.timeout(BOUND):
            while not (found := re.search(r"listening.*?port=(\d+)", started.log)):
                assert started.process.returncode is None, started.log
                await asyncio.sleep(0.01)
        yield started, f"http://127.0.0.1:{found[1]}"


@pytest.mark.row("R1")
@pytest.mark.parametrize("accounts", [None, "", "anna|pass\nben|pass|no-key\n"], ids=["no file", "empty", "no key in it"])
async def test_without_a_key_it_does_not_start_and_says_what_is_missing(tmp_path: Path, accounts: str | None) -> None:
    if accounts is not None:
        (tmp_path / "accounts.txt").write_text(accounts)
    async with program(tmp_path, "--root", str(tmp_path), "serve", "--as", "gateway", environ={"PORT": "0"}) as started:
        assert await started.ends() == EXIT_CONFIG
        assert "未找到有效的token" in started.log
        assert "accounts" in started.log
        assert "no-key" not in started.log


@pytest.mark.row("R1", "R4", "R7", "R16", "R18")
async def test_a_life_with_a_ban_a_kill_and_a_second_start_shows_no_key(tmp_path: Path) -> None:
    """Canary: console, log file, pages, errors, its own arguments, what it leaves on disk."""
    shown: list[str] = []

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        status = {KEYS[0]: 401, KEYS[1]: 429}.get(seen.key(), 200)
        writer.write(reply(status, f"{status} for {seen.key()}".encode() if status != 200 else b"{}"))

    async def used(behind: Upstream, url: str, started: Program) -> dict[str, int]:
        async with httpx2.AsyncClient(timeout=BOUND, trust_env=False) as client:
            for _ in range(4):
                answer = await client.post(url, json=LIST)
                assert answer.status_code == 200
            for path in ("/", "/stats", "/blacklist", "/../x"):
                shown.append((await client.get(url + path)).text)
            shown.append(arguments_of(started.process.pid))
            stats: dict[str, int] = (await client.get(url + "/stats")).json()["token_stats"]
            return stats

    async with upstream(script) as behind:
        settle(tmp_path, f"{behind.url}/mcp/")
        for life in range(2):
            async with gateway(tmp_path, "--log-level", "debug", environ={"PORT": "0"}) as (started, url):
                assert await used(behind, url, started) == {
                    "total_loaded_tokens": 3,
                    "temporarily_failed_tokens": 1,
                    "permanently_blacklisted_tokens": 1,
                    "available_tokens": 1,
                }
                if life == 0:
                    started.process.kill()
                    await started.ends()
                else:
                    started.process.terminate()
                    assert await started.ends() == 0
                for words in ("keys loaded", "key rests", "skipped", "forwarded", "HOST=0.0.0.0"):
                    assert words in started.log, words
                assert ("key banned" in started.log) == (life == 0)
                shown += [started.log, started.printed]
        assert [seen.key() for seen in behind.seen].count(KEYS[0]) == 1
    shown += [file.read_text("utf-8", "replace") for folder in ("data", "logs") for file in (tmp_path / folder).iterdir()]
    assert not re.search(r"sk-([xyz])\1{20}", "".join(shown))


@pytest.mark.row("R7")
async def test_the_variable_port_says_where_it_listens_and_the_command_line_has_the_last_word(tmp_path: Path) -> None:
    settle(tmp_path, "http://127.0.0.1:1/")
    environ = {"PORT": "1", "HOST": "127.0.0.1", "MES_SERVER_PORT": "2"}
    async with gateway(tmp_path, "--port", "0", environ=environ) as (_, url), httpx2.AsyncClient(timeout=BOUND, trust_env=False) as client:
        assert (await client.get(url)).json()["status"] == "healthy"
        assert (await client.post(url, json=LIST)).status_code == 502


async def python(root: Path, code: str) -> tuple[int | None, str]:
    """A program of one line beside ours; its exit status and what it said."""
    words = (sys.executable, "-c", code, str(root))
    environ = os.environ | {"PYTHONPATH": str(MAIN.parent / "src"), "PORT": "0"}
    process = await asyncio.create_subprocess_exec(*words, env=environ, stdout=PIPE, stderr=STDOUT)
    said, _ = await asyncio.wait_for(process.communicate(), BOUND)
    return process.returncode, said.decode()


async def test_without_its_packages_the_gateway_says_how_to_install_them(tmp_path: Path) -> None:
    settle(tmp_path, "http://127.0.0.1:1/")
    hidden = (
        "import sys, pathlib; sys.modules['httpx2'] = None; "
        "from mcp_endpoint.commands.main import main; main(pathlib.Path(sys.argv[1]), %s)"
    )
    for arguments in ("['--as', 'gateway']", "['serve', '--port', '0']"):
        status, said = await python(tmp_path, hidden % arguments)
        assert (status, "Traceback" in said) == (1, False)
        assert "pip install 'mcp-endpoint-server[http]'" in said
        assert "httpx2" in said


async def test_who_configures_no_gateway_loads_none_of_its_packages(tmp_path: Path) -> None:
    code = """
import asyncio, pathlib, sys
from mcp_endpoint.settings.schema import Config, Server
from mcp_endpoint.serving.server import create_server

async def make():
    create_server(Config(server=Server(key="k" * 32)), root=pathlib.Path(sys.argv[1]))

asyncio.run(make())
print({"httpx2", "mcp", "jwt", "jsonschema"} & set(sys.modules))
"""
    assert await python(tmp_path, code) == (0, "set()\n")
