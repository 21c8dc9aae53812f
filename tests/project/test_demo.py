"""`make demo`: the whole way once with real processes, in seconds, leaving nothing behind."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import resource
import signal
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType

import pytest
from process_watch import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "demo.py"
OWN_SECONDS = 5.0
"""What the demo may use; counted in seconds of the processor, because other tests run beside this one."""


@pytest.fixture
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def started(folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The demo with its temporary data below `folder`, and with settings around that must not reach it."""
    around = os.environ | {"TMPDIR": str(folder), "MES_SERVER_KEY": "x" * 32, "MES_SERVER_PORT": "1", "MCP_ENDPOINT": "ws://127.0.0.1:9/"}
    process = await asyncio.create_subprocess_exec(sys.executable, str(DEMO), stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=around)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.wait_for(process.communicate(), PATIENCE)


async def test_the_demo_ends_with_the_answers_of_both_tools_and_leaves_nothing_behind(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    async with started(tmp_path) as process:
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = out.decode()
    assert (process.returncode, err) == (0, b"")
    assert '"result": 16900000000' in shown
    assert '"city": "北京"' in shown
    assert "token" not in shown
    assert os.listdir(tmp_path) == []
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < OWN_SECONDS


async def test_ctrl_c_ends_the_demo_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async with started(tmp_path) as process:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while b"\n2. " not in (line := b"\n" + await process.stdout.readline()):
                assert line != b"\n"
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 130
    assert os.listdir(tmp_path) == []


def test_a_demo_that_does_not_come_to_its_end_shows_what_its_programs_wrote(
    demo: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(demo, "EXPECTED", {"nothing of the kind"})
    monkeypatch.setattr(demo, "PATIENCE_SECONDS", 2.0)
    assert demo.main() == 1
    told = capfd.readouterr().err
    assert "--- server" in told
    assert "--- pipe" in told
    assert "not done within 2 s" in told
    assert os.listdir(tmp_path) == []


def test_a_demo_whose_server_cannot_start_says_why(
    demo: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(demo, "MAIN", tmp_path / "none.py")
    assert demo.main() == 1
    told = capfd.readouterr().err
    assert "none.py" in told
    assert "服务器没有启动" in told


def test_without_the_package_of_the_tools_the_demo_says_what_to_install(
    demo: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda _: None)
    assert demo.main() == 1
    assert "pip install mcp" in capsys.readouterr().err
