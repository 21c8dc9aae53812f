"""What others say of us: MCP's official conformance suite and clients written by other hands, run through the broker: `make judges`.

    python tests/judges/run.py                   everything
    python tests/judges/run.py suite clients     a part

suite    the requirement sets of revisions 2025-11-25 and 2026-07-28, in columns: the everything server over its own HTTP, through us
         alone, through us with a second provider attached; and 2026-07-28 with a tool that knows the handshake era only.
clients  list and call through /mcp: FastMCP's client, the TypeScript SDK, mcp-remote, the Inspector.
openapi  schemathesis against the document of the HTTP API, for a minute.

A failure is permitted only where the server fails without us too. Needs node and npm; what it installs goes to .venv-node and .venv-peers.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
NODE: Final = ROOT / ".venv-node"
PACKAGES: Final = (
    "node@22",
    "@modelcontextprotocol/conformance@0.2.0-alpha.12",
    "@modelcontextprotocol/sdk@1",
    "@modelcontextprotocol/inspector@0",
    "mcp-remote@0",
)
REVISIONS: Final = ("2025-11-25", "2026-07-28")
SCHEMATHESIS: Final = "schemathesis==4.32.5"
FUZZ_SECONDS: Final = 60
SUITE_SECONDS: Final = 600
START_SECONDS: Final = 30
EVERYTHING: Final = (sys.executable, str(HERE / "everything_server.py"))
_SCENARIO: Final = re.compile(r"^(?P<mark>[✓✗]) (?P<name>[\w-]+): (?P<passed>\d+) passed, (?P<failed>\d+) failed", re.MULTILINE)
_NOT_SCORED: Final = re.compile(r"^  [✓✗] (?P<name>[\w-]+) \(", re.MULTILINE)


class Missing(Exception):
    """Something this machine lacks; the text says what."""


class Scores(NamedTuple):
    """What the suite found: scenario → whether it passed, of those that count."""

    passed: dict[str, bool]

    @property
    def text(self) -> str:
        return f"{sum(self.passed.values())}/{len(self.passed)}"


def installed() -> dict[str, str]:
    """The environment in which node 22 and the packages are found; installs them once."""
    npm = shutil.which("npm")
    if npm is None:
        raise Missing("npm is needed (Debian/Ubuntu: apt install npm) / 需要 npm")
    made = NODE / "judges"
    if not made.exists() or made.read_text() != " ".join(PACKAGES):
        print("Installing the judges, once … / 正在安装（仅一次）…", flush=True)
        subprocess.run([npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(NODE), *PACKAGES], check=True)
        made.write_text(" ".join(PACKAGES))
    paths = [str(NODE / "node_modules/node/bin"), str(NODE / "node_modules/.bin"), os.environ["PATH"]]
    return {**os.environ, "PATH": os.pathsep.join(paths)}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_for(port: int) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise Missing(f"nothing listens on port {port}")


@contextmanager
def process(*command: str, environ: dict[str, str] | None = None, said: Path) -> Iterator[subprocess.Popen[bytes]]:
    with said.open("wb") as file:
        started = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(10)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


@contextmanager
def directly() -> Iterator[str]:
    """The everything server over its own HTTP."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, process(*EVERYTHING, str(port), said=Path(folder) / "said"):
        wait_for(port)
        yield f"http://127.0.0.1:{port}/mcp"


@contextmanager
def through_us(*commands: tuple[str, tuple[str, ...]]) -> Iterator[str]:
    """A broker with these tools behind `pipe` on WebSockets, each with what is added to its address."""
    port = free_port()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        main = (sys.executable, str(ROOT / "main.py"))
        bare = {name: value for name, value in os.environ.items() if not name.startswith("MES_")}
        make = [*main, "--root", str(folder), "token", "make", "judge", "--signed"]
        token = subprocess.run(make, check=True, capture_output=True, text=True).stdout.strip()
        environ = bare | {"MES_SERVER_PORT": str(port), "MES_SERVER_PRINT_ADDRESSES": "false"}
        stack.enter_context(process(*main, "--root", str(folder), "serve", environ=environ, said=folder / "broker"))
        wait_for(port)
        for number, (query, command) in enumerate(commands):
            address = f"ws://127.0.0.1:{port}/mcp_endpoint/mcp/?token={token}{query}"
            said = folder / f"pipe-{number}"
            stack.enter_context(process(*main, "pipe", "--", *command, environ=bare | {"MCP_ENDPOINT": address}, said=said))
            end = time.monotonic() + START_SECONDS
            while "connected" not in said.read_text("utf-8", "replace") and time.monotonic() < end:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/mcp?token={token}"


