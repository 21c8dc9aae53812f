"""What is built holds what is needed: the wheel the annotated configuration, the sdist everything `make test` reads."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tarfile
import zipfile
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from pathlib import Path

import pytest
from running import BOUND

ROOT = Path(__file__).resolve().parents[2]


def build(kind: str, folder: Path) -> Path:
    """The wheel or sdist of this checkout, made with the build backend that is installed."""
    code = f"import sys; from hatchling.build import build_{kind}; print(build_{kind}(sys.argv[1]))"
    made = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60)
    return folder / made.stdout.split()[-1]


async def test_the_wheel_alone_makes_the_annotated_configuration(tmp_path: Path) -> None:
    wheel = build("wheel", tmp_path)
    target, root = tmp_path / "installed", tmp_path / "home"
    root.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "mcp_endpoint", "serve", "--port", "0"),
        cwd=root,
        env={name: value for name, value in os.environ.items() if not name.startswith("MES_")} | {"PYTHONPATH": str(target)},
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(BOUND):
            said = await process.stdout.readuntil(b"/mcp/?token=")
    finally:
        process.terminate()
        await asyncio.wait_for(process.communicate(), BOUND)
    assert b"data/.mcp-endpoint-server.cfg" in said
    written = (root / "data/.mcp-endpoint-server.cfg").read_text("utf-8").splitlines()
    annotated = (ROOT / "mcp-endpoint-server.cfg").read_text("utf-8").splitlines()
    assert [line for line in written if line.startswith("#")] == [line for line in annotated if line.startswith("#")]


def test_the_sdist_holds_every_file_of_the_project(tmp_path: Path) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    with tarfile.open(build("sdist", tmp_path)) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in listed.stdout.splitlines() if (ROOT / name).exists()} <= inside


def test_the_wheel_holds_the_consoles_templates_scripts_and_their_licences(tmp_path: Path) -> None:
    folder = ROOT / "src/mcp_endpoint/console"
    wanted = {
        f"mcp_endpoint/console/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*.*") if "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(build("wheel", tmp_path)) as wheel:
        assert wanted | {f"mcp_endpoint/console/static/vendor/LICENSE-{name}" for name in ("htm", "preact")} <= set(wheel.namelist())
