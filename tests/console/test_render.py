"""Templates: every text of others as text, in one language."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_endpoint.console.render import FOLDER, Renderer, clock, qr

PAYLOAD = "<script>alert(1)</script>\"'\u202e"


def test_a_text_of_others_is_no_markup_and_turns_no_writing(tmp_path: Path) -> None:
    (tmp_path / "own.html").write_text('<p title="{{ text }}">{{ text }}</p>{{ say("yes", "是") }}')
    shown = Renderer([tmp_path]).render("own.html", {"text": PAYLOAD}, chinese=True)
    assert "<script>" not in shown and "\u202e" not in shown and "\\u202e" in shown and shown.count('"') == 2 and shown.endswith("是")


def test_a_text_in_both_languages_is_shown_in_the_pages_own(tmp_path: Path) -> None:
    (tmp_path / "own.html").write_text("{{ 'zh / en' | halves }} {{ both | both }} {{ 90 | span }}")
    renderer = Renderer([tmp_path])
    assert renderer.render("own.html", {"both": {"en": "a", "zh": "甲"}}, chinese=False) == "en a 1 min 30 s"
    assert renderer.render("own.html", {"both": {"en": "a", "zh": "甲"}}, chinese=True) == "zh 甲 1 分 30 秒"


def test_a_qr_code_is_squares_without_a_style() -> None:
    shown = qr('ws://x/"><script>')
    assert shown.startswith("<svg") and "script" not in shown and "style" not in shown


def test_a_moment_is_told_in_utc() -> None:
    assert clock(0.25) == "1970-01-01 00:00:00.250"


@pytest.mark.parametrize("template", sorted(path.name for path in FOLDER.glob("*.html")))
def test_no_template_has_a_script_a_style_or_an_unescaped_text(template: str) -> None:
    text = (FOLDER / template).read_text("utf-8")
    for forbidden in ("|safe", "| safe", "autoescape false", "style=", "<style", "onclick", "javascript:", "http://", "https://"):
        assert forbidden not in text, forbidden
    assert text.count("<script") == text.count('<script type="module" src=')
