"""Binding, certificates, descriptors and the drain, with real sockets inside this process."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from certificates import certificate
from loguru import logger
from prometheus_client.parser import text_string_to_metric_families
from running import BOUND, KEY, SOURCES, get, running, settled
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from mcp_endpoint import log
from mcp_endpoint.access import tls
from mcp_endpoint.access.tokens import TokenCodec
from mcp_endpoint.errors import ConfigError, EndpointError
from mcp_endpoint.serving import server as module
from mcp_endpoint.serving.server import LogWatch, bind, create_server, descriptor_shortage
from mcp_endpoint.settings.first_start import Prepared
from mcp_endpoint.settings.load import Loaded
from mcp_endpoint.settings.schema import Config, CredentialSettings, DialSettings, GatewaySettings, Limits, Logging, Server, WebSocket

TOKEN = TokenCodec(KEY).make_signed("home")


def tool(port: int, token: str = TOKEN, **options: Any) -> connect:
    return connect(f"ws://127.0.0.1:{port}/mcp_endpoint/mcp/?token={token}", **options)


def device(port: int, token: str = TOKEN, **options: Any) -> connect:
    return connect(f"ws://127.0.0.1:{port}/mcp_endpoint/call/?token={token}", **options)


def call(number: int, method: str = "tools/call") -> str:
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": {"name": "calculator", "arguments": {}}})


async def heard(link: ClientConnection) -> Any:
    return json.loads(await asyncio.wait_for(link.recv(), BOUND))


async def close_reason(link: ClientConnection) -> tuple[int, str]:
    """Read to the end; the close code and reason."""
    with pytest.raises(ConnectionClosed) as closed:
        async with asyncio.timeout(BOUND):
            while True:
                await link.recv()
    frame = closed.value.rcvd
    assert frame is not None
    return frame.code, frame.reason


# -- binding -------------------------------------------------------------------------------------------------------------


@pytest.mark.row("E7", "E8")
def test_it_binds_the_configured_address_and_port_and_no_other() -> None:
    (free,) = bind(Server(port=0), SOURCES)
    port = free.getsockname()[1]
    free.close()
    (bound,) = bind(Server(port=port), SOURCES)
    with bound:
        assert bound.getsockname() == ("127.0.0.1", port)


def test_a_name_with_several_addresses_is_bound_to_all_of_them_on_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in ("127.0.0.1", "127.0.0.2", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    bound = bind(Server(host="two.test", port=0), SOURCES)
    try:
        assert [one.getsockname()[0] for one in bound] == ["127.0.0.1", "127.0.0.2"]
        assert len({one.getsockname()[1] for one in bound}) == 1
    finally:
        for one in bound:
            one.close()


def test_an_address_family_the_machine_lacks_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def without_ipv6(family: int = -1, *rest: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported")
        return real(family, *rest)

    found = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(socket, "socket", without_ipv6)
    (bound,) = bind(Server(host="both.test", port=0), SOURCES)
    bound.close()


def test_a_port_in_use_is_told_with_the_place_of_the_setting_and_nothing_stays_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.2", "127.0.0.1")]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
        with pytest.raises(EndpointError) as refused:
            bind(Server(port=port), SOURCES)
    assert (refused.value.exit_code, refused.value.place) == (1, "command line")
    assert "in use" in refused.value.en
    assert "占用" in refused.value.zh
    with socket.create_server(("127.0.0.2", port)):
        pass


def test_a_port_without_the_right_to_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(EndpointError) as refused:
        bind(Server(port=80), SOURCES)
    assert refused.value.exit_code == 1
    assert "Permission denied" in refused.value.en


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1"])
def test_a_host_that_is_not_this_machines_is_a_configuration_mistake(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if host.endswith(".invalid"):

        def unknown(*_: Any, **__: Any) -> Any:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ConfigError) as refused:
        bind(Server(host=host, port=0), SOURCES)
    assert host in refused.value.en


# -- descriptors -----------------------------------------------------------------------------------------------------------


class Rlimits:
    """The `resource` module's two functions over a pair of numbers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, soft: int, hard: int) -> None:
        import resource

        self.soft, self.hard = soft, hard
        monkeypatch.setattr(resource, "getrlimit", lambda _: (self.soft, self.hard))
        monkeypatch.setattr(resource, "setrlimit", self.set)

    def set(self, _: int, pair: tuple[int, int]) -> None:
        self.soft, self.hard = pair


