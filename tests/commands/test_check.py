"""Each thing that can be wrong with an installation is reproduced, found, and its remedy named in both languages."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from certificates import certificate
from checking import checked, free_port, live, loaded, look, notes, problems
from running import BOUND, KEY, SOURCES, program, running, settled
from websockets.asyncio.client import ClientConnection, connect

from mcp_endpoint.access import tls
from mcp_endpoint.access.addresses import endpoint_addresses
from mcp_endpoint.access.tokens import TokenCodec
from mcp_endpoint.commands import check
from mcp_endpoint.commands.check import findings, local_addresses, local_base, mistake
from mcp_endpoint.commands.finding import Finding
from mcp_endpoint.core.broker import Broker
from mcp_endpoint.errors import ConfigError, EndpointError
from mcp_endpoint.serving.server import bind, create_server
from mcp_endpoint.settings.schema import Config, DialSettings, GatewaySettings, Security, Server

OTHER_KEY = KEY[::-1]


@contextmanager
def other_program(answer: bytes | Callable[[bytes], bytes] | None) -> Iterator[int]:
    """Another program on a port: it answers every connection in its way, or takes it and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = threading.Event()

        def talk() -> None:
            while not done.is_set():
                link, _ = listener.accept()
                with link:
                    if answer is None:
                        done.wait(BOUND)
                    elif not done.is_set() and (request := link.recv(65_536)):
                        link.sendall(answer(request) if callable(answer) else answer)

        thread = threading.Thread(target=talk)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            done.set()
            with socket.create_connection(listener.getsockname()):
                pass
            thread.join(BOUND)


def http_answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


@asynccontextmanager
async def attached(port: int, name: str, side: str = "tool", query: str = "") -> AsyncIterator[ClientConnection]:
    """A tool or a device at the endpoint of that name."""
    pair = endpoint_addresses(f"http://127.0.0.1:{port}", TokenCodec(KEY).make_xiaozhi(name))
    async with connect((pair.tool if side == "tool" else pair.device) + query, proxy=None) as link:
        yield link


# The whole command against the program in a process of its own


async def test_an_installation_from_nothing_to_a_tool_is_told_what_it_lacks_at_each_step(tmp_path: Path) -> None:
    """Nothing running, no tool connected, then all well: the same command, exit status 1, 1 and 0."""
    port = free_port()
    live(tmp_path, f'[server]\nkey = "{KEY}"\nport = {port}\n')
    status, output = await checked(tmp_path)
    assert status == 1
    assert f"[PROBLEM] http://127.0.0.1:{port} 上没有程序在运行" in output
    assert "→ start the server: make run" in output
    async with program(tmp_path, "--root", str(tmp_path), "serve") as server:
        await server.listens()
        status, output = await checked(tmp_path)
        assert status == 1
        assert "[PROBLEM] 没有工具端连接" in output
        assert "→ start one: mcp-endpoint pipe -- COMMAND" in output
        async with attached(port, "single_module", query="&server_id=calculator"):
            status, output = await checked(tmp_path)
        assert (status, output.count("PROBLEM")) == (0, 0)
        assert "[ok] 接入点 single_module 的工具端 calculator" in output
        assert "a call went through the server and back" in output
        assert KEY not in output
        # The file changes under the running server.
        live(tmp_path, f'[server]\nkey = "{OTHER_KEY}"\nport = {port}\n')
        status, output = await checked(tmp_path)
        assert status == 1
        assert "[PROBLEM] 密钥不符" in output
        assert "→ restart the server, so that it reads the file" in output


async def test_an_old_ini_is_a_note_that_names_the_way_out_and_no_failure(tmp_path: Path) -> None:
    port = free_port()
    live(tmp_path, f"[server]\nkey = {KEY}  # 密钥\nport = {port}\n")
    async with program(tmp_path, "--root", str(tmp_path), "serve") as server:
        await server.listens()
        async with attached(port, "single_module"):
            status, output = await checked(tmp_path)
    assert status == 0
    assert "[note] data/.mcp-endpoint-server.cfg 是旧的 INI 格式" in output
    assert "`mcp-endpoint config convert` rewrites it as TOML" in output


