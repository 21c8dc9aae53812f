"""What stands in the place of a file cannot make its reader wait; a file is replaced as a whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import sys
from pathlib import Path

import pytest

from mcp_endpoint.files import read_bytes, why_not, write


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 10)
    assert read_bytes(tmp_path / "a", 10) == b"x" * 10


def test_a_file_of_more_bytes_than_allowed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 11)
    with pytest.raises(OSError, match="more than 10 bytes"):
        read_bytes(tmp_path / "a", 10)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX has FIFOs")
def test_a_fifo_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a")
    with pytest.raises(OSError, match="not a regular file"):
        read_bytes(tmp_path / "a")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX opens directories")
def test_a_folder_and_a_device_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            read_bytes(path)


def test_a_file_that_is_not_there_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "a")


def test_why_a_file_cannot_be_read_is_said_without_its_path_in_both_languages(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        read_bytes(tmp_path / "a")
    assert why_not(missing.value) == ("it does not exist", "文件不存在")
    assert why_not(UnicodeDecodeError("utf-8", b"abc\xff", 3, 4, "x"))[0] == "it is not UTF-8 (byte 3)"
    assert why_not(OSError(0, "this is not a regular file", "a"))[0] == "this is not a regular file"
    assert why_not(OSError())[0] == "OSError"


def test_writing_follows_a_link_and_replaces_the_file_at_once_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, link = tmp_path / "elsewhere" / "real.cfg", tmp_path / "link.cfg"
    write(target, "old")
    link.symlink_to(target)
    write(link, "new\r\n")
    assert link.is_symlink()
    assert target.read_bytes() == b"new\r\n"

    def read_only(source: object, target: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "replace", read_only)
    with pytest.raises(OSError, match=re.escape(os.strerror(errno.EROFS))):
        write(link, "newer")
    assert target.read_bytes() == b"new\r\n"
    assert os.listdir(target.parent) == ["real.cfg"]
