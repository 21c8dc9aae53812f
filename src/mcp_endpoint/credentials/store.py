"""Loads the keys of upstreams from files and variables, and keeps the file of bans.

The file of bans contains SHA-256 hashes of keys and is readable by its owner only; it is replaced atomically. A `blacklist.pkl` is never
opened, because unpickling a file can run any code. Both files may be edited while the server runs: `look` loads the changes.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from calendar import timegm
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from loguru import logger

from ..errors import ConfigError
from ..files import read_bytes, why_not, write
from ..settings.schema import CredentialSettings
from .pool import Credential, CredentialPool, KeyEvent
from .rotation import Rotation

MOST: Final = 100_000
"""Most keys of one pool."""
FILE_BYTES: Final = 64 * 1024 * 1024
"""Largest file of keys; it is read in a thread."""
BANS_BYTES: Final = 160 * MOST
"""Largest file of bans: it is read on the event loop, and a banned key takes 140 bytes."""
KEYS_SHOWN: Final = 100
"""Most keys of a pool that are listed one by one."""
ACCOUNT_MARK: Final = "sk-"
"""Prefix of a key in an accounts file; anything else is not a key."""
PICKLE: Final = "blacklist.pkl"
"""The file of bans of the predecessor program."""
NONE_FOUND: Final = "未找到有效的token"
"""The predecessor's message for no keys; users search for this text."""
ALL_GONE: Final = "所有token都已失效"
"""The predecessor's message for no key left."""

BY_HAND: Final = 0
"""The status of a rest that an operator set."""

_SEPARATORS: Final = re.compile(r"[\s,;]+")
_USABLE: Final = re.compile(r"[\x21-\x7e]{1,4096}")


class Ban(msgspec.Struct):
    """One banned key."""

    since: str
    """In UTC, as RFC 3339."""
    status: int


class BansFile(msgspec.Struct):
    """The file of bans: fingerprint → ban, and fingerprint → end of a rest that an operator set."""

    version: int = 1
    banned: dict[str, Ban] = {}
    resting: dict[str, str] = {}


Stamp = tuple[int, int, int] | None
"""Changes when the file does; None without a file."""


