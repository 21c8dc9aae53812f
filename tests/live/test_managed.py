"""Servers that the running program brings itself: from one file, for all devices, through kills, edits and mistakes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from peers import EXAMPLES, Device, device, text_of, tool, until
from running import BOUND, Program, program
from upstream import reply, says, upstream
from url_server import MAINTENANCE, Small

from mcp_endpoint.access.tokens import TokenCodec

SMALL = Path(__file__).parents[1] / "support" / "small_server.py"
ODD = Path(__file__).parents[1] / "support" / "odd_server.py"
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def small(*words: str, **fields: Any) -> dict[str, Any]:
    return {"command": sys.executable, "args": ["-I", "-S", str(SMALL), *words], **fields}


def written(root: Path, **servers: Mapping[str, Any]) -> Path:
    file = root / "mcp.json"
    file.write_text(json.dumps({"mcpServers": servers}, indent=2), "utf-8")
    return file


@asynccontextmanager
async def server_with(root: Path, file: Path, *arguments: str, **environ: str) -> AsyncIterator[Program]:
    words = ("--root", str(root), "serve", "--port", "0", "--providers", str(file), *arguments)
    async with program(root, *words, environ=environ) as running:
        await running.listens()
        yield running


async def servers(running: Program, **states: str) -> dict[str, dict[str, Any]]:
    """The servers in /stats by name, as soon as they have these states (and, running, are greeted)."""

    def found(stats: dict[str, Any]) -> dict[str, dict[str, Any]]:
        return {server["name"]: server for server in stats["rooms"]["providers"]["servers"]}

    def so(stats: dict[str, Any]) -> bool:
        now = found(stats)
        return now.keys() >= states.keys() and all(
            now[name]["state"] == state and (state != "running" or now[name]["greeting"] == "ready") for name, state in states.items()
        )

    return found(await until(so, running))


def children(session: int) -> list[int]:
    """The living processes of a session without the supervisor that leads it."""
    alive = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and int(name) != session and fields[0] != "Z":
            alive.append(int(name))
    return alive


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def gone(*pids: int) -> None:
    async with asyncio.timeout(BOUND):
        while any(map(lives, pids)):  # noqa: ASYNC110 - only /proc knows
            await asyncio.sleep(0.02)


async def answered(asker: Device, name: str, **arguments: Any) -> str:
    """What a tool says, as soon as it says something."""
    async with asyncio.timeout(BOUND):
        while True:
            answer = await asker.calls("x", name, **arguments)
            if "result" in answer and not answer["result"].get("isError"):
                return text_of(answer)
            await asyncio.sleep(0.02)


async def hears_of_a_change(asker: Device) -> None:
    async with asyncio.timeout(BOUND):
        while {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"} not in asker.notifications:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_one_command_with_the_example_serves_both_demo_servers_to_a_device(tmp_path: Path) -> None:
    """The device asks at once: it need not wait until the servers have started."""
    path = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))
    async with server_with(tmp_path, EXAMPLES / "mcp.json", PATH=path) as running, device(running) as asker:
        await asker.greets(client="an MCP client")
        assert await asker.names() == {"calculator", "get_weather", "get_forecast"}
        assert "16900000000" in text_of(await asker.calls(3, "calculator", python_expression="130000 * 130000"))
        assert text_of(await asker.calls(4, "get_weather", city="杭州"))
        found = await servers(running, calculator="running", weather="running")
        assert found["weather"]["tools"] == ["get_forecast", "get_weather"]
        assert found["weather"]["endpoints"] == ["single_module"]
        if sys.platform == "linux":
            assert found["weather"]["memory_bytes"] > 1_000_000


async def test_the_device_that_asks_only_once_gets_the_whole_list(tmp_path: Path) -> None:
    """xiaozhi-server ignores list_changed; it connects the moment the port is open."""
    file = written(tmp_path, one=small("one", "a"), two=small("two", "b"))
    async with server_with(tmp_path, file) as running, device(running) as asker:
        await asker.greets()
        assert await asker.names() == {"a", "b"}


async def test_an_entry_that_is_added_can_be_called_and_leaves_the_others_alone(tmp_path: Path) -> None:
    file = written(tmp_path, one=small("one", "a"), two=small("two", "b", "slow"))
    async with server_with(tmp_path, file) as running, device(running) as asker:
        await asker.greets(client="an MCP client")
        before = text_of(await asker.calls(1, "a"))
        slow = asyncio.create_task(asker.calls("slow", "slow", seconds=2.0))
        written(tmp_path, one=small("one", "a"), two=small("two", "b", "slow"), three=small("three", "c"))
        assert (await answered(asker, "c")).startswith("three")
        assert text_of(await slow).startswith("two"), "a call to another server was disturbed"
        assert text_of(await asker.calls(2, "a")) == before, "another server was started again"
        await hears_of_a_change(asker)
        assert await asker.names() == {"a", "b", "slow", "c"}


async def test_an_entry_that_changes_or_goes_takes_only_its_own_process_along(tmp_path: Path) -> None:
    file = written(tmp_path, one=small("one", "a"), two=small("two", "b"), three=small("three", "c"))
    async with server_with(tmp_path, file) as running, device(running) as asker:
        await asker.greets(client="an MCP client")
        a, b = text_of(await asker.calls(1, "a")), text_of(await asker.calls(2, "b"))
        written(tmp_path, one=small("one", "a"), two=small("two", "b", env={"X": "1"}), three=small("three", "c", disabled=True))
        found = await until(lambda stats: len(stats["rooms"]["providers"]["servers"]) == 2, running)
        assert [server["name"] for server in found["rooms"]["providers"]["servers"]] == ["one", "two"]
        async with asyncio.timeout(BOUND):
            while await answered(asker, "b") == b:  # noqa: ASYNC110 - the process of before may answer until it is stopped
                await asyncio.sleep(0.02)
        assert text_of(await asker.calls(3, "a")) == a
        await hears_of_a_change(asker)
        assert await asker.names() == {"a", "b"}
        error = (await asker.calls(4, "c"))["error"]
        assert error["code"] in (-32001, -32602)


async def test_a_broken_edit_changes_nothing_and_says_where_it_is_broken(tmp_path: Path) -> None:
    file = written(tmp_path, one=small("one", "a"))
    async with server_with(tmp_path, file) as running, device(running) as asker:
        await asker.greets(client="an MCP client")
        before = text_of(await asker.calls(1, "a"))
        good = file.read_text()
        file.write_text('{\n "mcpServers": {\n  "one" {}}}')
        stats = await until(lambda stats: ":3:9" in stats["rooms"]["providers"]["problem"], running)
        assert f"{file}:3:9" in stats["rooms"]["providers"]["problem"]
        assert f"{file}:3:9" in running.log
        assert text_of(await asker.calls(2, "a")) == before
        file.unlink()
        await until(lambda stats: "cannot be read" in stats["rooms"]["providers"]["problem"], running)
        file.write_text(good)
        await until(lambda stats: not stats["rooms"]["providers"]["problem"], running)
        assert text_of(await asker.calls(3, "a")) == before


async def test_a_file_that_is_broken_at_the_start_is_one_clear_message(tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    file.write_text('{"mcpServers": {"a": {"url": 3}')
    async with program(tmp_path, "--root", str(tmp_path), "serve", "--port", "0", "--providers", str(file)) as running:
        assert await running.ends() == 78
        assert f"{file}:1:32: " in running.log
        assert "Traceback" not in running.log


@linux
async def test_a_killed_child_comes_back_and_its_tools_never_leave_the_list(tmp_path: Path) -> None:
    file = written(tmp_path, one=small("one", "a", "slow"), two=small("two", "b"))
    async with server_with(tmp_path, file) as running, device(running) as asker:
        await asker.greets(client="an MCP client")
        before = text_of(await asker.calls(1, "a"))
        other = text_of(await asker.calls(2, "b"))
        pid = int(before.split()[1])
        slow = asyncio.create_task(asker.calls("slow", "slow", seconds=20.0))
        await until(lambda stats: stats["in_flight"] == 1, running)
        os.kill(pid, signal.SIGKILL)
        answer = await slow
        assert answer["error"]["code"] == -32003
        assert answer["error"]["data"]["delivered"] is True
        assert text_of(await asker.calls(3, "b")) == other
        assert await asker.names() == {"a", "slow", "b"}
        assert text_of(await asker.calls(4, "a")) != before, "a call made while it was away waits for it"
        found = await servers(running, one="running")
        assert found["one"]["starts"] == 2


@linux
async def test_kill_minus_9_on_the_broker_leaves_no_child_and_no_childs_child(tmp_path: Path) -> None:
    odd = {"command": sys.executable, "args": ["-I", "-S", str(ODD)]}
    forks = tmp_path / "forks.py"
    forks.write_text(
        "import runpy, signal, subprocess, sys\n"
        "helper = subprocess.Popen([sys.executable, '-c', 'import signal, time; signal.signal(15, 1); time.sleep(600)'])\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"sys.argv = ['small', 'forks', 'c']; runpy.run_path({str(SMALL)!r}, run_name='__main__')\n"
    )
    file = written(tmp_path, one=small("one", "a"), odd=odd, forks={"command": sys.executable, "args": [str(forks)]})
    async with server_with(tmp_path, file) as running:
        found = await servers(running, one="running", forks="running")
        leashes = [server["pid"] for server in found.values()]
        async with asyncio.timeout(BOUND):
            while len(alive := [pid for supervisor in leashes for pid in children(supervisor)]) < 4:  # noqa: ASYNC110 - nobody tells that a helper was started
                await asyncio.sleep(0.02)
        running.process.kill()
        await running.process.wait()
        await gone(*leashes, *alive)


async def test_a_drain_ends_every_child(tmp_path: Path) -> None:
    file = written(tmp_path, one=small("one", "a"), odd={"command": sys.executable, "args": ["-I", "-S", str(ODD)]})
    async with server_with(tmp_path, file) as running:
        found = await servers(running, one="running")
        running.process.send_signal(signal.SIGTERM)
        assert await running.ends() == 0
        if sys.platform == "linux":
            assert not any(children(server["pid"]) for server in found.values())
        assert "未能正常关闭" not in running.log


async def test_a_server_that_cannot_live_is_left_alone_after_a_while_and_tried_again_when_the_file_is_saved(tmp_path: Path) -> None:
    """Only the waits are shortened: the program is started through a module that does it."""
    file = written(
        tmp_path, bad={"command": sys.executable, "args": ["-c", "import sys; sys.exit('no key: hunter2-hunter2')"]}, one=small("one", "a")
    )
    main = tmp_path / "main.py"
    main.write_text(
        f"import sys; sys.path.insert(0, {str(EXAMPLES.parent / 'src')!r})\n"
        "from mcp_endpoint import backoff\nbackoff.LONGEST_SECONDS = 0.01\n"
        "from mcp_endpoint.commands.main import main\nmain()\n"
    )
    words = ("--root", str(tmp_path), "serve", "--port", "0", "--providers", str(file))
    async with program(tmp_path, *words, main=main) as running:
        await running.listens()
        async with device(running) as asker:
            await asker.greets(client="an MCP client")
            assert await asker.names() == {"a"}, "a dead server delays no list"
            found = await servers(running, bad="stopped", one="running")
            assert "status 1" in found["bad"]["why"]
            assert found["bad"]["said"][-1] == "no key: ***"
            starts = found["bad"]["starts"]
            assert "failed repeatedly" in running.log
            good = small("bad", "b")
            file.write_text(file.read_text() + "\n")
            await until(lambda stats: stats["rooms"]["providers"]["servers"][0]["state"] != "stopped", running)
            assert starts == 8
            written(tmp_path, bad=good, one=small("one", "a"))
            assert (await answered(asker, "b")).startswith("bad")


async def test_no_secret_of_a_server_is_shown_anywhere(tmp_path: Path) -> None:
    """Canary: environment values, `${VAR}` in arguments, headers and the query of an address, told by servers that tell everything."""
    canaries = {"NAMED": "canary-named-1", "OURS": "canary-ours-22", "IN_ARGS": "canary-args-333"}
    file = written(
        tmp_path,
        loud=small("${IN_ARGS}", "tell", "environment", env={"NAMED": "canary-named-1", "OURS": "${OURS}"}),
        gone={"command": "no-such-program-${IN_ARGS}", "env": {"NAMED": "canary-named-1"}},
    )
    ours = {"OURS": canaries["OURS"], "IN_ARGS": canaries["IN_ARGS"], "MES_SERVER_LOG_LEVEL": "DEBUG"}
    async with server_with(tmp_path, file, **ours) as running, device(running) as asker:
        await asker.greets(client="an MCP client")
        assert text_of(await asker.calls(1, "environment", variable="NAMED")) == canaries["NAMED"]
        assert text_of(await asker.calls(2, "environment", variable="OURS")) == canaries["OURS"]
        for canary in canaries.values():
            await asker.calls(3, "tell", text=f"{canary} in plain text")
            await asker.calls(4, "tell", text=json.dumps({"level": "info", "key": canary}))
        found = await servers(running, loud="running", gone="waiting")
        assert "*** in plain text" in found["loud"]["said"]
        assert "no-such-program-***" in found["gone"]["why"]
        stats = json.dumps(await until(lambda stats: True, running))
    said = running.log + running.printed + stats + (tmp_path / "logs/mcp_server.log").read_text()
    assert not [canary for canary in canaries.values() if canary in said]


async def test_a_tool_that_is_not_shown_stands_in_no_list_and_cannot_be_called(tmp_path: Path) -> None:
    file = written(tmp_path, one=small("one", "get_a", "set_a", "get_secret", allow=["get_*"], deny="*secret"))
    async with server_with(tmp_path, file) as running, device(running) as asker:
        await asker.greets(client="an MCP client")
        assert await asker.names() == {"get_a"}
        assert text_of(await asker.calls(1, "get_a")).startswith("one")
        for name in ("set_a", "get_secret"):
            assert (await asker.calls(2, name))["error"]["code"] == -32602


async def test_tools_have_other_names_outside_and_an_edit_of_them_starts_nothing_again(tmp_path: Path) -> None:
    """As a process and by URL: lists, calls and /stats know the new names alone, each server its own."""
    tools = {"environment": {"name": "读变量", "description": "reads"}, "die": {"enabled": False}, "gone": {"name": "never"}}
    async with upstream(Small(tool="pour")) as far:
        entries = {
            "near": small("near", "environment", "die", env={"CITY": "杭州"}, tools=tools),
            "far": {"url": f"{far.url}/mcp", "tools": {"pour": {"name": "倒水"}}},
        }
        async with server_with(tmp_path, written(tmp_path, **entries)) as running, device(running) as asker:
            await asker.greets(client="an MCP client")
            assert await asker.names() == {"读变量", "倒水"}
            assert text_of(await asker.calls(3, "读变量", variable="CITY")) == "杭州"
            assert text_of(await asker.calls(4, "倒水")) == "poured"
            for name in ("environment", "die", "pour"):
                assert (await asker.calls(5, name))["error"]["code"] == -32602
            found = await servers(running, near="running", far="running")
            assert (found["near"]["tools"], found["far"]["tools"]) == (["读变量"], ["倒水"])
            [problem] = found["near"]["tools_not_changed"]
            assert "tools.gone: the server has no tool of this name" in problem and "tools_not_changed" not in found["far"]
            assert running.log.count("tools.gone: the server has no tool of this name") == 1

            entries["near"]["tools"] = {"environment": {"name": "getenv"}}
            entries["far"] = {"url": f"{far.url}/mcp"}
            written(tmp_path, **entries)
            async with asyncio.timeout(BOUND):
                while await asker.names() != {"getenv", "die", "pour"}:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert text_of(await asker.calls(6, "getenv", variable="CITY")) == "杭州"
            assert (await asker.calls(7, "读变量"))["error"]["code"] == -32602
            again = await servers(running, near="running", far="running")
            assert (again["near"]["pid"], again["far"]["attempts"]) == (found["near"]["pid"], 1)
            assert "tools_not_changed" not in again["near"]


async def test_each_client_gets_a_result_that_only_programs_can_read_as_it_can_show_it(tmp_path: Path) -> None:
    """An old device beside a modern one, whichever greeted it first."""
    file = written(tmp_path, one=small("one", "structured"))
    async with server_with(tmp_path, file) as running, device(running) as old, device(running) as modern:
        await old.greets(client="XiaozhiMCPEndpointClient")
        hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "modern", "version": "1"}}
        assert "result" in await modern.asks(1, "initialize", hello)
        assert await old.names() == await modern.names() == {"structured"}
        plain = {"structuredContent": {"城": 1.5}}
        assert (await modern.calls(3, "structured", 城=1.5))["result"] == plain
        answer = await old.calls(3, "structured", 城=1.5)
        assert json.loads(text_of(answer)) == {"城": 1.5} and answer["result"].items() >= plain.items()


async def test_servers_are_brought_to_the_endpoints_they_are_for(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        home=small("home", "a", endpoints="home-*"),
        nobody=small("nobody", "b", endpoints=[]),
        both=small("both", "c", endpoints=["home-*", "shop"]),
    )
    async with server_with(tmp_path, file, "--set", "security.opaque_tokens=always", "--set", "providers.endpoints=none") as running:
        codec = TokenCodec(running.key)
        seen = {}
        for name in ("home-1", "shop", "office"):
            async with device(running, token=codec.make_signed(name)) as asker:
                await asker.greets(client="an MCP client")
                seen[name] = await asker.names()
        assert seen == {"home-1": {"a", "c"}, "shop": {"c"}, "office": set()}
        async with device(running, token=codec.make_signed("office")) as asker:
            await asker.greets(client="an MCP client")
            found = await servers(running, both="running")
            session = found["both"]["pid"]
            written(tmp_path, both=small("both", "c", endpoints=["office"]))
            assert (await answered(asker, "c")).startswith("both")
            assert (await servers(running, both="running"))["both"]["pid"] == session, "whom it serves is no reason to start it again"


async def test_a_managed_server_and_one_that_dials_in_are_one_list(tmp_path: Path) -> None:
    file = written(tmp_path, one=small("one", "a", "who"))
    async with server_with(tmp_path, file) as running, tool(running, sys.executable, "-I", "-S", SMALL, "guest", "who", server_id="guest"):
        await until(lambda stats: stats["tool_connections"] == 1, running)
        async with device(running) as asker:
            await asker.greets(client="an MCP client")
            names = await asker.names()
            assert names in ({"a", "who", "guest__who"}, {"a", "who", "one__who"})
            said = {text_of(await asker.calls(name, name)).split()[0] for name in names}
            assert said == {"one", "guest"}


@linux
async def test_replicas_by_label_take_over_from_each_other(tmp_path: Path) -> None:
    file = written(tmp_path, first=small("same", "who", label="pair"), second=small("same", "who", label="pair"))
    async with server_with(tmp_path, file) as running, device(running) as asker:
        found = await servers(running, first="running", second="running")
        pids = {pid for server in found.values() for pid in children(server["pid"])}
        await asker.greets(client="an MCP client")
        assert await asker.names() == {"who"}
        pid = int(text_of(await asker.calls(1, "who")).split()[1])
        os.kill(pid, signal.SIGKILL)
        await gone(pid)
        assert int((await answered(asker, "who")).split()[1]) in pids - {pid}, "it waited for the dead one"


async def test_the_timeout_of_an_entry_is_how_long_its_calls_may_take(tmp_path: Path) -> None:
    file = written(tmp_path, quick=small("quick", "slow", timeout=0.5), patient=small("patient", "a"))
    async with server_with(tmp_path, file) as running, device(running) as asker:
        await asker.greets(client="an MCP client")
        error = (await asker.calls(1, "slow", seconds=3.0))["error"]
        assert error["code"] == -32006
        assert re.search(r"\b0\.5 s\b", error["data"]["hint"])


async def test_a_hundred_devices_come_and_go_and_no_bridge_is_left(tmp_path: Path) -> None:
    file = written(tmp_path, one=small("one", "a"))
    async with server_with(tmp_path, file) as running:
        codec = TokenCodec(running.key)
        await servers(running, one="running")

        async def visit(number: int) -> str:
            async with device(running, token=codec.make_signed(f"e{number % 20}")) as asker:
                await asker.greets(client="an MCP client")
                await asker.names()
                return text_of(await asker.calls(3, "a"))

        assert len(set(await asyncio.gather(*(visit(number) for number in range(100))))) == 1
        stats = await until(lambda stats: stats["endpoints"] == 0, running)
        assert stats["rooms"]["providers"]["servers"][0]["endpoints"] == []
        assert stats["tool_connections"] == 0


async def test_each_process_gets_the_next_key_of_its_pool_and_nobody_sees_it(tmp_path: Path) -> None:
    keys = ["sk-first-0123456789", "sk-second-0123456789"]
    (tmp_path / "keys.txt").write_text("\n".join(keys))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/.mcp-endpoint-server.cfg").write_text('[credentials.pool]\nfile = "keys.txt"\n')
    one = small("one", "environment", "tell", "die", credentials="pool", place="env:API_KEY")
    file = written(tmp_path, one=one)
    async with server_with(tmp_path, file, MES_SERVER_LOG_LEVEL="DEBUG") as running, device(running) as asker:
        await asker.greets(client="an MCP client")
        seen = []
        for _ in range(3):
            seen.append(await answered(asker, "environment", variable="API_KEY"))
            await asker.calls(2, "tell", text=f"using {seen[-1]} now")
            await asker.calls(3, "die")
        assert seen == [keys[0], keys[1], keys[0]]
        stats = json.dumps(await until(lambda stats: True, running))
        assert "using *** now" in stats
        assert not [key for key in keys if key in stats + running.log]
        written(tmp_path, one=one | {"credentials": "another"})
        await until(lambda stats: "[credentials.another]" in stats["rooms"]["providers"]["servers"][0].get("why", ""), running)


@pytest.mark.row("H9")
async def test_servers_by_url_recover_without_a_restart(tmp_path: Path) -> None:
    """One moves every request to `/mcp/` and forgets its sessions, one shows a maintenance page at first."""
    moved = Small(lambda seen, frame: None if seen.target == "/mcp/" else reply(308, b"", "Location: /mcp/"), tool="pour", sessions=True)
    async with upstream(moved) as first, upstream(says(MAINTENANCE)) as second:
        file = written(tmp_path, moved={"url": f"{first.url}/mcp"}, ill={"url": f"{second.url}/mcp"})
        async with server_with(tmp_path, file) as running, device(running) as asker:
            await asker.greets(client="an MCP client")
            found = await servers(running, moved="running", ill="waiting")
            assert "(text/html) cannot be read" in found["ill"]["why"] and "Back soon" in found["ill"]["why"]
            assert await asker.names() == {"pour"}
            moved.greeted += 1  # it has begun anew, and knows no session of before
            assert text_of(await asker.calls(3, "pour")) == "poured"
            assert (await servers(running, moved="running"))["moved"]["attempts"] == 1
            second.script = Small(tool="stir")
            await servers(running, moved="running", ill="running")
            await answered(asker, "stir")
            assert await asker.names() == {"pour", "stir"}
