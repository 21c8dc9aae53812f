"""A streamed chat through the gateway to models, beside the same chat made directly and through LiteLLM: python benchmarks/llm.py

All ask the same upstream, one chat after the other over kept connections, in turns, so that what else the machine does meets them alike.
The upstream says an event every few milliseconds. What is compared: the time until the first byte of the body is there, and the largest
gap between two reads. What comes through the gateway must equal the upstream's bytes. The gateway is measured with the recorder off and on.
LiteLLM is measured where `--litellm` names its program: pip install 'litellm[proxy]' into an environment of its own. Loopback only;
everything started here is ended here. Linux only, for the processor time.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from gateway import PATIENCE_SECONDS, chunk, cpu_seconds, process
from servers import LIFE_SECONDS, ROOT, free_port

WARM = 5
EVENTS = 30
PAUSE_SECONDS = 0.005
TEXT = b'{"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-x","choices":[{"index":0,"delta":{%b},"finish_reason":%b}]}'
SAID = [
    *(b"data: " + TEXT % (b'"content":"%d "' % number, b"null") + b"\n\n" for number in range(EVENTS)),
    b"data: " + TEXT % (b"", b'"stop"') + b"\n\n",
    b"data: [DONE]\n\n",
]
BODY = b'{"model":"gpt-x","stream":true,"messages":[{"role":"user","content":"Count."}]}'
ADDED_MS = 3.0
"""What the gateway may add to the first byte, and to the largest gap."""
OF_LITELLM = 1 / 3


class Upstream(asyncio.Protocol):
    """A model that costs next to nothing: an event at once, the others one by one."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, found, rest = self.data.partition(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or b"0")
        if not found or len(rest) < size:
            return
        self.data = rest[size:]
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(SAID[0]))
        asyncio.get_running_loop().call_later(PAUSE_SECONDS, self.say, 1)

    def say(self, number: int) -> None:
        """An event, and later the next."""
        if number == len(SAID):
            self.transport.write(b"0\r\n\r\n")
            return
        self.transport.write(chunk(SAID[number]))
        asyncio.get_running_loop().call_later(PAUSE_SECONDS, self.say, number + 1)


async def be_upstream(port: int) -> None:
    await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port)
    await asyncio.sleep(LIFE_SECONDS)


class Way(NamedTuple):
    """How a chat reaches the upstream."""

    port: int
    path: str
    exact: bool
    """Its bytes must be the upstream's."""