class CredentialStore:
    """One pool of keys with its files."""

    def __init__(self, name: str, settings: CredentialSettings, root: Path, environ: Mapping[str, str], clock: Callable[[], float]) -> None:
        """`clock` is the pool's. Raises ConfigError if a file cannot be read or there is no key."""
        self.name = name
        self.settings = settings
        self.bans = bans_file(name, settings, root)
        self._root = root
        self._environ = environ
        self._clock = clock
        self._stamps = self._stamped()
        self._kept = read_bans(self.bans)
        self.pool = CredentialPool(
            read_keys(name, settings, root, environ),
            rest_seconds=settings.rest_seconds,
            spent_seconds=settings.spent_seconds,
            recheck_seconds=settings.recheck_seconds,
            banned=self._due(),
            on_event=self._on_event,
        )
        self._let_rest()

    def rotation(self, route: int | None, owner: Credential | None = None) -> Rotation:
        """The keys for one request, see `Rotation`."""
        return Rotation(self.pool, route, self.settings.retries, owner)

    def none_left(self) -> tuple[float | None, str, str]:
        """Why no key is left: seconds until there is one (None: never), and the reason in English and Chinese."""
        wait = self.pool.wait(self._clock())
        if wait is None:
            return None, "every key of its pool is banned", f"凭据池中的密钥均已停用（{ALL_GONE}）"
        seconds = ceil(wait)
        return wait, f"the service asks every key to wait, the first for {seconds} s", f"服务要求所有密钥等待，最短 {seconds} 秒"

    async def look(self) -> None:
        """Reload edited files; an unusable file changes nothing.

        Keys are read in a thread, as there may be many. Bans are read after them, because a ban may have been written meanwhile.
        """
        stamps = self._stamped()
        if stamps == self._stamps:
            return
        edited = stamps[:-1] != self._stamps[:-1]
        self._stamps = stamps
        try:
            credentials: Sequence[Credential] = self.pool.credentials
            if edited:
                credentials = await asyncio.to_thread(read_keys, self.name, self.settings, self._root, self._environ)
            kept = read_bans(self.bans)
        except ConfigError as error:
            where = f"{error.place}: " if error.place else ""
            logger.error("密钥文件有误，仍用原来的密钥 / keys not usable, they stay as they were: {}{} / {}", where, error.zh, error.en)
            return
        lifted = len(self._kept.banned.keys() - kept.banned.keys())
        woken = self._kept.resting.keys() - kept.resting.keys()
        self._kept = kept
        self.pool.renew(credentials, self._due())
        for credential in self.pool.credentials:
            if credential.fingerprint in woken:
                self.pool.wake(credential)
        self._let_rest()
        counts = self.pool.counts(self._clock())
        logger.info("密钥已更新 / keys read again", pool=self.name, loaded=counts.total, banned=counts.banned, lifted=lifted)

    def figures(self, most: int) -> list[dict[str, Any]]:
        """The states of the first `most` keys, ready for JSON; times are in UTC."""
        now, epoch = self._clock(), time.time()

        def at(moment: float | None) -> str | None:
            return None if moment is None else stamp_of(epoch + moment - now)

        return [
            {
                "key": figure.credential.shown,
                "fingerprint": figure.credential.fingerprint[:8],
                "state": figure.state,
                "requests": figure.requests,
                "last_used": at(figure.used),
                "last_status": figure.status,
                "resting_until": at(figure.until),
            }
            for figure in self.pool.figures(now, most)
        ]

    def _on_event(self, event: KeyEvent, credential: Credential | None, status: int | None) -> None:
        if credential is None:
            logger.warning(f"{ALL_GONE}，已重置并重试 / every key was resting: all are taken up again", pool=self.name)
            return
        why = {None: "无应答 / no answer", BY_HAND: "手动 / by hand"}.get(status, status)
        shown = credential.shown
        if event is KeyEvent.REST:
            logger.info("密钥暂时休息 / key rests", pool=self.name, credential=shown, status=why)
        elif event is KeyEvent.BAN:
            self._keep(credential.fingerprint, Ban(stamp_of(time.time()), status or 0))
            after = self.settings.recheck_seconds
            text = f"密钥已停用，{after:g} 秒后复查 / key banned, tried again after {after:g} s" if after else "密钥已停用 / key banned"
            logger.warning(text, pool=self.name, credential=shown, status=why)
        else:
            self._keep(credential.fingerprint, None)
            logger.info("密钥复查可用，已恢复 / key works again, its ban is lifted", pool=self.name, credential=shown)

    def _keep(self, fingerprint: str, ban: Ban | None) -> None:
        """Add or remove a ban in the file, keeping edits that were made to it meanwhile."""
        try:
            kept = read_bans(self.bans)
        except ConfigError:
            kept = self._kept
        others = kept != self._kept
        if ban is None:
            kept.banned.pop(fingerprint, None)
        else:
            kept.banned.setdefault(fingerprint, ban)
        self._kept = kept
        try:
            write_bans(self.bans, kept)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            lost = "停用记录无法写入，重启后会丢失 / the ban cannot be written and ends with this run"
            logger.error(lost, file=str(self.bans), reason=reason)
            return
        if not others:
            self._stamps = (*self._stamps[:-1], stamped(self.bans))

    def _due(self) -> dict[str, float]:
        """Fingerprint → when a banned key may be tried again."""
        now, epoch = self._clock(), time.time()
        after = self.settings.recheck_seconds or float("inf")
        return {print_: now + max(0.0, (moment_of(ban.since) or epoch) + after - epoch) for print_, ban in self._kept.banned.items()}

    def _let_rest(self) -> None:
        """Apply the rests that an operator set."""
        now, epoch = self._clock(), time.time()
        for credential in self.pool.credentials:
            until = moment_of(self._kept.resting.get(credential.fingerprint, ""))
            if until is not None and until > epoch:
                self.pool.rest(credential, BY_HAND, now, until - epoch)

    def _stamped(self) -> tuple[Stamp, ...]:
        files = [self._root / file for file in (self.settings.accounts, self.settings.file) if file]
        return (*map(stamped, files), stamped(self.bans))


class _KeySource(NamedTuple):
    """One source of keys."""

    place: str
    text: str
    accounts: bool


def credential_store(
    name: str, settings: CredentialSettings, root: Path, environ: Mapping[str, str], clock: Callable[[], float] = time.monotonic
) -> CredentialStore:
    """The store of `[credentials.NAME]`; lines without a usable key are skipped with a warning.

    Raises ConfigError as `CredentialStore` does.
    """
    made = CredentialStore(name, settings, root, environ, clock)
    counts = made.pool.counts(clock())
    logger.info("密钥已加载 / keys loaded", pool=name, loaded=counts.total, banned=counts.banned)
    if (root / PICKLE).exists() and not made.bans.exists():
        logger.warning(
            f"{PICKLE} 不会被读取（反序列化会执行其中的代码）：其中的密钥再次被拒绝时会自动停用，也可先从账号文件中删除它们 / "
            f"{PICKLE} is never read, because that would run code from it: its keys are banned again when the upstream refuses them, "
            "or take them out of the accounts file now"
        )
    return made


