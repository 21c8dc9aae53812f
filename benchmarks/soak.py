"""A long bad day for one server: `make soak`, or python benchmarks/soak.py --seconds 600.

Some 500 links call, answer, cancel, die, come back, go silent and stop reading for a while. Afterwards nothing may be left: every request
was answered exactly once (a cancelled one at most once), nothing is pending, and links, descriptors and tasks are back where they began.
Exit code 1 if not. Loopback only; the server under test is started here and ended here.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import math
import os
import random
import statistics
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servers import KEY, Server, raise_limits, resident_kib
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

CALL_TIMEOUT = 5.0
"""`[endpoint] call_timeout` of the server under test, seconds: short, so that many deadlines pass in one run."""
OVERDUE = CALL_TIMEOUT + 8.0
"""An answer later than this is no answer, seconds."""
SETTLE_SECONDS = 25.0
OUR_ERRORS = {-32001, -32003, -32005, -32006}
FILLER = "智能" + "x" * 64
BIG = "y" * 60_000


@dataclass
class Book:
    """What was asked and what came of it."""

    asked: int = 0
    answered: int = 0
    errors: Counter[int] = field(default_factory=Counter)
    cancelled: int = 0
    gone: int = 0
    """Asked over a link that ended before the answer."""
    faults: list[str] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)

    def fault(self, text: str) -> None:
        self.faults.append(text)


class Device:
    """One life of one device: greets, calls what the list offers, checks each answer."""

    def __init__(self, book: Book, ws: ClientConnection, chance: random.Random) -> None:
        self.book = book
        self.ws = ws
        self.chance = chance
        self.open: dict[int | str, tuple[float, str]] = {}
        self.done: set[int | str] = set()
        self.cancelled: set[int | str] = set()
        self.names = ["echo"]
        self.listed: int | str = -1
        self.numbers = itertools.count()

    def new_id(self) -> int | str:
        number = next(self.numbers)
        return number if number % 2 else f"d-{number}"

    async def ask(self, method: str, params: dict[str, Any], nonce: str = "") -> int | str:
        number = self.new_id()
        self.open[number] = time.monotonic(), nonce
        self.book.asked += 1
        await self.ws.send(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}, ensure_ascii=False))
        return number

    async def greet(self) -> None:
        client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "soak", "version": "1"}}
        await self.ask("initialize", client)
        await self.ws.send('{"jsonrpc":"2.0","method":"notifications/initialized"}')
        await self.list()

    async def list(self) -> None:
        self.listed = await self.ask("tools/list", {})

    async def call(self, fill: str = FILLER) -> None:
        nonce = f"{self.chance.getrandbits(64):016x}"
        arguments = {"nonce": nonce, "fill": fill}
        number = await self.ask("tools/call", {"name": self.chance.choice(self.names), "arguments": arguments}, nonce)
        if self.chance.random() < 0.01:
            self.cancelled.add(number)
            self.book.events["cancels"] += 1
            cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": number}}
            await self.ws.send(json.dumps(cancel))

    def hear(self, text: str | bytes) -> None:
        message = json.loads(text)
        if "method" in message:
            return
        number = message.get("id")
        if number in self.done:
            self.book.fault(f"answered twice: {number!r}")
            return
        if number not in self.open:
            self.book.fault(f"an answer nobody asked for: {str(text)[:200]}")
            return
        _, nonce = self.open.pop(number)
        self.done.add(number)
        self.book.answered += 1
        if "error" in message:
            code = message["error"]["code"]
            self.book.errors[code] += 1
            if code not in OUR_ERRORS or "result" in message:
                self.book.fault(f"an error that should not be: {str(text)[:200]}")
        elif number == self.listed:
            self.names = [tool["name"] for tool in message["result"]["tools"]] or self.names
        elif nonce and message["result"]["structuredContent"]["nonce"] != nonce:
            self.book.fault(f"somebody else's answer: {str(text)[:200]}")

    async def read(self) -> None:
        async for text in self.ws:
            self.hear(text)

    def overdue(self, now: float) -> None:
        for number, (since, _) in list(self.open.items()):
            if now - since > OVERDUE:
                del self.open[number]
                if number in self.cancelled:
                    self.done.add(number)
                    self.book.cancelled += 1
                else:
                    self.book.fault(f"no answer to {number!r} within {OVERDUE:g} s")

    def leave(self) -> None:
        self.book.gone += len(self.open)
        self.open.clear()


class Tool:
    """One life of one tool: answers at its own pace, sometimes not at all."""

    def __init__(self, book: Book, ws: ClientConnection, chance: random.Random, label: str) -> None:
        self.book = book
        self.ws = ws
        self.chance = chance
        self.label = label

    async def serve(self) -> None:
        async with asyncio.TaskGroup() as slow:
            async for text in self.ws:
                message = json.loads(text)
                if "id" not in message or "method" not in message:
                    continue
                fate = self.chance.random()
                if message["method"] == "tools/call" and fate < 0.003:
                    self.book.events["calls a tool kept silent on"] += 1
                elif message["method"] == "tools/call" and fate < 0.2:
                    slow.create_task(self.answer(message, self.chance.uniform(0.01, 0.5)))
                else:
                    await self.answer(message, 0)

    async def answer(self, message: dict[str, Any], pause: float) -> None:
        await asyncio.sleep(pause)
        schema = {"type": "object"}
        results: dict[str, Any] = {
            "initialize": {
                "protocolVersion": "2024-11-05",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": self.label, "version": "1"},
            },
            "tools/list": {"tools": [{"name": name, "inputSchema": schema} for name in ("echo", f"only_{self.label}")]},
        }
        if message["method"] == "tools/call":
            result = {"content": [], "structuredContent": message["params"]["arguments"]}
        else:
            result = results.get(message["method"], {})
        with contextlib.suppress(WebSocketException):
            await self.ws.send(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}, ensure_ascii=False))


class Soak:
    """All parties, and the clock that ends them."""

    def __init__(self, server: Server, links: int, seconds: float, seed: int) -> None:
        self.server = server
        self.book = Book()
        self.chance = random.Random(seed)
        self.end = time.monotonic() + seconds
        self.endpoints = max(1, links // 10)
        self.links = links
        self.quiet = asyncio.Event()
        """Set when nobody asks any more; links stay until `over`."""
        self.over = asyncio.Event()
        self.memory: list[tuple[float, int]] = []

    @contextlib.asynccontextmanager
    async def link(self, side: str, endpoint: int, label: str = "") -> AsyncIterator[ClientConnection]:
        url = f"ws://127.0.0.1:{self.server.port}/mcp_endpoint/{side}/?token=soak-{endpoint}" + (f"&server_id={label}" if label else "")
        async with connect(url, compression=None, max_size=None, ping_interval=None, close_timeout=2, open_timeout=20) as ws:
            yield ws

    async def forgive(self, life: Coroutine[Any, Any, None]) -> None:
        """A life may end by its link being closed or refused; the book has noted what was open."""
        with contextlib.suppress(WebSocketException, OSError, TimeoutError):
            await life

    async def device(self, endpoint: int, slow: bool) -> None:
        while not self.over.is_set():
            await self.forgive(self.slow_device(endpoint) if slow else self.device_life(endpoint))
            await asyncio.sleep(self.chance.uniform(0.05, 0.5))

    async def device_life(self, endpoint: int) -> None:
        dies = time.monotonic() + self.chance.expovariate(1 / 90)
        async with self.link("call", endpoint) as ws:
            device = Device(self.book, ws, self.chance)
            reader = asyncio.create_task(device.read())
            try:
                await device.greet()
                while not self.over.is_set() and not reader.done():
                    await asyncio.sleep(self.chance.uniform(0.2, 2.0))
                    device.overdue(time.monotonic())
                    if self.quiet.is_set():
                        continue
                    if time.monotonic() > dies:
                        self.book.events["devices that left"] += 1
                        break
                    await (device.list() if self.chance.random() < 0.05 else device.call())
                if not reader.done() and self.chance.random() < 0.5:
                    ws.transport.abort()
            finally:
                device.leave()
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)

    async def slow_device(self, endpoint: int) -> None:
        """Asks for much, does not read for a while, then reads it all: what was asked is answered nevertheless, or the link is closed."""
        async with self.link("call", endpoint) as ws:
            device = Device(self.book, ws, self.chance)
            try:
                await device.greet()
                for _ in range(40):
                    await device.call(BIG)
                self.book.events["slow readers"] += 1
                await asyncio.sleep(self.chance.uniform(1, 8))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(OVERDUE):
                        while device.open:
                            device.hear(await ws.recv())
                device.overdue(math.inf)
                if self.quiet.is_set():
                    await self.over.wait()
            finally:
                device.leave()

    async def tool(self, endpoint: int, label: str, named: bool) -> None:
        while not self.over.is_set():
            await self.forgive(self.tool_life(endpoint, label, named))
            await asyncio.sleep(self.chance.uniform(0.05, 2))

    async def tool_life(self, endpoint: int, label: str, named: bool) -> None:
        async with self.link("mcp", endpoint, label if named else "") as ws:
            serving = asyncio.create_task(Tool(self.book, ws, self.chance, label).serve())
            life = self.chance.expovariate(1 / 60)
            try:
                while not self.over.is_set() and not serving.done() and (life > 0 or self.quiet.is_set()):
                    await asyncio.sleep(0.2)
                    life -= 0.2
                if not self.over.is_set() and not serving.done():
                    self.book.events["tools that died"] += 1
                    if self.chance.random() < 0.7:
                        ws.transport.abort()
            finally:
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)

    async def look(self) -> None:
        """One line every now and then; memory is noted all the time."""
        began = time.monotonic()
        told = 0.0
        while not self.over.is_set():
            now = time.monotonic()
            self.memory.append((now - began, resident_kib(self.server.pid)))
            if now - told > 30:
                told = now
                print(f"{now - began:5.0f} s  {self.memory[-1][1] / 1024:6.1f} MiB  {self.summary()}", flush=True)
            await asyncio.sleep(1)

    def summary(self) -> str:
        book = self.book
        return f"asked {book.asked}, answered {book.answered}, gone {book.gone}, errors {dict(book.errors)}, faults {len(book.faults)}"

    async def run(self) -> dict[str, Any]:
        """Live until the end, then let it become quiet; returns the server's own numbers at that moment, links still attached."""
        parties: list[Coroutine[Any, Any, None]] = []
        for endpoint in range(self.endpoints):
            merged = endpoint % 3 == 2
            parties += [self.tool(endpoint, f"t{number}" if merged else "t", merged) for number in range(1 + endpoint % 2)]
        devices = self.links - len(parties)
        parties += [self.device(number % self.endpoints, number % 50 == 7) for number in range(devices)]
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(self.look())
            for party in parties:
                group.create_task(party)
                await asyncio.sleep(0.002)
            await asyncio.sleep(max(0.0, self.end - time.monotonic()))
            self.quiet.set()
            settled = time.monotonic() + SETTLE_SECONDS
            stats = await asyncio.to_thread(fetch, self.server, "/stats")
            while stats["in_flight"] and time.monotonic() < settled:
                await asyncio.sleep(0.5)
                stats = await asyncio.to_thread(fetch, self.server, "/stats")
            await asyncio.sleep(OVERDUE + 3)  # what is still open on a device's side is overdue by now, and has been told
            stats = await asyncio.to_thread(fetch, self.server, "/stats")
            self.over.set()
            await looking
        return stats