class Client:
    """One kept connection."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self.socket = socket.create_connection(("127.0.0.1", way.port), PATIENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = (f"POST {way.path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", "Authorization: Bearer sk-bench")
        self.request = "\r\n".join((*head, f"Content-Length: {len(BODY)}", "", "")).encode() + BODY

    def ask(self) -> tuple[float, float]:
        """Seconds until the first byte of the body, and the largest gap after it."""
        began = time.perf_counter()
        self.socket.sendall(self.request)
        data, gap, first, last = b"", 0.0, 0.0, 0.0
        while not data.endswith(b"\r\n0\r\n\r\n"):
            more = self.socket.recv(1 << 18)
            now = time.perf_counter()
            if not more:
                raise RuntimeError("the connection was closed")
            data += more
            if not first and (body := data.partition(b"\r\n\r\n")[2]):
                first = now
                assert body
            elif first:
                gap = max(gap, now - last)
            last = now
        head, _, body = data.partition(b"\r\n\r\n")
        said = unchunked(body)
        if not head.startswith(b"HTTP/1.1 200") or b"[DONE]" not in said or (self.way.exact and said != b"".join(SAID)):
            raise RuntimeError(f"not what the upstream said: {head.decode(errors='replace')} {said[-200:]!r}")
        return first - began, gap


def unchunked(body: bytes) -> bytes:
    """A body without its chunks."""
    found = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        found, body = found + body[:length], body[length + 2 :]
    return found


def gateway_command(folder: Path, port: int, target: int, *, record: bool) -> list[str]:
    (folder / "data").mkdir(parents=True)
    (folder / "data/.mcp-endpoint-server.cfg").write_text(
        f"[recorder]\non = {'true' if record else 'false'}\n"
        f'[[gateway]]\nkind = "llm"\nname = "bench"\ntarget = "http://127.0.0.1:{target}/v1"\n'
    )
    return [sys.executable, str(ROOT / "main.py"), "--root", str(folder), "serve", "--port", str(port), "--log-level", "WARNING"]


def litellm_command(program: str, folder: Path, port: int, target: int) -> list[str]:
    folder.mkdir()
    (folder / "config.yaml").write_text(
        "model_list:\n- model_name: gpt-x\n  litellm_params:\n    model: openai/gpt-x\n"
        f"    api_base: http://127.0.0.1:{target}/v1\n    api_key: sk-bench\n"
    )
    return [program, "--config", str(folder / "config.yaml"), "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]


def measure(ways: dict[str, Way], pids: dict[str, int], requests: int) -> bool:
    """Print the figures; whether the bars hold."""
    clients = {name: Client(way) for name, way in ways.items()}
    for client in clients.values():
        for _ in range(WARM):
            client.ask()
    firsts: dict[str, list[float]] = {name: [] for name in clients}
    gaps: dict[str, list[float]] = {name: [] for name in clients}
    began = {name: cpu_seconds(pid) for name, pid in pids.items()}
    for _ in range(requests):
        for name, client in clients.items():
            first, gap = client.ask()
            firsts[name].append(first * 1000)
            gaps[name].append(gap * 1000)
    print(f"{requests} chats of {len(SAID)} events each way, in turns; medians in milliseconds")
    for name in clients:
        line = f"  {name:14} first byte {statistics.median(firsts[name]):6.2f}   largest gap {statistics.median(gaps[name]):6.2f}"
        if name in pids:
            line += f"   processor {(cpu_seconds(pids[name]) - began[name]) / requests * 1000:6.2f}"
        print(line)
    added = {name: statistics.median(firsts[name]) - statistics.median(firsts["direct"]) for name in clients if name != "direct"}
    gap = statistics.median(gaps["recorder on"]) - statistics.median(gaps["direct"])
    held = [("first byte, added, recorder on", added["recorder on"], ADDED_MS), ("largest gap, added", gap, ADDED_MS)]
    if "LiteLLM" in added:
        held.append(("first byte added, of what LiteLLM adds", added["recorder on"] / added["LiteLLM"], OF_LITELLM))
    for what, value, most in held:
        print(f"  {what}: {value:.2f}, at most {most:.2f}: {'holds' if value <= most else 'DOES NOT HOLD'}")
    return all(value <= most for _, value, most in held)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=200, help="chats each way")
    parser.add_argument("--litellm", default="", help="the program litellm, to be measured too")
    parser.add_argument("--upstream", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.upstream:
        asyncio.run(be_upstream(options.upstream))
        return 0
    if not Path("/proc/self/stat").exists():
        sys.exit("llm: reads /proc, which only Linux has / 仅支持 Linux")
    with ExitStack() as stack:
        target = free_port()
        stack.enter_context(process("the upstream", target, [sys.executable, __file__, "--upstream", str(target)]))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        ways = {"direct": Way(target, "/v1/chat/completions", True)}
        pids = {}
        for name, record in (("recorder off", False), ("recorder on", True)):
            port = free_port()
            command = gateway_command(folder / name.replace(" ", "-"), port, target, record=record)
            pids[name] = stack.enter_context(process("the gateway", port, command))
            ways[name] = Way(port, "/gateway/bench/v1/chat/completions", True)
        if options.litellm:
            port = free_port()
            command = litellm_command(options.litellm, folder / "litellm", port, target)
            pids["LiteLLM"] = stack.enter_context(process("LiteLLM", port, command))
            ways["LiteLLM"] = Way(port, "/v1/chat/completions", False)
        else:
            print("no --litellm: its part is left out / 没有给出 --litellm，略过与它的比较")
        return 0 if measure(ways, pids, options.requests) else 1


if __name__ == "__main__":
    sys.exit(main())
