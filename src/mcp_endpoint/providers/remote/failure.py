"""Failures of requests to an MCP server by URL: reason, remedy, and whether the server may have executed the request."""

from __future__ import annotations

import html
import re
import socket
import ssl
from typing import Any, Final

import httpx2
import msgspec

from ... import errors
from ...credentials.refusals import NOT_RUN
from ...errors import Code
from ...log import escape, redact

EXCERPT_CHARS: Final = 200
"""Most characters of a server's text that are shown."""
_REMEDIES: Final = {
    400: ("the server does not accept the request: check url and type", "服务器不接受该请求：请检查 url 与 type"),
    401: ("its key is missing or wrong: check headers or credentials", "密钥缺失或错误：请检查 headers 或 credentials"),
    402: ("the account has no credit left", "账户余额不足"),
    403: ("the key may not do this: check headers or credentials", "密钥没有权限：请检查 headers 或 credentials"),
    404: ("not found: check url", "该地址不存在：请检查 url"),
    405: ("this address does not support the request: check url and type", "该地址不接受此类请求：请检查 url 与 type"),
    407: ("a proxy requires authentication", "代理需要认证"),
    429: ("too many requests: send fewer", "请求过多：请降低频率"),
    502: ("its proxy cannot reach it", "其前面的代理无法连接到它"),
    503: ("it is overloaded or in maintenance", "过载或维护中"),
    504: ("its proxy timed out", "其前面的代理等待超时"),
}
NOT_SENT: Final = NOT_RUN | {404, 405, 407, 410}
"""Statuses of requests that were not executed."""
_MESSAGE_KEYS: Final = ("message", "error_description", "detail", "error", "title", "msg", "reason")
"""Members of a JSON error body that may contain its text."""
_UNSEEN: Final = re.compile(r"<(script|style)\b.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)|<[^>]*(?:>|\Z)", re.S | re.I)
_SESSION: Final = re.compile(
    r"(?:no|not a|invalid|unknown|expired|missing|bad|stale) (?:valid |or expired )?(?:mcp[- ])?session"
    r"|session(?:[ _-]?id)?\b.{0,80}(?:not (?:found|valid|exist|known)|unknown|expired|invalid|terminated|required|missing|closed|gone)"
    r"|mcp-session-id|server not initialized|会话(?:id)?\s?(?:不存在|已?过期|无效|已?失效|未找到)",
    re.I,
)
_SESSION_CODES: Final = (-32000, -32001, -32600)
"""Error codes that MCP SDKs use for an unknown session."""


class Failure(msgspec.Struct):
    """The reason why a request got no usable response, in both languages."""

    en: str
    zh: str
    delivered: bool | None
    """False only if the server cannot have executed the request, None if unknown."""
    code: Code | None = None
    """The JSON-RPC error; None selects it by `delivered`."""
    status: int = 0
    """The HTTP status, 0 without one."""
    retry_seconds: float | None = None
    """Retry-After in seconds."""
    unreachable: bool = False
    session_lost: bool = False
    """The server does not know the session (any more), and has not executed the request."""

    def error(self) -> dict[str, object]:
        """The error object of the JSON-RPC response."""
        code = self.code or (errors.NOT_TAKEN if self.delivered is False else errors.PROVIDER_GONE)
        hint = f"{self.zh} / {self.en}"
        return {"code": code.number, "message": code.message, "data": {"source": "broker", "delivered": self.delivered, "hint": hint}}


def excerpt(body: bytes) -> str:
    """The beginning of a response in one printable line: the message of JSON, the text of HTML; secrets are masked."""
    text = _message(body)
    if text is None:
        text = html.unescape(_UNSEEN.sub(" ", body.decode("utf-8", "replace")))
    text = " ".join(text.split())
    cut = text[: 2 * EXCERPT_CHARS]  # longer than shown: a secret cut in the middle would not be recognised
    shown = escape(redact(cut))
    return shown if len(shown) <= EXCERPT_CHARS else shown[: EXCERPT_CHARS - 1] + "…"


def _message(body: bytes) -> str | None:
    try:
        found: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None
    for _ in range(4):  # {"error": {"error": {"message": "…"}}}
        if not isinstance(found, dict):
            break
        found = next((found[name] for name in _MESSAGE_KEYS if found.get(name)), None)
    return found if isinstance(found, str) else None


def refused(status: int, body: bytes, *, retry_seconds: float | None = None, session: bool = False) -> Failure:
    """The failure for an error status; `session` says whether the request had a session id."""
    said = excerpt(body)
    en, zh = _REMEDIES.get(status, ("", ""))
    if status >= 500 and not en:
        en, zh = "server error", "服务器出错"
    later_en = later_zh = ""
    if retry_seconds is not None:
        later_en, later_zh = f", retry after {retry_seconds:.0f} s", f"，要求 {retry_seconds:.0f} 秒后再试"
    failure = Failure(
        f"the server answered HTTP {status}{en and f' ({en}{later_en})'}{said and f': {said}'}",
        f"服务器应答 HTTP {status}{zh and f'（{zh}{later_zh}）'}{said and f'：{said}'}",
        False if status in NOT_SENT else None,
        code=errors.TURNED_DOWN if 400 <= status < 500 and status not in NOT_SENT else None,
        status=status,
        retry_seconds=retry_seconds,
        session_lost=(status in (404, 410) and session) or (status in (400, 404, 409, 410, 422) and bool(_SESSION.search(said))),
    )
    if failure.session_lost:
        failure.delivered = False
    return failure