async def test_loopback_in_a_container_is_a_problem_with_and_without_a_public_address(tmp_path: Path) -> None:
    port = free_port()
    live(tmp_path, f'[server]\nkey = "{KEY}"\nport = {port}\n')
    async with program(tmp_path, "--root", str(tmp_path), "serve") as server:
        await server.listens()
        for around in ({}, {"MES_SERVER_PUBLIC_URL": f"http://localhost:{port}"}):
            status, output = await checked(tmp_path, environ={"container": "docker", **around})
            assert status == 1
            assert "127.0.0.1, which cannot be reached from outside the container" in output
            assert 'host = "0.0.0.0"' in output


async def test_a_mistake_in_the_configuration_is_a_finding_with_its_place(tmp_path: Path) -> None:
    live(tmp_path, "[server]\nport = 99999\n")
    status, output = await checked(tmp_path)
    assert status == 1
    assert "[PROBLEM] data/.mcp-endpoint-server.cfg:2:8: " in output
    assert "edit the configuration" in output
    assert "Traceback" not in output


async def test_check_looks_where_serve_was_told_to_listen(tmp_path: Path) -> None:
    port = free_port()
    live(tmp_path, f'[server]\nkey = "{KEY}"\n')
    _, output = await checked(tmp_path, "--set", f"server.port={port}")
    assert f"nothing runs at http://127.0.0.1:{port}" in output
    assert (await checked(tmp_path, "--set", "server.port"))[0] == 2


def test_a_mistake_without_a_place_is_still_a_finding() -> None:
    finding = mistake(ConfigError("wrong", "错误"))
    assert (finding.mark, finding.en, finding.zh) == ("PROBLEM", "wrong", "错误")


def test_what_is_odd_in_a_configuration_that_works_is_a_note() -> None:
    odd = (("a is odd; do b", "a 很奇怪；请做 b"), ("c is odd", "c 很奇怪"))
    one, other = notes(list(findings(loaded(*odd, key=""), None, contained=False)))
    assert one == ("a is odd", "a 很奇怪", "do b", "请做 b", False)
    assert other.remedy_en == "edit the configuration"


# The port


async def test_nothing_running_is_told_from_a_server_that_could_not_even_start() -> None:
    (nothing,) = problems(await look(free_port()))
    assert "the port is free" in nothing.en
    (nowhere,) = problems(await look(free_port(), host="192.0.2.1"))
    assert "could not start" in nowhere.en
    assert "not an address of this machine" in nowhere.remedy_en


async def test_a_port_that_is_held_but_not_listened_on_is_found() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        (problem,) = problems(await look(held.getsockname()[1]))
    assert "could not start" in problem.en
    assert "in use by another program" in problem.remedy_en


