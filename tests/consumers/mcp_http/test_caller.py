"""A caller: what sessions and signed states are bound to."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_endpoint.consumers.mcp_http.caller import Caller

HERE: dict[str, Any] = {
    "broker": None,
    "limits": None,
    "name": "signed:home",
    "shown": "home",
    "only": "",
    "role": "device",
    "address": "a",
}


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"address": "b"}, True),
        ({"name": "agent:home"}, False),
        ({"only": "desk"}, False),
        ({"role": "operator"}, False),
    ],
)
def test_a_place_is_endpoint_label_and_role_and_not_where_one_comes_from(changed: dict[str, Any], same: bool) -> None:
    assert (Caller(**HERE).place == Caller(**(HERE | changed)).place) is same