def test_the_limit_of_open_files_is_raised_to_what_the_links_need(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(websocket=WebSocket(max_connections=1_000), limits=Limits(unfinished_handshakes=1_000, http_requests=2_000))
    for soft, hard, after in ((1_024, 1_048_576, 4_064), (1_024, -1, 4_064), (5_000, 5_000, 5_000), (-1, -1, -1)):
        limits = Rlimits(monkeypatch, soft, hard)
        assert descriptor_shortage(config) == []
        assert limits.soft == after


def test_a_machine_that_does_not_allow_it_is_told_of_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Rlimits(monkeypatch, 1_024, 2_048)
    (hint,) = descriptor_shortage(Config(websocket=WebSocket(max_connections=1_000)))
    assert "ulimit -n 4064" in hint.en
    assert "ulimit -n 4064" in hint.zh
    assert limits.soft == 2_048


def test_where_there_is_no_such_limit_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.sys, "platform", "win32")
    assert descriptor_shortage(Config()) == []


# -- the whole, running ------------------------------------------------------------------------------------------------------


@pytest.mark.row("E2", "U1", "E4")
async def test_a_device_and_a_tool_meet_at_their_token_and_the_numbers_move() -> None:
    async with running(Config()) as server:
        assert json.loads((await get(server.port, "/stats")).body)["tool_connections"] == 0
        async with tool(server.port) as answering, device(server.port) as asking:
            await asking.send(call(0))
            question = await heard(answering)
            assert question["params"] == {"name": "calculator", "arguments": {}}
            await answering.send(json.dumps({"jsonrpc": "2.0", "id": question["id"], "result": {"content": []}}))
            assert await heard(asking) == {"jsonrpc": "2.0", "id": 0, "result": {"content": []}}
            counts = json.loads((await get(server.port, "/stats")).body)
            assert (counts["endpoints"], counts["tool_connections"], counts["device_connections"]) == (1, 1, 1)
            assert (counts["counters"]["requests"], counts["counters"]["links_accepted"]) == (1, 2)
            details = json.loads((await get(server.port, f"/stats?key={KEY}")).body)["endpoint_details"]
            assert [one["endpoint"] for one in details] == ["home"]


async def test_the_metrics_tell_links_counters_and_every_limit() -> None:
    async with running(Config(limits=Limits(bad_frames=33))) as server, tool(server.port):
        page = (await get(server.port, "/metrics")).body.decode()
        families = {family.name: family for family in text_string_to_metric_families(page)}
        links = {sample.labels["side"]: sample.value for sample in families["mcp_endpoint_links"].samples}
        assert links == {"tool": 1, "device": 0, "session": 0}
        limits = {sample.labels["name"]: sample.value for sample in families["mcp_endpoint_limit"].samples}
        assert limits["bad_frames"] == 33
        assert set(limits) >= set(Limits.__struct_fields__)  # and a renamed one under its old name
        assert families["mcp_endpoint_ready"].samples[0].value == 1
        tasks = families["mcp_endpoint_tasks"].samples[0].value
        another = asyncio.create_task(asyncio.Event().wait())
        page = (await get(server.port, "/metrics")).body.decode()
        another.cancel()
        assert f"mcp_endpoint_tasks {tasks + 1}\n" in page


async def test_two_servers_in_one_process_share_nothing() -> None:
    async with running(Config()) as one, running(Config()) as other, tool(one.port):
        assert json.loads((await get(one.port, "/stats")).body)["tool_connections"] == 1
        assert json.loads((await get(other.port, "/stats")).body)["tool_connections"] == 0


