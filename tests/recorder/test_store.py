"""The file of records: what goes in comes out, it stays within its bounds, and trouble with it has a rule each."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest

from mcp_endpoint.errors import EndpointError
from mcp_endpoint.recorder import store
from mcp_endpoint.recorder.export import side_of
from mcp_endpoint.recorder.parts import divide
from mcp_endpoint.recorder.query import Reader, parse
from mcp_endpoint.recorder.store import Damaged, Lock, Record, Session, Store

DAY = 86_400_000


def call(at: int = 1_000, request: bytes = b'{"q":1}', answer: bytes = b'{"a":1}', **more: object) -> Record:
    return Record(at=at, kind="call", method="tools/call", tool="get_weather", request=request, answer=answer, **more)  # type: ignore[arg-type]


def opened(path: Path, keep_bytes: int = 10**9, keep_days: float = 7) -> Store:
    return Store(path, keep_bytes, keep_days)


def test_what_was_saved_is_there_for_a_reader_while_the_writer_goes_on(tmp_path: Path) -> None:
    file = opened(tmp_path / "data" / "records.db")
    session = Session(id=7, kind="link", endpoint="9f86", side="device", name="lamp", began=900)
    assert file.save([call(endpoint="9f86", session=7, status="timed_out", ms=25.5)], [session]) == 1
    reader = Reader(file.path)
    detail = reader.record(1)
    assert detail is not None and detail.request.body == b'{"q":1}' and detail.answer.body == b'{"a":1}'
    assert detail.summary.ms == 25.5 and detail.session == session
    before = reader.changes()
    file.save([], [Session(id=7, kind="link", endpoint="9f86", side="device", name="", began=900, ended=2_000, code=1001, reason="bye")])
    assert reader.changes() != before
    ended = reader.session(7)
    assert ended is not None and (ended.name, ended.ended, ended.code, ended.reason) == ("lamp", 2_000, 1001, "bye")
    assert reader.record(2) is None and reader.session(8) is None
    assert reader.sessions() == [(ended, 1)] and reader.sessions(endpoint="other") == [] and reader.sessions(before=7) == []


def test_the_file_and_its_log_are_for_their_owner_only(tmp_path: Path) -> None:
    file = opened(tmp_path / "records.db")
    file.save([call()])
    assert {stat.S_IMODE(path.stat().st_mode) for path in store.files_of(file.path) if path.exists()} == {0o600}


def test_a_chat_of_forty_turns_is_kept_in_a_tenth_of_its_bodies(tmp_path: Path) -> None:
    file = opened(tmp_path / "records.db")
    tool = '{"type":"function","function":{"name":"tool_%d","description":"%s","parameters":{"type":"object"}}}'
    tools = ",".join(tool % (number, f"what tool {number} does " * 60) for number in range(20))
    messages = ['{"role":"system","content":"%s"}' % ("you are a lamp " * 100)]
    seen = 0
    for turn in range(40):
        messages.append('{"role":"user","content":"%s"}' % (f"question {turn} " * 120))
        body = ('{"model":"m","messages":[%s],"tools":[%s]}' % (",".join(messages), tools)).encode()
        pieces, parts = divide(body)
        record = Record(at=turn, kind="exchange", request=side_of(pieces, []), answer=side_of([b"ok"], []))
        file.save([record], parts={0: parts})
        messages.append('{"role":"assistant","content":"%s"}' % (f"answer {turn} " * 120))
        seen += len(body)
    last = Reader(file.path).record(40)
    assert last is not None and last.request.body == body
    file.checkpoint()
    assert file.path.stat().st_size * 10 < seen


def test_the_oldest_go_when_the_file_is_too_large_and_when_they_are_too_old(tmp_path: Path) -> None:
    file = opened(tmp_path / "records.db", keep_bytes=3_000_000)
    for _ in range(4):
        file.save([call(at=10 * DAY, request=b"x" * 1_000) for _ in range(1_000)])
    assert file.retain(10 * DAY) >= 1_000
    reader = Reader(file.path)
    assert 0 < reader.count() <= 3_000 and reader.record(1) is None and reader.record(4_000) is not None
    file.checkpoint()
    assert file.path.stat().st_size <= 3_500_000
    left = reader.figures()["records"]
    assert file.retain(18 * DAY) == left and reader.count() == 0


def test_of_few_and_large_records_the_newest_stay_when_the_file_is_full(tmp_path: Path) -> None:
    file = opened(tmp_path / "records.db", keep_bytes=3_000_000)
    for number in range(40):
        file.save([call(at=number, request=b"%d" % number * 50_000)])
    gone = file.retain(0)
    reader = Reader(file.path)
    assert gone + reader.count() == 40 and 20 <= reader.count() < 40
    assert reader.record(40) is not None and reader.record(1) is None


def test_parts_and_sessions_go_with_their_last_record(tmp_path: Path) -> None:
    file = opened(tmp_path / "records.db")
    old, new = (('{"messages":[{"role":"user","content":"%s"}]}' % (word * 40)).encode() for word in ("old", "new"))
    for at, body in ((0, old), (9 * DAY, new)):
        pieces, parts = divide(body)
        session = Session(id=at + 1, kind="link", endpoint="a", side="device", name="n", began=at, ended=at)
        file.save(
            [Record(at=at, kind="exchange", session=at + 1, request=side_of(pieces, []), answer=side_of([], []))], [session], {0: parts}
        )
    assert file.retain(9 * DAY) == 1
    reader = Reader(file.path)
    assert [session.id for session, _ in reader.sessions()] == [9 * DAY + 1]
    assert sqlite3.connect(file.path).execute("SELECT count(*) FROM part").fetchone() == (1,)
    kept = reader.record(2)
    assert kept is not None and kept.request.body == new


def test_deleted_records_leave_nothing_in_the_file_and_the_parts_of_others_stay(tmp_path: Path) -> None:
    file = opened(tmp_path / "records.db")
    shared, alone = ('{"role":"user","content":"%s"}' % (word * 40) for word in ("shared", "alone"))
    for body in ('{"messages":[%s]}' % shared, '{"messages":[%s,%s]}' % (shared, alone)):
        pieces, parts = divide(body.encode())
        file.save([Record(at=1, kind="exchange", request=side_of(pieces, []), answer=side_of([], []))], parts={0: parts})
    condition = parse("id:2", 0)
    assert file.delete(condition.where, condition.values) == 1
    assert b"alonealone" not in b"".join(path.read_bytes() for path in store.files_of(file.path) if path.exists())
    kept = Reader(file.path).record(1)
    assert kept is not None and kept.request.body == ('{"messages":[%s]}' % shared).encode()


def test_a_batch_is_saved_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    file = opened(tmp_path / "records.db")
    with pytest.raises(sqlite3.Error):
        file.save([call(), call(status=None)], meta={"batch": "1"})
    assert file.newest() == 0 and file.meta("batch") == ""
    file.save([call()], meta={"batch": "2"})
    assert (file.newest(), file.meta("batch")) == (1, "2")
    assert file.save([]) == 1


@pytest.mark.parametrize("wreck", [b"this is no database, it only looks long enough " * 100, None])
def test_a_damaged_file_is_set_aside_and_a_new_one_begins(tmp_path: Path, wreck: bytes | None) -> None:
    path = tmp_path / "records.db"
    file = opened(path)
    file.save([call(request=b"x" * 3_000) for _ in range(200)])
    file.close()
    data = path.read_bytes()
    path.write_bytes(wreck or data[:4096] + b"\xff" * (len(data) - 4096))
    with pytest.raises(Damaged):
        opened(path).save([call()])
    aside = store.set_aside(path)
    assert aside.name == "records.db.damaged-1" and aside.exists()
    with pytest.raises(EndpointError):
        Reader(aside).page()
    assert opened(path).save([call()]) == 1
    path.write_bytes(b"again" * 1_000)
    assert store.set_aside(path).name == "records.db.damaged-2"


def test_a_file_of_an_older_version_is_brought_up_and_kept_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "records.db"
    file = opened(path)
    file.save([call()])
    file.close()
    monkeypatch.setattr(store, "MIGRATIONS", (*store.MIGRATIONS, "ALTER TABLE session ADD COLUMN note TEXT"))
    file = opened(path)
    assert file.newest() == 1
    beside = tmp_path / "records.db.v1"
    assert sqlite3.connect(beside).execute("SELECT count(*) FROM record").fetchone() == (1,)
    assert stat.S_IMODE(beside.stat().st_mode) == 0o600
    file.close()
    monkeypatch.undo()
    with pytest.raises(EndpointError, match="newer version"):
        opened(path)
    with pytest.raises(EndpointError, match="of version 2"):
        Reader(path)


def test_a_second_server_is_refused_with_one_line(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "data" / "records.db")
    with pytest.raises(EndpointError, match="another server already records"):
        Lock(tmp_path / "data" / "records.db")
    lock.release()
    Lock(tmp_path / "data" / "records.db").release()