@pytest.mark.parametrize(
    "answer",
    [
        http_answer("200 OK", b"hello"),
        http_answer("200 OK", b'{"status":"up"}'),
        http_answer("200 OK", b"[" * 100_000),
        http_answer("404 Not Found", b"[]"),
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
        None,
    ],
)
async def test_a_port_taken_by_another_program_is_told_from_our_own(answer: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if answer is None:
        monkeypatch.setattr(check, "SECONDS", 0.2)
    with other_program(answer) as port:
        (problem,) = problems(await look(port))
    assert "another program has the port" in problem.en
    assert "another port" in problem.remedy_en


async def test_a_port_nobody_can_know_is_said_so() -> None:
    (problem,) = problems(await look(0))
    assert "any free port" in problem.remedy_en


# The key


async def test_a_key_that_is_not_the_running_servers_is_found() -> None:
    async with running(Config()) as server:
        (problem,) = problems(await look(server.port, key=OTHER_KEY))
    assert problem.en.startswith("wrong key")
    assert "restart" in problem.remedy_en


async def test_no_key_at_all_is_found_before_anything_is_asked() -> None:
    (problem,) = problems(await look(free_port(), key=""))
    assert "no key yet" in problem.en


@pytest.mark.parametrize("stats", [http_answer("500 Internal Server Error"), b""])
async def test_a_server_that_does_not_tell_its_state_is_found(stats: bytes) -> None:
    healthy = http_answer("200 OK", b'{"status":"ok","version":"1"}')
    with other_program(lambda request: healthy if b"/health" in request else stats) as port:
        (problem,) = problems(await look(port))
    assert "does not return its state" in problem.en


# The round trip


async def test_a_sound_installation_has_a_round_trip_and_no_problem_but_a_note_about_loopback() -> None:
    async with running(Config()) as server, attached(server.port, "home"):
        found = await look(server.port)
    assert problems(found) == []
    (note,) = notes(found)
    assert "127.0.0.1 is reachable from this machine only" in note.remedy_en
    assert any(re.fullmatch(r"a call went through the server and back \(\d+ ms\)", finding.en) for finding in found)


async def test_the_round_trip_is_at_an_endpoint_of_its_own_and_leaves_nobody_behind() -> None:
    config = Config()
    async with running(config) as server, attached(server.port, "home") as tool:
        await look(server.port)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(tool.recv(), 0.05)
        assert server._broker.providers == 1
        assert server._broker.consumers == 0


async def test_two_checks_at_once_do_not_meet() -> None:
    async with running(Config()) as server, attached(server.port, "home"):
        several = await asyncio.gather(*(look(server.port) for _ in range(4)))
    assert [problems(found) for found in several] == [[]] * 4


async def test_a_full_server_lets_no_call_through() -> None:
    from mcp_endpoint.settings.schema import WebSocket

    async with running(Config(websocket=WebSocket(max_connections=1))) as server, attached(server.port, "home"):
        found = problems(await look(server.port))
    assert "a call through the server failed: " in found[0].en
    assert "HTTP 503" in found[0].en
    assert "log" in found[0].remedy_en


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [(b'{"id":1,"method":"tools/call"}', "params"), (b"nonsense", "a call through the server failed"), (b"", "no answer within")],
)
async def test_a_call_that_comes_through_spoilt_or_not_at_all_is_found(spoilt: bytes, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Broker.attach_provider
    if not spoilt:
        monkeypatch.setattr(check, "SECONDS", 1.0)

    class Spoiling:
        def __init__(self, link: Any) -> None:
            self._link = link

        def send(self, first: Any, second: Any = b"") -> None:
            if spoilt:
                self._link.send(spoilt)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._link, name)

    monkeypatch.setattr(Broker, "attach_provider", lambda self, name, shown, link, **more: real(self, name, shown, Spoiling(link), **more))
    async with running(Config()) as server:
        (first, *_) = problems(await look(server.port))
    assert words in first.en


async def test_an_answer_that_is_not_the_tools_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = json.dumps

    def other(value: Any, **more: Any) -> str:
        return real({**value, "result": {"content": []}} if "result" in value else value, **more)

    monkeypatch.setattr(check.json, "dumps", other)
    async with running(Config()) as server:
        (first, *_) = problems(await look(server.port))
    assert "unexpected answer" in first.en


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
    assert any("a call went through the server and back" in finding.en for finding in found)


# What the server says of itself


async def test_a_server_older_than_what_is_installed_wants_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(Config()) as server, attached(server.port, "home"):
        monkeypatch.setattr(check, "__version__", "99.0")
        found = await look(server.port)
    assert problems(found) == []
    assert any("installed is 99.0" in note.en and note.remedy_en == "restart the server" for note in notes(found))


async def test_a_server_that_is_stopping_is_said_to() -> None:
    async with running(Config()) as server:
        server._view.state = "draining"
        found = problems(await look(server.port))
    assert "the server is stopping" in found[0].en


# The address others use


async def test_a_public_url_that_leads_here_is_well() -> None:
    public = "http://localhost:{}"
    async with running(Config()) as server, attached(server.port, "home"):
        found = await look(server.port, public_url=public.format(server.port))
    assert problems(found) == []
    assert any(finding.en.endswith("which leads to this server") for finding in found)


