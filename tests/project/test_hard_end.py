"""How a run ends and what a failure says: hung tests, Ctrl-C, plays, with the project's own settings."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BOUND = 60.0
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

HANGS = {
    "spins": "def test_hangs():\n    while True: pass\n",
    "waits": "import asyncio\nasync def test_hangs():\n    await asyncio.Event().wait()\n",
    "spins in the loop": "import asyncio\nasync def test_hangs():\n    async with asyncio.timeout(1):\n        while True: pass\n",
    "serves": (
        "import asyncio, sys\nfrom pathlib import Path\nfrom mcp_endpoint.settings.schema import Config\nfrom running import running\n"
        "async def test_hangs():\n    async with running(Config(), root=Path(sys.argv[0]).parent / 'nowhere'):\n"
        "        print('it hangs', file=sys.__stderr__, flush=True)\n        await asyncio.Event().wait()\n"
    ),
}
GOES_ON = "\n\ndef test_goes_on(): pass\n"


async def run(folder: Path, test: str, *arguments: str) -> asyncio.subprocess.Process:
    """pytest with the project's settings on one file that stands elsewhere."""
    conftest = (ROOT / "tests" / "conftest.py").read_text("utf-8").replace("Path(__file__).parent", f"Path({str(ROOT / 'tests')!r})")
    (folder / "conftest.py").write_text(conftest, "utf-8")
    (folder / "test_it.py").write_text(test, "utf-8")
    command = ["-m", "pytest", "-s", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), f"--rootdir={ROOT}", *arguments]
    return await asyncio.create_subprocess_exec(
        sys.executable, *command, str(folder / "test_it.py"), cwd=ROOT, stdin=asyncio.subprocess.DEVNULL, stdout=PIPE, stderr=STDOUT
    )


@pytest.mark.parametrize("test", HANGS.values(), ids=HANGS.keys())
async def test_a_hung_test_fails_with_its_stack_and_the_next_one_runs(tmp_path: Path, test: str) -> None:
    process = await run(tmp_path, test + GOES_ON, "--timeout=1")
    said, _ = await asyncio.wait_for(process.communicate(), BOUND)
    assert process.returncode == 1, said.decode()
    assert b"1 failed, 1 passed" in said, said.decode()
    assert b"Timeout (>1.0s)" in said
    assert b"test_hangs" in said


async def test_one_that_no_signal_ends_takes_only_its_worker_with_it(tmp_path: Path) -> None:
    deaf = "import signal\ndef test_hangs():\n    signal.signal(signal.SIGALRM, signal.SIG_IGN)\n    while True: pass\n"
    process = await run(tmp_path, deaf + GOES_ON, "--timeout=1", "-n1", "-o", "faulthandler_timeout=2")
    said, _ = await asyncio.wait_for(process.communicate(), BOUND)
    assert process.returncode == 1, said.decode()
    assert b"1 failed, 1 passed" in said, said.decode()
    assert b"crashed" in said


async def test_ctrl_c_ends_a_run_in_which_a_server_hangs(tmp_path: Path) -> None:
    process = await run(tmp_path, HANGS["serves"] + GOES_ON)
    assert process.stdout is not None
    async with asyncio.timeout(BOUND):
        said = await process.stdout.readuntil(b"it hangs")
        process.send_signal(signal.SIGINT)
        said += await process.stdout.read()
        assert await process.wait() == 2, said.decode()
    assert b"KeyboardInterrupt" in said


async def test_a_play_that_fails_says_what_differs_and_what_was_said(tmp_path: Path) -> None:
    play = (
        "from plays import Play, request\ndef test_fails():\n    play = Play()\n    tool, device = play.tool(), play.device()\n"
        "    device.says(request(7, 'greet'))\n    tool.hears(request(8, 'greet'))\n"
    )
    process = await run(tmp_path, play)
    said, _ = await asyncio.wait_for(process.communicate(), BOUND)
    assert b"{'id': 1} != {'id': 8}" in said, said.decode()
    assert b'device 1   -> {"jsonrpc":"2.0","id":7,"method":"greet"}' in said
