"""A request through the gateway, beside the same request made directly and through nginx: python benchmarks/gateway.py

All three ask the same upstream, one request after the other over kept connections, in turns, so that what else the machine does meets
them alike. What is compared: the whole time of a request, the time until the first byte of a stream is there, and the processor time that
the gateway and nginx take. Without nginx on this machine its column is left out. Loopback only; everything started here is ended here.
Linux only, for the processor time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from servers import LIFE_SECONDS, ROOT, free_port

KEYS = [f"sk-{number:040d}" for number in range(8)]
WARM = 100
PATIENCE_SECONDS = 20.0
EVENT = b"data: " + b"x" * 200 + b"\n\n"
EVENTS = 50
PAUSE_SECONDS = 0.002
"""Between the first event of a stream and the others."""


class Case(NamedTuple):
    """One kind of request."""

    name: str
    what: str
    request: bytes
    stream: bool = False


def post(path: str, body: bytes) -> bytes:
    """A request as MCP clients send it."""
    head = (f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", "Accept: application/json, text/event-stream")
    return "\r\n".join((*head, f"Content-Length: {len(body)}", "", "")).encode() + body


CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"x":"%b"}}}'
CASES = (
    Case("small", "a call and its answer, 0.1 and 0.6 KB", post("/", CALL % b"x")),
    Case("large", "the same with 16 KB there and 64 KB back", post("/?size=65536", CALL % (b"x" * 16_384))),
    Case("stream", f"{EVENTS} events, the first at once", post("/?stream=1", CALL % b"x"), stream=True),
)


# -- the upstream ----------------------------------------------------------------------------------------------------------


class Upstream(asyncio.Protocol):
    """An HTTP server that costs next to nothing."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, found, rest = self.data.partition(b"\r\n\r\n")
        if not found:
            return
        size = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or b"0")
        if len(rest) < size:
            return
        self.data = rest[size:]
        target = head.split(b" ", 2)[1]
        if b"stream=1" in target:
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(EVENT))
            asyncio.get_running_loop().call_later(PAUSE_SECONDS, self.others, EVENTS - 1)
            return
        body = b"y" * int(target.partition(b"size=")[2].partition(b"&")[0] or b"600")
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    def others(self, left: int) -> None:
        """The other events, each in a write of its own."""
        self.transport.write(chunk(EVENT))
        if left > 1:
            asyncio.get_running_loop().call_soon(self.others, left - 1)
        else:
            self.transport.write(b"0\r\n\r\n")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def be_upstream(port: int) -> None:
    await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port)
    await asyncio.sleep(LIFE_SECONDS)


# -- the processes ---------------------------------------------------------------------------------------------------------


@contextmanager
def process(name: str, port: int, command: list[str], variables: dict[str, str] | None = None) -> Iterator[int]:
    """A process that listens on `port`; its id."""
    with tempfile.TemporaryFile() as output:
        started = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | (variables or {}))
        try:
            until = time.monotonic() + PATIENCE_SECONDS
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError as error:
                    if started.poll() is not None or time.monotonic() > until:
                        output.seek(0)
                        raise RuntimeError(f"{name} did not start:\n{output.read().decode(errors='replace')[-2000:]}") from error
                    time.sleep(0.01)
            yield started.pid
        finally:
            started.terminate()
            try:
                started.wait(10)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait(10)


def gateway_command(folder: Path, target: int) -> list[str]:
    (folder / "data").mkdir()
    (folder / "accounts.txt").write_text("".join(f"user|password|{key}\n" for key in KEYS))
    (folder / "data/.mcp-endpoint-server.cfg").write_text(
        f'[credentials.keys]\naccounts = "accounts.txt"\n[[gateway]]\nname = "bench"\ntarget = "http://127.0.0.1:{target}/mcp/"\n'
        'credentials = "keys"\nplace = "query:api_key"\n'
    )
    return [sys.executable, str(ROOT / "main.py"), "--root", str(folder), "serve", "--as", "gateway", "--log-level", "WARNING"]