async def test_a_public_url_where_nobody_is_or_something_else_is_found() -> None:
    moved = http_answer("301 Moved Permanently", b"", "Location: https://mcp.example.org/")
    async with running(Config()) as server, attached(server.port, "home"):

        async def wrong(url: str) -> Finding:
            (problem,) = problems(await look(server.port, public_url=url))
            assert "set public_url under [server]" in problem.remedy_en
            return problem

        assert "cannot be reached from here" in (await wrong(f"http://localhost:{free_port()}")).en
        assert "another program answers there (HTTP 404)" in (await wrong(f"http://localhost:{server.port}/elsewhere")).en
        assert "cannot be reached from here" in (await wrong(f"https://localhost:{server.port}")).en
        with other_program(moved) as port:
            assert "it redirects to https://mcp.example.org/" in (await wrong(f"http://localhost:{port}")).en
        with other_program(http_answer("200 OK", b"<html>")) as port:
            assert "another program answers there (HTTP 200)" in (await wrong(f"http://localhost:{port}")).en


async def test_a_public_url_where_another_server_answers_is_found_and_never_shown_the_key() -> None:
    async with running(Config()) as server, attached(server.port, "home"):
        async with running(Config(server=Server(key=OTHER_KEY))) as other:
            (stranger,) = problems(await look(server.port, public_url=f"http://localhost:{other.port}"))
        async with running(Config()) as twin:
            (same_key,) = problems(await look(server.port, public_url=f"http://localhost:{twin.port}"))
    assert "another server answers there, one with another key (HTTP 401)" in stranger.en
    assert "another server answers there, one with the same key" in same_key.en

    heard: list[bytes] = []
    like_ours = http_answer("200 OK", b'{"result":{"message":"MCP Endpoint Server","status":"running"}}')

    def listen(request: bytes) -> bytes:
        heard.append(request)
        return http_answer("403 Forbidden") if b"Upgrade" in request else like_ours

    async with running(Config()) as server, attached(server.port, "home"):
        with other_program(listen) as port:
            (problem,) = problems(await look(server.port, public_url=f"http://localhost:{port}"))
    assert "another server answers there" in problem.en
    assert len(heard) == 2
    assert KEY.encode() not in b"".join(heard)


async def test_a_proxy_that_does_not_hand_on_websockets_is_found() -> None:
    like_ours = http_answer("200 OK", b'{"result":{"message":"MCP Endpoint Server","status":"running"}}')
    refused = http_answer("426 Upgrade Required")
    async with running(Config()) as server, attached(server.port, "home"):
        with other_program(lambda request: refused if b"/call/" in request else like_ours) as port:
            (problem,) = problems(await look(server.port, public_url=f"http://localhost:{port}"))
    assert "WebSocket does not" in problem.en
    assert "nginx" in problem.en


async def test_a_proxy_that_keeps_the_console_address_back_is_found() -> None:
    """Links and the greeting pass, `/mcp_endpoint/health` does not: the console would refuse the address."""
    async with running(Config()) as server, attached(server.port, "home"):

        async def hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"/health" in head:
                writer.write(http_answer("403 Forbidden"))
                writer.close()
                return
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", server.port)
            inner_writer.write(head)

            async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
                while data := await source.read(65_536):
                    target.write(data)
                target.close()

            await asyncio.gather(copy(inner_reader, writer), copy(reader, inner_writer))

        proxy = await asyncio.start_server(hand_on, "127.0.0.1", 0)
        async with proxy:
            public = f"http://localhost:{proxy.sockets[0].getsockname()[1]}"
            (problem,) = problems(await look(server.port, public_url=public))
    assert "the console address does not work (HTTP 403)" in problem.en


async def test_the_machines_own_address_is_tried_where_no_public_url_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    own = f"http://0.0.0.0:{free_port()}"
    monkeypatch.setattr(check, "base_of", lambda *_, **__: own)
    async with running(Config()) as server, attached(server.port, "home"):
        (problem,) = problems(await look(server.port, host="0.0.0.0"))
    assert f"{own}, which does not lead to this server" in problem.en


async def test_a_container_that_does_not_know_its_address_is_a_note() -> None:
    async with running(Config()) as server, attached(server.port, "home"):
        found = await look(server.port, host="0.0.0.0", contained=True)
    assert problems(found) == []
    assert any("public_url" in note.remedy_en for note in notes(found))


