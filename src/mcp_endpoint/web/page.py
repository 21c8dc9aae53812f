"""Renders the HTML status page: state, addresses to copy, connected endpoints, and why tools left.

It loads nothing from outside: no script, image or font; every foreign text is escaped. It is in one language, the one that the
browser prefers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final, NamedTuple, Protocol

from .. import __version__
from ..access.addresses import PROBE, Hint, free_form
from ..errors import halves
from ..log import escape as one_line

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_RANGE: Final = re.compile(r"\s*([A-Za-z*][A-Za-z0-9*-]*)\s*(?:;\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*)?")

_STYLE: Final = """
:root{color-scheme:light dark;--ground:#f4f5f7;--card:#fff;--line:#e1e4e8;--text:#1b1f24;--soft:#5b6470;--chip:#eef0f3;
--good:#146c37;--good-ground:#e3f4e9;--warn:#8a5300;--warn-ground:#fff2d6;--bad:#b3261e;--bad-ground:#fdeceb}
@media(prefers-color-scheme:dark){:root{--ground:#14171b;--card:#1c2026;--line:#323840;--text:#e6e9ed;--soft:#9aa3ad;--chip:#2a3038;
--good:#7ddba1;--good-ground:#173322;--warn:#f2c063;--warn-ground:#382b12;--bad:#ff9c93;--bad-ground:#3d1d1b}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:62rem;padding:2rem 1.25rem 3rem;background:var(--ground);color:var(--text);overflow-wrap:anywhere;
font:16px/1.6 system-ui,"PingFang SC","Microsoft YaHei","Noto Sans CJK SC",sans-serif}
h1{font-size:1.5rem;line-height:1.3;margin:0}
h2{font-size:1.1rem;margin:2.2rem 0 .6rem}
h3{font-size:1rem;margin:0}
p{margin:.6rem 0}
header,.line{display:flex;flex-wrap:wrap;align-items:center;gap:.3rem .6rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:.75rem;padding:1rem 1.2rem;margin:.7rem 0}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(8rem,1fr));gap:.7rem;margin:1.2rem 0 0}
.figures div{background:var(--card);border:1px solid var(--line);border-radius:.75rem;padding:.6rem 1rem}
.figures b{display:block;font-size:1.35rem;font-weight:600;line-height:1.35}
.soft{color:var(--soft)}
.small,.figures span{font-size:.875rem;color:var(--soft)}
.pill{border-radius:1rem;padding:.05rem .65rem;font-size:.875rem;font-weight:600;background:var(--chip);color:var(--soft)}
.good{background:var(--good-ground);color:var(--good)}
.warn{background:var(--warn-ground);color:var(--warn)}
.bad{background:var(--bad-ground);color:var(--bad)}
.note{border-radius:.5rem;padding:.5rem .8rem;margin:.7rem 0}
code,.copy{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.875rem}
.copy{display:block;user-select:all;-webkit-user-select:all;cursor:copy;word-break:break-all;
background:var(--chip);border-radius:.5rem;padding:.5rem .75rem;margin:.25rem 0 1rem}
.card>:last-child{margin-bottom:0}
footer{margin-top:1.8rem}
.card ul{list-style:none;margin:.6rem 0 0;padding:0}
.card li{border-top:1px solid var(--line);padding:.6rem 0}
.card li:last-child{padding-bottom:0}
.chip{display:inline-block;background:var(--chip);border-radius:.35rem;padding:.05rem .45rem;margin:.35rem .35rem 0 0}
form{display:flex;flex-wrap:wrap;gap:.5rem;margin:.8rem 0 .3rem}
input,button{font:inherit;color:inherit;background:var(--card);padding:.45rem .8rem;border:1px solid var(--line);border-radius:.5rem}
input{flex:1 1 14rem;min-width:0}
button{background:var(--text);color:var(--card);border-color:var(--text);cursor:pointer}
a{color:inherit}
"""


LEFT_SHOWN: Final = 10
"""Most endpoints without links that are shown with their last close."""
STATES: Final[Mapping[str, tuple[str, str, str]]] = {
    "new": ("", "connected, not asked yet", "已连接，尚未使用"),
    "initializing": ("", "initializing", "握手中"),
    "ready": ("good", "ready", "就绪"),
    "bare": ("warn", "connected, does not speak MCP", "已连接，但不会 MCP 握手"),
    "down": ("bad", "its server is not running", "其服务器目前没有运行"),
}
"""State of a tool → its colour and text."""
SERVER_STATES: Final[Mapping[str, tuple[str, str, str]]] = {
    "starting": ("", "starting", "启动中"),
    "running": ("good", "running", "运行中"),
    "waiting": ("warn", "unavailable, retried soon", "暂不可用，稍后重试"),
    "stopped": ("bad", "exited too often and was stopped; save the file to try again", "连续退出，已停止；保存配置文件即可重试"),
    "error": ("bad", "its entry cannot be used", "配置项有误，未运行"),
}
"""State of a managed server → its colour and text."""
DIAL_STATES: Final[Mapping[str, tuple[str, str, str]]] = {
    "connecting": ("", "connecting", "连接中"),
    "connected": ("good", "connected", "已连接"),
    "waiting": ("warn", "not connected, retried soon", "未连接，稍后重试"),
    "refused": ("bad", "refused, copy the address again", "被拒绝，请重新复制地址"),
    "error": ("bad", "its address cannot be used", "地址无法使用"),
    "stopped": ("", "stopped", "已停止"),
}
"""State of a target of `[[dial]]` → its colour and text."""
REASONS: Final[Mapping[str, str]] = {
    "it did not answer initialize in time": "未在时限内应答 initialize",
    "it answered initialize with an error": "以错误应答 initialize",
    "it sent no result": "应答中没有 result",
}
"""Why a tool is bare → the same in Chinese; a reason in the tool's own text is not translated."""
CLOSE_CODES: Final[Mapping[int, tuple[str, str]]] = {
    1000: ("closed normally", "正常结束"),
    1001: ("the tool ended, or its machine is shutting down", "工具端退出，或所在机器正在关机"),
    1006: ("the connection was lost: process killed, network or proxy", "连接中断：进程被结束、网络或代理问题"),
    1007: ("text that is not UTF-8: let the tool write UTF-8", "文本不是 UTF-8：请让工具以 UTF-8 输出"),
    1008: ("policy violation, see the reason", "违反规则，见原因"),
    1009: ("a message was too big, see [limits]", "消息过大，见 [limits]"),
    1011: ("the tool stopped answering, or its process ended", "工具端停止应答，或其进程已退出"),
    1013: ("the tool did not read its messages", "工具端没有读取发给它的数据"),
}
"""Close code → its meaning for a tool that left."""


