"""What is shipped for other machines: the container's own steps, its paths, and what its files promise."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import BOUND, get, program
from websockets.asyncio.client import connect

from mcp_endpoint.config import Server, WebSocket
from mcp_endpoint.errors import EXIT_CONFIG

ROOT = Path(__file__).resolve().parent.parent


def instructions(text: str) -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, continuation lines joined."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1].strip()) for line in lines if line.strip() and not line.startswith("#")]


@pytest.fixture
def dockerfile() -> list[tuple[str, str]]:
    return instructions((ROOT / "Dockerfile").read_text("utf-8"))


@pytest.fixture
def service() -> dict[str, Any]:
    (service,) = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))["services"].values()
    assert isinstance(service, dict)
    return service


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