# The tools


async def test_no_tool_is_found_with_the_command_that_brings_one() -> None:
    async with running(Config()) as server:
        (problem,) = problems(await look(server.port))
        assert problem.en == "no tool is connected"
        assert "mcp-endpoint pipe" in problem.remedy_en
        assert "mcp-endpoint url single_module" in problem.remedy_en
        async with attached(server.port, "kitchen", "device"):
            async with attached(server.port, "kitchen"):
                pass
            (problem,) = problems(await look(server.port))
        assert re.search(r"; the last one left endpoint kitchen at \S+, 1000", problem.en)
        assert "mcp-endpoint url kitchen" in problem.remedy_en
        for asked in (None, "kitchen"):  # the device is gone too: the server still knows
            (problem,) = problems(await look(server.port, asked))
            assert "; the last one left endpoint kitchen at " in problem.en
        async with attached(server.port, "hall"):
            (problem,) = problems(await look(server.port, "kitchen"))
    assert "no tool at endpoint kitchen" in problem.en
    assert "; the last one left endpoint kitchen at " in problem.en


async def test_a_device_that_waits_while_tools_are_connected_under_another_token_is_found_with_both_names() -> None:
    async with running(Config()) as server, attached(server.port, "kitchen"):
        assert problems(await look(server.port)) == []
        async with attached(server.port, "home", "device"):
            (problem,) = problems(await look(server.port))
    assert "no tool at endpoint home (devices waiting: 1)" in problem.en
    assert "under another token, at: kitchen" in problem.en
    assert "mcp-endpoint url home" in problem.remedy_en


@pytest.mark.parametrize("form", ["{name}", "{token}", "{pair.device}", "{pair.tool}", "'{pair.tool}'"])
async def test_the_endpoint_asked_for_is_named_by_name_token_or_address(form: str) -> None:
    def given(name: str) -> str:
        token = TokenCodec(KEY).make_xiaozhi(name)
        return form.format(name=name, token=token, pair=endpoint_addresses("https://mcp.example.org", token))

    async with running(Config()) as server, attached(server.port, "kitchen"):
        assert problems(await look(server.port, given("kitchen"))) == []
        (problem,) = problems(await look(server.port, given("home")))
    assert "no tool at endpoint home (devices waiting: 0), but tools are connected under another token, at: kitchen" in problem.en


async def test_an_endpoint_asked_for_is_told_when_there_is_no_tool_anywhere() -> None:
    async with running(Config()) as server:
        (problem,) = problems(await look(server.port, "home"))
    assert problem.en == "no tool is connected"
    assert "mcp-endpoint url home" in problem.remedy_en


@pytest.mark.parametrize(
    "config",
    [
        Config(gateway=(GatewaySettings(name="models", target="http://127.0.0.1:9/"),)),
        Config(dial=(DialSettings(name="hosted", url="ws://127.0.0.1:9/?token=t", endpoint="home"),)),
    ],
    ids=["gateway", "dial"],
)
async def test_without_a_tool_all_may_be_well_where_a_gateway_or_a_dial_is_configured(config: Config) -> None:
    """Unless somebody waits for one."""
    async with running(config) as server:
        assert "no tool is connected" in [note.en for note in notes(await look(server.port))]
        assert "no tool is connected" in [problem.en for problem in problems(await look(server.port, "kitchen"))]
        async with attached(server.port, "kitchen", "device"):
            assert "no tool is connected" in [problem.en for problem in problems(await look(server.port))]


async def test_an_address_made_with_another_key_is_found() -> None:
    pair = endpoint_addresses("http://127.0.0.1:8004", TokenCodec(OTHER_KEY).make_xiaozhi("home"))
    async with running(Config()) as server, attached(server.port, "home"):
        for given in (pair.tool, TokenCodec(OTHER_KEY).make_xiaozhi("home"), "ws://127.0.0.1/mcp_endpoint/mcp/"):
            (problem,) = problems(await look(server.port, given))
            assert "the given token is not valid here" in problem.en
            assert "mcp-endpoint url NAME" in problem.remedy_en
        (problem,) = problems(await look(server.port, TokenCodec(KEY).make_xiaozhi("home"), security=Security(agents=("kitchen",))))
        assert "agent-not-allowed" in problem.en and "[security] agents" in problem.remedy_en


