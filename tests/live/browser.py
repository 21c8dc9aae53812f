"""Chromium without a window, told by nothing but its command line: it loads a page, and the page tells its own server what it saw."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from running import BOUND

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS: Final = (
    "--headless",
    "--no-sandbox",  # it does not run as root with one
    "--disable-gpu",
    "--disable-dev-shm-usage",  # containers have little of it
    "--disable-quic",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium() -> str:
    """Its path. Skips the test where there is none; tests/conftest.py says so at the end of the run."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None or sys.platform == "win32":
        pytest.skip("NOT TESTED in a browser: there is no Chromium (Debian: apt install chromium) / 未在浏览器中测试：没有 Chromium")
    return found


@asynccontextmanager
async def browsing(profile: Path, url: str) -> AsyncIterator[None]:
    """Chromium at `url`, with a new profile; killed with all its processes at the end."""
    process = await asyncio.create_subprocess_exec(
        chromium(),
        *OPTIONS,
        f"--user-data-dir={profile}",
        url,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await asyncio.wait_for(process.wait(), BOUND)


async def shown(profile: Path, url: str) -> str:
    """The document that stands at `url` once it has loaded, as HTML."""
    process = await asyncio.create_subprocess_exec(
        chromium(),
        *OPTIONS,
        f"--user-data-dir={profile}",
        "--dump-dom",
        url,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), BOUND)
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return out.decode()