def scores(url: str, revision: str, environ: dict[str, str]) -> Scores:
    """Run the requirement set of a revision against a server."""
    command = ["conformance", "server", "--url", url, "--requirements", revision]
    said = subprocess.run(command, cwd=NODE, env=environ, capture_output=True, text=True, timeout=SUITE_SECONDS).stdout
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said)
    summary = plain.rpartition("=== SUMMARY ===")[2]
    unscored = {found["name"] for found in _NOT_SCORED.finditer(summary)}
    passed = {found["name"]: found["mark"] == "✓" for found in _SCENARIO.finditer(summary) if found["name"] not in unscored}
    if not passed:
        raise Missing(f"the suite said nothing that counts:\n{said[-2000:]}")
    return Scores(passed)


def suite(environ: dict[str, str]) -> bool:
    """The columns of every revision; whether nothing fails through us that passes without us."""
    second = ("&server_id=calculator", (sys.executable, str(ROOT / "examples/calculator.py")))
    good = True
    print(f"{'requirements':14} {'directly':>10} {'through us':>12} {'with a second':>14}")
    for revision in REVISIONS:
        # A tool of both eras is greeted in the one its address asks for; the other's suite needs the other's words.
        query = f"&revision={revision}" if revision == REVISIONS[-1] else ""
        with directly() as url:
            alone = scores(url, revision, environ)
        with through_us((query, EVERYTHING)) as url:
            ours = scores(url, revision, environ)
        with through_us((query, EVERYTHING), second) as url:
            beside = scores(url, revision, environ)
        print(f"{revision:14} {alone.text:>10} {ours.text:>12} {beside.text:>14}", flush=True)
        for name, passed in alone.passed.items():
            for column, found in (("through us", ours), ("with a second provider", beside)):
                if not found.passed.get(name, False):
                    print(f"  fails {column}: {name}" + ("" if passed else " (and directly)"))
                    good = good and not passed
    sys.path.insert(0, str(ROOT / "tests/live"))
    from venvs import interpreters

    old = interpreters()["mcp-1.30"]
    with through_us(("", (old, str(HERE / "handshake_server.py")))) as url:
        found = scores(url, REVISIONS[-1], environ)
    print(f"\n{REVISIONS[-1]} with a tool that knows the handshake era only (mcp 1.30): {found.text}")
    for name, passed in found.passed.items():
        if not passed:
            print(f"  fails: {name}")
    return good


FASTMCP: Final = """
import asyncio, sys
from fastmcp import Client
async def main():
    async with Client(sys.argv[1]) as client:
        names = [tool.name for tool in await client.list_tools()]
        result = await client.call_tool("test_simple_text", {})
        print(names, result)
asyncio.run(main())
"""
TYPESCRIPT: Final = """
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
const client = new Client({ name: "judge", version: "1" });
await client.connect(new StreamableHTTPClientTransport(new URL(process.argv[2])));
const { tools } = await client.listTools();
const result = await client.callTool({ name: "test_simple_text", arguments: {} });
console.log(JSON.stringify([tools.map((tool) => tool.name), result]));
await client.close();
"""
REMOTE: Final = """
import asyncio, sys
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
async def main():
    link = stdio_client(StdioServerParameters(command=sys.argv[1], args=sys.argv[2:], env=None))
    async with Client(link, mode="legacy") as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        print(names, await client.call_tool("test_simple_text", {}))
asyncio.run(main())
"""


