"""What recording costs the broker, and what the writer of records can do: python benchmarks/recorder.py

The broker carries the same calls with the recorder off and on, in turns, as fast as it can; compared is the processor time of the
server's own process per round trip, and the median of the ratios of each round counts. The writer is a process of its own that shares this
machine: how many of the records it could not take is given beside it. Loopback only; everything started here is ended here. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

from servers import KEY, ROOT, Missing, Server, compiled, load, raise_limits

sys.path.insert(0, str(ROOT / "src"))
from mcp_endpoint.recorder.batch import CALL, EXCHANGE, Hello, decode_told, frame

BATCH = 128
"""Records of a batch, as they come when the broker is busy."""


class Case(NamedTuple):
    """One kind of call."""

    name: str
    words: str


CASES = (
    Case("150 B", "--tools 32 --devices 32"),
    Case("2 KB", "--tools 32 --devices 32 --request 2048 --answer 2048"),
    Case("32 KB", "--tools 16 --devices 16 --answer 32768"),
)


def measured(case: Case, seconds: float, *, on: bool) -> dict[str, Any]:
    """One server under load; with what the recorder says of itself afterwards."""
    with Server("ours", settings={"recorder.on": str(on).lower(), "recorder.keep_bytes": "1GB"}) as server:
        words = ["calls", *case.words.split(), "--seconds", str(seconds), "--warm", "0.5"]
        row = load(server, words)
        if on:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/stats?key={KEY}", timeout=10) as answer:
                row |= json.load(answer)["rooms"]["recorder"]
            row["writer_kib"] = resident(row["writer"])
        return row


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024


def compare(rounds: int, seconds: float) -> None:
    ratios: dict[str, list[float]] = {case.name: [] for case in CASES}
    for turn in range(rounds):
        for case in CASES:
            order = (False, True) if turn % 2 else (True, False)
            rows = {on: measured(case, seconds, on=on) for on in order}
            off, on = rows[False], rows[True]
            ratios[case.name].append(on["cpu_us"] / off["cpu_us"])
            share = on["records_dropped"] / max(1, on["records_written"] + on["records_dropped"])
            print(
                f"round {turn + 1}  {case.name:6} off {off['cpu_us']:7.1f} µs, p99 {off['p99_us'] / 1000:6.1f} ms   "
                f"on {on['cpu_us']:7.1f} µs, p99 {on['p99_us'] / 1000:6.1f} ms   ratio {ratios[case.name][-1]:.3f}   "
                f"{on['per_second']:.0f} calls/s, {share:.1%} dropped, writer {on['writer_kib'] / 1024:.0f} MiB",
                flush=True,
            )
    for name, found in ratios.items():
        print(f"{name:6} the median of {len(found)} ratios: {statistics.median(found):.3f}")


class Writer:
    """A writer of its own, fed as fast as it reads."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "records.db"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mcp_endpoint.recorder.writer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        )
        self._send(frame(Hello("run", str(self.path), 10**10, 7.0, False, b"k" * 32, [])))
        self._hear()
        self.number = 0

    def _send(self, parts: list[bytes]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.writelines(parts)
        self.process.stdin.flush()

    def _hear(self) -> None:
        assert self.process.stdout is not None
        told = decode_told(self.process.stdout.readline())
        if told.trouble:
            raise RuntimeError(told.trouble)

    def give(self, items: list[Any]) -> None:
        self.number += 1
        self._send(frame((self.number, items)))
        self._hear()

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> int:
        """The size of its file, after it has ended."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)
        return self.path.stat().st_size


def call(number: int) -> tuple[Any, ...]:
    request = (
        b'{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"get_weather","arguments":{"city":"Beijing","days":3}}}' % number
    )
    answer = b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"%s"}],"isError":false}}' % (
        number,
        b"It is sunny. " * 8,
    )
    size = len(request) + len(answer)
    where = "0123456789abcdef", 1_000_000 + number % 50, "weather", "tools/call", "get_weather"
    return (CALL, time.time(), 3.5, *where, "", request, answer[:40], answer[40:], size, False)


def writes(count: int) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        writer = Writer(Path(folder))
        size = call(0)[-2]
        began, cpu = time.monotonic(), writer.cpu()
        for start in range(0, count, BATCH):
            writer.give([call(number) for number in range(start, start + BATCH)])
        wall, cpu = time.monotonic() - began, writer.cpu() - cpu
        resident_mib = resident(writer.process.pid) / 1024
        total = writer.number * BATCH
        print(
            f"writer: {total} calls of {size} B: {total / cpu:.0f} a second of processor time, {total / wall:.0f} a second; "
            f"{writer.end() / total:.0f} B each on the disk; {resident_mib:.0f} MiB"
        )


def chat(turns: int = 40, chats: int = 5) -> None:
    """An agent's chats, each request with all that was said before and all its tools; several, as an empty file has 90 KB already."""
    words = [f"word{number * 7919 % 100_003}" for number in range(100_000)]

    def text(place: int, count: int) -> str:
        return " ".join(words[place * 1_000 % 90_000 + place // 90 :][:count])

    tools = [{"type": "function", "function": {"name": f"tool_{n}", "description": text(n, 60), "parameters": {}}} for n in range(20)]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        writer, seen = Writer(Path(folder)), 0
        for number in range(chats):
            messages: list[dict[str, Any]] = [{"role": "system", "content": text(50, 400)}]
            for turn in range(turns):
                place = 100 * number + turn
                messages.append({"role": "user", "content": text(place + 500, 120)})
                body = json.dumps({"model": "m", "messages": messages, "tools": tools}).encode()
                said = {"role": "assistant", "content": text(place + 9_000, 200)}
                answer = json.dumps({"choices": [{"message": said}]}).encode()
                messages.append(said)
                seen += len(body) + len(answer)
                sent = ("POST", "/v1/chat/completions", 200, "ok", [], body, [], [(0.5, answer)], len(body) + len(answer), False)
                writer.give([(EXCHANGE, (time.time(), 500.0, 400.0, None, "model", "127.0.0.1", *sent))])
        size = writer.end()
        print(f"{chats} chats of {turns} turns: {seen} B said, {size} B on the disk: {seen / size:.1f} times smaller")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long one server is measured in one round")
    parser.add_argument("--records", type=int, default=50_000, help="how many the writer is given")
    options = parser.parse_args()
    if not Path("/proc/self/schedstat").exists():
        raise Missing("CPU time is read from /proc, which only Linux has / 仅支持 Linux")
    raise_limits()
    compiled("load")
    writes(options.records)
    chat()
    if options.rounds:
        compare(options.rounds, options.seconds)


if __name__ == "__main__":
    try:
        main()
    except Missing as reason:
        sys.exit(f"bench: {reason}")
