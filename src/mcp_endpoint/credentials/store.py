"""Where the keys of upstreams come from, and where it is remembered which of them are banned.

What is remembered is the SHA-256 of a key, in a file that only its owner can read; it is written in one piece or not at all. A
`blacklist.pkl` is never opened: unpickling a file runs whatever program somebody put there. Both files may be edited while the server runs:
`look` takes over what has changed.
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
from .pool import Credential, CredentialPool, Event
from .rotation import Rotation

MOST: Final = 100_000
"""Keys of one pool."""
FILE_BYTES: Final = 64 * 1024 * 1024
"""Largest file of keys that is read; it is read beside the loop."""
BANS_BYTES: Final = 160 * MOST
"""Largest file of bans: it is read on the loop, and one banned key of a pool takes 140 bytes."""
KEYS_SHOWN: Final = 100
"""Keys of one pool that are shown one by one."""
ACCOUNT_MARK: Final = "sk-"
"""How a key in an accounts file begins; what does not is no key."""
PICKLE: Final = "blacklist.pkl"
"""Where the predecessor kept its bans."""
NONE_FOUND: Final = "未找到有效的token"
"""What the predecessor said when it had no key; people search for these words."""
ALL_GONE: Final = "所有token都已失效"
"""And what it said when none was left."""

BY_HAND: Final = 0
"""The status of a rest that an operator asked for."""

_SEPARATORS: Final = re.compile(r"[\s,;]+")
_USABLE: Final = re.compile(r"[\x21-\x7e]{1,4096}")


class Ban(msgspec.Struct):
    """One banned key."""

    since: str
    """In UTC, as RFC 3339."""
    status: int


class Kept(msgspec.Struct):
    """The file of bans: fingerprint → why, and fingerprint → until when an operator lets a key rest."""

    version: int = 1
    banned: dict[str, Ban] = {}
    resting: dict[str, str] = {}


Stamp = tuple[int, int, int] | None
"""What changes when a file does; None while there is none."""


class CredentialStore:
    """One pool of keys, with what it reads and writes on disk."""

    def __init__(self, name: str, settings: CredentialSettings, root: Path, environ: Mapping[str, str], clock: Callable[[], float]) -> None:
        """`clock` is that of the pool. Raises ConfigError when a file cannot be read, or when there is not one key."""
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
            tell=self._tell,
        )
        self._let_rest()

    def rotation(self, route: int | None, owner: Credential | None = None) -> Rotation:
        """The keys of one request, as for `Rotation`."""
        return Rotation(self.pool, route, self.settings.retries, owner)

    def none_left(self) -> tuple[float | None, str, str]:
        """Why there is no key: the seconds until there is one (None: never), and that in English and Chinese."""
        wait = self.pool.wait(self._clock())
        if wait is None:
            return None, "every key of its pool is banned", f"凭据池中的密钥均已停用（{ALL_GONE}）"
        seconds = ceil(wait)
        return wait, f"the service asks every key to wait, the first for {seconds} s", f"服务要求所有密钥等待，最短 {seconds} 秒"

    async def look(self) -> None:
        """Take over what has been edited in its files; files that cannot be used change nothing.

        Keys are read beside the loop: there may be many. Bans are read after them, as new ones may have been written meanwhile.
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
        """What an operator may know of its first `most` keys, one by one, ready for JSON; times are in UTC."""
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

    def _tell(self, event: Event, credential: Credential | None, status: int | None) -> None:
        if credential is None:
            logger.warning(f"{ALL_GONE}，已重置并重试 / every key was resting: all are taken up again", pool=self.name)
            return
        why = {None: "无应答 / no answer", BY_HAND: "手动 / by hand"}.get(status, status)
        shown = credential.shown
        if event is Event.REST:
            logger.info("密钥暂时休息 / key rests", pool=self.name, credential=shown, status=why)
        elif event is Event.BAN:
            self._keep(credential.fingerprint, Ban(stamp_of(time.time()), status or 0))
            logger.warning("密钥已永久停用 / key banned for good", pool=self.name, credential=shown, status=why)
        else:
            self._keep(credential.fingerprint, None)
            logger.info("密钥复查可用，已恢复 / key works again, its ban is lifted", pool=self.name, credential=shown)

    def _keep(self, fingerprint: str, ban: Ban | None) -> None:
        """Write a ban down, or its end, beside whatever else the file says by now."""
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
        """Let those keys rest that an operator has set aside."""
        now, epoch = self._clock(), time.time()
        for credential in self.pool.credentials:
            until = moment_of(self._kept.resting.get(credential.fingerprint, ""))
            if until is not None and until > epoch:
                self.pool.rest(credential, BY_HAND, now, until - epoch)

    def _stamped(self) -> tuple[Stamp, ...]:
        files = [self._root / file for file in (self.settings.accounts, self.settings.file) if file]
        return (*map(stamped, files), stamped(self.bans))


