"""The guard: what uvicorn alone lets through on a request's head and its Host."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from sockets.peerframes import TEXT, frame
from sockets.wire_server import BIG, BOUND, DEVICE, Stage, certificates, configured, connection, linked, request, staged, until

from mcp_endpoint.sockets.guard import Guard, Hosts
from mcp_endpoint.sockets.link import READ_PER_TURN

GET = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def get(path: str = "/", *headers: str, host: str = "127.0.0.1") -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", f"Host: {host}", *headers]).encode("latin-1") + b"\r\n\r\n"


# Hosts


@pytest.mark.parametrize(
    ("server", "security", "right", "wrong"),
    [
        (
            {},
            {},
            ["127.0.0.1", "127.0.0.1:8004", "localhost", "LOCALHOST:80", "[::1]:8004", "app.localhost", "localhost."],
            ["evil.example", "192.168.1.5", "nas", "nas.local", "127.0.0.1.evil.example", "", ":80", "[::2]"],
        ),
        ({"public_url": "https://Mcp.example.com:8443/x"}, {}, ["mcp.example.com", "MCP.example.com:8443", "localhost"], ["example.com"]),
        (
            {"host": "0.0.0.0"},
            {},
            ["192.168.1.5:8004", "8.8.8.8", "[fe80::1]:8004", "nas", "NAS:8004", "nas.local", "localhost"],
            ["evil.example", "nas.local.evil.example", "1.2.3.4.nip.io"],
        ),
        ({"host": "0.0.0.0", "public_url": "wss://mcp.example.com"}, {}, ["mcp.example.com", "10.0.0.1"], ["other.example.com"]),
        (
            {"host": "0.0.0.0"},
            {"allowed_hosts": ("mcp.example.com", "*.lan.example", "exact.example:81")},
            ["mcp.example.com:9", "a.lan.example", "b.a.lan.example:80", "exact.example:81", "127.0.0.1:8004"],
            ["lan.example", "exact.example", "192.168.1.5", "nas", "evil.example"],
        ),
        ({"host": "0.0.0.0"}, {"allowed_hosts": ("*",)}, ["anything.example"], [""]),
    ],
)
def test_which_hosts_are_ours(server: dict[str, Any], security: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    """Design §4: on loopback or with allowed_hosts the Host must be allowed, else IP literals, single labels and `.local` names pass."""
    if server.get("public_url", "").startswith("wss"):
        server = server | {"public_url": "https://mcp.example.com"}
    hosts = Hosts(configured(server=server, security=security))
    assert [host for host in right if not hosts.allows(host)] == []
    assert [host for host in wrong if hosts.allows(host)] == []


async def test_a_foreign_host_is_refused_for_requests_and_for_links_with_a_hint() -> None:
    async with staged() as stage:
        for raw in (get(host="evil.example"), request(f"{DEVICE}?token=t", host="evil.example")):
            async with connection(stage) as peer:
                peer.send(raw)
                answer = await peer.answer()
                assert answer.status == 421
                assert "allowed_hosts" in answer.json()["message"]
                assert await peer.end() == b""
        assert not stage.broker.parties


@pytest.mark.parametrize("headers", [b"", b"Host: 127.0.0.1\r\nHost: 127.0.0.1\r\n", b"Host: 127.0.0.1\r\nX: y\r\nhost: evil.example\r\n"])
async def test_no_host_and_two_hosts_are_400_for_requests_and_for_links(headers: bytes) -> None:
    async with staged() as stage:
        for raw in (GET, request(f"{DEVICE}?token=t")):
            async with connection(stage) as peer:
                peer.send(raw.replace(b"Host: 127.0.0.1\r\n", headers))
                assert (await peer.answer()).status == 400
                assert await peer.end() == b""
        assert not stage.broker.parties


WELL_FORMED = ["127.0.0.1", "127.0.0.1:8004", "127.0.0.1.", "localhost.:8004", "localhost:", "LOCALHOST", "a_b.localhost", "[::1]:8004"]
MALFORMED = [
    *("127.0.0.1:8004@evil.example", "user@127.0.0.1", "u:p@localhost:80", "@localhost", "localhost@"),
    *(
        "127.0.0.1 evil.example",
        "127.0.0.1\tx",
        "localhost :80",
        "localhost: 80",
        "127.0.0.1,evil.example",
        "localhost;x",
        "a\xe9.localhost",
    ),
    *("127.0.0.1:80:90", "127.0.0.1:80:", "localhost:http", "localhost:-1", "localhost:+80", "localhost:65536", "localhost:123456", "::1"),
    *("[::1", "::1]", "[::1]x", "[::1]:80:90", "[[::1]]", "[]", "[127.0.0.1]", "[localhost]", "[::1]evil.example", "[::1%25lo]", "[:::1]"),
    *(".localhost", "a..localhost", "..localhost", "localhost..", "127.0.0.1..", ".", ".:80"),
    *("http://localhost", "localhost/", "localhost/x", "localhost?x", "localhost#x", "localhost\\x", "%6cocalhost", '"localhost"', "*"),
]


async def test_a_malformed_host_is_400_for_requests_and_for_links() -> None:
    """RFC 9110 §7.2 has HOST[:PORT]: no user, no blank, one port, whole brackets, no empty label but the root's at the end."""

    async def status(host: str, *, link: bool) -> int:
        async with connection(stage) as peer:
            peer.send(request(f"{DEVICE}?token=t", host=host) if link else get(host=host))
            return (await peer.answer()).status

    async with staged() as stage:
        assert [host for host in WELL_FORMED if await status(host, link=False) == 400] == []
        assert {host: found for host in MALFORMED if (found := await status(host, link=False)) != 400} == {}
        assert {host: found for host in MALFORMED[:2] if (found := await status(host, link=True)) != 400} == {}
        assert not stage.broker.parties
        assert [host for host in ("[fe80::1%eth0]:8004", "", ":80") if await status(host, link=False) != 421] == []


