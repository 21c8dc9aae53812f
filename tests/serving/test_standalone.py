"""Rooms that have the port to themselves run as the programs did that they take the place of."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
from pathlib import Path

import jwt
import pytest
from msgspec.structs import replace
from running import BOUND, MAIN, Program, get, program
from upstream import reply, says, upstream

from mcp_endpoint.errors import ConfigError
from mcp_endpoint.serving import standalone as rooms
from mcp_endpoint.settings.schema import Config, CredentialSettings, GatewaySettings

SECRET = "0123456789abcdef0123456789abcdefXYZ"


# -- the gateway -----------------------------------------------------------------------------------------------------------------


@pytest.mark.row("R7")
def test_the_gateway_has_its_predecessors_defaults_but_for_the_address_which_is_this_machine() -> None:
    """000 listened on every address by default; design: bound to loopback unless somebody says otherwise."""
    assert rooms.overrides("gateway", {}) == {"server.host": "127.0.0.1", "server.port": "8000"}
    assert rooms.overrides("gateway", {"HOST": "0.0.0.0", "PORT": "9"}) == {"server.host": "0.0.0.0", "server.port": "9"}
    configured = rooms.ROOMS["gateway"].configured(Config(), "")
    [gateway] = configured.gateway
    assert (gateway.target, gateway.place, gateway.timeout) == ("https://ai.variflight.com/servers/aviation/mcp/", "query:api_key", 300.0)
    assert configured.credentials[gateway.credentials] == CredentialSettings(accounts="accounts.txt", retries=3)
    own = Config(gateway=(replace(gateway, name="mine"),))
    assert rooms.ROOMS["gateway"].configured(own, "").gateway == own.gateway


def test_the_apis_variables_are_not_the_gateways(tmp_path: Path) -> None:
    assert rooms.overrides("gateway", {"LOG_LEVEL": "debug", "DEBUG": "true"}) == rooms.overrides("gateway", {})
    (tmp_path / ".env").write_text("HOST=0.0.0.0\nPORT=5000\nnot even a variable\n")
    assert rooms.variables("gateway", tmp_path, {"PORT": "9"}) == {"PORT": "9"}
    with pytest.raises(ConfigError):
        rooms.variables("api", tmp_path, {})


async def test_the_gateway_listens_where_it_is_told_and_not_where_the_apis_file_says(tmp_path: Path) -> None:
    (tmp_path / "accounts.txt").write_text("someone|password|sk-0123456789abcdef\n")
    (tmp_path / ".env").write_text(f"HOST=0.0.0.0\nPORT=1\nJWT_SECRET={SECRET}\n")
    async with program(tmp_path, "--root", str(tmp_path), "serve", "--as", "gateway", environ={"PORT": "0"}) as running:
        await listening(running)
        assert "host=127.0.0.1" in running.log
        running.process.terminate()
        assert await running.ends() == 0


# -- the gateway to models -----------------------------------------------------------------------------------------------------------


def test_the_gateway_to_models_goes_to_openrouter_or_where_it_is_told() -> None:
    assert rooms.overrides("llm", {}) == {"server.host": "127.0.0.1", "server.port": "8000"}
    assert rooms.overrides("llm", {"PROXY_PORT": "9", "PORT": "8"})["server.port"] == "9"
    assert rooms.overrides("llm", {"PORT": "8"})["server.port"] == "8"
    [gateway] = rooms.ROOMS["llm"].configured(Config(), "").gateway
    assert (gateway.kind, gateway.target, gateway.credentials) == ("llm", "https://openrouter.ai/api/v1", "")
    [gateway] = rooms.ROOMS["llm"].configured(Config(), "https://api.openai.com").gateway
    assert (gateway.kind, gateway.target) == ("llm", "https://api.openai.com")
    mine = GatewaySettings(kind="llm", name="mine", target="http://127.0.0.1:11434/v1")
    both = Config(gateway=(GatewaySettings(name="other", target="http://127.0.0.1:1"), mine))
    assert rooms.ROOMS["llm"].configured(both, "").gateway == (mine,)
    assert rooms.target({"TARGET_URL": "http://a", "TARGET_BASE_URL": "http://b"}) == "http://b"
    assert rooms.target({"TARGET_URL": "http://a", "TARGET_BASE_URL": ""}) == "http://a"


@pytest.mark.parametrize("target", ["api.openai.com", "ftp://x", "https://"])
def test_a_target_that_is_no_url_is_told(target: str) -> None:
    with pytest.raises(ConfigError, match="--target-url"):
        rooms.ROOMS["llm"].configured(Config(), target)


def test_of_the_file_of_variables_the_gateway_to_models_reads_its_own(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "HOST=0.0.0.0\nPORT=5000\nOPENAI_API_KEY=sk-x\nTARGET_BASE_URL=http://a\nPROXY_PORT=8001\nJWT_SECRET=y\n"
    )
    found = rooms.variables("llm", tmp_path, {"PORT": "9", "PROXY_PORT": "8002"})
    assert found == {"PORT": "9", "PROXY_PORT": "8002", "OPENAI_API_KEY": "sk-x", "TARGET_BASE_URL": "http://a"}


async def test_the_gateway_to_models_serves_the_base_url_of_an_sdk(tmp_path: Path) -> None:
    answer = reply(200, b'{"data":[]}', "Content-Type: application/json")
    async with upstream(says(answer)) as behind:
        words = "--root", str(tmp_path), "serve", "--as", "llm", "--target-url", f"{behind.url}/api/v1"
        async with program(tmp_path, *words, environ={"PORT": "0"}) as running:
            port = await listening(running)
            assert (await get(port, "/v1/models")).body == b'{"data":[]}'
            assert json.loads((await get(port, "/")).body)["status"] == "healthy"
            running.process.terminate()
            assert await running.ends() == 0
    assert [seen.target for seen in behind.seen] == ["/api/v1/models"]


# -- the API -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.row("H7")
def test_the_apis_variables_are_its_predecessors_but_for_the_address_which_is_this_machine() -> None:
    assert rooms.overrides("api", {}) == {"server.host": "127.0.0.1", "server.port": "5000", "api.request_log": "-"}
    environ = {
        "JWT_SECRET": SECRET,
        "JWT_ALGORITHM": "HS384",
        "MCP_URL": "http://one/sse",
        "MCP_URLS": "http://two/sse,http://three/sse",
        "PORT": "5001",
        "DEBUG": "true",
        "LOG_LEVEL": "info",
        "HOST": "0.0.0.0",
        "REQUEST_LOG": "x.jsonl",
    }
    assert rooms.overrides("api", environ) == {
        "server.host": "0.0.0.0",
        "server.port": "5001",
        "server.log_level": "INFO",
        "server.debug": "true",
        "api.secret": SECRET,
        "api.algorithm": "HS384",
        "api.urls": "http://two/sse,http://three/sse",
        "api.request_log": "x.jsonl",
    }
    assert rooms.overrides("api", {"MCP_URL": "http://one/sse"})["api.urls"] == "http://one/sse"
    assert not rooms.ROOMS["api"].configured(Config(), "").server.print_addresses


@pytest.mark.row("H7")
def test_a_file_of_variables_is_read_and_the_environment_goes_before_it(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "# mine\n\nexport PORT=5005 # here\nJWT_SECRET = 'a # b'\nMCP_URLS=\"http://one/sse,http://two/sse\" # two\nEMPTY=\n", "utf-8"
    )
    found = rooms.with_dot_env(tmp_path, {"PORT": "6000", "OTHER": ""})
    assert found == {"PORT": "6000", "JWT_SECRET": "a # b", "MCP_URLS": "http://one/sse,http://two/sse", "EMPTY": ""}
    assert rooms.with_dot_env(tmp_path / "elsewhere", {"A": "b"}) == {"A": "b"}


@pytest.mark.parametrize(
    ("text", "words"),
    [("JUST WORDS", "NAME=VALUE"), ("A='open", "not closed"), ('A="x" y', "not closed"), ("A='", "not closed")],
)
def test_a_line_that_is_none_is_told_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / ".env").write_text(f"# fine\n{text}\n")
    with pytest.raises(ConfigError, match=words) as caught:
        rooms.with_dot_env(tmp_path, {})
    assert caught.value.place == ".env:2"


def test_a_file_of_variables_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        rooms.with_dot_env(tmp_path, {})


def test_the_example_of_the_variables_names_each_of_them() -> None:
    text = (MAIN.parent / ".env.example").read_text("utf-8")
    for name in ("JWT_SECRET", "JWT_ALGORITHM", "MCP_URL", "MCP_URLS", "PORT", "DEBUG", "LOG_LEVEL", "HOST", "REQUEST_LOG"):
        assert re.search(rf"^#? ?{name}=", text, re.MULTILINE), name


async def listening(running: Program) -> int:
    """The port of a program that prints no addresses, from its log."""
    async with asyncio.timeout(BOUND):
        while not (found := re.search(r"listening host=\S+ port=(\d+)", running.log)):
            assert running.process.returncode is None, running.log
            await asyncio.sleep(0.02)
    return int(found[1])


@pytest.mark.row("H12", "H13")
async def test_the_program_serves_the_api_and_makes_tokens_that_work_at_once(tmp_path: Path) -> None:
    """H13: what `python -m mcp_proxy.main` was is `serve --as api`; docs/api.md names the rest."""
    (tmp_path / ".env").write_text(f"JWT_SECRET={SECRET}\nMCP_URLS=http://127.0.0.1:1/sse\nREQUEST_LOG=api.jsonl\n")
    make = "token", "jwt", "--user", "me", "--tool", "light_*", "--tool", "x", "--server", "http://*"
    async with program(tmp_path, "--root", str(tmp_path), *make) as running:
        assert await running.ends() == 0
        made = running.printed.strip()
    claims = jwt.decode(made, SECRET, algorithms=["HS256"])
    assert claims["user_id"] == "me" and claims["iss"] == "mcp-proxy" and claims["exp"] > claims["iat"]
    assert claims["tools"] == ["light_*", "x"] and claims["servers"] == ["http://*"]
    # The secret is changed; the token goes on.
    rotated = {"PORT": "0", "JWT_SECRET": SECRET[::-1], "JWT_OLD_SECRETS": f"{SECRET}, {SECRET * 2}"}
    async with program(tmp_path, "--root", str(tmp_path), "serve", "--as", "api", environ=rotated) as running:
        port = await listening(running)
        assert (await get(port, "/health")).status == 503
        servers = await get(port, "/servers", f"Authorization: Bearer {made}")
        (server,) = json.loads(servers.body)["servers"]
        assert (server["server"], server["status"], server["tools"]) == ("http://127.0.0.1:1/sse", "down", [])
        assert (await get(port, "/servers")).status == 401
        running.process.terminate()
        assert await running.ends() == 0
    lines = await asyncio.to_thread((tmp_path / "api.jsonl").read_text, "utf-8")
    assert len(lines.splitlines()) == 3


@pytest.mark.row("H13")
def test_what_the_documents_name_in_place_of_the_predecessors_imports_exists() -> None:
    text = (MAIN.parent / "docs/api.md").read_text("utf-8")
    named = set(re.findall(r"`(mcp_endpoint(?:\.\w+)+)`", text))
    assert len(named) >= 4
    for name in named:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


@pytest.mark.row("H15")
def test_the_project_installs_with_pip_and_with_uv() -> None:
    """Both read pyproject.toml alone: `make test` installs it with `pip install -e`, and `uv sync` asks for nothing beyond this."""
    import tomli

    project = tomli.loads((MAIN.parent / "pyproject.toml").read_text("utf-8"))
    assert project["build-system"]["build-backend"] == "hatchling.build"
    assert {"name", "requires-python", "dependencies", "optional-dependencies"} <= set(project["project"])
    assert {"http", "api", "test"} <= set(project["project"]["optional-dependencies"])
    assert importlib.import_module("mcp_endpoint").__version__
