"""All errors that a person or a peer can get: codes, messages in both languages, and close reasons."""

from __future__ import annotations

from typing import Final, NamedTuple

EXIT_CONFIG: Final = 78
"""Exit status for an error in the configuration (sysexits.h, EX_CONFIG)."""
EXIT_FAILURE: Final = 1
"""Exit status for a failed start, such as a port in use."""


class EndpointError(Exception):
    """An error that a person can fix, in both languages.

    `en` and `zh` say what happened, why, and what to do; `place` is `file:line:column` where there is one.
    """

    exit_code: int = EXIT_FAILURE

    def __init__(self, en: str, zh: str, *, place: str = "") -> None:
        super().__init__(en)
        self.en = en
        self.zh = zh
        self.place = place

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        return f"{where}{self.zh}\n{where}{self.en}"


def halves(both: str) -> tuple[str, str]:
    """Split `Chinese / English`, the form of texts in `/stats`, into (English, Chinese); a text without a slash stands for both.

    Foreign text occurs in both halves alike, so the middle slash is the separator.
    """
    parts = both.split(" / ")
    half = len(parts) // 2
    return (" / ".join(parts[half:]), " / ".join(parts[:half])) if half else (both, both)


class ConfigError(EndpointError):
    """The configuration is invalid; nothing was changed."""

    exit_code = EXIT_CONFIG


class Code(NamedTuple):
    """A JSON-RPC error of this server: its number and its bilingual message."""

    number: int
    message: str


# JSON-RPC 2.0 §5.1
PARSE_ERROR: Final = Code(-32700, "JSON 解析失败 / Parse error")
INVALID_REQUEST: Final = Code(-32600, "无效的请求 / Invalid request")
METHOD_NOT_FOUND: Final = Code(-32601, "方法不存在 / Method not found")
INVALID_PARAMS: Final = Code(-32602, "参数无效 / Invalid params")
# Our own. -32002 stays unused: MCP uses it for "resource not found".
NO_PROVIDER: Final = Code(-32001, "工具端未连接 / No tool is connected to this endpoint")
PROVIDER_GONE: Final = Code(-32003, "调用中断，没有结果 / The call was cut off and has no result")
NOT_ALLOWED: Final = Code(-32004, "密钥验证失败 / Not allowed")
BUSY: Final = Code(-32005, "繁忙，请稍后再试 / Busy, try again later")
TIMED_OUT: Final = Code(-32006, "工具端超时未应答 / The tool did not answer in time")
ANSWER_TOO_BIG: Final = Code(-32007, "工具端的应答过大 / The tool's answer is too big")
UNREADABLE_ANSWER: Final = Code(-32008, "工具端的应答无法读取 / The tool's answer cannot be read")
# The same numbers with other messages: clients react in the same way, but the texts above would not be true.
NOT_TAKEN: Final = Code(NO_PROVIDER.number, "工具的服务器没有接受请求 / The tool's server did not take the request")
NOT_LINKED: Final = Code(NO_PROVIDER.number, "未连接到接入点服务器 / There is no link to the endpoint server")
TURNED_DOWN: Final = Code(UNREADABLE_ANSWER.number, "工具的服务器拒绝了请求 / The tool's server refused the request")


class CloseReason(NamedTuple):
    """Why a link ends: an RFC 6455 §7.4 close code with an ASCII reason of at most 123 bytes."""

    code: int
    reason: str


# The table of close reasons. Reconnect after 1001, 1011, 1012 and 1013; after 1008 and 1009 fix the cause first.
GOING_AWAY: Final = CloseReason(1001, "going away")
RESTARTING: Final = CloseReason(1012, "restarting, reconnect in a moment")
TOO_MANY_BAD_FRAMES: Final = CloseReason(1008, "too many frames that are not JSON-RPC")
TOO_MANY_FRAGMENTS: Final = CloseReason(1008, "too many fragments in one message")
INVALID_TEXT: Final = CloseReason(1007, "text that is not UTF-8: send UTF-8 (Python on Windows: set PYTHONUTF8=1)")
TOO_BIG: Final = CloseReason(1009, "message too big")
SLOW_MESSAGE: Final = CloseReason(1008, "message not complete in time")
OVER_BUDGET: Final = CloseReason(1013, "too many bytes waiting, try again later")
KEEPALIVE: Final = CloseReason(1011, "keepalive ping timeout")
CROWDED_OUT: Final = CloseReason(1013, "this endpoint has most links, another needs room")
NOT_READING: Final = CloseReason(1013, "not reading, queue full")
INTERNAL: Final = CloseReason(1011, "internal error")
TOOL_ENDED: Final = CloseReason(1011, "the tool's process ended, it is being restarted")
