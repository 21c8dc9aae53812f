"""What is shipped for other machines: the container's own steps, its paths, and what its files promise."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from certificates import certificate
from running import BOUND, get, program
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from mcp_endpoint.errors import EXIT_CONFIG
from mcp_endpoint.serving.standalone import ROOMS
from mcp_endpoint.settings.schema import Server, WebSocket

ROOT = Path(__file__).resolve().parents[2]


def instructions(text: str) -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, continuation lines joined."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1].strip()) for line in lines if line.strip() and not line.startswith("#")]


@pytest.fixture
def dockerfile() -> list[tuple[str, str]]:
    return instructions((ROOT / "Dockerfile").read_text("utf-8"))


@pytest.fixture
def service() -> dict[str, Any]:
    return services()["mcp-endpoint-server"]


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))["services"]
    return found


@pytest.mark.row("E29")
async def test_the_dockerfiles_own_steps_give_a_server_that_answers_its_health_check(
    dockerfile: list[tuple[str, str]], tmp_path: Path
) -> None:
    """There is no container engine here, so the steps are walked in a bare folder; packages come from this environment."""
    app = tmp_path / "app"
    app.mkdir()
    environ: dict[str, str] = {}
    for name, rest in dockerfile:
        if name == "COPY":
            *sources, target = rest.split()
            for source in sources:
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, app / target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
                else:
                    shutil.copy(ROOT / source, app / target)
        elif name == "ENV":
            environ |= dict(pair.split("=", 1) for pair in shlex.split(rest))
        elif name == "RUN" and rest.startswith("mkdir"):
            for folder in rest.partition("&&")[0].split()[2:]:
                (app / folder).mkdir()
    words = dict(dockerfile)
    python, main, *arguments = json.loads(words["CMD"])
    assert (python, main, arguments) == ("python", "main.py", [])
    assert environ["MES_SERVER_HOST"] == "0.0.0.0"
    environ |= {"MES_SERVER_PORT": "0", "MES_SERVER_PUBLIC_URL": ""}
    async with program(app, main=app / main, environ=environ) as running:
        await running.listens()
        assert json.loads((await get(running.port, "/health")).body)["status"] == "ok"
        async with connect(f"ws://127.0.0.1:{running.port}/mcp_endpoint/call/?token={running.token}") as device:
            await device.send('{"jsonrpc":"2.0","id":0,"method":"ping"}')
            assert json.loads(await asyncio.wait_for(device.recv(), BOUND)) == {"jsonrpc": "2.0", "id": 0, "result": {}}
        _, probe, *rest = json.loads(words["HEALTHCHECK"].partition("CMD ")[2])
        health = await asyncio.create_subprocess_exec(
            sys.executable, str(app / probe), *rest, env=environ | {"MES_SERVER_PORT": str(running.port), "PATH": ""}
        )
        assert await asyncio.wait_for(health.wait(), BOUND) == 0
        running.process.terminate()
        assert await running.ends() == 0
    assert (app / "data/.mcp-endpoint-server.cfg").exists()
    assert (app / "logs/mcp_server.log").exists()


@pytest.mark.row("E29")
def test_the_container_listens_where_the_original_did_and_keeps_what_must_be_kept(dockerfile: list[tuple[str, str]]) -> None:
    words = dict(dockerfile)
    assert words["WORKDIR"] == "/app"
    assert words["EXPOSE"] == str(Server().port)
    assert json.loads(words["VOLUME"]) == ["/app/data", "/app/logs"]
    assert words["USER"].split(":")[0].isdigit(), "a number, so that an orchestrator can see it is not root"
    assert words["USER"].split(":")[0] != "0"


def test_no_key_can_get_into_the_image(dockerfile: list[tuple[str, str]]) -> None:
    allowed = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line and not line.startswith("#")]
    assert allowed[0] == "*"
    copied = {source for name, rest in dockerfile if name == "COPY" for source in rest.split()[:-1]}
    assert {line[1:] for line in allowed if line.startswith("!")} == copied
    assert not copied & {"data", "logs", "."}


def test_compose_gives_a_stop_the_time_the_drain_needs_and_the_container_no_rights(service: dict[str, Any]) -> None:
    assert int(service["stop_grace_period"].removesuffix("s")) > Server().drain_seconds + 3
    assert service["ports"] == [f"{Server().port}:{Server().port}"]
    assert {volume.partition(":")[2] for volume in service["volumes"]} == {"/app/data", "/app/logs"}
    assert "MES_SERVER_PUBLIC_URL" in service["environment"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]


@pytest.mark.row("H14")
@pytest.mark.parametrize(("name", "port", "extra"), [("api", "5000", "api"), ("gateway", "8000", "http")])
def test_the_rooms_that_may_stand_alone_have_services_that_start_when_they_are_named(name: str, port: str, extra: str) -> None:
    """001 had an image for pip and one for uv; here one Dockerfile builds what a service needs. One image for all of it."""
    service = services()[name]
    assert service["profiles"] == [name]
    assert service["build"]["args"] == {"EXTRAS": extra}
    assert service["command"] == ["python", "main.py", "serve", "--as", name]
    assert service["ports"][0].split(":")[-1] == port == ROOMS[name].port
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    variables = {variable for variable in ("HOST", "JWT_SECRET", "MCP_URLS") if name == "api" or variable == "HOST"}
    assert variables <= set(service["environment"])


def test_each_service_has_its_own_volumes_and_a_bound_for_its_memory() -> None:
    """The key of the server lies in its `data`; the gateway alone gets the file with the keys of its upstream."""
    sources = {name: [volume.partition(":")[0] for volume in service["volumes"]] for name, service in services().items()}
    assert sources["mcp-endpoint-server"] == ["data", "logs"]
    assert sources["api"] == ["api-data", "api-logs"]
    assert sources["gateway"] == ["./accounts.txt", "gateway-data", "gateway-logs"]
    assert all(re.fullmatch(r"\d+[mg]", service["mem_limit"]) for service in services().values())


def test_the_image_has_packages_with_known_hashes_only(dockerfile: list[tuple[str, str]]) -> None:
    assert any(name == "RUN" and "--require-hashes -r requirements.lock" in rest for name, rest in dockerfile)


def test_the_dockerfile_installs_the_extra_a_service_asks_for(dockerfile: list[tuple[str, str]]) -> None:
    names = [name for name, _ in dockerfile]
    assert names.index("ARG") < names.index("CMD")
    assert any(name == "RUN" and '".[$EXTRAS]"' in rest for name, rest in dockerfile)


# -- beside a container --------------------------------------------------------------------------------------------------------


def unit() -> dict[str, list[str]]:
    """The systemd unit's settings; a name may be given several times."""
    settings: dict[str, list[str]] = {}
    for line in (ROOT / "docs/deploy/mcp-endpoint-server.service").read_text("utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            settings.setdefault(name, []).append(value)
    return settings


def test_the_unit_waits_for_readiness_and_for_the_drain_and_does_not_repeat_a_mistake() -> None:
    settings = unit()
    assert settings["Type"] == ["notify"]
    assert int(settings["TimeoutStopSec"][0]) > Server().drain_seconds + 3
    assert settings["RestartPreventExitStatus"] == [str(EXIT_CONFIG)]
    assert settings["StandardOutput"] == ["null"], "the printed addresses belong in no journal"
    assert settings["NoNewPrivileges"] == ["yes"]
    assert all(path.endswith(("/data", "/logs")) for path in settings["ReadWritePaths"][0].split())


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not on this machine; the unit's settings are tested above")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    text = (ROOT / "docs/deploy/mcp-endpoint-server.service").read_text("utf-8")
    here = tmp_path / "mcp-endpoint-server.service"
    here.write_text(text.replace("/opt/mcp-endpoint-server/.venv/bin/python", sys.executable), "utf-8")
    judged = subprocess.run(["systemd-analyze", "verify", str(here)], capture_output=True, timeout=BOUND, encoding="utf-8")
    assert "mcp-endpoint-server.service" not in judged.stderr, judged.stderr


@pytest.mark.parametrize("name", ["nginx.conf", "Caddyfile"])
def test_a_proxy_is_told_to_keep_tokens_out_of_its_log_and_the_server_to_believe_it(name: str) -> None:
    text = (ROOT / "docs/deploy" / name).read_text("utf-8")
    assert "trusted_proxies" in text
    assert "public_url" in text
    if name == "nginx.conf":
        assert "access_log /var/log/nginx/mcp-endpoint.log without_query;" in text
        assert "$request " not in text.replace("$request_", "")
        waits = [int(seconds) for seconds in re.findall(r"proxy_(?:read|send)_timeout (\d+)s;", text)]
        assert min(waits) > WebSocket().ping_interval + WebSocket().ping_timeout
    else:
        assert {"delete token", "delete key"} <= {line.strip() for line in text.splitlines()}


# -- a real proxy before the real program --------------------------------------------------------------------------------------


def nginx(folder: Path, port: int, upstream: int, files: tuple[str, str]) -> list[str]:
    """Our nginx.conf on another port, with a certificate of ours; the command that runs it."""
    text = (ROOT / "docs/deploy/nginx.conf").read_text("utf-8")
    for before, after in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("http://127.0.0.1:8004", f"http://127.0.0.1:{upstream}"),
        ("/etc/ssl/mcp.example.org.pem", files[0]),
        ("/etc/ssl/mcp.example.org.key", files[1]),
        ("/var/log/nginx", str(folder)),
    ):
        assert before in text
        text = text.replace(before, after)
    (folder / "site").write_text(text, "utf-8")
    temporary = "".join(f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    around = f"daemon off; pid {folder}/pid; error_log stderr; events {{}} http {{ {temporary} include {folder}/site; }}"
    (folder / "around").write_text(around, "utf-8")
    return ["nginx", "-e", "stderr", "-c", str(folder / "around")]


def caddy(folder: Path, port: int, upstream: int, files: tuple[str, str]) -> list[str]:
    """Our Caddyfile, as above."""
    text = (ROOT / "docs/deploy/Caddyfile").read_text("utf-8")
    for before, after in (
        ("mcp.example.org {\n", f"https://localhost:{port} {{\n\tbind 127.0.0.1\n\ttls {files[0]} {files[1]}\n"),
        ("127.0.0.1:8004", f"127.0.0.1:{upstream}"),
        ("/var/log/caddy", str(folder)),
    ):
        assert before in text
        text = text.replace(before, after)
    (folder / "Caddyfile").write_text(text.replace("\n{\n", "\n{\n\tadmin off\n\tauto_https disable_redirects\n", 1), "utf-8")
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


@asynccontextmanager
async def proxy(command: list[str], folder: Path, port: int) -> AsyncIterator[None]:
    """The proxy, listening; stopped at the end."""
    with (folder / "console").open("w") as console:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=console, stderr=console, env=os.environ | {"HOME": str(folder), "XDG_DATA_HOME": str(folder)}
        )
    try:
        async with asyncio.timeout(BOUND):
            while not await listens(port):
                assert process.returncode is None, (folder / "console").read_text("utf-8")
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), BOUND)


