"""The writer stores what it is given, says what it has, and goes on whatever the disk does."""

from __future__ import annotations

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mcp_endpoint.exchanges import Exchange
from mcp_endpoint.recorder import records, store, writer
from mcp_endpoint.recorder.batch import CALL, EXCHANGE, GAP, LINK, SECRETS, Hello, Told, decode_told, frame
from mcp_endpoint.recorder.query import Reader
from mcp_endpoint.recorder.writer import CHECKPOINT_SECONDS, RETRY_SECONDS, Writer, run


def call(number: int = 0, text: str = "hello") -> tuple[Any, ...]:
    request = b'{"id":%d,"text":"%s"}' % (number, text.encode())
    return (CALL, 1_000.0 + number, 2.0, "9f86", 7, "house", "tools/call", "who", "", request, b"{}", b"", len(request), False)


class Play:
    """A writer on a clock that is a number."""

    def __init__(self, path: Path, run: str = "run", **more: Any) -> None:
        self.now = 100.0
        self.path = path
        fields: dict[str, Any] = {"keep_bytes": 10**9, "keep_days": 7.0, "raw": False} | more
        hello = Hello(run=run, file=str(path), key=b"k" * 32, names=[], **fields)
        self.writer = Writer(hello, lambda: self.now, lambda: 1_000.0 + self.now)
        self.began = self.writer.begin()
        self.number = self.began.batch

    def give(self, *items: Any) -> Told:
        self.number += 1
        return self.writer.take(frame((self.number, items))[1])

    def records(self) -> int:
        return Reader(self.path).count()


def test_each_batch_is_in_the_file_when_it_is_told(tmp_path: Path) -> None:
    play = Play(tmp_path / "records.db")
    told = play.give((LINK, 1.0, 7, "9f86", "device", "lamp", "opened"), call(1), call(2), (GAP, 1.0, 2.0, 9))
    assert (told.batch, told.stored, told.newest, told.trouble) == (1, 2, 4, "") and told.bytes > 4096
    assert play.records() == 4
    assert play.give().stored == 0


def test_the_next_writer_of_the_same_run_says_how_far_the_last_one_came(tmp_path: Path) -> None:
    play = Play(tmp_path / "records.db")
    play.give(call())
    play.give(call())
    play.writer.close()
    assert Play(tmp_path / "records.db").began.batch == 2
    assert Play(tmp_path / "records.db", run="another").began.batch == 0


def test_secrets_that_are_told_are_looked_for_from_then_on(tmp_path: Path) -> None:
    play = Play(tmp_path / "records.db")
    play.give(call(1, "quite-a-secret"), (SECRETS, ["quite-a-secret"]))
    play.give(call(2, "quite-a-secret"))
    assert b"quite-a-secret" not in b"".join(path.read_bytes() for path in store.files_of(play.path) if path.exists())


def exchange(number: int = 0) -> tuple[Any, ...]:
    made = Exchange(
        1.8e9, 2.0, 1.0, None, "model", "here", "POST", "/v1/chat/completions", 200, "ok", [], b"{}", [], [(0.1, b"{}")], 4, False
    )
    return (EXCHANGE, msgspec.structs.replace(made, request_body=b'{"n":%d,"api_key":"abcdefgh12345"}' % number))


def test_an_exchange_is_a_log_file_too_where_there_is_a_folder(tmp_path: Path) -> None:
    play = Play(tmp_path / "records.db", logs=str(tmp_path / "logs"))
    assert play.give(call(), exchange(1), exchange(2)).stored == 3
    written = [path.read_text() for path in (tmp_path / "logs/llm_proxy").iterdir()]
    assert sorted(json.loads(text)["body"]["n"] for text in written) == [1, 2]
    assert "abcdefgh12345" not in str(written)
    Play(tmp_path / "other.db").give(exchange())
    assert len(list((tmp_path / "logs/llm_proxy").iterdir())) == 2