async def test_nothing_behind_a_refused_head_is_looked_at() -> None:
    async with staged() as stage, connection(stage) as peer:
        peer.send(b"POST / HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 4\r\n\r\nbody" + get() + request(f"{DEVICE}?token=t"))
        assert (await peer.answer()).status == 421
        assert await peer.end() == b""
        assert stage.acceptor.counters == {"refused_421": 1}


async def test_over_tls_a_refused_peer_can_read_why() -> None:
    server, client = certificates()
    async with staged(tls=server) as stage, connection(stage, tls=client) as peer:
        peer.send(get(host="evil.example"))
        assert (await peer.answer()).status == 421
        assert await peer.end() == b""


async def test_a_socket_that_is_closing_is_not_answered() -> None:
    async with staged() as stage, connection(stage):
        await stage_has(stage, 1)
        (guard,) = stage.connections
        guard.transport.close()
        guard.crowded_out()
        guard.review(0.0)
        assert not stage.acceptor.counters and not stage.acceptor.unfinished


async def test_the_host_of_a_later_request_on_the_same_connection_is_looked_at_too() -> None:
    async with staged() as stage, connection(stage) as peer:
        peer.send(get())
        assert (await peer.answer()).body == b"hello"
        peer.send(get(host="evil.example"))
        assert (await peer.answer()).status == 421


# Size and time of the head


@pytest.mark.parametrize("start", [get()[:-2] + b"X: ", request(f"{DEVICE}?token=t")[:-2] + b"X: ", b"GET /"])
async def test_a_head_over_its_size_is_431_whatever_it_asks_for(start: bytes) -> None:
    async with staged(configured(limits={"handshake_bytes": 16_384})) as stage, connection(stage) as peer:
        peer.send(start + b"x" * 40_000)
        answer = await peer.answer()
        assert answer.status == 431
        assert "太大" in answer.json()["message"] or "过大" in answer.json()["message"]
        assert await peer.end() == b""
        assert not stage.broker.parties and not stage.acceptor.unfinished


async def test_a_head_of_just_the_size_is_served() -> None:
    async with staged(configured(limits={"handshake_bytes": 2_048})) as stage:
        for size, expected in ((2_047, 200), (2_048, 200), (2_050, 431)):
            async with connection(stage) as peer:
                raw = get("/", "X: ")
                peer.send(get("/", "X: " + "x" * (size - len(raw))))
                assert (await peer.answer()).status == expected