def fetch(server: Server, path: str) -> dict[str, Any]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", headers={"Authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def gauge(server: Server, name: str) -> float | None:
    """One number of /metrics, None where it is not told."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return next((float(line.split()[-1]) for line in lines if line.split(" ")[0] == name), None)


def descriptors(server: Server) -> int:
    return len(os.listdir(f"/proc/{server.pid}/fd"))


def slope(memory: list[tuple[float, int]]) -> float:
    """MiB per hour over the second half, by least squares."""
    half = memory[len(memory) // 2 :]
    if len(half) < 3:
        return 0.0
    return statistics.linear_regression([t for t, _ in half], [kib / 1024 for _, kib in half]).slope * 3600


def verdict(soak: Soak, held: dict[str, Any], server: Server, base: tuple[int, float | None]) -> list[str]:
    """What is not as it must be."""
    wrong = soak.book.faults[:20]
    until = time.monotonic() + 10
    while (found := descriptors(server)) > base[0] and time.monotonic() < until:
        time.sleep(0.2)
    after = fetch(server, "/stats")
    if held["in_flight"]:
        wrong.append(f"{held['in_flight']} calls pending although nobody waits")
    counts = ("in_flight", "tool_connections", "device_connections", "session_connections", "endpoints")
    wrong += [f"{name} is {after[name]} after everybody left" for name in counts if after[name]]
    if found > base[0]:
        wrong.append(f"{found} descriptors, {base[0]} before")
    tasks = gauge(server, "mcp_endpoint_tasks")
    if tasks is None or base[1] is None or tasks > base[1]:
        wrong.append(f"{tasks} tasks, {base[1]} before")
    wrong += [line for line in server.output().splitlines() if "Traceback" in line or "never retrieved" in line][:5]
    book = soak.book
    if book.asked != book.answered + book.cancelled + book.gone + sum("no answer" in fault for fault in book.faults):
        wrong.append("the book does not balance")
    print(f"\n{soak.summary()}\ncancelled without answer: {book.cancelled}; {dict(book.events)}")
    print(f"server: {json.dumps(after.get('counters', {}))}")
    print(f"descriptors {base[0]} → {found}; tasks {base[1]} → {tasks}")
    first, last = soak.memory[len(soak.memory) // 10][1] / 1024, soak.memory[-1][1] / 1024
    print(f"memory {first:.1f} MiB early, {last:.1f} MiB at the end, {slope(soak.memory):+.1f} MiB/h over the second half")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--links", type=int, default=500)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    options = parser.parse_args()
    if not Path("/proc/self/fd").exists():
        sys.exit("soak: reads /proc, which only Linux has / 仅支持 Linux")
    raise_limits()
    print(f"{options.links} links for {options.seconds:g} s, seed {options.seed}")
    settings = {"endpoint.call_timeout": str(CALL_TIMEOUT)}
    with Server("ours", links=options.links * 2, settings=settings) as server:
        fetch(server, "/stats")
        tasks = gauge(server, "mcp_endpoint_tasks")
        time.sleep(1)  # the connections of these two questions are closed by now
        base = descriptors(server), tasks
        soak = Soak(server, options.links, options.seconds, options.seed)
        held = asyncio.run(soak.run())
        wrong = verdict(soak, held, server, base)
    for line in wrong:
        print(f"WRONG: {line}")
    print("clean" if not wrong else f"not clean (seed {options.seed})")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
