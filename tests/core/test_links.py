"""What the core asks of a link: four members, which every kind of link here has."""

from __future__ import annotations

import pytest

from mcp_endpoint.core.links import Link
from mcp_endpoint.core.translator import Translator
from mcp_endpoint.sockets.link import WebSocketLink


def test_the_core_asks_four_things_of_a_link() -> None:
    asked = {name for name in vars(Link) if not name.startswith("_")}
    assert asked == {"send", "close", "ping", "queued"}


@pytest.mark.parametrize("kind", [WebSocketLink, Translator])
def test_a_link_has_what_the_core_asks_of_it(kind: type) -> None:
    assert {"send", "close", "ping", "queued"} <= set(dir(kind))