@pytest.mark.parametrize("line", [4_000, 8_000, 9_000, 12_000, 16_000])
async def test_a_long_line_of_a_head_works_or_is_431(line: int) -> None:
    """A cookie of a proxy or a long token: between the 8 KiB that a handshake's line may have and the 16 KiB of a head."""
    async with staged(configured(limits={"handshake_bytes": 16_384})) as stage:
        for raw, works in ((get("/", "X: " + "x" * line), True), (request(f"{DEVICE}?token=t", "X: " + "x" * line), line < 8_192)):
            async with connection(stage) as peer:
                peer.send(raw)
                answer = await peer.answer()
                assert answer.status in (200, 101) if works else answer.status == 431
                assert works or "8 KiB" in answer.json()["message"]


@pytest.mark.parametrize(("raw", "status"), [(get("/", *["X: y"] * 200), 200), (request(f"{DEVICE}?token=t", *["X: y"] * 200), 431)])
async def test_many_lines_of_a_head_work_or_are_431(raw: bytes, status: int) -> None:
    async with staged() as stage, connection(stage) as peer:
        peer.send(raw)
        assert (await peer.answer()).status == status


async def test_a_large_body_is_no_large_head() -> None:
    async with staged(configured(limits={"handshake_bytes": 2_048})) as stage, connection(stage) as peer:
        body = b"b" * 60_000
        peer.send(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body + get())
        assert (await peer.answer()).status == 200
        assert (await peer.answer()).status == 200


async def test_a_head_that_does_not_arrive_in_time_is_408_and_a_drop_now_and_then_does_not_help() -> None:
    async with staged(configured(limits={"handshake_seconds": 0.3})) as stage:
        async with connection(stage) as silent, connection(stage) as slow, connection(stage) as crlf, linked(stage) as link:
            slow.send(b"GET / HTTP/1.1\r\n")
            waiting = asyncio.create_task(slow.answer())
            for _ in range(200):
                if waiting.done():
                    break
                slow.send(b"X: y\r\n")
                crlf.send(b"\r\n")
                await asyncio.sleep(0.01)
            assert (await waiting).status == 408
            for peer in (silent, crlf):
                answer = await peer.answer()
                assert answer.status == 408
                assert await peer.end() == b""
            link.say("I was in time")
            assert await link.hears() == "I was in time"
        assert not stage.acceptor.unfinished


async def test_the_time_runs_again_for_each_request_of_a_connection() -> None:
    async with staged(configured(limits={"handshake_seconds": 0.2})) as stage, connection(stage) as peer:
        peer.send(get("/slow"))
        await stage_has(stage, 0)
        assert [guard.due for guard in stage.connections] == [0]  # nothing is awaited from this peer
        stage.server.lifespan.state["go"].set()
        assert (await peer.answer()).status == 200
        peer.send(get()[:-2])
        assert (await peer.answer()).status == 408


async def test_a_refused_peer_that_does_not_go_away_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_endpoint.sockets.guard.LINGER_SECONDS", 0.05)
    async with staged() as stage, connection(stage) as peer:
        peer.send(get(host="evil.example"))
        assert (await peer.answer()).status == 421
        async with asyncio.timeout(10):
            while stage.connections:
                peer.send(b"x")  # is ignored
                await asyncio.sleep(0.01)


async def test_of_too_many_unfinished_sockets_the_oldest_gives_way() -> None:
    async with staged(configured(limits={"unfinished_handshakes": 2})) as stage, connection(stage) as oldest:
        oldest.send(b"GET /")
        await stage_has(stage, 1)
        async with connection(stage) as older:
            await stage_has(stage, 2)
            async with linked(stage) as link:
                assert (await oldest.answer()).status == 503
                link.say("in")
                assert await link.hears() == "in"
                older.send(get())
                assert (await older.answer()).status == 200


async def stage_has(stage: Any, unfinished: int) -> None:
    await until(lambda: stage.connections and len(stage.acceptor.unfinished) == unfinished)


# Requests that smuggle or do not parse


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: y\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX y\r\n\r\n",
    ],
)
async def test_what_is_not_clean_http_is_400_once_and_the_connection_ends(raw: bytes) -> None:
    async with staged() as stage, connection(stage) as peer:
        peer.send(raw + GET)
        assert (await peer.answer()).status == 400
        assert await peer.end() == b""
        assert stage.acceptor.counters["refused_400"] == 1


