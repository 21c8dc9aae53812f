"""The file of records: tables, retention, and the handling of a full disk, a damaged file and another version.

SQLite in WAL mode: one process writes, any number read beside it. A row of `record` is one call, frame, exchange, link event or gap.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from ..errors import EndpointError
from .parts import Piece, hashes

FILE_MODE: Final = 0o600
"""Owner only: records hold what people said."""
OLDEST: Final = 1000
"""At most so many records go at a time when the file is too large: short transactions."""
SHARE: Final = 16
"""And at most this part of them, one in SHARE: where records are large, a thousand may be all there are."""
PAGE_BYTES: Final = 8192
"""Of a new file. A call of 300 bytes takes 26 less than with pages of 4096, where more of each stays empty."""
BUSY_SECONDS: Final = 30.0
"""How long one writer waits for another, such as `records delete` beside a running server."""

SCHEMA: Final = """
CREATE TABLE session (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, endpoint TEXT NOT NULL, side TEXT NOT NULL, name TEXT NOT NULL,
    began INTEGER NOT NULL, ended INTEGER, code INTEGER, reason TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE record (
    id INTEGER PRIMARY KEY, at INTEGER NOT NULL, ms REAL, first_ms REAL, kind TEXT NOT NULL, session INTEGER, parent INTEGER,
    endpoint TEXT NOT NULL, label TEXT NOT NULL, method TEXT NOT NULL, tool TEXT NOT NULL, model TEXT NOT NULL, status TEXT NOT NULL,
    code INTEGER, tokens_in INTEGER, tokens_out INTEGER, cached INTEGER, trace TEXT NOT NULL, bytes INTEGER NOT NULL,
    truncated INTEGER NOT NULL, request BLOB NOT NULL, answer BLOB NOT NULL
) STRICT;
CREATE INDEX record_session ON record (session);
CREATE INDEX record_trouble ON record (id) WHERE status <> 'ok';
CREATE TABLE part (id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, last INTEGER NOT NULL, data BLOB NOT NULL) STRICT;
CREATE TABLE chain (hash BLOB NOT NULL, record INTEGER NOT NULL, PRIMARY KEY (hash, record)) STRICT, WITHOUT ROWID;
CREATE TABLE "join" (
    record INTEGER NOT NULL, other INTEGER NOT NULL, why TEXT NOT NULL, sure INTEGER NOT NULL, PRIMARY KEY (record, other, why)
) STRICT, WITHOUT ROWID;
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
"""
MIGRATIONS: tuple[str, ...] = (SCHEMA,)
"""`user_version` n says that the first n of these have been run."""


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One link of a device, a tool or a client, or one chain of requests to a model. Times are milliseconds since 1970."""

    id: int
    kind: str
    """`link` or `chain`."""
    endpoint: str
    side: str
    """`device` or `tool`."""
    name: str
    began: int
    ended: int | None = None
    code: int | None = None
    """The WebSocket close code."""
    reason: str = ""


class Record(msgspec.Struct, kw_only=True):
    """One record, as the table has it. `at` is milliseconds since 1970, `ms` and `first_ms` are milliseconds after `at`."""

    at: int
    kind: str
    """`call`, `frame`, `exchange`, `link` or `gap`."""
    ms: float | None = None
    first_ms: float | None = None
    """When the first byte of the answer was there."""
    session: int | None = None
    parent: int | None = None
    endpoint: str = ""
    label: str = ""
    """Who answered: a tool's label, a gateway's name."""
    method: str = ""
    """The method of JSON-RPC, or the HTTP method and the path."""
    tool: str = ""
    model: str = ""
    status: str = "ok"
    """`ok`, or how it ended otherwise."""
    code: int | None = None
    """The HTTP status, the number of the JSON-RPC error, the close code; how many records are missing in a gap."""
    tokens_in: int | None = None
    tokens_out: int | None = None
    cached: int | None = None
    trace: str = ""
    size: int = 0
    """Bytes of both bodies as they were seen, before anything was cut."""
    truncated: bool = False
    request: bytes = b""
    answer: bytes = b""
    """A call's or a frame's JSON as it was; of an exchange an `Exchanged` in MessagePack."""


class Exchanged(msgspec.Struct, array_like=True, frozen=True):
    """One side of an HTTP exchange: what its `request` and its `answer` hold."""

    headers: Sequence[tuple[str, str]]
    pieces: Sequence[Piece]
    """The body; see `parts`."""
    chunks: Sequence[tuple[float, int]] = ()
    """When which part of the body came: seconds after the start, and how many bytes."""
    client: str = ""
    """Whoever asked, as far as it may be shown; the request only."""


encode_side: Final = msgspec.msgpack.Encoder().encode
decode_side: Final = msgspec.msgpack.Decoder(Exchanged).decode

COLUMNS: Final = tuple("bytes" if name == "size" else name for name in Record.__struct_fields__)
_SAVE: Final = f"INSERT INTO record ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
_SAVE_PART: Final = "INSERT INTO part (hash, last, data) VALUES (?, ?, ?) ON CONFLICT (hash) DO UPDATE SET last = excluded.last"
_SAVE_SESSION: Final = """
INSERT INTO session (id, kind, endpoint, side, name, began, ended, code, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET name = CASE excluded.name WHEN '' THEN name ELSE excluded.name END,
    ended = coalesce(excluded.ended, ended), code = coalesce(excluded.code, code),
    reason = CASE excluded.reason WHEN '' THEN reason ELSE excluded.reason END
"""


class Damaged(Exception):
    """The file is not a database any more."""


class Store:
    """The writing side of one file."""

    def __init__(self, path: Path, keep_bytes: int, keep_days: float) -> None:
        """Opens or makes the file. Raises OSError or sqlite3.OperationalError where the machine refuses, Damaged for a file that cannot be
        read, EndpointError for one of a newer version.
        """
        self.path = path
        self._keep_bytes = keep_bytes
        self._keep_ms = keep_days * 86_400_000
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), FILE_MODE))
        self._connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            with reading_damage():
                self._open()
        except BaseException:
            self._connection.close()
            raise

    def _open(self) -> None:
        run = self._connection.execute
        run("PRAGMA cache_size = -1024")
        found = int(run("PRAGMA user_version").fetchone()[0])
        if found > len(MIGRATIONS):
            raise EndpointError(
                f"{self.path} was written by a newer version of this program: use that version, or set another [recorder] file",
                f"{self.path} 由更新版本的程序写入：请使用该版本，或在 [recorder] 下另设 file",
            )
        run(f"PRAGMA page_size = {PAGE_BYTES}")
        run("PRAGMA auto_vacuum = INCREMENTAL")
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")
        run("PRAGMA journal_size_limit = 4194304")
        if 0 < found < len(MIGRATIONS):
            run("PRAGMA wal_checkpoint(TRUNCATE)")
            beside = self.path.with_name(f"{self.path.name}.v{found}")
            shutil.copyfile(self.path, beside)
            beside.chmod(FILE_MODE)
        for version, script in enumerate(MIGRATIONS[found:], found + 1):
            self._connection.executescript(f"BEGIN; {script}; PRAGMA user_version = {version}; COMMIT;")

    def save(
        self,
        records: Sequence[Record],
        sessions: Iterable[Session] = (),
        parts: Mapping[int, Mapping[bytes, bytes]] | None = None,
        meta: Mapping[str, str] | None = None,
    ) -> int:
        """Put them in, all or none; gives the id of the newest record. `parts` are by the place of their record in `records`.

        Raises Damaged, or sqlite3.OperationalError (a full disk).
        """
        with reading_damage(), self._transaction():
            run = self._connection.execute
            for session in sessions:
                run(_SAVE_SESSION, msgspec.structs.astuple(session))
            newest = 0
            for place, record in enumerate(records):
                newest = run(_SAVE, msgspec.structs.astuple(record)).lastrowid or 0
                for name, data in (parts or {}).get(place, {}).items():
                    run(_SAVE_PART, (name, newest, data))
            run_many = self._connection.executemany
            run_many("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (meta or {}).items())
        return newest or self.newest()

    def newest(self) -> int:
        """The id of the newest record, 0 without any."""
        return int(self._connection.execute("SELECT coalesce(max(id), 0) FROM record").fetchone()[0])

    def meta(self, name: str) -> str:
        """A value that was saved, empty where there is none."""
        found = self._connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return "" if found is None else str(found[0])

    def delete(self, where: str, values: Sequence[Any]) -> int:
        """Delete records by a condition of `query`, so that nothing of them stays in the file; gives how many there were."""
        run = self._connection.execute
        run("PRAGMA secure_delete = ON")
        with reading_damage(), self._transaction():
            found = run(f"DELETE FROM record WHERE id IN (SELECT id FROM record WHERE {where})", values).rowcount
            self._disown()
            self._sweep()
        self._give_back()
        run("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return found

    def retain(self, now: int) -> int:
        """Delete the oldest records until the file is small and young enough; `now` in milliseconds. Gives how many went."""
        gone = 0
        with reading_damage():
            run = self._connection.execute
            while self._is_too_large():
                with self._transaction():
                    found = self._drop_oldest()
                gone += found
                if not found:
                    break
            found = OLDEST
            while found == OLDEST:
                with self._transaction():
                    oldest = f"SELECT id FROM record ORDER BY id LIMIT {OLDEST}"
                    found = run(f"DELETE FROM record WHERE id IN ({oldest}) AND at < ?", (int(now - self._keep_ms),)).rowcount
                    if found:
                        self._sweep()
                gone += found
            if gone:
                self._give_back()
        return gone

    def make_room(self) -> None:
        """The disk is full: a quarter of the records go, the oldest, and OLDEST at most, whatever their age."""
        with reading_damage(), self._transaction():
            self._drop_oldest("(SELECT count(*) / 4 + 1 FROM record)")
        self._give_back()
        self.checkpoint()

    def _drop_oldest(self, share: str = f"(SELECT count(*) / {SHARE} + 1 FROM record)") -> int:
        oldest = f"SELECT id FROM record ORDER BY id LIMIT min({OLDEST}, {share})"
        gone = self._connection.execute(f"DELETE FROM record WHERE id IN ({oldest})").rowcount
        self._sweep()
        return gone

    def _is_too_large(self) -> bool:
        run = self._connection.execute
        pages, free, size = (int(run(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "freelist_count", "page_size"))
        return (pages - free) * size > self._keep_bytes

    def _sweep(self) -> None:
        """What belonged to records that are gone. A part is as old as the newest record that has it."""
        run = self._connection.execute
        oldest = int(run("SELECT coalesce(min(id), 9223372036854775807) FROM record").fetchone()[0])
        run("DELETE FROM part WHERE last < ?", (oldest,))
        run("DELETE FROM chain WHERE record < ?", (oldest,))
        run('DELETE FROM "join" WHERE record < ? OR other < ?', (oldest, oldest))
        run("DELETE FROM session WHERE ended IS NOT NULL AND NOT EXISTS (SELECT 1 FROM record WHERE record.session = session.id)")

    def _give_back(self) -> None:
        """Give pages that are free back to the disk."""
        self._connection.executescript("PRAGMA incremental_vacuum")  # `execute` gives back one page

    def _disown(self) -> None:
        """Delete the parts that no record has any more, wherever in time their records were."""
        run = self._connection.execute
        orphans = {name for (name,) in run("SELECT hash FROM part WHERE last NOT IN (SELECT id FROM record)")}
        if not orphans:
            return
        needed: dict[bytes, int] = {}
        for number, request in run("SELECT id, request FROM record WHERE kind = 'exchange' ORDER BY id"):
            needed |= dict.fromkeys(hashes(decode_side(request).pieces), number)
        for name in orphans:
            if name in needed:
                run("UPDATE part SET last = ? WHERE hash = ?", (needed[name], name))
            else:
                run("DELETE FROM part WHERE hash = ?", (name,))

    def checkpoint(self) -> None:
        """Bring what was written to the disk itself, so that it survives a loss of power."""
        with reading_damage():
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def bytes(self) -> int:
        """What the file takes on the disk, with its log."""
        return sum(path.stat().st_size for path in files_of(self.path) if path.exists())

    def close(self) -> None:
        """Close the file; the last one to do so empties its log."""
        self._connection.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


@contextlib.contextmanager
def reading_damage() -> Iterator[None]:
    """Tells a damaged file from a full disk, a busy file and a wrong value, which have classes of their own. Raises Damaged."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if type(error) is sqlite3.DatabaseError:
            raise Damaged(str(error)) from error
        raise


def files_of(path: Path) -> tuple[Path, Path, Path]:
    """A database with its log and the index of that."""
    return path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that a new one can begin; gives its new name. Raises OSError."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    for old, new in zip(files_of(path), files_of(aside), strict=True):
        with contextlib.suppress(FileNotFoundError):
            os.replace(old, new)
    return aside


class Lock:
    """Keeps a second server from the same file; the kernel lets go of it when its owner dies."""

    def __init__(self, path: Path) -> None:
        """Takes it. Raises EndpointError when somebody else has it, OSError where it cannot be made."""
        beside = path.with_name(path.name + ".lock")
        beside.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), FILE_MODE)
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(self._descriptor, msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.release()
            raise EndpointError(
                f"another server already records into {path}: stop it, or set another [recorder] file",
                f"另一个服务器正在向 {path} 写入记录：请停止它，或在 [recorder] 下另设 file",
            ) from error

    def release(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)
