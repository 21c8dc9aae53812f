"""The sections of the configuration: frozen, and each default is a right value."""

from __future__ import annotations

import msgspec
import pytest

from mcp_endpoint.settings.schema import MIB, Config, Limits

SECTIONS = [field.name for field in msgspec.structs.fields(Config)]


def test_the_configuration_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Config().server.port = 1  # type: ignore[misc]


@pytest.mark.parametrize("section", SECTIONS)
def test_the_default_of_every_setting_is_of_its_type_and_within_its_range(section: str) -> None:
    given = msgspec.to_builtins(Config())
    assert msgspec.convert({section: given[section]}, Config) == Config()


@pytest.mark.parametrize(
    ("name", "wrong"), [("fragments", 0), ("handshake_bytes", 1023), ("handshake_bytes", 1024 * MIB + 1), ("list_seconds", 0)]
)
def test_a_limit_outside_its_range_is_refused(name: str, wrong: int) -> None:
    with pytest.raises(msgspec.ValidationError, match=name):
        msgspec.convert({name: wrong}, Limits)
