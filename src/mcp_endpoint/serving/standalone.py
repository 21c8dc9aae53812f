"""Defaults and variables of `serve --as NAME`, compatible with the program it replaces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from msgspec.structs import replace

from ..settings import env_file
from ..settings.schema import Config, CredentialSettings, GatewaySettings

AVIATION: Final = GatewaySettings(
    name="gateway",
    target="https://ai.variflight.com/servers/aviation/mcp/",
    credentials="accounts",
    place="query:api_key",
)
"""The gateway's upstream without a `[[gateway]]`: the only one of its predecessor."""
ACCOUNTS: Final = CredentialSettings(accounts="accounts.txt")
LOOPBACK: Final = "127.0.0.1"


class Standalone(NamedTuple):
    """The settings of one standalone room."""

    port: str
    """The port without the variable PORT; the address is in HOST."""
    configured: Callable[[Config], Config]
    """Adds what the room needs to the configuration."""
    reads_dot_env: bool = False
    """Whether it reads `.env`; that file belongs to the API, and its PORT is not the gateway's."""


def _gateway(config: Config) -> Config:
    quiet = replace(config.server, print_addresses=False)
    if config.gateway:
        return replace(config, server=quiet)
    credentials = {"accounts": ACCOUNTS} | dict(config.credentials)
    return replace(config, server=quiet, gateway=(AVIATION,), credentials=credentials)


def _api(config: Config) -> Config:
    return replace(config, server=replace(config.server, print_addresses=False))


ROOMS: Final[Mapping[str, Standalone]] = {"gateway": Standalone("8000", _gateway), "api": Standalone("5000", _api, reads_dot_env=True)}
DOT_ENV: Final = ".env"
"""The file of variables that the API's predecessor read."""
API_VARIABLES: Final = {
    "JWT_SECRET": "api.secret",
    "JWT_ALGORITHM": "api.algorithm",
    "JWT_OLD_SECRETS": "api.old_secrets",
    "JWT_ISSUER": "api.issuer",
    "JWT_AUDIENCE": "api.audience",
}


def variables(name: str, root: Path, environ: Mapping[str, str]) -> Mapping[str, str]:
    """The variables a room reads. Raises ConfigError as `with_dot_env` does, for a room that reads that file."""
    return with_dot_env(root, environ) if ROOMS[name].reads_dot_env else environ


def overrides(name: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Settings that take precedence over the configuration file, which is for the whole server: host, port and the room's variables."""
    found = {"server.host": environ.get("HOST") or LOOPBACK, "server.port": environ.get("PORT") or ROOMS[name].port}
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


def with_dot_env(root: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """`environ`, completed by `.env`. Raises ConfigError as `env_file.read` does."""
    return env_file.read(root / DOT_ENV, DOT_ENV) | {name: value for name, value in environ.items() if value}
