"""What a step of `check` says: what it saw, and the remedy where one is needed, in both languages."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import EndpointError, halves


class Finding(NamedTuple):
    """What one step saw, and what to do about it where something is to be done."""

    en: str
    zh: str
    remedy_en: str = ""
    remedy_zh: str = ""
    problem: bool = True
    """With a remedy: whether the installation is broken without it, or just could be better."""

    @property
    def mark(self) -> str:
        """How it is shown: `ok`, `note` or `PROBLEM`."""
        return "ok" if not self.remedy_en else "PROBLEM" if self.problem else "note"


class Reason(NamedTuple):
    """Why something did not work, in both languages."""

    en: str
    zh: str


def reason_of(error: EndpointError) -> Reason:
    """An error as a reason, with its place."""
    place = f"{error.place}: " if error.place else ""
    return Reason(place + error.en, place + error.zh)


def split(both: str) -> Reason:
    """`Chinese / English`, as /stats tells it."""
    return Reason(*halves(both))