def test_a_folder_that_takes_no_log_file_is_told_tried_again_and_costs_no_record(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    play = Play(tmp_path / "records.db", logs=str(tmp_path / "logs"))
    told = play.give(exchange())
    assert told.stored == 1 and "logs" in told.trouble
    (tmp_path / "logs").unlink()
    assert play.give(exchange()).trouble and not (tmp_path / "logs").exists()
    play.now += RETRY_SECONDS
    assert (play.give(exchange()).trouble, play.records()) == ("", 3)


def test_log_files_go_by_the_bounds_of_the_records(tmp_path: Path) -> None:
    play = Play(tmp_path / "records.db", logs=str(tmp_path / "logs"), keep_days=1.0)
    play.give(exchange())
    (path,) = (tmp_path / "logs/llm_proxy").iterdir()
    os.utime(path, (0.0, 0.0))
    play.now += 2 * 86_400
    play.give()
    assert not path.exists()


def test_one_record_that_cannot_be_written_takes_no_other_with_it(tmp_path: Path) -> None:
    play = Play(tmp_path / "records.db")
    told = play.give(call(1), (*call(2)[:12], 2**63, False), call(3))
    assert (told.stored, told.trouble) == (2, "")
    assert play.records() == 2


def test_a_full_disk_makes_room_once_then_drops_and_tries_again_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(tmp_path / "records.db")
    play.give(call(1))
    full = sqlite3.OperationalError("database or disk is full")
    refusals: list[str] = []

    def refuse(*_: Any) -> int:
        refusals.append("save")
        raise full

    with monkeypatch.context() as disk:
        disk.setattr(store.Store, "save", refuse)
        told = play.give(call(2))
        assert (told.stored, told.trouble) == (0, "database or disk is full / database or disk is full") and refusals == ["save"] * 2
        assert play.records() == 0, "the oldest went, to make room"
        play.now += RETRY_SECONDS - 1
        assert play.give(call(3)).stored == 0 and refusals == ["save"] * 2, "nothing is tried for a while"
    play.now += 1
    told = play.give(call(4))
    assert (told.stored, told.trouble) == (1, "")


def test_a_damaged_file_is_set_aside_and_the_batch_is_in_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    path.write_bytes(b"no database at all " * 1_000)
    play = Play(path)
    assert "records.db.damaged-1" in play.began.trouble
    told = play.give(call())
    assert (told.stored, told.trouble) == (1, "") and (tmp_path / "records.db.damaged-1").exists()


def test_a_file_that_cannot_be_opened_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    play = Play(tmp_path / "data" / "records.db")
    assert play.began.trouble and play.give(call()).stored == 0
    (tmp_path / "data").unlink()
    play.now += RETRY_SECONDS
    assert play.give(call()).stored == 1


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr(store, "MIGRATIONS", (*store.MIGRATIONS, "SELECT 1"))
        Play(tmp_path / "records.db").writer.close()
    assert "newer version" in Play(tmp_path / "records.db").began.trouble


def test_what_is_due_is_done_with_the_next_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(store.Store, "retain", lambda self, now: done.append(f"retain {now}"))
    monkeypatch.setattr(store.Store, "checkpoint", lambda self: done.append("checkpoint"))
    play = Play(tmp_path / "records.db")
    play.give(call())
    play.now += CHECKPOINT_SECONDS
    play.give()
    play.give()
    assert done == ["retain 1100000", "checkpoint"]
    play.now += 60
    play.give()
    assert done == ["retain 1100000", "checkpoint", "retain 1165000"]


def test_a_fault_of_ours_costs_one_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hello = Hello("run", str(tmp_path / "records.db"), 10**9, 7.0, False, b"k", [])
    bad = msgspec.msgpack.encode((1, [(99, "no such item")]))
    stream = b"".join([*frame(hello), len(bad).to_bytes(4), bad, len(b"\xc1").to_bytes(4), b"\xc1", *frame((3, [call()])), b"\0\0"])
    said: list[bytes] = []
    run(io.BytesIO(stream), said.append)
    begun, one, two, three = map(decode_told, said)
    assert (begun.batch, one.batch, two.batch, three.batch) == (0, 1, 0, 3)
    assert "internal error: ValidationError" in one.trouble and three.stored == 1
    run(io.BytesIO(b""), said.append)
    assert len(said) == 4


def test_a_fault_of_ours_in_one_record_costs_that_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(tmp_path / "records.db")
    well = records.made

    def faulty(items: Any, rules: Any) -> Any:
        if any(getattr(item, "at", 0.0) == 1_002.0 for item in items):
            raise ValueError("a mistake")
        return well(items, rules)

    monkeypatch.setattr(writer, "made", faulty)
    chat = b'{"messages":[{"role":"user","content":"%s"}]}' % (b"hello " * 20)
    exchange = (1_000.0, 1.0, None, None, "model", "here", "POST", "/v1", 200, "ok", [], chat, [], [], 9, False)
    told = play.give(call(1), call(2), (EXCHANGE, exchange))
    assert (told.stored, told.trouble) == (2, "")
    last = Reader(play.path).record(told.newest)
    assert last is not None and last.request.body == chat


def test_the_process_ignores_signals_and_stores_all_before_it_leaves(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    process = subprocess.Popen([sys.executable, "-m", writer.__name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    hello = Hello("run", str(path), 10**9, 7.0, False, b"k", [])
    process.stdin.write(b"".join(frame(hello)))
    process.stdin.flush()
    assert decode_told(process.stdout.readline()).batch == 0
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(process.pid, number)
    process.stdin.write(b"".join(b"".join(frame((number, [(CALL, time.time(), *call(number)[2:])] * 100))) for number in range(1, 21)))
    if sys.platform == "linux":
        status = Path(f"/proc/{process.pid}/status").read_text()
        kib = int(status.partition("VmRSS:")[2].split()[0])
        assert kib <= 30 * 1024, f"{kib} KiB"
    process.stdin.close()
    told = [decode_told(line) for line in process.stdout.read().splitlines()]
    assert [(one.stored, one.trouble) for one in told] == [(100, "")] * 20
    process.stdout.close()
    assert process.wait(20) == 0
    assert Reader(path).count() == 2_000