def read_keys(name: str, settings: CredentialSettings, root: Path, environ: Mapping[str, str]) -> list[Credential]:
    """The keys in the files and the variable of `[credentials.NAME]`.

    Raises ConfigError if a file cannot be read or there is no key.
    """
    credentials: list[Credential] = []
    for source in _sources(name, settings, root, environ):
        credentials += _accounts(source) if source.accounts else _plain(source)
    if not credentials:
        raise ConfigError(
            f"no key was found ({NONE_FOUND}): give accounts (lines user|password|sk-…), file (one key per line) or env",
            f"{NONE_FOUND}：请用 accounts（每行 用户|密码|sk-…）、file（每行一个）或 env 提供",
            place=f"[credentials.{name}]",
        )
    if len(credentials) > MOST:
        raise ConfigError(f"more than {MOST} keys", f"密钥超过 {MOST} 个", place=f"[credentials.{name}]")
    return credentials


def bans_file(name: str, settings: CredentialSettings, root: Path) -> Path:
    """The path of the file of bans."""
    return root / (settings.bans or f"data/{name}.bans.json")


def stamped(path: Path) -> Stamp:
    """The current stamp of a file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def stamp_of(epoch: float) -> str:
    """A moment in UTC, as RFC 3339."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))


def moment_of(text: str) -> float | None:
    """Parse what `stamp_of` wrote to seconds since 1970; None for anything else."""
    try:
        return float(timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError:
        return None


def _sources(name: str, settings: CredentialSettings, root: Path, environ: Mapping[str, str]) -> list[_KeySource]:
    found: list[_KeySource] = []
    if settings.accounts:
        found.append(_KeySource(settings.accounts, _text(root / settings.accounts, settings.accounts), True))
    if settings.file:
        found.append(_KeySource(settings.file, _text(root / settings.file, settings.file), False))
    if settings.env:
        found.append(_KeySource(f"environment {settings.env}", _SEPARATORS.sub("\n", environ.get(settings.env, "")), False))
    return found


def _text(path: Path, shown: str) -> str:
    try:
        return read_bytes(path, FILE_BYTES).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"there is no such file ({NONE_FOUND})", f"没有这个文件（{NONE_FOUND}）", place=shown) from error
    except (OSError, UnicodeDecodeError) as error:
        en, zh = why_not(error)
        raise ConfigError(f"cannot be read: {en}", f"无法读取：{zh}", place=shown) from error


def _accounts(source: _KeySource) -> list[Credential]:
    """Parse lines `user|password|sk-…`; the password is not kept."""
    found: list[Credential] = []
    for number, line in _lines(source.text):
        parts = [part.strip() for part in line.split("|")]
        if len(parts) == 3 and parts[2].startswith(ACCOUNT_MARK) and _USABLE.fullmatch(parts[2]):
            found.append(Credential(parts[2], parts[0]))
        else:
            _skipped(source, number)
    return found


def _plain(source: _KeySource) -> list[Credential]:
    found: list[Credential] = []
    for number, line in _lines(source.text):
        if _USABLE.fullmatch(line):
            found.append(Credential(line))
        else:
            _skipped(source, number)
    return found


def _lines(text: str) -> list[tuple[int, str]]:
    stripped = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in stripped if line and not line.startswith("#")]


def _skipped(source: _KeySource, number: int) -> None:
    """Warn about a line without showing it: it may be a mistyped key."""
    logger.warning("此行不是有效的密钥，已跳过 / this line holds no usable key, skipped", place=f"{source.place}:{number}")


def read_bans(path: Path) -> BansFile:
    """Read the file of bans; empty if there is none. Raises ConfigError if it cannot be read."""
    try:
        return msgspec.json.decode(read_bytes(path, BANS_BYTES), type=BansFile)
    except FileNotFoundError:
        return BansFile()
    except (OSError, msgspec.DecodeError) as error:
        en, zh = why_not(error) if isinstance(error, OSError) else (str(error), str(error))
        raise ConfigError(
            f"the file of bans cannot be read: {en}; correct it, or remove it to begin anew",
            f"停用记录无法读取：{zh}；请改正，或删除它重新开始",
            place=str(path),
        ) from error


def write_bans(path: Path, kept: BansFile) -> None:
    """Replace the file of bans atomically. Raises OSError."""
    write(path, msgspec.json.format(msgspec.json.encode(kept), indent=1).decode() + "\n")
