"""The console's own styles and scripts."""

from __future__ import annotations

import hashlib
import re

from mcp_endpoint.console import assets


def test_every_file_has_an_address_of_its_content() -> None:
    for marked in assets.files():
        mark, _, name = marked.partition("/")
        assert re.fullmatch(r"[0-9a-f]{12}", mark)
        assert assets.address(name) == f"-/{marked}"
    assert {"console.css", "console.js"} <= {marked.partition("/")[2] for marked in assets.files()}


def test_what_others_have_written_stands_with_its_licence_and_its_hash() -> None:
    vendor = assets.FOLDER / "vendor"
    told = (vendor / "README.md").read_text("utf-8")
    for path in vendor.glob("*.js"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() in told, path.name
        assert path.name in told
    for licence in re.findall(r"\((LICENSE[^)]*)\)", told):
        assert (vendor / licence).exists()


def test_no_style_and_no_script_asks_anybody_else_for_anything() -> None:
    for marked, (data, _) in assets.files().items():
        if "/vendor/" not in marked:
            text = data.decode()
            assert not re.search(r"https?://|@import|innerHTML|insertAdjacentHTML|document\.write|\beval\(", text), marked