def clients(environ: dict[str, str]) -> bool:
    """Every client lists and calls; whether all of them could."""
    sys.path.insert(0, str(ROOT / "tests/live"))
    from venvs import interpreters

    fastmcp = interpreters()["fastmcp"]
    script = NODE / "judge.mjs"
    script.write_text(TYPESCRIPT)
    good = True
    with through_us(("", EVERYTHING)) as url:
        inspector = ["mcp-inspector", "--cli", url, "--transport", "http", "--method"]
        node = str(NODE / "node_modules/node/bin/node")
        commands = {
            "FastMCP": [fastmcp, "-c", FASTMCP, url],
            "TypeScript SDK": [node, str(script), url],
            "mcp-remote": [sys.executable, "-c", REMOTE, str(NODE / "node_modules/.bin/mcp-remote"), url, "--allow-http"],
            "Inspector, list": [*inspector, "tools/list"],
            "Inspector, call": [*inspector, "tools/call", "--tool-name", "test_simple_text"],
        }
        for name, command in commands.items():
            try:
                done = subprocess.run(command, cwd=NODE, env=environ, capture_output=True, text=True, timeout=120)
                said, problem = done.stdout, done.stderr[-500:]
            except subprocess.TimeoutExpired:
                said, problem = "", "no end within 120 s"
            heard = "test_simple_text" in said if name.endswith("list") else "simple text" in said
            print(f"{name:18} {'lists and calls' if heard else 'FAILS: ' + problem.strip()}", flush=True)
            good = good and heard
    return good


def openapi(environ: dict[str, str]) -> bool:
    """Schemathesis makes up requests from the document and holds every answer against it; whether it found nothing."""
    place = ROOT / ".venv-peers/schemathesis"
    if not (place / "bin/st").exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        subprocess.run([place / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check", SCHEMATHESIS], check=True)
    port, behind = free_port(), free_port()
    main = (sys.executable, str(ROOT / "main.py"))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bare = {name: value for name, value in os.environ.items() if not name.startswith("MES_")}
        bare |= {"JWT_SECRET": secrets.token_hex(32), "MCP_URLS": f"http://127.0.0.1:{behind}/mcp", "PORT": str(port), "HOST": "127.0.0.1"}
        stack.enter_context(process(*EVERYTHING, str(behind), said=folder / "everything"))
        wait_for(behind)
        api = (*main, "--root", str(folder), "serve", "--as", "api")
        stack.enter_context(process(*api, environ=bare, said=folder / "api"))
        wait_for(port)
        make = [*main, "--root", str(folder), "token", "jwt"]
        token = subprocess.run(make, check=True, capture_output=True, text=True, env=bare).stdout.strip()
        url = f"http://127.0.0.1:{port}"
        run = [place / "bin/st", "run", f"{url}/openapi.json", "--url", url, "-H", f"Authorization: Bearer {token}"]
        # A made-up ?token= beside our header would be a second token, which is refused on purpose.
        run += ["--generation-with-security-parameters", "false", "--max-time", str(FUZZ_SECONDS)]
        done = subprocess.run(run, cwd=folder, capture_output=True, text=True, timeout=FUZZ_SECONDS * 3)
    cases = re.search(r"\d+ generated.*", done.stdout)
    print(f"schemathesis: {cases[0] if cases else done.stdout[-2000:]}", flush=True)
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", help="suite, clients, openapi; all without a name")
    options = parser.parse_args()
    known = {"suite": suite, "clients": clients, "openapi": openapi}
    parts = options.parts or list(known)
    if unknown := set(parts) - set(known):
        parser.error(f"unknown: {' '.join(sorted(unknown))}")
    environ = installed()
    versions = {name: json.loads((NODE / "node_modules" / name / "package.json").read_text())["version"] for name in map(_name, PACKAGES)}
    print(" ".join(f"{name}@{version}" for name, version in versions.items()) + "\n", flush=True)
    good = [part(environ) for name, part in known.items() if name in parts]
    return 0 if all(good) else 1


def _name(package: str) -> str:
    return package[: package.rindex("@")]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Missing as reason:
        sys.exit(f"judges: {reason}")
