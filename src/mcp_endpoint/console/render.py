"""Renders templates: all values are escaped, one language at a time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import msgspec
import segno
from jinja2 import Environment, FileSystemLoader, pass_context
from jinja2.runtime import Context
from markupsafe import Markup

from .. import __version__
from ..access.addresses import free_form
from ..errors import halves
from ..web.page import CLOSE_CODES, REASONS, SERVER_STATES, STATES, duration
from . import assets
from .pretty import pretty

FOLDER: Final = Path(__file__).parent / "templates"
TREE_CHARS: Final = 32 * 1024
"""Characters of JSON that is shown as a tree; a larger one is shown as text alone, because the loop waits while a page is made."""
_TURNS: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""What would turn the writing around a text, or cannot be written; a tab and the end of a line may stay."""


class Renderer:
    """The templates of the console, and of rooms that bring their own."""

    def __init__(self, folders: Iterable[Path] = ()) -> None:
        self._environment = Environment(
            loader=FileSystemLoader([FOLDER, *folders]),
            autoescape=True,
            finalize=_visible,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.filters |= {
            "parsed": parsed,
            "pretty": pretty,
            "qr": qr,
            "clock": clock,
            "halves": _halves,
            "both": _both,
            "took": took,
            "span": _span,
        }
        self._environment.globals |= {
            "asset": assets.address,
            "close_codes": CLOSE_CODES,
            "free_form": free_form,
            "reasons": REASONS,
            "server_states": SERVER_STATES,
            "states": STATES,
            "version": __version__,
        }

    def render(self, template: str, facts: Mapping[str, Any], *, chinese: bool) -> str:
        """The template, filled with the facts."""
        return self._environment.get_template(template).render(facts, chinese=chinese, say=lambda en, zh: zh if chinese else en)


def parsed(text: Any) -> Any:
    """The value of a JSON text that is small enough to be shown as a tree; None for any other."""
    if not isinstance(text, str) or len(text) > TREE_CHARS:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return None


def qr(text: str) -> Markup:
    """A QR code as an SVG."""
    out = BytesIO()
    segno.make(text, error="l", micro=False).save(
        out, kind="svg", xmldecl=False, svgns=True, omitsize=True, border=2, svgclass="qr-code", lineclass=None, dark="#000", light="#fff"
    )
    return Markup(out.getvalue().decode())


def clock(seconds: float) -> str:
    """A moment (seconds since 1970) in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00")


def took(ms: float | None) -> str:
    """How long something took; `clock.js` says it in the same words."""
    if ms is None:
        return ""
    if ms >= 10_000:
        return f"{ms / 1_000:.1f} s"
    return f"{ms:.0f} ms" if ms >= 10 else f"{ms:.1f} ms"


def _visible(value: Any) -> Any:
    """What a template prints: a text without what would turn the writing around it."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return _TURNS.sub(lambda found: found[0].encode("unicode_escape").decode(), value)
    return value


@pass_context
def _span(context: Context, seconds: float) -> str:
    """A time span in the page's language."""
    return duration(seconds, context["say"])


@pass_context
def _halves(context: Context, both: str) -> str:
    """The page's language of a text that has both."""
    return halves(both)[bool(context["chinese"])]


@pass_context
def _both(context: Context, text: Mapping[str, str]) -> str:
    """The page's language of `{"en": …, "zh": …}`."""
    return text["zh" if context["chinese"] else "en"]