async def listens(port: int) -> bool:
    """Whether somebody does, asked at most fifty times a second."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        await asyncio.sleep(0.02)
        return False
    writer.close()
    return True


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        found: int = one.getsockname()[1]
        return found


@pytest.mark.parametrize(
    "configured",
    [
        pytest.param(nginx, marks=pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not on this machine")),
        pytest.param(caddy, marks=pytest.mark.skipif(shutil.which("caddy") is None, reason="Caddy is not on this machine")),
    ],
)
async def test_a_call_goes_through_the_proxy_as_it_is_shipped_and_its_logs_hold_no_secret(
    configured: Callable[[Path, int, int, tuple[str, str]], list[str]], tmp_path: Path
) -> None:
    folder, root = tmp_path / "proxy", tmp_path / "server"
    folder.mkdir()
    root.mkdir()
    files = certificate(folder)
    trust = ssl.create_default_context(cafile=files[0])
    port = free_port()
    environ = {"MES_SERVER_TRUSTED_PROXIES": "127.0.0.1", "MES_SERVER_PUBLIC_URL": f"https://localhost:{port}"}
    async with program(root, "--root", str(root), "serve", "--port", "0", environ=environ) as server:
        async with asyncio.timeout(BOUND):
            while not (server.token and server.port):
                line = await anext(aiter(server.process.stdout or asyncio.StreamReader()))
                server.printed += line.decode()
                found = re.search(r"health\?key=(\S+)|token=(\S+)", line.decode())
                server.key = (found and found[1]) or server.key
                server.token = (found and found[2]) or server.token
                server.port = int((re.search(r"listening.* port=(\d+)", server.log) or ["", "0"])[1])
        assert f"wss://localhost:{port}/mcp_endpoint/mcp/?token={server.token}" in server.printed
        address = f"wss://localhost:{port}/mcp_endpoint/"
        async with proxy(configured(folder, port, server.port, files), folder, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname="localhost")
            bearer = f"Authorization: Bearer {server.key}\r\n"
            writer.write(
                f"GET /mcp_endpoint/health?key={server.key} HTTP/1.1\r\nHost: localhost\r\n{bearer}Connection: close\r\n\r\n".encode()
            )
            assert b'"success"' in await asyncio.wait_for(reader.read(), BOUND)
            writer.close()
            async with (
                connect(f"{address}mcp/?token={server.token}", ssl=trust) as tool,
                connect(f"{address}call/?token={server.token}", ssl=trust) as device,
            ):
                await device.send('{"jsonrpc":"2.0","id":0,"method":"ask","params":{"text":"你好"}}')
                asked = json.loads(await asyncio.wait_for(tool.recv(), BOUND))
                assert asked["params"] == {"text": "你好"}
                await tool.send(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": {}}))
                assert json.loads(await asyncio.wait_for(device.recv(), BOUND)) == {"jsonrpc": "2.0", "id": 0, "result": {}}
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"{address}call/?token=of-free-choice-and-from-elsewhere", ssl=trust)
            assert refused.value.response.status_code == 401
    (log,) = (path for path in folder.glob("*.log") if "error" not in path.name)
    written = "".join(path.read_text("utf-8", "replace") for path in [*folder.glob("*.log"), folder / "console"])
    assert all(f"/mcp_endpoint/{path}" in log.read_text("utf-8") for path in ("call/", "health"))
    for secret in (server.token, unquote(server.token), server.key, "of-free-choice"):
        assert secret not in written
