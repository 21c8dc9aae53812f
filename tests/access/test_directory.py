"""Who may look at the pages of a server without users: whoever has its key."""

from __future__ import annotations

from mcp_endpoint.access.directory import OPERATOR, KeyHolder


async def test_the_holder_of_the_key_is_the_operator_and_may_do_everything() -> None:
    directory = KeyHolder("the key")
    assert await directory.log_in({"key": "the key"}) == await directory.by_token("the key") == directory.by_name("operator") == OPERATOR
    assert directory.may(OPERATOR, "tools.call")
    assert [field.name for field in directory.fields] == ["key"]


async def test_a_wrong_key_and_another_name_are_nobody() -> None:
    directory = KeyHolder("the key")
    assert await directory.log_in({}) is None
    assert await directory.by_token("the kez") is None
    assert await directory.by_token("\udcff") is None
    assert directory.by_name("admin") is None


async def test_a_server_without_a_key_lets_nobody_in() -> None:
    assert await KeyHolder("").by_token("") is None
