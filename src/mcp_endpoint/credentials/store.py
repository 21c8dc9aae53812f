"""Where the keys of upstreams come from, and where it is remembered which of them are banned.

What is remembered is the SHA-256 of a key, in a file that only its owner can read; it is written in one piece or not at all. A
`blacklist.pkl` is never opened: unpickling a file runs whatever program somebody put there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from loguru import logger

from ..errors import ConfigError
from ..settings.load import CredentialSettings, write
from .pool import Credential, CredentialPool, Verdict

MOST: Final = 100_000
"""Keys of one pool."""
FILE_BYTES: Final = 64 * 1024 * 1024
"""Largest file of keys that is read."""
ACCOUNT_MARK: Final = "sk-"
"""How a key in an accounts file begins; what does not is no key."""
PICKLE: Final = "blacklist.pkl"
"""Where the predecessor kept its bans."""
NONE_FOUND: Final = "未找到有效的token"
"""What the predecessor said when it had no key; people search for these words."""
ALL_GONE: Final = "所有token都已失效"
"""And what it said when none was left."""

_SEPARATORS: Final = re.compile(r"[\s,;]+")
_USABLE: Final = re.compile(r"[\x21-\x7e]{1,4096}")


class _Ban(msgspec.Struct):
    since: str
    status: int


class _Bans(msgspec.Struct):
    """The file of bans."""

    version: int = 1
    banned: dict[str, _Ban] = {}


class Keyring:
    """One pool of keys, with what it reads and writes on disk."""

    def __init__(self, name: str, pool: CredentialPool, settings: CredentialSettings, bans: Path, banned: dict[str, _Ban]) -> None:
        self.name = name
        self.pool = pool
        self.settings = settings
        self.bans = bans
        self._banned = banned

    def report(self, credential: Credential, status: int | None, now: float, retry_after: float | None = None) -> Verdict:
        """As for the pool; a ban is written down at once, a rest told in the log."""
        verdict = self.pool.report(credential, status, now, retry_after)
        why = "no answer / 无应答" if status is None else status
        if verdict is Verdict.BAN and credential.fingerprint not in self._banned:
            self._banned[credential.fingerprint] = _Ban(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), status or 0)
            logger.warning("密钥已永久停用 / key banned for good", pool=self.name, credential=credential.shown, status=why)
            try:
                write(self.bans, msgspec.json.format(msgspec.json.encode(_Bans(banned=self._banned)), indent=1).decode() + "\n")
            except OSError as error:
                reason = error.strerror or type(error).__name__
                lost = "停用记录无法写入，重启后会丢失 / the ban cannot be written and ends with this run"
                logger.error(lost, file=str(self.bans), reason=reason)
        elif verdict is Verdict.REST:
            logger.info("密钥暂时休息 / key rests", pool=self.name, credential=credential.shown, status=why)
        return verdict

    def take(self, now: float, tried: tuple[Credential, ...] = ()) -> Credential | None:
        """As for the pool; taking up again what rested is told in the log."""
        resets = self.pool.resets
        credential = self.pool.take(now, tried)
        if self.pool.resets != resets:
            logger.warning(f"{ALL_GONE}，已重置并重试 / every key was resting: all are taken up again", pool=self.name)
        return credential


class _Source(NamedTuple):
    """One place keys come from."""

    place: str
    text: str
    accounts: bool


def keyring(name: str, settings: CredentialSettings, root: Path, environ: Mapping[str, str]) -> Keyring:
    """The keys of `[credentials.NAME]`, those that are banned marked; what is no key is skipped, and told.

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
    bans = root / (settings.bans or f"data/{name}.bans.json")
    banned = _read_bans(bans)
    pool = CredentialPool(credentials, rest_seconds=settings.rest_seconds, banned=banned)
    logger.info("密钥已加载 / keys loaded", pool=name, loaded=len(pool.credentials), banned=len(pool.banned))
    if (root / PICKLE).exists() and not bans.exists():
        logger.warning(
            f"{PICKLE} 不会被读取（反序列化会执行其中的代码）：其中的密钥再次被拒绝时会自动停用，也可先从账号文件中删除它们 / "
            f"{PICKLE} is never read, because that would run code from it: its keys are banned again when the upstream refuses them, "
            "or take them out of the accounts file now"
        )
    return Keyring(name, pool, settings, bans, banned)


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
        if path.stat().st_size > FILE_BYTES:
            raise ConfigError(f"larger than {FILE_BYTES} bytes", f"超过 {FILE_BYTES} 字节", place=shown)
        return path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"there is no such file ({NONE_FOUND})", f"没有这个文件（{NONE_FOUND}）", place=shown) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ConfigError(f"cannot be read: {reason}", f"无法读取：{reason}", place=shown) from error


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


def _read_bans(path: Path) -> dict[str, _Ban]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Bans).banned
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(
            f"the file of bans cannot be read: {type(error).__name__}; correct it, or remove it to begin anew",
            f"停用记录无法读取：{type(error).__name__}；请改正，或删除它重新开始",
            place=str(path),
        ) from error


def retry_after(value: str | None) -> float | None:
    """The seconds a Retry-After asks for (RFC 9110 §10.2.3: a number, or a date); None where it says nothing usable."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
