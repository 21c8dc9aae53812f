"""Runs the Autobahn|Testsuite's fuzzing client against the echo: `make conformance`.

The suite needs Python 2.7, which is looked for in PYTHON27, in pyenv and as python2.7; without one this says so and ends with status 1.
Every case must be OK, non-strict, informational or declined, except those in `ALLOWED`.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from echo import PATH, echoing
from loguru import logger

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv-autobahn"
SUITE = "autobahntestsuite==25.10.1"
VIRTUALENV = "virtualenv==20.15.1"
"""The last that makes environments for Python 2.7."""
CASES = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*", "12.1.1", "13.1.1"]
SECONDS = 600
"""What a whole run may take; it takes about one minute."""
GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}
DECLINED = ("12.", "13.")
"""Groups of permessage-deflate, which is declined: each case must be UNIMPLEMENTED, anything else would mean that it was not."""
ALLOWED = {
    "7.1.5": "a text that is interrupted by a close frame: it is dropped, its first fragment is not sent back (RFC 6455 §5.5.1)",
}
"""Cases that may fail → why."""


def pythons() -> Iterator[str]:
    """Where a Python 2.7 may be."""
    if named := os.environ.get("PYTHON27"):
        yield named
    if pyenv := shutil.which("pyenv"):
        listed = subprocess.run([pyenv, "prefix", "2.7.18"], capture_output=True, text=True, check=False)
        if not listed.returncode:
            yield str(Path(listed.stdout.strip()) / "bin" / "python")
    if found := shutil.which("python2.7"):
        yield found


def suite() -> Path:
    """The fuzzing client's program, installed into its own environment if it is not there yet."""
    program = VENV / "bin" / "wstest"
    if program.exists():
        return program
    python = next(pythons(), None)
    if python is None:
        sys.exit("conformance: needs Python 2.7: set PYTHON27, or pyenv install 2.7.18 / 需要 Python 2.7：设置 PYTHON27 或用 pyenv 安装")
    print("Installing the Autobahn|Testsuite, once … / 正在安装 Autobahn|Testsuite（仅一次）…", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        tools = Path(folder) / "bin"
        subprocess.run([tools / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", VIRTUALENV], check=True)
        subprocess.run([tools / "virtualenv", "-q", "-p", python, VENV], check=True)
    subprocess.run([VENV / "bin" / "pip", "install", "-q", "--disable-pip-version-check", SUITE], check=True)
    return program


async def fuzz(program: Path, folder: Path, cases: list[str]) -> dict[str, dict[str, str]]:
    """Case number → what the suite found."""
    async with echoing() as port:
        plan = {
            "outdir": str(folder / "reports"),
            "servers": [{"agent": "echo", "url": f"ws://127.0.0.1:{port}{PATH}"}],
            "cases": cases,
            "exclude-cases": [],
            "exclude-agent-cases": {},
        }
        (folder / "plan.json").write_text(json.dumps(plan))
        client = await asyncio.create_subprocess_exec(
            program, "-m", "fuzzingclient", "-s", folder / "plan.json", stdout=asyncio.subprocess.DEVNULL, cwd=folder
        )
        try:
            await asyncio.wait_for(client.wait(), SECONDS)
        finally:
            if client.returncode is None:
                client.kill()
    found: dict[str, dict[str, str]] = json.loads((folder / "reports" / "index.json").read_text())["echo"]
    return found


def number(case: str) -> tuple[int, ...]:
    return tuple(int(part) for part in case.split("."))


def judge(found: dict[str, dict[str, str]]) -> list[str]:
    """The cases that are not as they must be, in words."""
    wrong = []
    for case in sorted(found, key=number):
        behavior, close = found[case]["behavior"], found[case]["behaviorClose"]
        good = {"UNIMPLEMENTED"} if case.startswith(DECLINED) else GOOD
        if (behavior not in good or close not in GOOD) and case not in ALLOWED:
            wrong.append(f"{case}: {behavior}, close {close}")
    return wrong


def main() -> int:
    cases = sys.argv[1:] or CASES
    logger.remove()
    program = suite()
    with tempfile.TemporaryDirectory(prefix="autobahn-") as folder:
        found = asyncio.run(fuzz(program, Path(folder), cases))
    for behavior, count in Counter(case["behavior"] for case in found.values()).most_common():
        names = sorted((name for name, case in found.items() if case["behavior"] == behavior), key=number)
        print(f"{behavior:14} {count:4}  {'' if behavior == 'OK' else ' '.join(names)}")
    wrong = judge(found)
    print("\n".join(wrong) if wrong else f"{len(found)} cases, all as they must be / 全部 {len(found)} 项符合预期")
    return 1 if wrong or not found else 0


if __name__ == "__main__":
    sys.exit(main())
