"""The part of `check` about outbound links: their state in a running server, else whether their addresses are usable.

Without a running server nothing is dialled: the remote side might close the link of another server with the same token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import EndpointError
from ..settings.schema import Config
from ..sockets.dial_out import address
from .finding import Finding


def of_file(config: Config, environ: Mapping[str, str]) -> Iterator[Finding]:
    """The targets that could not be dialled if the server were started now."""
    for settings in config.dial:
        found = address(settings, environ)
        if isinstance(found, EndpointError):
            yield _mistaken(settings.name, found.en, found.zh)


def of_stats(stats: Mapping[str, Any]) -> Iterator[Finding]:
    """The state of the targets in a running server."""
    for one in stats.get("rooms", {}).get("dial", {}).get("targets", ()):
        name = f"{one['name']} ({one['host']})" if one["host"] else one["name"]
        zh, _, en = one["reason"].partition(" / ")
        if one["state"] == "connected":
            yield Finding(f"dialled out to {name}, endpoint {one['endpoint']}", f"外连 {name} 已连接，接入点 {one['endpoint']}")
        elif one["state"] == "connecting":
            yield Finding(f"dialling out to {name}", f"正在连接外连 {name}")
        elif one["state"] == "waiting":
            yield Finding(
                f"not connected to {name} since {one['since']}: {en}",
                f"外连 {name} 自 {one['since']} 起未连接：{zh}",
                "it reconnects automatically; if this continues, check that this machine can reach the host, and copy the address again",
                "会自动重连；若一直如此，请检查本机能否访问该主机，并重新复制地址",
            )
        elif one["state"] == "error":
            yield _mistaken(name, en, zh)
        else:
            yield _unusable(name, en, zh)


def _mistaken(name: str, en: str, zh: str) -> Finding:
    """A mistake in the entry, with the remedy that its words hold."""
    (en, _, remedy_en), (zh, _, remedy_zh) = en.partition(": "), zh.partition("：")
    found = _unusable(name, en, zh)
    if not remedy_en:
        return found
    return found._replace(remedy_en=f"{remedy_en}, and restart the server", remedy_zh=f"{remedy_zh}，并重启服务器")


def _unusable(name: str, en: str, zh: str) -> Finding:
    return Finding(
        f"not connected to {name}: {en}",
        f"外连 {name} 未连接：{zh}",
        f"put a valid address into [[dial]] url of {name.partition(' ')[0]}, and restart the server",
        f"请在 [[dial]] {name.partition(' ')[0]} 的 url 中填写正确的地址，并重启服务器",
    )
