"""What a room that has the port to itself (`serve --as NAME`) runs with: defaults and variables of the program it takes the place of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from msgspec.structs import replace

from .config import Config, CredentialSettings, GatewaySettings

AVIATION: Final = GatewaySettings(
    name="gateway",
    target="https://ai.variflight.com/servers/aviation/mcp/",
    credentials="accounts",
    place="query:api_key",
)
"""Where the gateway goes if no `[[gateway]]` says otherwise: the one upstream its predecessor knew."""
ACCOUNTS: Final = CredentialSettings(accounts="accounts.txt")
LOOPBACK: Final = "127.0.0.1"


class Alone(NamedTuple):
    """One such room."""

    port: str
    """Where it listens unless the variable PORT says otherwise; HOST says on which address."""
    configured: Callable[[Config], Config]
    """The configuration with what the room needs."""


def _gateway(config: Config) -> Config:
    quiet = replace(config.server, print_addresses=False)
    if config.gateway:
        return replace(config, server=quiet)
    credentials = {"accounts": ACCOUNTS} | dict(config.credentials)
    return replace(config, server=quiet, gateway=(AVIATION,), credentials=credentials)


ROOMS: Final[Mapping[str, Alone]] = {"gateway": Alone("8000", _gateway)}


def overrides(name: str, environ: Mapping[str, str]) -> dict[str, str]:
    """What goes before the configuration file, which speaks of the whole house: host and port of the room."""
    return {"server.host": environ.get("HOST") or LOOPBACK, "server.port": environ.get("PORT") or ROOMS[name].port}
