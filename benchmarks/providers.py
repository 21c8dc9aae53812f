"""A call of a stdio server through the broker that brings it, beside the same server called directly: python benchmarks/providers.py

Each server is started once by this program, which then writes a `tools/call` to its stdin and reads the answer from its stdout, one after
the other; and once by the broker, which this program asks over one WebSocket. In each round both run in turn. What is compared is the time
of the whole round trip as the caller sees it, and how much processor time of the broker a call takes. Loopback only; everything started
here is ended here. Linux only, for the processor time.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from servers import ROOT, Server

HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
TOKEN = "providers"
WARM = 50
PATIENCE_SECONDS = 20.0

Ask = Callable[[bytes], bytes]


class Case(NamedTuple):
    """One server, and the call that is measured."""

    name: str
    what: str
    words: tuple[str, ...]
    tool: str
    arguments: dict[str, Any]


CASES = (
    Case("small", "a server that only answers", ("-I", "-S", str(ROOT / "tests/support/small_server.py"), "small", "who"), "who", {}),
    Case(
        "small-16k",
        "the same, with 16 KB in",
        ("-I", "-S", str(ROOT / "tests/support/small_server.py"), "small", "who"),
        "who",
        {"x": "x" * 16_384},
    ),
    Case("sdk", "a server made with the mcp SDK", (str(ROOT / "examples/calculator.py"),), "calculator", {"python_expression": "6 * 7"}),
)


def frame(id: int, method: str, params: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).encode()


def greeted(ask: Ask, tell: Callable[[bytes], None], tool: str) -> None:
    ask(frame(1, "initialize", HELLO))
    tell(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
    end = time.monotonic() + PATIENCE_SECONDS
    while tool not in [found["name"] for found in json.loads(ask(frame(2, "tools/list", {})))["result"]["tools"]]:
        if time.monotonic() > end:
            raise RuntimeError(f"no tool {tool}")
        time.sleep(0.02)


def seconds_per_call(ask: Ask, case: Case, calls: int) -> list[float]:
    data = frame(7, "tools/call", {"name": case.tool, "arguments": case.arguments})
    for _ in range(WARM):
        if b'"result"' not in ask(data):
            raise RuntimeError("a call failed")
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        ask(data)
        times.append(time.perf_counter() - began)
    return times


@contextmanager
def directly(case: Case) -> Iterator[tuple[Ask, Callable[[bytes], None]]]:
    """The server as a child of this program."""
    process = subprocess.Popen(
        [sys.executable, *case.words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    )
    assert process.stdin is not None and process.stdout is not None
    stdin, lines = process.stdin, os.fdopen(os.dup(process.stdout.fileno()), "rb", buffering=1 << 16)

    def tell(data: bytes) -> None:
        stdin.write(data + b"\n")

    def ask(data: bytes) -> bytes:
        stdin.write(data + b"\n")
        return lines.readline()

    try:
        yield ask, tell
    finally:
        stdin.close()
        process.wait(10)
        lines.close()
        process.stdout.close()


class Socket:
    """A WebSocket of the plainest kind (RFC 6455 §5): whole text frames, masked with zeros, so that this end costs next to nothing."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(os.urandom(16)).decode()
        head = (f"GET /mcp_endpoint/call/?token={TOKEN} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket", "Connection: Upgrade")
        self.socket.sendall("\r\n".join((*head, f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", "")).encode())
        self.data = b""
        while b"\r\n\r\n" not in self.data:
            self.data += self.socket.recv(4096)
        answer, _, self.data = self.data.partition(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 101"):
            raise RuntimeError(answer.decode())

    def tell(self, data: bytes) -> None:
        size = len(data)
        head = bytes((0x81, 0x80 | size)) if size < 126 else b"\x81\xfe" + size.to_bytes(2, "big")
        self.socket.sendall(head + bytes(4) + data)

    def ask(self, data: bytes) -> bytes:
        self.tell(data)
        while True:
            answer = self._frame()
            if b'"id"' in answer[:60] or b'"id"' in answer[-60:]:
                return answer

    def _frame(self) -> bytes:
        self._until(2)
        size, start = self.data[1], 2
        if size >= 126:
            start = 4 if size == 126 else 10
            self._until(start)
            size = int.from_bytes(self.data[2:start], "big")
        self._until(start + size)
        answer, self.data = self.data[start : start + size], self.data[start + size :]
        return answer

    def _until(self, size: int) -> None:
        while len(self.data) < size:
            chunk = self.socket.recv(1 << 16)
            if not chunk:
                raise RuntimeError("the broker hung up")
            self.data += chunk


def cpu_seconds(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def measure(case: Case, calls: int) -> tuple[list[float], list[float], float]:
    """Seconds of each direct call, of each call through the broker, and of the broker's processor time for one call."""
    with directly(case) as (ask, tell):
        greeted(ask, tell, case.tool)
        direct = seconds_per_call(ask, case, calls)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        file = Path(folder) / "mcp.json"
        file.write_text(json.dumps({"mcpServers": {"one": {"command": sys.executable, "args": case.words}}}))
        with Server("ours", settings={"providers.file": str(file)}) as server:
            connection = Socket(server.port)
            greeted(connection.ask, connection.tell, case.tool)
            before = cpu_seconds(server.pid)
            through = seconds_per_call(connection.ask, case, calls)
            spent = (cpu_seconds(server.pid) - before) / (calls + WARM)
            connection.socket.close()
    return direct, through, spent


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", help="which to run; all without a name: " + " ".join(case.name for case in CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=2000)
    options = parser.parse_args()
    print("| server | directly, median µs | through the broker | added | ratio | broker's CPU µs per call |")
    print("|---|---|---|---|---|---|")
    for case in CASES:
        if options.cases and case.name not in options.cases:
            continue
        rounds = [measure(case, options.calls) for _ in range(options.rounds)]
        pairs = [(statistics.median(direct) * 1e6, statistics.median(through) * 1e6, spent * 1e6) for direct, through, spent in rounds]
        direct, through, spent = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(through / direct for direct, through, _ in pairs)
        cells = (case.what, f"{direct:.0f}", f"{through:.0f}", f"{through - direct:.0f}", f"{ratio:.2f}", f"{spent:.0f}")
        print(f"| {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
