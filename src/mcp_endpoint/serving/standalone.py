"""Defaults and variables of `serve --as NAME`, compatible with the program it replaces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from ..errors import ConfigError
from ..settings import env_file
from ..settings.schema import Config, CredentialSettings, GatewaySettings

AVIATION: Final = GatewaySettings(
    name="gateway",
    target="https://ai.variflight.com/servers/aviation/mcp/",
    credentials="accounts",
    place="query:api_key",
)
"""The upstream of a gateway without a `[[gateway]]` section, as in the program it replaces."""
OPENROUTER: Final = GatewaySettings(kind="llm", name="llm", target="https://openrouter.ai/api/v1")
"""The default target of the gateway to models."""
ACCOUNTS: Final = CredentialSettings(accounts="accounts.txt")
LOOPBACK: Final = "127.0.0.1"


class Standalone(NamedTuple):
    """The settings of one standalone room."""

    port: str
    """The port without the variable PORT; the address is in HOST."""
    configured: Callable[[Config, str], Config]
    """Adds what the room needs to the configuration."""
    dot_env: tuple[str, ...] = ()
    """Names (`*` as in file names) of the variables in `.env` that are for this room: HOST and PORT in it are the API's."""
    ports: tuple[str, ...] = ("PORT",)
    """The variables for the port; the first one that is set is used."""


def _gateway(config: Config, target: str) -> Config:
    quiet = replace(config.server, print_addresses=False)
    if config.gateway:
        return replace(config, server=quiet)
    credentials = {"accounts": ACCOUNTS} | dict(config.credentials)
    return replace(config, server=quiet, gateway=(AVIATION,), credentials=credentials)


def _api(config: Config, target: str) -> Config:
    return replace(config, server=replace(config.server, print_addresses=False))


def _llm(config: Config, target: str) -> Config:
    """The first gateway to models of the configuration, or one to `target`."""
    gateway = next((one for one in config.gateway if one.kind == "llm"), OPENROUTER)
    if target:
        try:
            gateway = msgspec.convert(msgspec.to_builtins(replace(gateway, target=target, credentials="")), GatewaySettings)
        except msgspec.ValidationError as error:
            raise ConfigError(
                "the target of the gateway to models is no http:// or https:// URL (--target-url, TARGET_BASE_URL)",
                "大模型网关的目标不是 http:// 或 https:// 地址（--target-url、TARGET_BASE_URL）",
            ) from error
    return replace(config, server=replace(config.server, print_addresses=False), gateway=(gateway,))


ROOMS: Final[Mapping[str, Standalone]] = {
    "gateway": Standalone("8000", _gateway),
    "llm": Standalone("8000", _llm, dot_env=("TARGET_*", "PROXY_PORT", "*_API_KEY"), ports=("PROXY_PORT", "PORT")),
    "api": Standalone("5000", _api, dot_env=("*",)),
}
DOT_ENV: Final = ".env"
"""The file of variables that the program replaced by the API reads."""
API_VARIABLES: Final = {
    "JWT_SECRET": "api.secret",
    "JWT_ALGORITHM": "api.algorithm",
    "JWT_OLD_SECRETS": "api.old_secrets",
    "JWT_ISSUER": "api.issuer",
    "JWT_AUDIENCE": "api.audience",
}


def variables(name: str, root: Path, environ: Mapping[str, str]) -> Mapping[str, str]:
    """The variables a room reads. Raises ConfigError as `with_dot_env` does, for a room that reads that file."""
    patterns = ROOMS[name].dot_env
    if not patterns:
        return environ
    found = with_dot_env(root, environ)
    return {one: value for one, value in found.items() if one in environ or any(fnmatchcase(one, pattern) for pattern in patterns)}


def overrides(name: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Settings that take precedence over the configuration file, which is for the whole server: host, port and the room's variables."""
    ports = (environ.get(variable) for variable in ROOMS[name].ports)
    found = {"server.host": environ.get("HOST") or LOOPBACK, "server.port": next(filter(None, ports), ROOMS[name].port)}
    if name == "api":
        if environ.get("LOG_LEVEL"):
            found["server.log_level"] = environ["LOG_LEVEL"].upper()
        found |= {setting: environ[variable] for variable, setting in API_VARIABLES.items() if environ.get(variable)}
        urls = environ.get("MCP_URLS") or environ.get("MCP_URL")
        if urls:
            found["api.urls"] = urls
        if environ.get("DEBUG"):
            found["server.debug"] = environ["DEBUG"]
        found["api.request_log"] = environ.get("REQUEST_LOG") or "-"
    return found


def target(environ: Mapping[str, str]) -> str:
    """The target of the gateway to models in the environment; empty if none is set."""
    return environ.get("TARGET_BASE_URL") or environ.get("TARGET_URL") or ""


def with_dot_env(root: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """`environ`, completed by `.env`. Raises ConfigError as `env_file.read` does."""
    return env_file.read(root / DOT_ENV, DOT_ENV) | {name: value for name, value in environ.items() if value}
