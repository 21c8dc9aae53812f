"""A tool call over HTTP through the broker, beside the same server directly and a FastMCP proxy: python benchmarks/mcp_over_http.py

The server is made with the `mcp` package (tests/judges/everything_server.py). Directly it serves HTTP itself; through the broker it stands
behind `mcp-endpoint pipe` on a WebSocket; FastMCP's proxy (the version is pinned and printed) stands before the direct one. In each round
every way is asked in turn, one call after the other on one kept connection; medians of each round, and the median of their ratios, are
printed. Loopback only; everything started here is ended here. Exit code 1 if a call was not answered as it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from servers import ROOT, Server, free_port
from sessions import ABOUT, Client

FASTMCP = "fastmcp==4.1.2"
PEERS = ROOT / ".venv-peers/bench-fastmcp"
SERVER = ROOT / "tests/judges/everything_server.py"
TOKEN = "http"
START_SECONDS = 30
WARM = 30
CALL = {"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "test_simple_text", "arguments": {}}}
PROXY = """
import sys
from fastmcp.server import create_proxy
create_proxy(sys.argv[1], name="proxy").run(transport="http", host="127.0.0.1", port=int(sys.argv[2]), show_banner=False)
"""


class Way(Client):
    """One kept connection to one of the servers."""

    def __init__(self, port: int, path: str, token: str = "") -> None:
        super().__init__(port)
        self.path = path
        self.token = token
        self.session = ""

    async def post(self, body: object) -> bytes:
        """One message; the bytes of the answer, JSON or an event."""
        data = json.dumps(body).encode()
        head = [f"POST {self.path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", "Accept: application/json, text/event-stream"]
        head += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
        head += [f"Authorization: Bearer {self.token}"] if self.token else []
        head += [f"Mcp-Session-Id: {self.session}"] if self.session else []
        self.writer.write("\r\n".join([*head, "", ""]).encode() + data)
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
        assert lines[0].split()[1] in ("200", "202"), lines[0]
        self.session = headers.get("mcp-session-id", self.session)
        if headers.get("transfer-encoding") != "chunked":
            return await self.reader.readexactly(int(headers.get("content-length", 0)))
        found = b""
        while size := int(await self.reader.readline(), 16):
            found += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readline()
        return found

    async def greet(self) -> None:
        """The handshake."""
        await self.post({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": ABOUT})
        await self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})

    async def milliseconds(self, calls: int) -> list[float]:
        """How long each of so many calls took."""
        found = []
        for number in range(1, calls + 1):
            began = time.perf_counter()
            answer = await self.post(CALL | {"id": number})
            found.append((time.perf_counter() - began) * 1000)
            if b"simple text" not in answer:
                raise AssertionError(answer[:300])
        return found


@contextmanager
def process(*command: str, environ: dict[str, str] | None = None) -> Iterator[None]:
    started = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        started.terminate()
        started.wait(10)


async def reached(port: int) -> None:
    """Wait until somebody listens there."""
    async with asyncio.timeout(START_SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            except OSError:
                await asyncio.sleep(0.05)


async def called(way: Way) -> None:
    """Wait until a call is answered: a tool behind a pipe takes its time to come."""
    async with asyncio.timeout(START_SECONDS):
        while b"simple text" not in await way.post(CALL | {"id": "warm"}):  # noqa: ASYNC110 - what is awaited is elsewhere
            await asyncio.sleep(0.1)


def fastmcp() -> str | None:
    """An interpreter with FastMCP, made once; None where the package index is out of reach."""
    python = PEERS / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
        made = subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", FASTMCP])
        if made.returncode:
            return None
    return str(python)


async def measure(rounds: int, calls: int) -> None:
    with ExitStack() as stack:
        direct = free_port()
        stack.enter_context(process(sys.executable, str(SERVER), str(direct)))
        broker = stack.enter_context(Server("ours", settings={"security.opaque_tokens": "always"}))
        address = f"ws://127.0.0.1:{broker.port}/mcp_endpoint/mcp/?token={TOKEN}"
        pipe = (sys.executable, str(ROOT / "main.py"), "pipe", "--", sys.executable, str(SERVER))
        stack.enter_context(process(*pipe, environ=os.environ | {"MCP_ENDPOINT": address}))
        ways = {"directly": Way(direct, "/mcp"), "through the broker": Way(broker.port, "/mcp", TOKEN)}
        python = fastmcp()
        if python is None:
            print(f"{FASTMCP} cannot be installed here: measured without it / 无法安装，跳过")
        else:
            port = free_port()
            stack.enter_context(process(python, "-c", PROXY, f"http://127.0.0.1:{direct}/mcp", str(port)))
            ways[FASTMCP] = Way(port, "/mcp")
        medians: dict[str, list[float]] = {name: [] for name in ways}
        for way in ways.values():
            await reached(way.port)
            await way.__aenter__()
            await way.greet()
            await called(way)
            await way.milliseconds(WARM)
        for turn in range(rounds):
            names = list(ways)[turn % len(ways) :] + list(ways)[: turn % len(ways)]
            for name in names:
                await ways[name].__aexit__()
                await ways[name].__aenter__()  # a server closes what was idle while the others were asked
                await ways[name].milliseconds(WARM)
                medians[name].append(statistics.median(await ways[name].milliseconds(calls)))
            print(f"round {turn + 1}  " + "  ".join(f"{name} {medians[name][-1]:.3f} ms" for name in ways), flush=True)
        for way in ways.values():
            await way.__aexit__()
        ours = statistics.median(ours / alone for ours, alone in zip(medians["through the broker"], medians["directly"], strict=True))
        print(f"\nthrough the broker / directly: {ours:.2f} (must ≤ 2, aim ≤ 1.5)")
        if python is not None:
            triples = zip(medians[FASTMCP], medians["through the broker"], medians["directly"], strict=True)
            added = statistics.median((proxy - alone) / max(ours - alone, 1e-6) for proxy, ours, alone in triples)
            print(f"latency added by {FASTMCP} / added by the broker: {added:.1f} (must ≥ 10)")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=300, help="calls of one way in one round")
    options = parser.parse_args()
    try:
        asyncio.run(measure(options.rounds, options.calls))
    except AssertionError as wrong:
        print(f"an answer is wrong: {wrong}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