async def test_only_the_configured_address_is_listened_on() -> None:
    async with running(Config()) as server:
        with pytest.raises(OSError, match=r"refused|111|61"):
            await get(server.port, "/health", host="127.0.0.2")


async def test_the_scheme_and_address_of_a_request_are_believed_from_trusted_proxies_only() -> None:
    forwarded = ("X-Forwarded-Proto: https", "Accept: text/html")
    async with running(Config(server=Server(trusted_proxies=("127.0.0.0/8",)))) as server:
        assert b"https://127.0.0.1" in (await get(server.port, f"/mcp_endpoint/?key={KEY}", *forwarded)).body
    async with running(Config()) as server:
        assert b"https://127.0.0.1" not in (await get(server.port, f"/mcp_endpoint/?key={KEY}", *forwarded)).body


async def test_the_page_shows_links_outwards_gateways_and_keys_without_their_secrets(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text("sk-canary-one\nsk-canary-two\n")
    config = Config(
        dial=(DialSettings(name="hosted", url="ws://user:canary@127.0.0.1:9/mcp/?token=canary", endpoint="home"),),
        gateway=(GatewaySettings(name="models", target="http://127.0.0.1:9/v1?key=canary", credentials="fly"),),
        credentials={"fly": CredentialSettings(file="keys.txt")},
    )
    async with running(config, root=tmp_path) as server:
        page = (await get(server.port, f"/mcp_endpoint/?key={KEY}", "Accept: text/html")).body.decode()
    assert "127.0.0.1:9 · endpoint home" in page
    assert "/gateway/models/" in page and "requests 0" in page
    assert "available 2 · resting 0 · banned 0" in page
    assert "canary" not in page


async def test_links_and_status_are_served_over_tls_directly(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    config = settled(Config(server=Server(tls_cert=cert, tls_key=key)))
    sockets = bind(config.server, SOURCES)
    server = create_server(config, tls.serving(config.server, SOURCES))
    task = asyncio.create_task(server.serve(sockets))
    url = f"wss://localhost:{sockets[0].getsockname()[1]}/mcp_endpoint/call/?token={TOKEN}"
    try:
        async with connect(url, ssl=ssl.create_default_context(cafile=cert), host="127.0.0.1") as link:
            await link.send(call(1, "ping"))
            assert await heard(link) == {"jsonrpc": "2.0", "id": 1, "result": {}}
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, BOUND)


# -- the end -----------------------------------------------------------------------------------------------------------------


async def test_while_draining_ready_is_503_nobody_comes_in_and_calls_in_flight_finish() -> None:
    config = Config()
    async with running(config) as server, tool(server.port) as answering, device(server.port) as asking:
        await asking.send(call(7))
        question = await heard(answering)
        server.handle_exit(signal.SIGTERM, None)
        async with asyncio.timeout(BOUND):
            while (await get(server.port, "/ready")).status == 200:
                pass
        assert (await get(server.port, "/health")).status == 200
        with pytest.raises(InvalidStatus) as refused:
            async with device(server.port):
                pass
        assert refused.value.response.status_code == 503
        await answering.send(json.dumps({"jsonrpc": "2.0", "id": question["id"], "result": 7}))
        assert (await heard(asking))["result"] == 7
        assert (await close_reason(asking))[0] == 1012
        assert (await close_reason(answering))[0] == 1012


async def test_what_is_not_answered_within_drain_seconds_is_answered_with_an_error() -> None:
    async with running(Config(server=Server(drain_seconds=0.1))) as server, tool(server.port) as answering, device(server.port) as asking:
        await asking.send(call(7))
        await heard(answering)
        server.handle_exit(signal.SIGTERM, None)
        answer = await heard(asking)
        assert (answer["id"], answer["error"]["code"]) == (7, -32003)
        assert (await close_reason(asking))[0] == 1012


async def test_a_second_signal_ends_the_waiting_at_once() -> None:
    async with running(Config(server=Server(drain_seconds=3_600))) as server, tool(server.port) as answering, device(server.port) as asking:
        await asking.send(call(7))
        await heard(answering)
        server.handle_exit(signal.SIGTERM, None)
        async with asyncio.timeout(BOUND):
            while (await get(server.port, "/ready")).status == 200:
                pass
        server.handle_exit(signal.SIGTERM, None)
        assert (await heard(asking))["error"]["code"] == -32003
        assert (await close_reason(asking))[0] == 1012


async def test_a_peer_that_never_answers_the_close_frame_holds_nobody_up() -> None:
    config = Config()
    async with running(config) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(
            (
                f"GET /mcp_endpoint/call/?token={TOKEN} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            ).encode()
        )
        async with asyncio.timeout(BOUND):
            while not json.loads((await get(server.port, "/stats")).body)["device_connections"]:
                pass
    writer.close()  # `running` has waited for the server's end, bounded


# -- around it ---------------------------------------------------------------------------------------------------------------


def test_run_serves_logs_and_announces_until_the_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config(server=Server(key=KEY, port=0), logging=Logging(log_file=str(tmp_path / "logs/x.log")))
    loaded = Loaded(config, SOURCES, (("a warning", "一个警告"),), tmp_path / "cfg")
    prepared = Prepared("", (("made it", "已创建"),), (("read-only", "只读"),))
    monkeypatch.setattr(module, "descriptor_shortage", lambda _: [module.Hint("few files", "文件太少")])
    real = module.DrainingServer.startup

    async def start_and_stop(self: module.DrainingServer, sockets: list[socket.socket] | None = None) -> None:
        await real(self, sockets)
        self.handle_exit(signal.SIGTERM, None)

    monkeypatch.setattr(module.DrainingServer, "startup", start_and_stop)
    monkeypatch.setattr(module.signals, "leaving", lambda: None)  # the tests do not end here
    module.run(loaded, prepared, tmp_path)
    printed = capsys.readouterr()
    assert f"health?key={KEY}" in printed.out
    for text in (printed.err, (tmp_path / "logs/x.log").read_text("utf-8")):
        for words in ("已创建 / made it", "只读 / read-only", "一个警告 / a warning", "文件太少 / few files", "listening", "stopped"):
            assert words in text
        assert KEY not in text


def test_without_uvloop_asyncios_own_loop_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.sys.modules, "uvloop", None)
    assert module._loop_factory() is None


@pytest.mark.parametrize(("event", "words", "level"), [("bare", "工具端不会 MCP 握手", "WARNING"), ("a new one", "a new one", "INFO")])
def test_rare_events_of_the_heart_are_lines_of_the_log_with_their_endpoint(event: str, words: str, level: str) -> None:
    lines: list[Mapping[str, Any]] = []
    sink = logger.add(lambda message: lines.append(message.record))
    try:
        LogWatch(lambda: 0.0).tell(event, "home", label="{calc}")
    finally:
        logger.remove(sink)
    (line,) = lines
    assert words in line["message"]
    assert event in line["message"]
    assert (line["level"].name, line["extra"]["endpoint"], line["extra"]["label"]) == (level, "home", "{calc}")


def test_what_a_peer_repeats_is_told_a_few_times_a_minute_with_how_often_it_was_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "THINGS_COUNTED", 3)
    now = 0.0
    watch = LogWatch(lambda: now)
    lines: list[Mapping[str, Any]] = []
    sink = logger.add(lambda message: lines.append(message.record))
    try:
        for _ in range(1000):
            watch.tell("no list", "home")
        assert len(lines) == log.LINES_A_MINUTE
        watch.tell("no list", "another")
        assert len(lines) == log.LINES_A_MINUTE + 1
        now = 61.0
        watch.tell("no list", "home")
        assert lines[-1]["extra"]["not_told"] == 1000 - log.LINES_A_MINUTE
        for number in range(10):  # many endpoints do not make it grow
            watch.tell("no list", f"endpoint {number}")
        assert len(watch._quota._minutes) <= 3
    finally:
        logger.remove(sink)
