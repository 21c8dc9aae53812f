"""What a page of a room is: see tests/console for how it is shown."""

from __future__ import annotations

from mcp_endpoint.pages import NotThere, Page


def test_a_page_stands_in_the_navigation_and_uses_the_consoles_templates_unless_it_says_otherwise() -> None:
    async def facts(visit: object) -> dict[str, int]:
        return {}

    page = Page("records", "Records", "记录", "records.read", "records.html", facts)
    assert page.menu and page.folder is None


def test_what_is_not_there_is_told_in_both_languages() -> None:
    assert str(NotThere("gone", "没有了")) == "没有了 / gone"
