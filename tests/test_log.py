"""log: one line per event, rotation, and no secret."""

from __future__ import annotations

import io
import json
import logging as stdlib
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger

from mcp_endpoint import log
from mcp_endpoint.access.tokens import TokenCodec
from mcp_endpoint.settings.schema import Logging, Server

KEY = "Canary0Canary1Canary2Canary3Cana"
XIAOZHI = TokenCodec(KEY).make_xiaozhi("single_module")
LONG = TokenCodec(KEY).make_xiaozhi("c4ca4238a0b923820dcc509a6f75849b")
SIGNED = TokenCodec(KEY).make_signed("kitchen")


class Stream(io.StringIO):
    """A console; whoever reads it ends the log first, so that all is written, to the file too."""

    end: Callable[[], None]

    def getvalue(self) -> str:
        self.end()
        return super().getvalue()


Begin = Callable[..., Stream]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Set the log up and get what it writes to the console."""
    streams: list[Stream] = []

    def start(logging: Logging | None = None, **server: Any) -> Stream:
        stream = Stream()
        stream.end = log.setup(logging or Logging(log_file=""), Server(key=KEY, **server), stream)
        streams.append(stream)
        return stream

    yield start
    for stream in reversed(streams):
        stream.end()
    logger.remove()
    logger.add(sys.stderr)


def json_lines(stream: Stream) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


# Lines


@pytest.mark.row("E28")
def test_a_line_is_local_time_level_words_and_fields(begin: Begin) -> None:
    stream = begin()
    logger.bind(endpoint="kitchen").info("{} left", "tool", code=1001)
    time, level, rest = stream.getvalue().split(maxsplit=2)
    assert datetime.fromisoformat(time).utcoffset() == datetime.now().astimezone().utcoffset()
    assert (level, rest) == ("INFO", "tool left endpoint=kitchen code=1001\n")


@pytest.mark.row("E28")
def test_json_lines_carry_the_same_with_numbers_as_numbers(begin: Begin) -> None:
    stream = begin(Logging(log_file="", format="json"))
    logger.bind(endpoint="厨房").warning("{} left {{}}", "工具", code=1001, ok=True, took=float("nan"))
    (event,) = json_lines(stream)
    assert datetime.fromisoformat(event.pop("time"))
    assert event == {"level": "WARNING", "message": "工具 left {}", "endpoint": "厨房", "code": 1001, "ok": True, "took": "nan"}
    assert "厨房" in stream.getvalue()


@pytest.mark.row("E10")
@pytest.mark.parametrize(
    ("level", "debug", "seen"),
    [
        ("TRACE", False, "trace debug info warning error"),
        ("DEBUG", False, "debug info warning error"),
        ("INFO", False, "info warning error"),
        ("ERROR", False, "error"),
        ("ERROR", True, "debug info warning error"),
        ("TRACE", True, "trace debug info warning error"),
    ],
)
def test_the_level_decides_what_is_written_and_debug_means_debug_at_least(begin: Begin, level: str, debug: bool, seen: str) -> None:
    stream = begin(log_level=level, debug=debug)
    for name in ("trace", "debug", "info", "warning", "error"):
        getattr(logger, name)(name)
    assert [line.split()[-1] for line in stream.getvalue().splitlines()] == seen.split()


def fail() -> None:
    raise ValueError("bad\r\nINFO     forged \x1b[31m line")


@pytest.mark.row("E9")
def test_an_exception_is_one_line_with_its_place_unless_debugging(begin: Begin) -> None:
    stream = begin()
    try:
        fail()
    except ValueError:
        logger.exception("it failed")
    (line,) = stream.getvalue().splitlines()
    assert re.search(r"it failed: ValueError: bad\\r\\nINFO     forged \\x1b\[31m line \(.*test_log\.py:\d+\)$", line)


@pytest.mark.row("E9")
def test_a_traceback_is_written_when_debugging_and_cannot_forge_a_line(begin: Begin) -> None:
    stream = begin(debug=True)
    try:
        fail()
    except ValueError:
        logger.exception("it failed")
    first, *more = stream.getvalue().splitlines()
    assert first.endswith("it failed")
    assert more[0] == "    | Traceback (most recent call last):"
    assert all(line.startswith("    | ") for line in more)
    assert "\x1b" not in stream.getvalue()


def test_an_exception_in_json_is_a_list_of_lines(begin: Begin) -> None:
    stream = begin(Logging(log_file="", format="json"))
    logger.opt(exception=ValueError("no traceback")).error("it failed")
    logger.opt(exception=(None, None, None)).error("nothing")
    with_error, without = json_lines(stream)
    assert with_error["exception"] == ["ValueError: no traceback"]
    assert "exception" not in without


@given(text=st.text(st.characters()))
def test_whatever_a_peer_sends_stays_on_one_line(text: str) -> None:
    escaped = log.escape(text)
    assert len(f"x{escaped}x".splitlines()) == 1
    assert all(letter.isprintable() or not letter.isascii() for letter in escaped)
    escaped.encode()
    assert not re.search("[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\x80-\x9f]", escaped)


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_peer_cannot_forge_a_line_or_move_the_cursor(begin: Begin, format: Any) -> None:
    stream = begin(Logging(log_file="", format=format))
    nasty = "a\r\nb\x1b[2Jc\u202ed\u2028e\x00f\x9bg\ud800h{i}{extra}<red>j</red>"
    logger.info("from {}", nasty, agent=nasty)
    logger.info(nasty)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert "{i}{extra}<red>j</red>" in lines[0]
    assert not re.search("[\x00-\x1f\x9b\u202e\u2028\ud800]", "".join(lines))


def test_a_very_long_text_is_cut_and_counted(begin: Begin) -> None:
    stream = begin()
    logger.info("字" * (log.TEXT_CHARS + 5))
    assert stream.getvalue().endswith("字…(+5)\n")
    assert len(stream.getvalue()) < log.TEXT_CHARS + 100


# Secrets


@pytest.mark.row("D28")
@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("GET /mcp_endpoint/mcp/?token=abc%2B&server_id=x", "GET /mcp_endpoint/mcp/?token=***&server_id=x"),
        ("?server_id=x&Token=abc def", "?server_id=x&Token=*** def"),
        ("/health?key=abc", "/health?key=***"),
        ("token%3Dabc", "token%3D***"),
        ("api_key=abc, x-api-key: abc;", "api_key=***, x-api-key: ***;"),
        ('{"token": "abc", "a": 1}', '{"token": "***", "a": 1}'),
        ("[('password', 'x'), client_secret = 'abc']", "[('password', 'x'), client_secret = '***']"),
        ("Authorization: Bearer abc.def, x", "Authorization: ***, x"),
        ("'authorization': 'Basic abc=='", "'authorization': '***'"),
        ("authorization=abc", "authorization=***"),
        ("bearer abc", "bearer ***"),
        ("MES_SERVER_KEY=abc", "MES_SERVER_KEY=***"),
        ("JWT_SECRET=abc", "JWT_SECRET=***"),
        (f"bad token {SIGNED}!", "bad token mep1.***!"),
        ("sk-abcdefgh12345678", "sk-***"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl", "***"),
        (f"from {XIAOZHI}, and {LONG}.", "from ***, and ***."),
        (f"it is {KEY}", "it is ***"),
        ("ab" * 32, "ab" * 32),
        ("the token is bad, monkeys call tokenizers", "the token is bad, monkeys call tokenizers"),
        ("opaque-12345678 kitchen 10.0.0.1:5000", "opaque-12345678 kitchen 10.0.0.1:5000"),
    ],
)
def test_what_looks_like_a_secret_is_blotted_out_and_the_rest_stays(text: str, clean: str) -> None:
    assert log.redact(text, KEY) == clean


@pytest.mark.row("D28")
@pytest.mark.parametrize("format", ["text", "json"])
def test_no_key_and_no_token_reaches_console_or_file_by_any_way(begin: Begin, tmp_path: Path, format: Any) -> None:
    file = tmp_path / "logs" / "a.log"
    stream = begin(Logging(log_file=str(file), format=format), debug=True)
    secrets = (KEY, XIAOZHI, LONG, SIGNED)
    for secret in secrets:
        logger.info("plainly " + secret)
        logger.info("argument {}", secret)
        logger.info("field", token=secret, other=secret, **{"x-api-key": secret})
        logger.bind(key=secret).debug("bound")
        stdlib.getLogger("uvicorn.access").info('%s - "%s %s HTTP/%s" %d', "::1", "GET", f"/a?token={secret}&x={secret}", "1.1", 401)
        stdlib.getLogger("asyncio").error("lost %r", secret)
        try:
            raise ValueError(secret)
        except ValueError:
            logger.exception("failed")
    written = stream.getvalue() + file.read_text("utf-8")
    assert written.count("plainly") == 2 * len(secrets)
    for secret in secrets:
        assert secret not in written
    assert written.count("***") >= 10 * len(secrets)


@given(text=st.text("aAke_-y=: .tokn+/0\"'", max_size=300))
def test_blotting_is_quick_whatever_the_text(text: str) -> None:
    """The patterns have no nested repetition: 8,192 characters of the worst kind pass at once."""
    log.redact((text * 100)[: log.TEXT_CHARS])


# The standard library


@pytest.mark.row("E28")
def test_lines_of_uvicorn_and_asyncio_come_along_without_query_strings(begin: Begin) -> None:
    stream = begin()
    access = stdlib.getLogger("uvicorn.access")
    access.info('%s - "%s %s HTTP/%s" %d', "10.0.0.1:5", "GET", "/mcp?a=1&b=2", "1.1", 200)
    stdlib.getLogger("uvicorn.error").warning("odd")
    stdlib.getLogger("uvicorn.error").error(log.CUT_SHORT)
    stdlib.getLogger("uvicorn.error").error(log.CUT_OFF, 0)
    stdlib.getLogger("asyncio").error("what?x=1")
    stdlib.getLogger("asyncio").debug("below the level")
    stdlib.getLogger("custom").log(33, "own level")
    assert [line.split(maxsplit=1)[1] for line in stream.getvalue().splitlines()] == [
        'INFO     uvicorn.access: 10.0.0.1:5 - "GET /mcp HTTP/1.1" 200',
        "WARNING  uvicorn.error: odd",
        "ERROR    asyncio: what?x=1",
        "Level 33 custom: own level",
    ]


def test_debug_lines_of_http_and_websocket_libraries_hold_headers_and_are_not_taken(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    library = stdlib.getLogger("httpx2")
    monkeypatch.setattr(library, "disabled", False)  # what another test's library may have made of it
    monkeypatch.setattr(library, "level", stdlib.NOTSET)
    library.manager._clear_cache()  # type: ignore[attr-defined]
    stream = begin(log_level="TRACE")
    stdlib.getLogger("httpcore2.http11").debug("receive_response_headers.complete %r", [(b"Set-Cookie", b"session=canary")])
    stdlib.getLogger("websockets.client").debug("> TEXT 'canary'")
    stdlib.getLogger("asyncio").debug("slow")
    stdlib.getLogger("httpx2").info("request done")
    said = stream.getvalue()
    assert "canary" not in said and "asyncio: slow" in said and "httpx2: request done" in said


def test_an_exception_of_the_standard_library_keeps_its_place(begin: Begin) -> None:
    stream = begin()
    try:
        fail()
    except ValueError:
        stdlib.getLogger("asyncio").exception("lost")
    assert "asyncio: lost: ValueError: bad" in stream.getvalue()


def test_ending_puts_the_standard_library_back_as_it_was() -> None:
    root, child = stdlib.getLogger(), stdlib.getLogger("uvicorn.access")
    child.handlers, child.propagate = [stdlib.NullHandler()], False
    before = (root.level, list(root.handlers), list(child.handlers), child.propagate)
    stream = io.StringIO()
    end = log.setup(Logging(log_file=""), Server(log_level="DEBUG"), stream)
    assert (child.handlers, child.propagate, root.level) == ([], True, stdlib.DEBUG)
    end()
    assert (root.level, list(root.handlers), list(child.handlers), child.propagate) == before
    child.handlers, child.propagate = [], True
    logger.info("nobody hears this")
    assert stream.getvalue() == ""


# The file


@pytest.mark.row("E17")
def test_the_file_is_made_with_its_folder_and_has_what_the_console_has_at_once(begin: Begin, tmp_path: Path) -> None:
    file = tmp_path / "logs" / "{odd} 日志.log"
    stream = begin(Logging(log_file=str(file)))
    logger.info("你好")
    assert stream.getvalue() == file.read_text("utf-8") != ""


@pytest.mark.row("E18", "E19")
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_full_file_is_put_aside_and_never_more_than_asked_for_are_kept(begin: Begin, tmp_path: Path, count: int) -> None:
    stream = begin(Logging(log_file=str(tmp_path / "a.log"), max_file_size=1_000, backup_count=count))
    for number in range(40):
        logger.info("{:04} {}", number, "字" * 50)
    assert "0000" in stream.getvalue()
    files = sorted(os.listdir(tmp_path))
    assert len(files) == count + 1
    assert all((tmp_path / name).stat().st_size <= 1_000 for name in files), "bytes count, not characters"
    assert "0039" in (tmp_path / "a.log").read_text("utf-8")


@pytest.mark.row("E17")
def test_a_file_that_cannot_be_opened_is_a_warning_and_the_console_goes_on(begin: Begin, tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("")
    stream = begin(Logging(log_file=str(tmp_path / "logs" / "a.log")))
    logger.info("on we go")
    first, second = stream.getvalue().splitlines()
    assert "WARNING" in first
    assert "日志文件无法写入 / the log file cannot be written" in first
    assert second.endswith("on we go")


# A reader that is stuck, a disk that is full


class Full(io.StringIO):
    """A console that takes nothing until it may."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()

    def write(self, text: str) -> int:
        assert self.free.wait(10)
        return super().write(text)


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_console_that_nobody_reads_stops_nobody_and_hears_later_how_much_it_missed(format: Any) -> None:
    stream = Full()
    end = log.setup(Logging(log_file="", format=format, queue_size=2_000), Server(key=KEY), stream)
    try:
        for number in range(500):
            logger.info("line {}", number)
        stream.free.set()
    finally:
        end()
        logger.remove()
        logger.add(sys.stderr)
    *lines, last = stream.getvalue().splitlines()
    assert 10 < len(lines) < 60
    assert all(f"line {number}" in line for number, line in enumerate(lines))
    said = json.loads(last)["message"] if format == "json" else last
    assert f"{500 - len(lines)} 行日志未能写入 / {500 - len(lines)} lines were not written" in said


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the device that is always full exists on Linux")
@pytest.mark.row("D28")
def test_a_full_disk_is_one_warning_on_the_console_and_prints_no_secret(begin: Begin, capfd: pytest.CaptureFixture[str]) -> None:
    stream = begin(Logging(log_file="/dev/full"))
    for _ in range(100):
        logger.info("field", token=SIGNED, password="hush-hush")
    text = stream.getvalue()
    assert text.count("日志文件无法写入 / the log file cannot be written: [Errno 28]") == 1
    assert text.count("field") == 100
    printed = capfd.readouterr()
    assert SIGNED not in text + printed.err + printed.out
    assert "hush-hush" not in text + printed.err + printed.out


def test_without_a_console_there_is_the_file(tmp_path: Path) -> None:
    end = log.setup(Logging(log_file=str(tmp_path / "a.log")), Server(key=KEY), None)
    logger.info("heard")
    end()
    logger.add(sys.stderr)
    assert "heard" in (tmp_path / "a.log").read_text("utf-8")


def test_one_thing_is_told_ten_times_a_minute_and_then_how_often_it_was_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    quota = log.LineQuota(lambda: now)
    assert [quota.take("a") for _ in range(log.LINES_A_MINUTE)] == [{}] * log.LINES_A_MINUTE
    assert [quota.take("a"), quota.take("a"), quota.take("b")] == [None, None, {}]
    now = 60.0
    assert [quota.take("a"), quota.take("a")] == [{"not_told": 2}, {}]
    monkeypatch.setattr(log, "THINGS_COUNTED", 2)
    assert quota.take("c") == {}
    assert quota.take("a") == {}, "the oldest was forgotten"
