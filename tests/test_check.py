"""Each thing that can be wrong with an installation is found, and its remedy named."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from certificates import certificate
from running import BOUND, KEY, SOURCES, running, settled
from websockets.asyncio.client import connect

from mcp_endpoint import check, tls
from mcp_endpoint.check import Finding, findings, local_of
from mcp_endpoint.config import Config, Loaded, Server
from mcp_endpoint.server import bind, create_server
from mcp_endpoint.tokens import Doors


def loaded(*warnings: tuple[str, str], **server: Any) -> Loaded:
    return Loaded(Config(server=Server(**({"key": KEY} | server))), {}, warnings, Path("data/.mcp-endpoint-server.cfg"))


async def look(port: int, endpoint: str = "home", *, contained: bool = False, **server: Any) -> list[Finding]:
    """Everything found about a server of this process, from a thread of its own, as a command would."""
    return await asyncio.to_thread(lambda: list(findings(loaded(port=port, **server), endpoint, contained=contained)))


def problems(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.mark == "PROBLEM"]


@contextmanager
def program(answer: bytes | None) -> Iterator[int]:
    """Another program on a port: it answers everything with `answer`, or takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = threading.Event()

        def talk() -> None:
            while not done.is_set():
                link, _ = listener.accept()
                with link:
                    if answer is None:
                        done.wait(BOUND)
                    elif not done.is_set():
                        link.recv(65_536)
                        link.sendall(answer)

        thread = threading.Thread(target=talk)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            done.set()
            with socket.create_connection(listener.getsockname()):
                pass
            thread.join(BOUND)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


async def test_nothing_running_names_the_command_that_starts_it() -> None:
    (problem,) = problems(await look(free_port()))
    assert "nothing runs" in problem.en
    assert "make run" in problem.remedy_en
    assert "make run" in problem.remedy_zh


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"status":"up"}',
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n[]",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
        None,
    ],
)
async def test_a_port_taken_by_another_program_is_told_from_our_own(answer: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "SECONDS", 0.2)
    with program(answer) as port:
        (problem,) = problems(await look(port))
    assert "another program has the port" in problem.en
    assert "another port" in problem.remedy_en


async def test_a_key_that_is_not_the_running_servers_is_found() -> None:
    async with running(Config()) as server:
        (problem,) = problems(await look(server.port, key=KEY[::-1]))
    assert "another key" in problem.en
    assert "restart" in problem.remedy_en


async def test_no_key_at_all_is_found_before_anything_is_asked() -> None:
    (problem,) = problems(await look(free_port(), key=""))
    assert "no key yet" in problem.en


async def test_no_tool_is_found_with_the_command_that_brings_one() -> None:
    async with running(Config()) as server:
        (problem,) = problems(await look(server.port))
    assert problem.en == "no tool is connected"
    assert "mcp-endpoint pipe" in problem.remedy_en


async def test_a_tool_connected_under_another_token_is_found_with_its_name() -> None:
    async with running(Config()) as server:
        token = Doors(KEY).make_xiaozhi("kitchen")
        async with connect(f"ws://127.0.0.1:{server.port}/mcp_endpoint/mcp/?token={token.replace('+', '%2B')}"):
            (problem,) = problems(await look(server.port))
            well = await look(server.port, "kitchen")
    assert "under another token, at: kitchen" in problem.en
    assert "mcp-endpoint url home" in problem.remedy_en
    assert problems(well) == []
    assert "tools at endpoint kitchen" in well[-1].en


async def test_a_sound_installation_has_a_round_trip_and_no_problem_but_a_note_about_loopback() -> None:
    async with running(Config()) as server:
        token = Doors(KEY).make_signed("home")
        async with connect(f"ws://127.0.0.1:{server.port}/mcp_endpoint/mcp/?token={token}"):
            found = await look(server.port)
    assert problems(found) == []
    assert "a call went through the server and back" in [finding.en for finding in found]
    assert [finding.mark for finding in found if "127.0.0.1 is reachable" in finding.remedy_en] == ["note"]


async def test_loopback_in_a_container_is_a_problem() -> None:
    async with running(Config()) as server:
        found = problems(await look(server.port, contained=True))
    assert any('host = "0.0.0.0"' in problem.remedy_en for problem in found)


async def test_a_public_url_that_leads_here_is_well_and_one_that_does_not_is_found() -> None:
    async with running(Config()) as server:
        well = await look(server.port, public_url=f"http://localhost:{server.port}")
        (wrong, *_) = problems(await look(server.port, public_url=f"http://localhost:{free_port()}"))
        (other, *_) = problems(await look(server.port, public_url=f"http://localhost:{server.port}/elsewhere"))
        (secured, *_) = problems(await look(server.port, public_url=f"https://localhost:{server.port}"))
    assert any(finding.en.endswith("leads to this server") for finding in well)
    assert "does not lead to this server: " in wrong.en
    assert "HTTP 404" in other.en
    assert "does not lead to this server: " in secured.en
    assert "public_url" in wrong.remedy_en


async def test_an_address_others_reach_is_simply_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "base_of", lambda *_, **__: "http://192.0.2.44:8004")
    async with running(Config()) as server:
        found = await look(server.port)
    assert ("ok", "handed-out addresses begin with http://192.0.2.44:8004") in [(finding.mark, finding.en) for finding in found]


def test_an_old_ini_file_is_a_note_that_names_the_way_out() -> None:
    old = ("it is in the old INI form; `mcp-endpoint config convert` rewrites it", "是旧的 INI 格式；运行 `mcp-endpoint config convert`")
    found = list(findings(loaded(old, ("just so", "仅此"), port=free_port()), "home", contained=False))
    assert found[1].mark == "note"
    assert "config convert" in found[1].remedy_en
    assert "config convert" in found[1].remedy_zh
    assert found[2].remedy_en == "edit the configuration"


@pytest.mark.parametrize("trouble", ["refused", "wrong answer", "garbage"])
async def test_a_call_that_does_not_come_through_is_found(trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = json.loads

    def break_answers(text: Any) -> Any:
        message = real(text)
        if isinstance(message, dict) and message.get("result") == {"back": True}:
            if trouble == "garbage":
                raise ValueError("not JSON")
            return {"wrong": True}
        return message

    async with running(Config()) as server:
        if trouble == "refused":
            monkeypatch.setattr(check, "PROBE", "x")
            monkeypatch.setattr(Doors, "make_signed", lambda *_: "mep1.wrong.token")
        else:
            monkeypatch.setattr(check.json, "loads", break_answers)
        found = problems(await look(server.port))
    assert any("a call did not come through" in problem.en for problem in found)


async def test_a_server_with_its_own_certificate_is_looked_at_over_tls(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    config = settled(Config(server=Server(tls_cert=cert, tls_key=key)))
    sockets = bind(config.server, SOURCES)
    server = create_server(config, tls.serving(config.server, SOURCES))
    task = asyncio.create_task(server.serve(sockets))
    try:
        found = await look(sockets[0].getsockname()[1], tls_cert=cert, tls_key=key)
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, BOUND)
    assert "a call went through the server and back" in [finding.en for finding in found]


@pytest.mark.parametrize(
    ("host", "base"),
    [("0.0.0.0", "http://127.0.0.1:8004"), ("::", "http://[::1]:8004"), ("192.0.2.3", "http://192.0.2.3:8004"), ("", "http://127.0.0.1:8004")],
)
def test_a_server_that_listens_everywhere_is_reached_at_home(host: str, base: str) -> None:
    server = msgspec.structs.replace(Server(), host=host)
    assert local_of(Config(server=server)).base == base