class Address(NamedTuple):
    """One address to copy, with its purpose."""

    en: str
    zh: str
    url: str


class Facts(NamedTuple):
    """The data of one rendering of the page."""

    state: str
    uptime: float
    snapshot: Mapping[str, Any]
    known: bool
    """Whether the right key was given; the fields below are empty without it."""
    refused: bool
    """Whether a wrong key was given."""
    addresses: Sequence[Address]
    hints: Sequence[Hint]
    console: bool = False
    """Whether there is a console to link to."""


def prefers_chinese(accept_language: str) -> bool:
    """Whether Accept-Language prefers Chinese to English (RFC 9110 §12.5.4); False where neither is named."""
    ranges = (_RANGE.fullmatch(part) for part in accept_language.split(",")[:32])
    weighed = ((float(found[2] or 1), found[1].lower().partition("-")[0]) for found in ranges if found)
    known = [(weight, language) for weight, language in weighed if weight and language in ("zh", "en")]
    return bool(known) and max(known, key=lambda one: one[0])[1] == "zh"


class Text(Protocol):
    """Returns the text in the language of the page, escaped."""

    def __call__(self, en: str, zh: str) -> str: ...


def render(facts: Facts, *, chinese: bool) -> str:
    """The page as HTML."""

    def text(en: str, zh: str) -> str:
        return _plain(zh if chinese else en)

    up = facts.state == "ready"
    title = text("MCP Endpoint Server", "MCP 接入点服务器")
    state = _pill("good" if up else "warn", "● " + (text("running", "运行中") if up else text("stopping", "正在停止")))
    figures = (
        (str(facts.snapshot["endpoints"]), text("endpoints", "接入点")),
        (str(facts.snapshot["tool_connections"]), text("tool links", "工具端连接")),
        (str(facts.snapshot["device_connections"]), text("device links", "使用端连接")),
        (str(facts.snapshot["session_connections"]), text("sessions over HTTP", "HTTP 会话")),
        (duration(facts.uptime, text), text(f"up, version {__version__}", f"已运行，版本 {__version__}")),
    )
    body = [f"<header><h1>{title}</h1>{state}</header>", '<div class="figures">']
    body += [f"<div><b>{figure}</b><span>{name}</span></div>" for figure, name in figures]
    body.append("</div>")
    if facts.known:
        body += _addresses(facts, text)
        body += _endpoints(facts.snapshot, text)
        rooms = facts.snapshot.get("rooms", {})
        body += _servers(rooms.get("providers"), text)
        body += _rows(text("Outbound links", "外连"), [_target(target, text) for target in rooms.get("dial", {}).get("targets", ())])
        body += _rows(text("Gateways", "网关"), [_gateway(name, told, text) for name, told in rooms.get("gateway", {}).items()])
        body += _rows(text("Pools of keys", "凭据池"), [_pool(name, told, text) for name, told in rooms.get("keys", {}).items()])
    else:
        body += _key_form(facts, text)
    links = " · ".join(f'<a href="{path}"><code>{path}</code></a>' for path in ("/health", "/ready", "/stats"))
    if facts.console:
        body.append(
            f'<p><a href="../console">{text("Console: addresses, tools to try, servers", "控制台：地址、试用工具、服务器")}</a></p>'
        )
    body.append(f'<footer class="small">{text("For programs", "供程序读取")}: {links}</footer>')
    return (
        f'<!doctype html><html lang="{"zh-CN" if chinese else "en"}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="robots" content="noindex">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>{''.join(body)}</body></html>"
    )