def nginx_command(program: str, folder: Path, port: int, target: int) -> list[str]:
    """nginx as it is set up for streams: kept connections, nothing held back."""
    temporary = "\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(f"""
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/errors warn;
events {{ worker_connections 256; }}
http {{
  access_log off; client_body_buffer_size 1m; keepalive_requests 1000000; {temporary}
  upstream behind {{ server 127.0.0.1:{target}; keepalive 16; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://behind/mcp$uri?$args&api_key={KEYS[0]};
      proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; proxy_request_buffering off;
    }}
  }}
}}
""")
    return [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "errors")]


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and its children so far."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    total = 0.0
    for number in (pid, *map(int, children)):
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


# -- the client ------------------------------------------------------------------------------------------------------------


class Client:
    """One kept connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, case: Case) -> tuple[float, float]:
        """Seconds until the first byte of the body, and until its end."""
        began = time.perf_counter()
        self.socket.sendall(case.request)
        data = b""
        while b"\r\n\r\n" not in data or data.endswith(b"\r\n\r\n"):
            data += self._more()
            if case.stream and data.endswith(b"0\r\n\r\n"):
                break
        first = time.perf_counter()
        head, _, body = data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode(errors="replace"))
        if case.stream:
            while not body.endswith(b"\r\n0\r\n\r\n"):
                body += self._more()
            if body.count(b"data: ") != EVENTS:
                raise RuntimeError("events are missing")
        else:
            size = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            while len(body) < size:
                body += self._more()
        return first - began, time.perf_counter() - began

    def _more(self) -> bytes:
        data = self.socket.recv(1 << 18)
        if not data:
            raise RuntimeError("the connection was closed")
        return data


def measure(case: Case, ports: dict[str, int], pids: dict[str, int], requests: int) -> None:
    clients = {name: Client(port) for name, port in ports.items()}
    for client in clients.values():
        for _ in range(WARM):
            client.ask(case)
    firsts: dict[str, list[float]] = {name: [] for name in clients}
    wholes: dict[str, list[float]] = {name: [] for name in clients}
    began = {name: cpu_seconds(pid) for name, pid in pids.items()}
    for _ in range(requests):
        for name, client in clients.items():
            first, whole = client.ask(case)
            firsts[name].append(first)
            wholes[name].append(whole)
    spent = {name: (cpu_seconds(pid) - began[name]) / requests for name, pid in pids.items()}
    print(f"\n{case.name}: {case.what}")
    direct = statistics.median(firsts["direct"]), statistics.median(wholes["direct"])
    for name in clients:
        first, whole = statistics.median(firsts[name]), statistics.median(wholes[name])
        late = statistics.quantiles(wholes[name], n=100)[98]
        print(
            f"  {name:8} first byte {first * 1e6:7.0f} us ({first / direct[0]:5.2f} x direct)   whole {whole * 1e6:7.0f} us"
            f" ({whole / direct[1]:5.2f} x direct, +{(whole - direct[1]) * 1e6:.0f} us)   p99 {late * 1e6:7.0f} us"
            + (f"   processor {spent[name] * 1e6:5.0f} us" if name in spent else "")
        )
    if "nginx" in clients:
        ratios = [statistics.median(times["gateway"]) / statistics.median(times["nginx"]) for times in (firsts, wholes)]
        print(f"  gateway / nginx: first byte {ratios[0]:.2f}, whole {ratios[1]:.2f}, processor {spent['gateway'] / spent['nginx']:.2f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=2000, help="of each kind to each of the three")
    parser.add_argument("--nginx", default=shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin") or "")
    parser.add_argument("--upstream", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.upstream:
        asyncio.run(be_upstream(options.upstream))
        return 0
    if not Path("/proc/self/stat").exists():
        sys.exit("gateway: reads /proc, which only Linux has / 仅支持 Linux")
    with ExitStack() as stack:
        ports = {"direct": free_port(), "gateway": free_port()}
        upstream = [sys.executable, __file__, "--upstream", str(ports["direct"])]
        stack.enter_context(process("the upstream", ports["direct"], upstream))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        (folder / "ours").mkdir()
        ours = gateway_command(folder / "ours", ports["direct"])
        pids = {"gateway": stack.enter_context(process("the gateway", ports["gateway"], ours, {"PORT": str(ports["gateway"])}))}
        if options.nginx:
            ports["nginx"] = free_port()
            (folder / "nginx").mkdir()
            command = nginx_command(options.nginx, folder / "nginx", ports["nginx"], ports["direct"])
            pids["nginx"] = stack.enter_context(process("nginx", ports["nginx"], command))
        else:
            print("no nginx on this machine: its part is left out / 没有 nginx，略过与它的比较")
        for case in CASES:
            measure(case, ports, pids, options.requests)
    return 0


if __name__ == "__main__":
    sys.exit(main())