async def test_a_bad_request_behind_a_good_one_does_not_break_the_good_ones_answer() -> None:
    async with staged() as stage, connection(stage) as peer:
        peer.send(get("/slow") + b"nonsense\r\n\r\n")
        await stage_has(stage, 0)
        stage.server.lifespan.state["go"].set()
        assert (await peer.answer()).body == b"hello"
        assert await peer.end() == b""


async def test_an_upgrade_behind_an_unanswered_request_is_not_made() -> None:
    async with staged() as stage, connection(stage) as peer:
        peer.send(get("/slow") + request(f"{DEVICE}?token=t"))
        await stage_has(stage, 0)
        stage.server.lifespan.state["go"].set()
        assert (await peer.answer()).body == b"hello"
        assert await peer.end() == b""
        assert not stage.broker.parties


async def test_an_upgrade_behind_an_answered_request_is_made() -> None:
    async with staged() as stage, connection(stage) as peer:
        peer.send(get())
        assert (await peer.answer()).status == 200
        peer.send(request(f"{DEVICE}?token=t"))
        assert (await peer.answer()).status == 101
        peer.send(frame(TEXT, b"x"))
        assert await peer.hears() == "x"


async def test_another_upgrade_is_answered_as_plain_http() -> None:
    """The JDK's HTTP client, which manager-api uses, offers h2c with its first request (RFC 9110 §7.8: an offer may be ignored)."""
    async with staged() as stage, connection(stage) as peer:
        peer.send(get("/", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"))
        answer = await peer.answer()
        assert (answer.status, answer.body) == (200, b"hello")
        assert answer.headers["connection"] == "close"
        assert await peer.end() == b""


async def test_a_trickled_body_does_not_keep_an_answered_connection_open() -> None:
    async with staged() as stage:
        stage.server.config.timeout_keep_alive = 0
        async with connection(stage) as peer:
            peer.send(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n")
            assert (await peer.answer()).status == 200
            peer.send(b"drop")
            assert await peer.end() == b""


async def test_a_guard_that_has_become_a_link_is_forgotten() -> None:
    async with staged() as stage, linked(stage), linked(stage):
        assert [type(one).__name__ for one in stage.connections] == ["WebSocketLink", "WebSocketLink"]
        assert not stage.acceptor.unfinished


# Pipelines, and answers nobody reads


def deaf(peer: Any) -> None:
    """From now on the peer takes nothing."""
    peer.writer.transport.pause_reading()


async def stands_still(stage: Stage) -> Any:
    """The one guard, once it reads no more."""
    await until(lambda: stage.connections)
    (guard,) = stage.connections
    await until(lambda: guard.flow.read_paused and guard.flow.write_paused)
    return guard


PIPELINED = {
    "GET": get("/nothing"),
    "HEAD": get().replace(b"GET", b"HEAD"),
    "POST": b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n\r\nhello",
    "chunks": b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "Expect": b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
}


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("kind", PIPELINED)
async def test_pipelined_requests_are_answered_in_turn_and_wait_unread_while_nobody_takes_the_answers(kind: str, tls: bool) -> None:
    """15,000 requests are more than the kernels' buffers hold answers for."""
    server, client = certificates() if tls else (None, None)
    one = PIPELINED[kind]
    async with (
        staged(tls=server, small=True) as stage,
        connection(stage, tls=client, small=True) as peer,
        connection(stage, tls=client) as other,
    ):
        deaf(peer)
        peer.send(one * 15_000)
        other.send(get())
        assert (await other.answer()).status == 200
        other.abort()
        await until(lambda: len(stage.connections) == 1)
        guard = await stands_still(stage)
        assert len(guard.pipeline) <= 40
        assert stage.acceptor.budget.bytes <= 1024 * 1024
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(100):
            await peer.reader.readuntil(b"HTTP/1.1 200 OK\r\n")
        await until(lambda: guard.flow.read_paused or not guard.pipeline)


async def test_a_burst_of_pipelined_requests_is_answered_to_the_last_and_the_connection_stays() -> None:
    async with staged() as stage, connection(stage) as peer:
        peer.send(get() * 1_000)
        for _ in range(1_000):
            assert (await peer.answer()).body == b"hello"
        peer.send(get("/slow") + get("/big") + get()[:20])
        stage.server.lifespan.state["go"].set()
        assert (await peer.answer()).body == b"hello"
        assert len((await peer.answer()).body) == BIG
        peer.send(get()[20:])
        assert (await peer.answer()).body == b"hello"
        await until(lambda: not stage.acceptor.budget.bytes)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("ending", ["", "Connection: close"])
async def test_an_answer_nobody_takes_ends_its_connection_after_stalled_seconds(tls: bool, ending: str) -> None:
    server, client = certificates() if tls else (None, None)
    async with staged(configured(limits={"stalled_seconds": 0.3}), tls=server) as stage, connection(stage, tls=client) as peer:
        deaf(peer)
        peer.send(get("/big", ending) if ending else get("/big"))
        await until(lambda: stage.connections)
        await until(lambda: not (stage.connections or stage.server.server_state.tasks))
        assert stage.acceptor.counters["http_cut"] == 1
        assert not stage.acceptor.budget.bytes


async def test_the_last_of_an_answer_is_watched_too_when_its_sender_has_closed() -> None:
    """The peer half-closes: the transport would wait for it for ever."""
    async with staged(configured(limits={"stalled_seconds": 0.3})) as stage, connection(stage) as peer:
        deaf(peer)
        peer.send(get("/big") * 4)
        guard = await stands_still(stage)
        guard.eof_received()
        guard.transport.close()
        await until(lambda: not stage.connections)


async def test_who_reads_slowly_but_reads_gets_its_whole_answer() -> None:
    async with staged(configured(limits={"stalled_seconds": 0.4})) as stage, connection(stage) as peer:
        transport: Any = peer.writer.transport
        peer.send(get("/big"))
        total = 0
        while total < BIG:
            transport.resume_reading()
            total += len(await peer.reader.read(1024 * 1024))
            transport.pause_reading()
            await asyncio.sleep(0.05)
        assert stage.acceptor.counters["http_cut"] == 0


async def test_a_stream_that_has_nothing_to_say_is_left_alone() -> None:
    async with staged(configured(limits={"stalled_seconds": 0.1, "handshake_seconds": 0.1})) as stage, connection(stage) as peer:
        peer.send(get("/events"))
        await peer.reader.readuntil(b"first")
        await asyncio.sleep(0.5)
        stage.server.lifespan.state["go"].set()
        assert await peer.reader.readexactly(5) == b"later"


async def test_of_all_connections_the_one_with_most_unread_is_cut_off() -> None:
    async with staged(configured(limits={"buffered_bytes": BIG + BIG // 2})) as stage, connection(stage) as good:
        good.send(get("/events"))
        await good.reader.readuntil(b"first")
        async with connection(stage, small=True) as one, connection(stage, small=True) as two, connection(stage, small=True) as three:
            for peer in (one, two, three):
                deaf(peer)
                peer.send(get("/big"))
            await until(lambda: stage.acceptor.counters["http_cut"] >= 1)
            assert stage.acceptor.budget.bytes <= BIG + BIG // 2
        stage.server.lifespan.state["go"].set()
        assert await good.reader.readexactly(5) == b"later"


async def test_an_idle_connection_gives_way_without_a_word() -> None:
    async with staged(configured(limits={"unfinished_handshakes": 1})) as stage, connection(stage) as idle:
        idle.send(get())
        assert (await idle.answer()).body == b"hello"
        await stage_has(stage, 1)
        async with connection(stage) as newer:
            newer.send(get("/events"))
            await newer.reader.readuntil(b"first")
            assert await idle.end() == b""


async def test_an_upgrade_before_the_answers_are_taken_is_not_made() -> None:
    async with staged() as stage, connection(stage) as peer:
        deaf(peer)
        peer.send(get("/big"))
        guard = await stands_still_writing(stage)
        guard.cycle.response_complete = True  # as if all had been handed to the transport
        guard.data_received(request(f"{DEVICE}?token=t"))
        assert not stage.broker.parties
        assert stage.acceptor.counters["refused_400"] == 1


async def stands_still_writing(stage: Stage) -> Any:
    await until(lambda: stage.connections)
    (guard,) = stage.connections
    await until(lambda: guard.flow.write_paused)
    return guard


async def test_a_chunked_body_in_the_smallest_chunks_leaves_others_their_turn() -> None:
    chunks = b"1\r\nx\r\n" * 50_000
    head = b"POST /slow HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with staged() as stage, connection(stage) as one, connection(stage) as other:
        one.send(head + chunks)
        for _ in range(5):
            other.send(get())
            assert (await other.answer()).body == b"hello"
        stage.server.lifespan.state["go"].set()
        assert (await one.answer()).body == b"hello"
        one.send(b"0\r\n\r\n" + get())
        assert (await one.answer()).body == b"hello"


@pytest.mark.parametrize("host", ["127.0.0.1", "evil.example"], ids=["answered", "refused"])
async def test_a_large_body_nobody_wants_is_read_once_before_the_others_have_their_turn(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """uvloop alone reads a socket dozens of times in a row."""
    sizes: list[int] = []
    turns: list[int] = []
    turn = [0]

    def next_turn() -> None:
        turn[0] += 1

    def read(guard: Guard, data: bytes, real: Callable[[Guard, bytes], None] = Guard.data_received) -> None:
        sizes.append(len(data))
        if len(data) >= READ_PER_TURN:
            turns.append(turn[0])
            asyncio.get_running_loop().call_soon(next_turn)
        real(guard, data)

    monkeypatch.setattr(Guard, "data_received", read)
    async with staged() as stage, connection(stage) as peer:
        peer.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {BIG}\r\n\r\n".encode() + b"x" * BIG)
        await until(lambda: sum(sizes) > BIG)
        assert len(turns) == len(set(turns)) > 1


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
async def test_more_sockets_than_all_bounds_allow_are_refused_whatever_the_others_do(tls: bool) -> None:
    """One link, one request, one without a head: the fourth socket would be one without a descriptor of its own."""
    server, client = certificates() if tls else (None, None)
    config = configured(websocket={"max_connections": 1}, limits={"http_requests": 1, "unfinished_handshakes": 1})
    async with staged(config, tls=server) as stage, linked(stage, tls=client) as link:
        async with AsyncExitStack() as open_sockets:
            for _ in range(2):
                peer = await open_sockets.enter_async_context(connection(stage, tls=client))
                peer.send(get("/events"))
                await peer.reader.readuntil(b"first")
            if tls:
                with pytest.raises(OSError):
                    await open_sockets.enter_async_context(connection(stage, tls=client))
            else:
                fourth = await open_sockets.enter_async_context(connection(stage))
                assert (await fourth.answer()).status == 503
            link.say("in")
            assert await link.hears() == "in"
        await until(lambda: len(stage.connections) == 1)
        async with connection(stage, tls=client) as peer:
            peer.send(get())
            assert (await peer.answer()).status == 200


async def test_who_is_cut_off_hears_it_at_once_and_nobody_answers_it_any_more(caplog: pytest.LogCaptureFixture) -> None:
    """The first of two requests waits for its reader: uvicorn alone would tell only the second that the peer is gone."""
    async with staged(configured(limits={"stalled_seconds": 0.3})) as stage, connection(stage, small=True) as peer:
        deaf(peer)
        peer.send(get("/pieces") + get("/slow"))
        await stands_still_writing(stage)
        await until(lambda: not (stage.connections or stage.server.server_state.tasks))
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        with pytest.raises(ConnectionResetError):
            while await peer.reader.read(65_536):
                pass
    assert not caplog.records


async def test_an_answer_that_its_application_gives_up_ends_with_the_connection_and_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async with staged() as stage, connection(stage) as peer:
        peer.send(get("/given-up"))
        with contextlib.suppress(ConnectionResetError):
            assert not (await asyncio.wait_for(peer.reader.read(), BOUND)).endswith(b"0\r\n\r\n"), "it looks complete"
        await until(lambda: not (stage.connections or stage.server.server_state.tasks))
        assert stage.acceptor.counters["http_cut"] == 1
    assert not caplog.records