def _addresses(facts: Facts, text: Text) -> Iterator[str]:
    yield f"<h2>{text('Addresses to copy', '要复制的地址')}</h2>"
    for hint in facts.hints:
        yield f'<p class="note warn">{text(hint.en, hint.zh)}</p>'
    yield '<div class="card">'
    for address in facts.addresses:
        yield f'<div class="soft">{text(address.en, address.zh)}</div><span class="copy">{_plain(address.url)}</span>'
    warning = text(
        "Click an address to select it. Anyone who has one can use your tools: keep them secret.",
        "点一下即可选中整个地址。任何人拿到这些地址都能使用您的工具，请勿外传。",
    )
    yield f'<p class="small">{warning}</p></div>'


def _key_form(facts: Facts, text: Text) -> Iterator[str]:
    yield f"<h2>{text('Addresses and endpoints', '地址与接入点')}</h2>"
    if facts.refused:
        yield f'<p class="note bad">{text("This key is wrong.", "密钥不正确。")}</p>'
    where = text(
        "They are shown with the server's key: [server] key in data/.mcp-endpoint-server.cfg.",
        "输入密钥后显示；密钥是 data/.mcp-endpoint-server.cfg 中 [server] 下的 key。",
    )
    yield f'<div class="card"><div>{where}</div>'
    yield (
        f'<form method="get"><input type="password" name="key" required autocomplete="off" aria-label="{text("key", "密钥")}" '
        f'placeholder="{text("key", "密钥")}"><button>{text("Show", "查看")}</button></form></div>'
    )


