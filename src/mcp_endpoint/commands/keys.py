"""`mcp-endpoint keys`: lists the keys of pools, lets them rest and lifts bans, with or without a running server.

A running server reads the change from the file of bans, which it checks twice a second; its figures come from `/stats`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ..credentials.pool import Credential
from ..credentials.store import BansFile, bans_file, moment_of, read_bans, read_keys, stamp_of, write_bans
from ..errors import ConfigError, EndpointError
from ..serving.standalone import ROOMS
from ..settings.schema import Config, CredentialSettings
from . import check

SHORTEST: Final = 4
"""Fewest characters of a fingerprint that identify a key."""
STATES: Final = {"available": "可用", "resting": "休息", "banned": "停用"}


def listed(config: Config, root: Path, environ: Mapping[str, str], pool: str | None) -> Iterator[str]:
    """One line for each key of a pool, or of all pools. Raises ConfigError."""
    found = check.stats(config).get("rooms", {}).get("keys", {})
    for name, settings in _pools(config, root).items() if pool is None else [(pool, _pool(config, root, pool))]:
        kept = read_bans(bans_file(name, settings, root))
        figures = {figure["fingerprint"]: figure for figure in found.get(name, {}).get("keys", ())}
        for credential in read_keys(name, settings, root, environ):
            figure = figures.get(credential.fingerprint[:8], {})
            yield "  ".join((name, credential.shown, *([credential.user] if credential.user else ()), *_state(credential, kept, figure)))


def rest(config: Config, root: Path, environ: Mapping[str, str], pool: str, prefixes: Sequence[str], seconds: float) -> Iterator[str]:
    """Let keys rest for `seconds`, or end their rest with 0; yields a line per key. Raises EndpointError."""
    until = stamp_of(time.time() + seconds)
    for credential, kept in _edited(config, root, environ, pool, prefixes):
        kept.resting.pop(credential.fingerprint, None)
        if seconds:
            kept.resting[credential.fingerprint] = until
            yield f"{credential.shown}  休息到 / rests until {until}"
        else:
            yield f"{credential.shown}  不再休息 / rests no longer"


def unban(config: Config, root: Path, environ: Mapping[str, str], pool: str, prefixes: Sequence[str]) -> Iterator[str]:
    """Lift the bans of the given keys, of all without `prefixes`; yields a line per key. Raises EndpointError."""
    for credential, kept in _edited(config, root, environ, pool, prefixes):
        if kept.banned.pop(credential.fingerprint, None) is not None:
            yield f"{credential.shown}  已恢复 / ban lifted"
        elif prefixes:
            yield f"{credential.shown}  未停用 / was not banned"


def _edited(
    config: Config, root: Path, environ: Mapping[str, str], pool: str, prefixes: Sequence[str]
) -> Iterator[tuple[Credential, BansFile]]:
    """Each selected key with the file of bans to change; the file is written after the last one."""
    settings = _pool(config, root, pool)
    credentials = read_keys(pool, settings, root, environ)
    meant = [_meant(credentials, prefix) for prefix in prefixes] or credentials
    file = bans_file(pool, settings, root)
    kept = read_bans(file)
    now = time.time()
    kept.resting = {fingerprint: until for fingerprint, until in kept.resting.items() if (moment_of(until) or 0.0) > now}
    for credential in meant:
        yield credential, kept
    try:
        owner = (file if file.exists() else root).stat()
        write_bans(file, kept)
        if hasattr(os, "chown"):  # run as root: the server must be able to read it
            with contextlib.suppress(PermissionError):
                os.chown(file, owner.st_uid, owner.st_gid)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise EndpointError(f"cannot be written: {reason}", f"无法写入：{reason}", place=str(file)) from error


def _meant(credentials: Sequence[Credential], prefix: str) -> Credential:
    """The one key with this fingerprint prefix, or with this name in the log or `/blacklist`. Raises EndpointError."""
    found = [one for one in credentials if one.fingerprint.startswith(prefix.lower()) or prefix in (one.shown, one.preview)]
    if len(prefix) < SHORTEST or len(found) != 1:
        many = len(found) > 1 or len(prefix) < SHORTEST
        en, zh = ("several keys, or too short", "对应多个密钥，或太短") if many else ("no key", "不对应任何密钥")
        raise EndpointError(f'"{prefix}" matches {en}: see mcp-endpoint keys list', f"“{prefix}”{zh}：请看 mcp-endpoint keys list")
    return found[0]


def _pools(config: Config, root: Path) -> Mapping[str, CredentialSettings]:
    """The pools of the configuration, else those of `serve --as gateway`."""
    return config.credentials or ROOMS["gateway"].configured(config, "").credentials


def _pool(config: Config, root: Path, name: str) -> CredentialSettings:
    pools = _pools(config, root)
    if name not in pools:
        known = ", ".join(pools)
        raise ConfigError(
            f"there is no [credentials.{name}] in the configuration; there is: {known}", f"配置中没有 [credentials.{name}]；现有：{known}"
        )
    return pools[name]


def _state(credential: Credential, kept: BansFile, figure: Mapping[str, Any]) -> Iterator[str]:
    """The state of a key, from the running server, else from the files."""
    ban = kept.banned.get(credential.fingerprint)
    until = figure.get("resting_until") or kept.resting.get(credential.fingerprint)
    rests = until is not None and (moment_of(until) or 0.0) > time.time()
    state = "banned" if ban is not None else "resting" if rests else "available"
    yield f"{STATES[state]} / {state}"
    if ban is not None:
        yield f"自 / since {ban.since} ({ban.status})"
    elif rests:
        yield f"至 / until {until}"
    if figure.get("last_used"):
        yield f"请求 / requests {figure['requests']}, 最后 / last {figure['last_used']} ({figure['last_status']})"
