"""The result type of a `check` step: an observation, and a remedy if one is needed, in both languages."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import EndpointError, halves


class Finding(NamedTuple):
    """What one step found, and the remedy if there is something to do."""

    en: str
    zh: str
    remedy_en: str = ""
    remedy_zh: str = ""
    problem: bool = True
    """With a remedy: whether the installation is broken (True) or could be improved (False)."""

    @property
    def mark(self) -> str:
        """Its label: `ok`, `note` or `PROBLEM`."""
        return "ok" if not self.remedy_en else "PROBLEM" if self.problem else "note"


class Reason(NamedTuple):
    """A reason in both languages."""

    en: str
    zh: str


def reason_of(error: EndpointError) -> Reason:
    """The reason in an error, with its place."""
    place = f"{error.place}: " if error.place else ""
    return Reason(place + error.en, place + error.zh)


def split(both: str) -> Reason:
    """Split `Chinese / English`, the form of texts in /stats."""
    return Reason(*halves(both))
