"""The status page a browser shows: is it up, which addresses to copy, who is attached and who left why.

Rendered here and nowhere else: no script, no image, no font, no outside resource, every foreign text escaped. One language at a time,
the one the browser prefers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final, NamedTuple, Protocol

from . import __version__
from .addresses import Hint

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_RANGE: Final = re.compile(r"\s*([A-Za-z*][A-Za-z0-9*-]*)\s*(?:;\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*)?")

_STYLE: Final = """
:root{color-scheme:light dark;--line:#d9dce1;--soft:#667;--good:#167a3e;--bad:#b3261e;--box:#f6f7f9}
@media(prefers-color-scheme:dark){:root{--line:#3a3f47;--soft:#9aa3ad;--good:#5fd08d;--bad:#ff8a80;--box:#1c2026}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:60rem;padding:1.25rem;font:16px/1.55 system-ui,"PingFang SC","Microsoft YaHei","Noto Sans CJK SC",sans-serif}
h1{font-size:1.5rem;margin:0}
h2{font-size:1.1rem;margin:2rem 0 .5rem}
h3{font-size:1rem;margin:0 0 .4rem;overflow-wrap:anywhere}
.soft{color:var(--soft)}
.good{color:var(--good);font-weight:600}
.bad{color:var(--bad);font-weight:600}
.box{background:var(--box);border:1px solid var(--line);border-radius:.6rem;padding:.8rem 1rem;margin:.6rem 0}
code,.copy{font-family:ui-monospace,SFMono-Regular,Consolas,monospace;font-size:.9em}
.copy{display:block;overflow-wrap:anywhere;user-select:all;-webkit-user-select:all}
.copy{border:1px dashed var(--line);border-radius:.4rem;padding:.4rem .6rem;margin:.2rem 0 .7rem}
ul{margin:.3rem 0;padding-left:1.2rem}
li{overflow-wrap:anywhere}
input,button{font:inherit;padding:.4rem .6rem;border:1px solid var(--line);border-radius:.4rem;max-width:100%}
input{width:24rem}
a{color:inherit}
"""


class Address(NamedTuple):
    """One address to copy, and what it is for."""

    en: str
    zh: str
    url: str


class Facts(NamedTuple):
    """What one rendering of the page shows."""

    state: str
    uptime: float
    snapshot: Mapping[str, Any]
    known: bool
    """Whether the right key was shown; the rest is empty without."""
    refused: bool
    """Whether a wrong key was shown."""
    addresses: Sequence[Address]
    hints: Sequence[Hint]


def prefers_chinese(accept_language: str) -> bool:
    """Whether Chinese comes before English in an Accept-Language header (RFC 9110 §12.5.4); English where neither is named."""
    ranges = (_RANGE.fullmatch(part) for part in accept_language.split(",")[:32])
    weighed = ((float(found[2] or 1), found[1].lower().partition("-")[0]) for found in ranges if found)
    known = [(weight, language) for weight, language in weighed if weight and language in ("zh", "en")]
    return bool(known) and max(known, key=lambda one: one[0])[1] == "zh"


class Say(Protocol):
    """A text in the language of the page, escaped."""

    def __call__(self, en: str, zh: str) -> str: ...


def render(facts: Facts, *, chinese: bool) -> str:
    """The page as HTML."""

    def say(en: str, zh: str) -> str:
        return escape(zh if chinese else en)

    up = facts.state == "ready"
    title = say("MCP Endpoint Server", "MCP 接入点服务器")
    state = f'<span class="{"good" if up else "bad"}">● {say("running", "运行中") if up else say("stopping", "正在停止")}</span>'
    figures = (
        f"{say('version', '版本')} {escape(__version__)}",
        f"{say('up for', '已运行')} {_duration(facts.uptime, say)}",
        f"{say('endpoints', '接入点')} {facts.snapshot['endpoints']}",
        f"{say('tools', '工具端')} {facts.snapshot['tool_connections']}",
        f"{say('devices', '使用端')} {facts.snapshot['device_connections']}",
    )
    body = [f"<h1>{title}</h1>", f'<p>{state} <span class="soft">{" · ".join(figures)}</span></p>']
    if facts.known:
        body += _addresses(facts, say)
        body += _endpoints(facts.snapshot["endpoint_details"], say)
    else:
        body += _door(facts, say)
    links = " · ".join(f'<a href="{path}"><code>{path}</code></a>' for path in ("/health", "/ready", "/stats"))
    body.append(f'<p class="soft">{say("For programs", "供程序读取")}: {links}</p>')
    return (
        f'<!doctype html><html lang="{"zh-CN" if chinese else "en"}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="robots" content="noindex">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>{''.join(body)}</body></html>"
    )


def _addresses(facts: Facts, say: Say) -> Iterator[str]:
    yield f"<h2>{say('Addresses to copy', '要复制的地址')}</h2>"
    for address in facts.addresses:
        yield f'<div>{say(address.en, address.zh)}</div><span class="copy">{escape(address.url)}</span>'
    for hint in facts.hints:
        yield f"<p>⚠ {say(hint.en, hint.zh)}</p>"
    warning = say("Whoever has them can use your tools: keep them to yourself.", "谁有这些地址，谁就能使用您的工具，请勿外传。")
    yield f'<p class="soft">{warning}</p>'


def _door(facts: Facts, say: Say) -> Iterator[str]:
    yield f"<h2>{say('Addresses and endpoints', '地址与接入点')}</h2>"
    if facts.refused:
        yield f'<p class="bad">{say("This key is not right.", "密钥不正确。")}</p>'
    where = say(
        "They are shown to whoever has the key, which stands under [server] in data/.mcp-endpoint-server.cfg.",
        "出示密钥后显示；密钥在 data/.mcp-endpoint-server.cfg 的 [server] 下。",
    )
    yield f"<p>{where}</p>"
    yield (
        f'<form method="get"><input type="password" name="key" required autocomplete="off" aria-label="{say("key", "密钥")}" '
        f'placeholder="{say("key", "密钥")}"> <button>{say("Show", "查看")}</button></form>'
    )


def _endpoints(endpoints: Sequence[Mapping[str, Any]], say: Say) -> Iterator[str]:
    yield f"<h2>{say('Endpoints', '接入点')}</h2>"
    if not endpoints:
        yield f"<p>{say('Nobody is connected yet.', '还没有工具或设备连接。')}</p>"
    for endpoint in endpoints:
        yield f'<div class="box"><h3>{escape(endpoint["endpoint"])}</h3>'
        yield f"<div>{say('devices connected', '已连接的使用端')}: {len(endpoint['devices'])}</div>"
        if not endpoint["tools"]:
            yield f'<div class="bad">{say("no tool connected", "工具端未连接")}</div>'
        yield "<ul>"
        for tool in endpoint["tools"]:
            yield f"<li>{_tool(tool, say)}</li>"
        yield "</ul>"
        goodbye = endpoint.get("last_goodbye")
        if goodbye:
            yield (
                f'<div class="soft">{say("last tool that left", "最近离开的工具端")}: {escape(goodbye["at"])} · '
                f"{escape(str(goodbye['code']))} {escape(goodbye['reason'])}</div>"
            )
        yield "</div>"


def _tool(tool: Mapping[str, Any], say: Say) -> str:
    words = {
        "new": ("connected, not asked yet", "已连接，尚未使用"),
        "initializing": ("greeting", "握手中"),
        "ready": ("ready", "就绪"),
        "bare": ("connected, does not speak MCP", "已连接，但不会 MCP 握手"),
    }
    state = tool["state"]
    parts = [
        f"<strong>{escape(tool['label']) or say('tool', '工具端')}</strong>",
        f'<span class="{"good" if state == "ready" else "soft"}">{say(*words.get(state, (state, state)))}</span>',
        f'<span class="soft">{say("connected for", "已连接")} {_duration(tool["connected_seconds"], say)}</span>',
    ]
    if tool["why_bare"]:
        parts.append(f'<span class="bad">{escape(tool["why_bare"])}</span>')
    if tool["doubtful"]:
        parts.append(f'<span class="bad">{say("its last call timed out", "上次调用超时")}</span>')
    functions = f"<div>{', '.join(f'<code>{escape(name)}</code>' for name in tool['functions'])}</div>" if tool["functions"] else ""
    return " · ".join(parts) + functions


def _duration(seconds: float, say: Say) -> str:
    """The two largest units of a time span."""
    whole = int(seconds)
    units = (
        (whole // 86_400, say("d", "天")),
        (whole // 3_600 % 24, say("h", "小时")),
        (whole // 60 % 60, say("min", "分")),
        (whole % 60, say("s", "秒")),
    )
    first = next((place for place, (count, _) in enumerate(units) if count), 3)
    return " ".join(f"{count} {unit}" for count, unit in units[first : first + 2])
