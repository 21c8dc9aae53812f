"""TLS from the accept on: silent sockets count, have their time and give way; what is up works as without TLS."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest
from sockets.peerframes import TEXT, frame
from sockets.wire_server import DEVICE, TOOL, certificates, configured, connection, linked, request, staged, until

from mcp_endpoint.errors import NOT_READING, OVER_BUDGET

GET = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
MIB = 1024 * 1024


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 40])
async def test_who_does_not_bring_tls_up_in_time_is_cut_off(said: bytes) -> None:
    server, client = certificates()
    async with (
        staged(configured(limits={"handshake_seconds": 0.4}), tls=server) as stage,
        linked(stage, tls=client) as link,
        connection(stage) as silent,
    ):
        silent.send(said)
        await until(lambda: len(stage.acceptor.unfinished) == 1)
        assert await silent.end() == b""
        await until(lambda: len(stage.connections) == 1 and not stage.acceptor.unfinished)
        link.say("I was in time")
        assert await link.hears() == "I was in time"


async def test_the_time_for_tls_and_for_the_head_is_one() -> None:
    """Counted from the accept: TLS late does not give the head a time of its own."""
    server, client = certificates()
    loop = asyncio.get_running_loop()
    async with staged(configured(limits={"handshake_seconds": 2.0}), tls=server) as stage, connection(stage) as peer:
        await until(lambda: len(stage.acceptor.unfinished) == 1)
        accepted = loop.time()
        await until(lambda: loop.time() > accepted + 0.5)
        await peer.writer.start_tls(client, server_hostname="localhost")
        (guard,) = stage.connections
        await until(lambda: not guard.securing)
        assert guard._head_by <= accepted + 2.2
        assert (await peer.answer()).status == 408


async def test_of_too_many_sockets_without_tls_the_oldest_gives_way() -> None:
    server, client = certificates()
    async with staged(configured(limits={"unfinished_handshakes": 2}), tls=server) as stage, connection(stage) as oldest:
        await until(lambda: len(stage.acceptor.unfinished) == 1)
        async with connection(stage), linked(stage, tls=client) as link:
            assert await oldest.end() == b""
            link.say("in")
            assert await link.hears() == "in"


@pytest.mark.parametrize("said", [GET, b"\x15\x03\x01\x00\x02\x02\x28"])
async def test_what_is_not_tls_ends_at_once_and_leaves_nothing(said: bytes) -> None:
    server, _ = certificates()
    async with staged(tls=server) as stage, connection(stage) as peer:
        peer.send(said)
        await peer.end()
        await until(lambda: not stage.connections and not stage.acceptor.unfinished)
        assert not stage.acceptor.keepalive._slots


async def test_a_socket_that_goes_before_tls_is_up_leaves_nothing() -> None:
    server, _ = certificates()
    async with staged(tls=server) as stage:
        async with connection(stage):
            await until(lambda: len(stage.connections) == 1)
        await until(lambda: not stage.connections and not stage.acceptor.unfinished)
        assert not stage.acceptor.keepalive._slots


async def test_when_the_server_stops_sockets_without_tls_are_dropped() -> None:
    server, client = certificates()
    async with staged(tls=server) as stage, connection(stage) as silent, connection(stage, tls=client) as idle:
        await until(lambda: len(stage.connections) == 2)
        for one in list(stage.connections):
            one.shutdown()
        assert await silent.end() == b""
        assert await idle.end() == b""
        await until(lambda: not stage.connections)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_request_right_behind_the_handshake_is_answered(version: ssl.TLSVersion) -> None:
    server, client = certificates()
    server.minimum_version = server.maximum_version = version
    async with staged(tls=server) as stage, connection(stage, tls=client) as peer:
        peer.send(GET)
        assert (await peer.answer()).body == b"hello"
        peer.send(request(f"{DEVICE}?token=t") + frame(TEXT, b"early"))
        assert (await peer.answer()).status == 101
        assert await peer.hears() == "early"


async def test_what_tls_has_encrypted_and_nobody_takes_counts_and_is_watched() -> None:
    """One message below TLS: the transport of TLS itself says that nothing waits."""
    server, client = certificates()
    limits = {"stalled_seconds": 0.4}
    async with staged(configured(limits=limits, websocket={"close_timeout": 0.2}), tls=server) as stage:
        async with linked(stage, TOOL, tls=client) as peer:
            party = await stage.broker.party()
            transport: Any = peer.writer.transport
            transport.pause_reading()
            party.link.send(b"x" * 12 * MIB)
            await until(lambda: stage.acceptor.budget.bytes > MIB)
            assert await stage.broker.left() == tuple(NOT_READING)
        await until(lambda: not stage.acceptor.links)
        assert not stage.acceptor.budget.bytes


async def test_what_tls_has_encrypted_is_forgotten_when_it_has_gone_out() -> None:
    server, client = certificates()
    async with staged(configured(limits={"stalled_seconds": 0.4}), tls=server) as stage, linked(stage, TOOL, tls=client) as peer:
        party = await stage.broker.party()
        party.link.send(b"x" * 12 * MIB)
        first, payload = await peer.frame()
        assert first == 0x81 and len(payload) == 12 * MIB
        await until(lambda: not stage.acceptor.budget.bytes and not party.link.stuck)
        assert party.left is None


async def test_below_tls_too_the_fattest_pays() -> None:
    server, client = certificates()
    limits = {"buffered_bytes": 8 * MIB, "queued_bytes_per_link": 100 * MIB}
    async with staged(configured(limits=limits), tls=server) as stage, linked(stage, TOOL, tls=client) as peer:
        party = await stage.broker.party()
        transport: Any = peer.writer.transport
        transport.pause_reading()
        party.link.send(b"x" * 24 * MIB)
        assert await stage.broker.left() == tuple(OVER_BUDGET)
        await until(lambda: not stage.acceptor.links)


async def test_sockets_without_tls_count_in_the_budget() -> None:
    server, client = certificates()
    async with staged(configured(limits={"buffered_bytes": 300 * 1024}), tls=server) as stage, connection(stage) as oldest:
        await until(lambda: len(stage.acceptor.unfinished) == 1)
        async with connection(stage), connection(stage), connection(stage):
            assert await oldest.end() == b""
            await until(lambda: len(stage.acceptor.unfinished) == 3)
        await until(lambda: not stage.acceptor.budget.bytes)
        async with linked(stage, tls=client) as link:
            link.say("in")
            assert await link.hears() == "in"
            assert not stage.acceptor.budget.bytes
