"""line_writer: whoever writes never waits, what is lost is counted, and files stay private and bounded."""

from __future__ import annotations

import io
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_endpoint import line_writer
from mcp_endpoint.line_writer import LineWriter, RotatingFile, StreamSink

BOUND = 10.0
posix = pytest.mark.skipif(os.name != "posix", reason="pipes, modes and devices of POSIX")


def missing(lines: int) -> str:
    return f"{lines} missing\n"


def writer(sink: line_writer.Sink, room: int = 1_000, failed: Callable[[Exception], None] = lambda error: None) -> LineWriter:
    return LineWriter(sink, room, missing, failed)


class Pipe:
    """A pipe that is full until somebody reads it."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.writing, False)
        self.filled = 0
        try:
            while True:
                self.filled += os.write(self.writing, bytes(65_536))
        except BlockingIOError:
            os.set_blocking(self.writing, True)

    def read(self, until: bytes) -> bytes:
        """What comes behind the filling, as far as `until`."""
        read = b""
        while until not in read:
            read += os.read(self.reading, 65_536)
        return read[self.filled :]


class Broken:
    """A disk that is full until it is mended."""

    def __init__(self) -> None:
        self.full = True
        self.written: list[bytes] = []
        self.mended = threading.Event()
        self.closed = threading.Event()

    def write(self, line: bytes) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.written.append(line)
        self.mended.set()

    def close(self) -> None:
        self.closed.set()


# Whoever writes


@posix
@pytest.mark.parametrize("blocking", [True, False])
def test_nobody_waits_for_a_reader_and_what_found_no_room_is_told_when_it_reads_again(blocking: bool) -> None:
    pipe = Pipe()
    os.set_blocking(pipe.writing, blocking)
    with open(pipe.writing, "w") as stream:
        written = writer(StreamSink(stream))
        for number in range(1_000):
            written.write(f"{number:09}\n")
        lines = pipe.read(b"missing\n").decode().splitlines()
        kept, told = lines[:-1], lines[-1]
        assert 100 <= len(kept) <= 101, "a thousand bytes, and the line that was being written"
        assert kept == [f"{number:09}" for number in range(len(kept))]
        assert told == f"{1_000 - len(kept)} missing"
        written.write("again\n")
        written.close(BOUND)
        assert os.read(pipe.reading, 100) == b"again\n"
    os.close(pipe.reading)


def test_a_line_that_can_never_have_room_is_counted_at_once() -> None:
    stream = io.StringIO()
    written = writer(StreamSink(stream))
    written.write("x" * 1_001)
    written.close(BOUND)
    assert stream.getvalue() == "1 missing\n"


@posix
def test_the_end_does_not_wait_for_a_reader_that_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_writer, "CLOSE_SECONDS", 0.1)
    pipe = Pipe()
    with open(pipe.writing, "w") as stream:
        written = writer(StreamSink(stream))
        written.write("nobody reads this yet\n")
        began = time.monotonic()
        written.close(0.1)
        assert time.monotonic() - began < BOUND
        assert pipe.read(b"yet\n") == b"nobody reads this yet\n"
        written.close(BOUND)
    os.close(pipe.reading)


def test_a_full_disk_is_told_once_and_the_count_stands_in_the_file_when_there_is_room_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_writer, "RETRY_SECONDS", 0.02)
    disk = Broken()
    told: list[Exception] = []
    heard = threading.Event()

    def failed(error: Exception) -> None:
        told.append(error)
        heard.set()

    written = writer(disk, failed=failed)
    written.write("lost\n")
    assert heard.wait(BOUND)
    written.write("lost too\n")
    disk.full = False
    assert disk.mended.wait(BOUND)
    written.close(BOUND)
    assert disk.written == [b"2 missing\n"]
    assert disk.closed.is_set()
    assert [str(error) for error in told] == ["[Errno 28] No space left on device"]


def test_the_end_does_not_wait_for_a_disk_to_be_mended() -> None:
    disk = Broken()
    written = writer(disk)
    for _ in range(3):
        written.write("lost\n")
    written.close(BOUND)
    assert disk.closed.is_set()


def test_a_stream_that_was_closed_under_us_costs_its_lines_only() -> None:
    stream = io.StringIO()
    stream.close()
    told: list[Exception] = []
    written = writer(StreamSink(stream), failed=told.append)
    written.write("lost\n")
    written.close(BOUND)
    assert isinstance(told[0], ValueError)


# Files


@posix
def test_a_file_is_for_its_owner_and_group_only_also_one_that_was_not(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        new, old, stricter = tmp_path / "logs" / "new.log", tmp_path / "old.log", tmp_path / "stricter.log"
        for path, mode in ((old, 0o666), (stricter, 0o600)):
            path.touch()
            path.chmod(mode)
        aside = tmp_path / "old.2026-01-02_03-04-05_000006.log"
        aside.touch()
        aside.chmod(0o644)
        for path in (new, old, stricter):
            file = RotatingFile(path, 10, 5)
            file.write(b"123456789\n")
            file.write(b"the next\n")
            file.close()
    finally:
        os.umask(before)
    assert {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in (old, stricter, aside)} == {
        "old.log": "0o640",
        "stricter.log": "0o640",
        aside.name: "0o640",
    }
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o137 == 0 for path in [*new.parent.iterdir(), *tmp_path.glob("*.log")])


def test_a_full_file_is_set_aside_and_only_files_of_its_own_name_are_removed(tmp_path: Path) -> None:
    others = [tmp_path / name for name in ("a.notes.log", "b.2026-01-02_03-04-05_000006.log", "a.2026-01-02_03-04-05_000006.txt")]
    for path in others:
        path.write_text("mine")
    file = RotatingFile(tmp_path / "a.log", 10, 1)
    for number in range(5):
        file.write(b"%08d\n" % number)
    file.write(b"a line longer than a file may be\n")
    file.close()
    assert (tmp_path / "a.log").read_bytes() == b"a line longer than a file may be\n"
    (aside,) = (path for path in tmp_path.iterdir() if path not in [*others, tmp_path / "a.log"])
    assert aside.read_bytes() == b"00000004\n"
    assert all(path.read_text() == "mine" for path in others)


@posix
def test_a_line_that_was_cut_by_a_full_disk_is_not_glued_to_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    answers: list[object] = [3, OSError(28, "No space left on device")]

    def write(descriptor: int, data: memoryview) -> int:
        answer = answers.pop(0) if answers else len(data)
        if isinstance(answer, OSError):
            raise answer
        assert isinstance(answer, int)
        return real(descriptor, data[:answer])

    file = RotatingFile(tmp_path / "a.log", 1_000, 1)
    monkeypatch.setattr(line_writer.os, "write", write)
    with pytest.raises(OSError, match="No space"):
        file.write(b"one line\n")
    file.write(b"another\n")
    file.write(b"a third\n")
    file.close()
    assert (tmp_path / "a.log").read_bytes() == b"one\nanother\na third\n"


def test_a_file_that_could_not_be_set_aside_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = RotatingFile(tmp_path / "a.log", 10, 1)
    file.write(b"123456789\n")
    with monkeypatch.context() as broken:
        broken.setattr(Path, "rename", lambda self, target: (_ for _ in ()).throw(OSError(1, "Operation not permitted")))
        with pytest.raises(OSError, match="not permitted"):
            file.write(b"lost\n")
    file.write(b"kept\n")
    file.close()
    file.close()
    assert (tmp_path / "a.log").read_bytes() == b"kept\n"


@posix
def test_somebody_elses_file_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.log"
    path.touch()
    path.chmod(0o644)
    monkeypatch.setattr(Path, "chmod", lambda self, mode: (_ for _ in ()).throw(PermissionError(1, "Operation not permitted")))
    file = RotatingFile(path, 100, 1)
    file.write(b"written\n")
    file.close()
    assert path.read_bytes() == b"written\n"


@posix
def test_a_named_pipe_needs_no_reader_and_loses_nothing_that_fits(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path, 0o666)
    file = RotatingFile(path, 10, 1)
    file.write(b"before anybody reads\n")
    reading = os.open(path, os.O_RDONLY)
    assert os.read(reading, 100) == b"before anybody reads\n"
    os.close(reading)
    file.write(b"when he has left\n")
    file.close()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="descriptors have names on Linux")
def test_a_file_that_somebody_else_has_opened_for_us_stays_where_and_as_it_is(tmp_path: Path) -> None:
    """`/dev/stdout` of a program whose output goes to a file."""
    path = tmp_path / "redirected"
    path.touch()
    path.chmod(0o644)
    with path.open("a") as redirected:
        file = RotatingFile(Path(f"/proc/self/fd/{redirected.fileno()}"), 10, 1)
        for _ in range(3):
            file.write(b"12345678\n")
        file.close()
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"12345678\n" * 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_descriptor_that_somebody_made_non_blocking_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    write, refused = os.write, [BlockingIOError()]

    def once(descriptor: int, data: memoryview) -> int:
        if refused:
            raise refused.pop()
        return write(descriptor, data)

    monkeypatch.setattr(line_writer.os, "write", once)
    line_writer.write_all(writing, b"a line\n")
    assert os.read(reading, 100) == b"a line\n"
    os.close(reading)
    os.close(writing)
