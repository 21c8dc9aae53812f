"""Chromium without a window: told by nothing but its command line, it loads a page, and the page tells its own server what it saw; or
driven by playwright, it clicks and types."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest
from running import BOUND

if TYPE_CHECKING:
    from playwright.async_api import Page

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


class Watched(NamedTuple):
    """A tab that somebody acts in, and what went wrong in it."""

    page: Page
    wrong: list[str]
    """Errors of scripts, reports of the Content-Security-Policy, requests to anybody else, and every call of `xss()`."""


@asynccontextmanager
async def acting(
    base: str, *, width: int = 1280, language: str = "en-US", dark: bool = False, scripts: bool = True
) -> AsyncIterator[Watched]:
    """Chromium with a tab, for a page that somebody clicks and types in. Skips the test where there is none, or no playwright."""
    path = chromium()
    try:
        from playwright.async_api import async_playwright
    except ImportError:
        pytest.skip("NOT TESTED in a browser: playwright is not installed / 未在浏览器中测试：没有安装 playwright")
    wrong: list[str] = []
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=path, args=[*OPTIONS[1:]])
        try:
            context = await browser.new_context(
                viewport={"width": width, "height": 900},
                locale=language,
                color_scheme="dark" if dark else "light",
                java_script_enabled=scripts,
                base_url=base,
            )
            context.set_default_timeout(BOUND * 1_000)
            page = await context.new_page()
            page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
            page.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
            page.on("request", lambda request: None if request.url.startswith(base) else wrong.append(f"request: {request.url}"))
            if scripts:
                await page.expose_function("xss", lambda *said: wrong.append(f"script: {said}"))
                await page.expose_function("reported", lambda said: wrong.append(f"policy: {said}"))
                await page.add_init_script(
                    "document.addEventListener('securitypolicyviolation', e => reported(e.violatedDirective + ' ' + e.blockedURI))"
                )
            yield Watched(page, wrong)
        finally:
            await browser.close()
