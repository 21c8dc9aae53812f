"""A page that a room contributes to the console: where it stands, what it is called, who may see it and what it shows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .access.directory import User

Facts = Mapping[str, Any]
"""What a page shows, ready for JSON. The template gets it by its names; `PATH.json` is the same without the template."""


class Visit(NamedTuple):
    """One look at a page."""

    user: User
    may: Callable[[str], bool]
    """Whether this user may do something, see `Directory.may`."""
    query: Mapping[str, str]
    """The query of the address, the last value of each name."""
    address: str
    """`http(s)://HOST[:PORT][/PREFIX]` under which others reach this server, as far as it is known."""
    item: str = ""
    """What stands in the path where the page's path says `{item}`."""


class Page(NamedTuple):
    """One page of the console, with its JSON twin."""

    path: str
    """Below /console/: `records`, or `records/{item}`."""
    en: str
    """Its title, and the same in Chinese."""
    zh: str
    action: str
    """What a user must be allowed to do to see it."""
    template: str
    """The file in `folder` that is filled with the facts."""
    facts: Callable[[Visit], Awaitable[Facts]]
    """What it shows. Raises NotThere."""
    folder: Path | None = None
    """Where the template is; None is the console's own folder."""
    menu: bool = True
    """Whether the navigation leads to it."""


class NotThere(Exception):
    """The page has nothing to show under this address: why, in both languages."""

    def __init__(self, en: str, zh: str) -> None:
        super().__init__(f"{zh} / {en}")
        self.en = en
        self.zh = zh
