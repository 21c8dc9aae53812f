"""The lines of a `.env` file, and every line that is none."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from mcp_endpoint.errors import ConfigError
from mcp_endpoint.settings.env_file import read


def test_every_way_to_write_a_value(tmp_path: Path) -> None:
    text = "# a remark\n\nA=1\nexport B = two words # a remark\nC='a # b' # a remark\nD=\"x=y\"\nE=\n"
    (tmp_path / ".env").write_text("\ufeff" + text, "utf-8")
    assert read(tmp_path / ".env", ".env") == {"A": "1", "B": "two words", "C": "a # b", "D": "x=y", "E": ""}


def test_no_file_says_nothing(tmp_path: Path) -> None:
    assert read(tmp_path / ".env", ".env") == {}


@pytest.mark.parametrize("line", ["no variable", "1A=2", "A='open", 'A="x" y'])
def test_a_line_that_is_no_assignment_is_told_with_its_place(tmp_path: Path, line: str) -> None:
    (tmp_path / ".env").write_text(f"A=1\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        read(tmp_path / ".env", "own.env")
    assert caught.value.place == "own.env:2"


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"A=\xff\n")
    with pytest.raises(ConfigError, match="it is not UTF-8"):
        read(tmp_path / ".env", ".env")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX has FIFOs")
def test_a_fifo_is_told_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".env")
    with pytest.raises(ConfigError, match="not a regular file"):
        read(tmp_path / ".env", ".env")
