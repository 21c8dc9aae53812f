"""What is known of a managed server: equal entries are equal, its endpoint has a name no token has, and its secrets are never shown."""

from __future__ import annotations

from typing import Any

from mcp_endpoint.providers.command import Command
from mcp_endpoint.providers.entry import ServerEntry, mask


def entry(**more: Any) -> ServerEntry:
    return ServerEntry(name="a", label="calc", wire="stdio", command=Command("x", env={"KEY": "s3cret"}), **more)


def test_equal_entries_need_no_restart() -> None:
    assert entry() == entry() and entry(allow=("a",)) != entry()


def test_its_endpoint_is_named_by_its_label() -> None:
    assert (entry().endpoint, entry().shown) == ("server:calc", "server calc")


def test_its_secrets_are_masked_and_only_its_name_is_printed() -> None:
    """Threat: a secret that begins like another one leaves its end in the log."""
    assert repr(entry()) == "<Server 'a'>"
    hide = mask(entry(secrets=frozenset({"s3cret", "s3cret-long"})))
    assert hide("with s3cret-long and s3cret") == "with *** and ***"
    assert mask(entry())("s3cret") == "s3cret"
