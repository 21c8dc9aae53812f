"""The interface of a console page: its path, titles, permission and content."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .access.directory import User

Facts = Mapping[str, Any]
"""The content of a page, ready for JSON. The template gets it as variables; `PATH.json` returns it as JSON."""


class Visit(NamedTuple):
    """One request for a page."""

    user: User
    may: Callable[[str], bool]
    """Whether this user may perform an action, see `Directory.may`."""
    query: Mapping[str, str]
    """The query parameters; the last value of each name."""
    address: str
    """`http(s)://HOST[:PORT][/PREFIX]` at which clients reach this server, as far as known."""
    item: str = ""
    """The value of `{item}` in the path."""


class Page(NamedTuple):
    """One page of the console, as HTML and as JSON."""

    path: str
    """Below /console/: `records`, or `records/{item}`."""
    en: str
    """The title, in English and Chinese."""
    zh: str
    action: str
    """The permission needed to see it."""
    template: str
    """The file name of the template in `folder`."""
    facts: Callable[[Visit], Awaitable[Facts]]
    """Returns the content. Raises NotThere."""
    folder: Path | None = None
    """The folder of the template; None is the console's own."""
    menu: bool = True
    """Whether it is in the navigation."""


class NotThere(Exception):
    """There is no such item; the reason in both languages."""

    def __init__(self, en: str, zh: str) -> None:
        super().__init__(f"{zh} / {en}")
        self.en = en
        self.zh = zh