def _endpoints(snapshot: Mapping[str, Any], text: Text) -> Iterator[str]:
    endpoints = [one for one in snapshot["endpoint_details"] if not one["endpoint"].startswith(PROBE)]
    left = [one for one in snapshot.get("left", ()) if not one["endpoint"].startswith(PROBE)]
    yield f"<h2>{text('Endpoints', '接入点')}</h2>"
    if not endpoints:
        yield f'<p class="card soft">{text("Nobody is connected yet.", "还没有工具或设备连接。")}</p>'
    for endpoint in endpoints:
        devices = len(endpoint["devices"])
        sessions = f" · {text('sessions', '会话')} {len(endpoint['sessions'])}" if endpoint["sessions"] else ""
        yield f'<div class="card"><div class="line"><h3>{_plain(endpoint["endpoint"])}</h3>'
        if not endpoint["tools"]:
            yield _pill("bad", text("no tool connected", "工具端未连接"))
        yield f'<span class="soft">{text("devices", "使用端")} {devices}{sessions}</span></div>'
        if endpoint.get("free_form"):
            yield f'<p class="note warn">{text(*free_form(endpoint["endpoint"]))}</p>'
        if endpoint["tools"]:
            yield f"<ul>{''.join(f'<li>{_tool(tool, text)}</li>' for tool in endpoint['tools'])}</ul>"
        close_reason = endpoint.get("last_close")
        if close_reason:
            yield f'<p class="small">{_close_reason(close_reason, text)}</p>'
        yield "</div>"
    if left:
        yield f"<h2>{text('Left', '已离开')}</h2>"
    for one in left[:LEFT_SHOWN]:
        yield f'<div class="card"><h3>{_plain(one["endpoint"])}</h3><p class="small">{_close_reason(one["last_close"], text)}</p></div>'


def _tool(tool: Mapping[str, Any], text: Text) -> str:
    state = tool["state"]
    colour, en, zh = STATES.get(state, ("", state, state))
    parts = [
        f"<strong>{_plain(tool['label']) or text('tool', '工具端')}</strong>",
        _pill(colour, text(en, zh)),
        f'<span class="small">{text("connected for", "已连接")} {duration(tool["connected_seconds"], text)}</span>',
    ]
    if tool["doubtful"]:
        parts.append(_pill("warn", text("its last call timed out", "上次调用超时")))
    if tool["why_bare"]:
        parts.append(f'<span class="small">{text(tool["why_bare"], REASONS.get(tool["why_bare"], tool["why_bare"]))}</span>')
    functions = "".join(f'<code class="chip">{_plain(name)}</code>' for name in tool["functions"])
    return f'<div class="line">{"".join(parts)}</div>' + (f"<div>{functions}</div>" if functions else "")


def _servers(room: Mapping[str, Any] | None, text: Text) -> Iterator[str]:
    """The managed servers; nothing without `[providers] file`."""
    if room is None:
        return
    yield f"<h2>{text('Managed servers', '自带的服务器')}</h2>"
    if room["problem"]:
        message = text("The file cannot be used; the earlier servers keep running", "配置文件无法使用，仍用原来的服务器")
        yield f'<p class="note bad">{message}: {text(*halves(room["problem"]))}</p>'
    items = "".join(f"<li>{_server(server, text)}</li>" for server in room["servers"])
    none = f'<div class="soft">{text("The file contains no servers.", "文件中没有服务器。")}</div>'
    yield f'<div class="card"><div class="small">{_plain(room["file"])}</div>{f"<ul>{items}</ul>" if items else none}</div>'