def names_lost_session(error: dict[str, Any]) -> bool:
    """Whether a JSON-RPC error says that the session is unknown; the request was not executed then."""
    return error.get("code") in _SESSION_CODES and bool(_SESSION.search(str(error.get("message", ""))))


def unreachable(error: BaseException, host: str, seconds: float) -> Failure:
    """No connection was possible."""
    cause = _cause(error)
    en, zh = f"no connection within {seconds:g} s: check host, port and firewall", f"{seconds:g} 秒内未能建立连接：请检查主机、端口与防火墙"
    if isinstance(error, httpx2.ConnectTimeout):
        pass
    elif isinstance(error, httpx2.PoolTimeout):
        en, zh = "too many concurrent requests", "并发请求过多"
    elif isinstance(cause, socket.gaierror):
        en, zh = f"the name {host} cannot be resolved: check url and DNS", f"无法解析域名 {host}：请检查 url 与 DNS"
    elif isinstance(cause, ssl.SSLCertVerificationError):
        why = getattr(cause, "verify_message", "") or "not valid"
        en, zh = f"its TLS certificate is not accepted: {why}", f"其 TLS 证书不被接受：{why}"
    elif isinstance(cause, ssl.SSLError):
        why = (getattr(cause, "reason", "") or type(cause).__name__).replace("_", " ").lower()
        en, zh = f"TLS failed: {why} (is this an https port?)", f"TLS 失败：{why}（该端口是否为 https？）"
    elif isinstance(cause, ConnectionRefusedError):
        en, zh = (
            "connection refused, nothing listens there: is the server started, is the port right?",
            "连接被拒绝：服务是否已启动、端口是否正确？",
        )
    else:
        why = getattr(cause, "strerror", None) or type(cause).__name__
        en, zh = escape(str(why)), escape(str(why))
    return Failure(f"the server cannot be reached: {en}", f"无法连接服务器：{zh}", False, unreachable=True)


def _cause(error: BaseException) -> BaseException:
    """The first operating system error in the chain of causes, else the innermost error."""
    for _ in range(16):
        if isinstance(error, OSError) and error.errno is not None:
            break
        causes = (error.__cause__, *error.args, *getattr(error, "exceptions", ()), error.__context__)
        inner = next((one for one in causes if isinstance(one, BaseException)), None)
        if inner is None:
            break
        error = inner
    return error


def unanswered(error: httpx2.TransportError, seconds: float) -> Failure:
    """The request was sent, but no response head arrived."""
    if isinstance(error, httpx2.TimeoutException):
        return Failure(f"the server did not answer within {seconds:g} s", f"服务器 {seconds:g} 秒内没有应答", None)
    if isinstance(error, httpx2.ProtocolError) and "disconnected" not in str(error):
        return Failure("the server did not answer in HTTP", "服务器的应答不是 HTTP", None)
    return Failure("the server did not answer: it closed the connection", "服务器没有应答：它关闭了连接", None)


def compressed(encoding: str) -> Failure:
    """A response that is compressed without being requested: its decompressed size is unknown."""
    shown = excerpt(encoding.encode())
    return Failure(
        f"the answer is compressed ({shown}), which was not asked for: switch compression off for this address",
        f"应答被压缩（{shown}），而请求并未要求：请为此地址关闭压缩",
        True,
        code=errors.UNREADABLE_ANSWER,
    )


def too_large(most: int) -> Failure:
    """A response above the limit."""
    return Failure(
        f"the answer is too large, more than {most} bytes (limits.provider_message_bytes)",
        f"应答过大，超过 {most} 字节（limits.provider_message_bytes）",
        True,
        code=errors.ANSWER_TOO_BIG,
    )


def unreadable(why: str, body: bytes, kind: str = "") -> Failure:
    """A response that is not JSON-RPC; `kind` is its content type if that is not JSON."""
    said = excerpt(body)
    of, of_zh = (f" ({kind})", f"（{kind}）") if kind else ("", "")
    page, page_zh = (" (a web page: check url)", "（这是网页：请检查 url）") if kind == "text/html" else ("", "")
    return Failure(
        f"the answer{of} cannot be read: {why}{said and f': {said}'}{page}",
        f"应答{of_zh}无法解析：{why}{said and f'：{said}'}{page_zh}",
        True,
        code=errors.UNREADABLE_ANSWER,
    )


def elsewhere(status: int, location: str) -> Failure:
    """A redirect that is not followed."""
    return Failure(
        f"the server redirects (HTTP {status}) to {location}, another origin or a method that would lose the message: "
        "if it is the right one, write it into url",
        f"服务器（HTTP {status}）重定向到 {location}：地址不同源或会丢失消息，未跟随；如地址正确，请写入 url",
        False,
        status=status,
    )


def in_circles(status: int, hops: int) -> Failure:
    """Too many redirects."""
    return Failure(
        f"the server redirects more than {hops} times (HTTP {status})", f"服务器重定向超过 {hops} 次（HTTP {status}）", False, status=status
    )


BROKEN_OFF: Final = Failure(
    "the answer broke off: the server or its proxy closed the connection", "应答中断：服务器或其前面的代理关闭了连接", None
)
NO_ANSWER: Final = Failure(
    "the server accepted the request but did not answer: look in its log", "服务器接收了请求但没有应答：请查看它的日志", None
)
TOO_LATE: Final = Failure("the answer was not complete in time", "应答未在时限内结束", None)