class _Source(NamedTuple):
    """One place keys come from."""

    place: str
    text: str
    accounts: bool


def credential_store(
    name: str, settings: CredentialSettings, root: Path, environ: Mapping[str, str], clock: Callable[[], float] = time.monotonic
) -> CredentialStore:
    """The keys of `[credentials.NAME]`, those that are banned marked; what is no key is skipped, and told.

    Raises ConfigError as `Keyring` does.
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
    """The keys that the files and the variable of `[credentials.NAME]` give.

    Raises ConfigError when a file cannot be read, or when there is not one key.
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
    """Where the bans of `[credentials.NAME]` are kept."""
    return root / (settings.bans or f"data/{name}.bans.json")


def stamped(path: Path) -> Stamp:
    """The stamp of a file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def stamp_of(epoch: float) -> str:
    """A moment in UTC, as RFC 3339."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))


def moment_of(text: str) -> float | None:
    """What `stamp_of` wrote, in seconds since 1970; None for anything else."""
    try:
        return float(timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError:
        return None


def _sources(name: str, settings: CredentialSettings, root: Path, environ: Mapping[str, str]) -> list[_Source]:
    found: list[_Source] = []
    if settings.accounts:
        found.append(_Source(settings.accounts, _text(root / settings.accounts, settings.accounts), True))
    if settings.file:
        found.append(_Source(settings.file, _text(root / settings.file, settings.file), False))
    if settings.env:
        found.append(_Source(f"environment {settings.env}", _SEPARATORS.sub("\n", environ.get(settings.env, "")), False))
    return found


def _text(path: Path, shown: str) -> str:
    try:
        return read_bytes(path, FILE_BYTES).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"there is no such file ({NONE_FOUND})", f"没有这个文件（{NONE_FOUND}）", place=shown) from error
    except (OSError, UnicodeDecodeError) as error:
        en, zh = why_not(error)
        raise ConfigError(f"cannot be read: {en}", f"无法读取：{zh}", place=shown) from error


def _accounts(source: _Source) -> list[Credential]:
    """Lines `user|password|sk-…`. The password is not kept: nobody needs it."""
    found: list[Credential] = []
    for number, line in _lines(source.text):
        parts = [part.strip() for part in line.split("|")]
        if len(parts) == 3 and parts[2].startswith(ACCOUNT_MARK) and _USABLE.fullmatch(parts[2]):
            found.append(Credential(parts[2], parts[0]))
        else:
            _skipped(source, number)
    return found


def _plain(source: _Source) -> list[Credential]:
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


def _skipped(source: _Source, number: int) -> None:
    """Never what stands there: it may be a key with a slip in it."""
    logger.warning("此行不是有效的密钥，已跳过 / this line holds no usable key, skipped", place=f"{source.place}:{number}")


def read_bans(path: Path) -> Kept:
    """The file of bans; an empty one where there is none. Raises ConfigError when it cannot be read."""
    try:
        return msgspec.json.decode(read_bytes(path, BANS_BYTES), type=Kept)
    except FileNotFoundError:
        return Kept()
    except (OSError, msgspec.DecodeError) as error:
        en, zh = why_not(error) if isinstance(error, OSError) else (str(error), str(error))
        raise ConfigError(
            f"the file of bans cannot be read: {en}; correct it, or remove it to begin anew",
            f"停用记录无法读取：{zh}；请改正，或删除它重新开始",
            place=str(path),
        ) from error


def write_bans(path: Path, kept: Kept) -> None:
    """Put it in the place of the file of bans. Raises OSError."""
    write(path, msgspec.json.format(msgspec.json.encode(kept), indent=1).decode() + "\n")