async def test_a_token_whose_time_is_over_and_an_address_without_one_are_not_said_to_be_cut_off() -> None:
    async with running(Config()) as server, attached(server.port, "home"):
        (problem,) = problems(await look(server.port, TokenCodec(KEY).make_signed("home", expires=1.0)))
        assert "expired" in problem.en and "another key" not in problem.en
        assert "token make" in problem.remedy_en
        (problem,) = problems(await look(server.port, f"ws://127.0.0.1:{server.port}/mcp_endpoint/mcp/"))
        assert "contains no token" in problem.en


@pytest.mark.parametrize("tool", [False, True])
async def test_a_free_form_token_is_told_of_and_no_endpoint_of_its_printed_name_is_recommended(tool: bool) -> None:
    async with running(Config()) as server, contextlib.AsyncExitStack() as stack:
        if tool:
            await stack.enter_async_context(attached(server.port, "home"))
        for given in ("ws://127.0.0.1/mcp_endpoint/mcp/?token=cut/off", "cut/off"):
            found = await look(server.port, given)
            (note,) = [one for one in found if "free-form" in one.en]
            assert note.mark == "note" and "自定义令牌" in note.zh and "mcp-endpoint url NAME" in note.remedy_en
            assert not any("url opaque-" in one.remedy_en for one in found)


async def test_the_placeholder_of_an_example_is_called_so() -> None:
    async with running(Config()) as server:
        for given in ("ws://127.0.0.1/mcp_endpoint/mcp/?token=...", "..."):
            assert any("the placeholder of an example" in one.en for one in problems(await look(server.port, given)))


async def test_tools_in_trouble_are_notes() -> None:
    def tool(**changes: Any) -> dict[str, Any]:
        return {"label": "", "functions": [], "why_bare": "", "doubtful": False} | changes

    three = [tool(why_bare="silent"), tool(doubtful=True, label="slow"), tool(functions=["a", "b"])]
    bare, slow, well = check._tools(TokenCodec(KEY), {"endpoint_details": [{"endpoint": "home", "tools": three, "devices": []}]}, None)
    assert (bare.mark, slow.mark, well.mark) == ("note", "note", "ok")
    assert "does not speak MCP: silent" in bare.en
    assert "timeout" in slow.remedy_en
    assert well.en == "tool tool at endpoint home: a, b"


# Where the server of this machine is


@pytest.mark.parametrize(
    ("host", "base"),
    [
        ("0.0.0.0", "http://127.0.0.1:8004"),
        ("::", "http://[::1]:8004"),
        ("192.0.2.3", "http://192.0.2.3:8004"),
        ("", "http://127.0.0.1:8004"),
    ],
)
def test_a_server_that_listens_everywhere_is_reached_at_home(host: str, base: str) -> None:
    assert local_base(Config(server=Server(host=host))) == base
    assert local_base(Config(server=Server(host=host, tls_cert="c"))) == base.replace("http", "https")


def test_an_endpoint_of_this_machine_has_addresses_by_name_and_by_token() -> None:
    config = Config(server=Server(key=KEY))
    token = TokenCodec(KEY).make_xiaozhi("home")
    by_name = local_addresses(config, "home")
    assert by_name == local_addresses(config, token)
    assert by_name.device.startswith("ws://127.0.0.1:8004/mcp_endpoint/call/?token=")
    assert "token=some%20secret" in local_addresses(config, "some secret").tool


@pytest.mark.parametrize(
    ("server", "given", "words"),
    [
        (Server(), "home", "no key here"),
        (Server(key=KEY, port=0), "home", "any free port"),
        (Server(key=KEY), "mep1.wrong", "is not valid here: bad-signature: it was made with another key"),
    ],
)
def test_where_there_is_no_address_the_reason_is_told(server: Server, given: str, words: str) -> None:
    with pytest.raises(EndpointError, match=words):
        local_addresses(Config(server=server), given)