def _server(server: Mapping[str, Any], text: Text) -> str:
    state = server["state"]
    colour, en, zh = SERVER_STATES.get(state, ("", state, state))
    facts = [duration(server["seconds"], text)] if "seconds" in server else []
    if "cpu_seconds" in server:
        facts += [f"CPU {server['cpu_seconds']:.1f} s", f"{server['memory_bytes'] / 1_048_576:.0f} MiB"]
    if server.get("starts", 0) > 1:
        facts.append(f"{text('starts', '启动次数')} {server['starts']}")
    parts = [
        f"<strong>{_plain(server['name'])}</strong>",
        _pill(colour, text(en, zh)),
        *([f'<span class="small">{" · ".join(facts)}</span>'] if facts else []),
    ]
    if why := server.get("why"):
        parts.append(f'<span class="small">{text(*halves(why))}</span>')
    elif why := server.get("why_bare"):
        parts.append(f'<span class="small">{text(why, REASONS.get(why, why))}</span>')
    parts += [f'<span class="small">{text(*halves(problem))}</span>' for problem in server.get("tools_not_changed", ())]
    tools = "".join(f'<code class="chip">{_plain(name)}</code>' for name in server["tools"])
    said = "".join(f'<div class="small"><code>{_plain(line)}</code></div>' for line in server.get("said", ()) if state != "running")
    return f'<div class="line">{"".join(parts)}</div>' + (f"<div>{tools}</div>" if tools else "") + said


def _rows(title: str, rows: Sequence[str]) -> Iterator[str]:
    """A card with a heading; nothing without rows."""
    if rows:
        yield f'<h2>{title}</h2><div class="card"><ul>{"".join(f"<li>{row}</li>" for row in rows)}</ul></div>'


def _row(name: str, facts: Sequence[str], *more: str) -> str:
    """One row: a name, what is shown behind it, and figures, all escaped."""
    return f'<div class="line"><strong>{name}</strong>{"".join(more)}<span class="small">{" · ".join(facts)}</span></div>'


def _target(target: Mapping[str, Any], text: Text) -> str:
    """One target of `[[dial]]`; its reason says how its last link ended."""
    colour, en, zh = DIAL_STATES.get(target["state"], ("", target["state"], target["state"]))
    facts = [_plain(target["host"])] if target["host"] else []
    facts += [f"{text('endpoint', '接入点')} {_plain(target['endpoint'])}", f"{text('since', '自')} {_when(target['since'])}"]
    reason = f'<div class="small">{text(*halves(target["reason"]))}</div>' if target["reason"] else ""
    return _row(_plain(target["name"]), facts, _pill(colour, text(en, zh))) + reason


def _gateway(name: str, told: Mapping[str, Any], text: Text) -> str:
    host = told["upstream"].partition("//")[2]
    counts = [f"{text('requests', '请求')} {told['requests']}", f"{text('failed', '失败')} {told['failed']}"]
    return _row(_plain(f"/gateway/{name}/"), [_plain(host), *counts])


def _pool(name: str, told: Mapping[str, Any], text: Text) -> str:
    counts = (("available", "可用"), ("resting", "休息"), ("banned", "停用"))
    return _row(_plain(name), [f"{text(state, zh)} {told[state]}" for state, zh in counts])


def _close_reason(close_reason: Mapping[str, Any], text: Text) -> str:
    """The last close of a tool: time, code, reason and the meaning of the code."""
    meaning = CLOSE_CODES.get(close_reason["code"])
    what = f" ({text(*meaning)})" if meaning else ""
    told = f"{close_reason['code']} {_plain(close_reason['reason'])}{what}"
    return f"{text('last tool that left', '最近离开的工具端')}: {_when(close_reason['at'])} · {told}"


def _when(stamp: str) -> str:
    """A time of `/stats` (ISO 8601), as a person reads it."""
    return _plain(stamp.replace("T", " ").replace("+00:00", " UTC"))


def _pill(colour: str, text: str) -> str:
    return f'<span class="pill {colour}">{text}</span>'


def _plain(text: str) -> str:
    """Foreign text without markup and without bidirectional control characters."""
    return escape(one_line(text))


def duration(seconds: float, text: Text) -> str:
    """The two largest units of a time span."""
    whole = int(seconds)
    units = (
        (whole // 86_400, text("d", "天")),
        (whole // 3_600 % 24, text("h", "小时")),
        (whole // 60 % 60, text("min", "分")),
        (whole % 60, text("s", "秒")),
    )
    first = next((place for place, (count, _) in enumerate(units) if count), 3)
    return " ".join(f"{count} {unit}" for count, unit in units[first : first + 2])
