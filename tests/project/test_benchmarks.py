"""The measuring tools work: they compile, carry real frames, and tell right from wrong. No figure is judged here."""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SIZES = shlex.split("--tools 2 --devices 4 --depth 2 --request 2000 --answer 70000 --rows --seconds 0.3 --warm 0.1")

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists() or shutil.which("cc") is None, reason="the benchmarks need Linux and a C compiler (cc)"
)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    for name in ("load", "relay"):
        subprocess.run(["cc", "-O2", "-Wall", "-o", folder / name, BENCHMARKS / f"{name}.c"], check=True, timeout=60)
    return folder


@pytest.fixture
async def relay(programs: Path) -> AsyncIterator[tuple[Process, int]]:
    process = await asyncio.create_subprocess_exec(programs / "relay", "0", "30", stdout=PIPE)
    assert process.stdout is not None
    yield process, int(await asyncio.wait_for(process.stdout.readline(), 10))
    process.kill()
    await process.wait()


async def measured(programs: Path, port: int, pid: int) -> tuple[int, dict[str, Any]]:
    words = ["calls", "--port", str(port), "--pid", str(pid), *SIZES]
    process = await asyncio.create_subprocess_exec(programs / "load", *words, stdout=PIPE)
    text, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, json.loads(text)


async def test_the_load_counts_round_trips_through_the_c_relay_and_finds_every_byte_right(
    programs: Path, relay: tuple[Process, int]
) -> None:
    process, port = relay
    code, found = await measured(programs, port, process.pid)
    assert code == 0, found
    assert found["ok"]
    assert found["round_trips"] > 0
    assert found["cpu_us"] > 0


async def test_the_load_finds_a_single_changed_byte(programs: Path, relay: tuple[Process, int]) -> None:
    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, old: bytes, new: bytes) -> None:
        while data := await reader.read(65536):
            writer.write(data.replace(old, new))
        writer.close()

    async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        away_reader, away_writer = await asyncio.open_connection("127.0.0.1", relay[1])
        await asyncio.gather(
            carry(reader, away_writer, b"", b""),
            carry(away_reader, writer, b'"item 77"', b'"item 78"'),
            return_exceptions=True,
        )

    async with await asyncio.start_server(between, "127.0.0.1", 0) as proxy:
        code, found = await measured(programs, proxy.sockets[0].getsockname()[1], relay[0].pid)
    assert code == 1
    assert found["wrong"] + found["tool_wrong"] > 0
    assert "differs" in found["first_wrong"]


def test_a_scenario_runs_end_to_end_against_the_broker_and_the_c_relay() -> None:
    words = [sys.executable, BENCHMARKS / "run.py", "pairs", "--servers", "ours,c", "--rounds", "1", "--seconds", "0.3"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "round 1  pairs" in done.stdout
    assert "| pairs, beside the C relay |" in done.stdout


async def test_the_gateway_is_measured_beside_a_direct_request() -> None:
    words = ["--requests", "5", "--nginx", ""]
    process = await asyncio.create_subprocess_exec(sys.executable, BENCHMARKS / "gateway.py", *words, stdout=PIPE)
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    told = output.decode()
    assert "no nginx on this machine" in told
    for case in ("small", "large", "stream"):
        assert f"\n{case}: " in told
    assert told.count("x direct") == 12


async def test_a_streamed_chat_is_measured_with_and_without_the_recorder() -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, BENCHMARKS / "llm.py", "--requests", "2", stdout=PIPE)
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    told = output.decode()
    assert "no --litellm" in told
    for way in ("direct", "recorder off", "recorder on"):
        assert f"\n  {way}" in told
    assert "largest gap, added" in told


def test_a_stdio_server_is_called_directly_and_through_the_broker() -> None:
    words = [sys.executable, BENCHMARKS / "providers.py", "small", "small-16k", "--rounds", "1", "--calls", "20"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split(" | ")[0] for line in done.stdout.splitlines()[2:]] == ["| a server that only answers", "| the same, with 16 KB in"]
