"""The writer process: receives batches, stores them, and reports the state of the file after each.

    python -m mcp_endpoint.recorder.writer

It ignores SIGTERM and SIGINT, which are for its server, and leaves when its stdin ends: after all that was handed over has been
stored, also when the server was killed. What the disk does not take is dropped and counted; the server never notices.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from ..errors import EndpointError
from .batch import LENGTH_BYTES, Exchanged, Hello, Item, Secrets, Told, decode_batch, decode_hello, encode_told
from .files import trim, write_exchange
from .records import Made, Raw, Rules, made
from .redact import Redactor
from .store import Damaged, Store, set_aside

RETRY_SECONDS: Final = 10.0
"""After the disk has refused something, this long everything is dropped at once."""
RETAIN_SECONDS: Final = 60.0
"""How often old records are looked for."""
CHECKPOINT_SECONDS: Final = 5.0
"""At most so much is lost when the power is: an SD card must not have twenty of these a second."""

WRONG_VALUE: Final = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError, OverflowError)
"""What says that a record cannot be written, where the file is well."""


class Writer:
    """Stores batches in one file, and goes on whatever the disk does."""

    def __init__(self, hello: Hello, clock: Callable[[], float], now: Callable[[], float]) -> None:
        """`clock` is monotonic, `now` the time of day, both in seconds."""
        self._hello = hello
        self._clock = clock
        self._now = now
        self._path = Path(hello.file)
        self._rules: Rules = self._rules_for([])
        self._store: Store | None = None
        self._again = clock()
        self._retain_at = clock()
        self._checkpoint_at = clock() + CHECKPOINT_SECONDS
        self._dirty = False
        self._trouble = ""
        self._logs_again = clock()
        self._logs_trouble = ""
        """Why log files cannot be written, which is no reason to write no records."""

    def begin(self) -> Told:
        """Open the file; says which batch of this run it holds last."""
        last = 0
        with self._troubles():
            run, _, number = self._opened().meta("batch").rpartition(":")
            last = int(number) if run == self._hello.run else 0
        return self._told(last, 0)

    def take(self, data: bytes) -> Told:
        """Store a batch, or what of it can be stored."""
        batch = decode_batch(data)
        for item in batch.items:
            if isinstance(item, Secrets):
                self._rules = self._rules_for(item.values)
        made_of = self._made(batch.items)
        stored = self._save(made_of, batch.number) if batch.items else 0
        self._write_files(batch.items)
        self._look_after()
        return self._told(batch.number, stored)

    def close(self) -> None:
        """Nothing comes any more."""
        if self._store is not None:
            self._store.close()

    def _made(self, items: Sequence[Item]) -> Made:
        """The records of a batch. A fault of ours in one of them costs that one."""
        try:
            return made(items, self._rules)
        except Exception:  # noqa: BLE001 - the boundary of a record: the others are well
            if len(items) == 1:
                return Made([], [], {}, 0)
        found = Made([], [], {}, 0)
        for one in (self._made([item]) for item in items):
            found.parts |= {len(found.records) + place: parts for place, parts in one.parts.items()}
            found.records += one.records
            found.sessions += one.sessions
            found.counted += one.counted
        return found

    def _rules_for(self, values: list[str]) -> Rules:
        return Raw() if self._hello.raw else Redactor(self._hello.key, self._hello.names, values)

    def _save(self, found: Made, number: int) -> int:
        meta = {"batch": f"{self._hello.run}:{number}"}
        if self._trouble and self._clock() < self._again:
            return 0
        for attempt in range(2):
            with self._troubles(retain=not attempt):
                try:
                    self._opened().save(found.records, found.sessions, found.parts, meta)
                except WRONG_VALUE:
                    return self._one_by_one(found, meta)
                self._dirty = True
                self._trouble = ""
                return found.counted
        return 0

    def _write_files(self, items: Sequence[Item]) -> None:
        """A log file for each exchange. A folder that does not take one is left alone for a while; the records go on."""
        if not self._hello.logs or self._clock() < self._logs_again:
            return
        try:
            for item in items:
                if isinstance(item, Exchanged):
                    write_exchange(Path(self._hello.logs), item.exchange, self._rules)
                    self._logs_trouble = ""
        except OSError as error:
            self._logs_again = self._clock() + RETRY_SECONDS
            self._logs_trouble = f"{self._hello.logs}: {error.strerror or type(error).__name__}"

    def _one_by_one(self, found: Made, meta: dict[str, str]) -> int:
        """One record of a batch cannot be written: it alone is dropped."""
        store, stored = self._opened(), 0
        for place, record in enumerate(found.records):
            with contextlib.suppress(*WRONG_VALUE):
                store.save([record], found.sessions, {0: found.parts.get(place, {})}, meta)
                stored += record.kind not in ("gap", "link")
        return stored

    def _opened(self) -> Store:
        if self._store is None:
            self._store = Store(self._path, self._hello.keep_bytes, self._hello.keep_days)
        return self._store

    @contextlib.contextmanager
    def _troubles(self, *, retain: bool = False) -> Iterator[None]:
        """The rule for each trouble with the file; afterwards a second attempt may do. With `retain`, a full disk is made room on."""
        try:
            yield
        except Damaged as error:
            self.close()
            self._store = None
            self._refused(f"damaged ({error})", f"文件已损坏（{error}）")
            with contextlib.suppress(OSError):
                aside = set_aside(self._path)
                self._refused(f"damaged, kept as {aside.name}", f"文件已损坏，另存为 {aside.name}")
                self._again = self._clock()
        except EndpointError as error:
            self._refused(error.en, error.zh)
        except (sqlite3.Error, OSError) as error:
            self._refused(str(error), str(error))
            if retain and self._store is not None:
                with contextlib.suppress(sqlite3.Error, Damaged):
                    self._store.checkpoint()
                    self._store.make_room()

    def _refused(self, en: str, zh: str) -> None:
        self._trouble = f"{zh} / {en}"
        self._again = self._clock() + RETRY_SECONDS

    def _look_after(self) -> None:
        """Old records, and the log of the file."""
        now = self._clock()
        if self._store is None:
            return
        with self._troubles():
            if now >= self._retain_at:
                self._retain_at = now + RETAIN_SECONDS
                self._store.retain(int(self._now() * 1000))
                if self._hello.logs:
                    trim(Path(self._hello.logs), self._hello.keep_bytes, self._hello.keep_days, self._now())
            if self._dirty and now >= self._checkpoint_at:
                self._checkpoint_at = now + CHECKPOINT_SECONDS
                self._store.checkpoint()
                self._dirty = False

    def _told(self, number: int, stored: int) -> Told:
        trouble = self._trouble or self._logs_trouble
        if self._store is None:
            return Told(number, stored=stored, trouble=trouble)
        with contextlib.suppress(sqlite3.Error, OSError):
            return Told(number, self._store.newest(), stored, self._store.bytes(), trouble)
        return Told(number, stored=stored, trouble=trouble)


def run(stdin: BinaryIO, say: Callable[[bytes], None]) -> None:
    """Take what `stdin` gives until it ends; `say` is given a line after each batch."""
    hello = _frame(stdin)
    if hello is None:
        return
    writer = Writer(decode_hello(hello), time.monotonic, time.time)
    say(encode_told(writer.begin()))
    while (data := _frame(stdin)) is not None:
        try:
            told = writer.take(data)
        except Exception as error:  # noqa: BLE001 - the boundary of a batch: the next one may be better
            where = traceback.extract_tb(error.__traceback__)[-1]
            trouble = f"{type(error).__name__} in {where.name}:{where.lineno}"
            told = Told(_number(data), trouble=f"内部错误 / internal error: {trouble}")
        say(encode_told(told))
    writer.close()


def _number(data: bytes) -> int:
    """The number of a batch that cannot be read otherwise."""
    with contextlib.suppress(msgspec.DecodeError):
        return msgspec.msgpack.decode(data, type=tuple[int, msgspec.Raw])[0]
    return 0


def _frame(stdin: BinaryIO) -> bytes | None:
    """The next frame; None when there is no whole one any more."""
    head = stdin.read(LENGTH_BYTES)
    if len(head) < LENGTH_BYTES:
        return None
    size = int.from_bytes(head)
    data = stdin.read(size)
    return data if len(data) == size else None


def _say(line: bytes) -> None:
    """Tell the server, if it still lives."""
    with contextlib.suppress(OSError):
        os.write(1, line + b"\n")


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    run(sys.stdin.buffer, _say)
