"""Which tools of a server are shown: the others stand in no list and cannot be called."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final

import msgspec
from msgspec import UNSET

from .. import errors
from ..protocol import jsonrpc
from ..protocol.jsonrpc import Malformed, members, parse, splice

LISTS_REMEMBERED: Final = 1024
"""Lists a server was asked for and has not given yet; the endpoint gives up on each of them after seconds."""


class _CallParams(msgspec.Struct):
    name: str


class _Tool(msgspec.Struct):
    name: str


class _List(msgspec.Struct):
    tools: list[msgspec.Raw]


_call_decoder: Final = msgspec.json.Decoder(_CallParams)
_tool_decoder: Final = msgspec.json.Decoder(_Tool)
_list_decoder: Final = msgspec.json.Decoder(_List)


def shown(name: str, allow: Sequence[str], deny: Sequence[str]) -> bool:
    """Whether a tool passes: `allow` names it or is empty, and `deny` does not. Patterns are the shell's: `*`, `?`, `[…]`; case counts."""
    if allow and not any(fnmatchcase(name, pattern) for pattern in allow):
        return False
    return not any(fnmatchcase(name, pattern) for pattern in deny)


class Sieve:
    """Stands between one server and its endpoint. It sees every frame of both directions, in order."""

    def __init__(self, allow: Sequence[str], deny: Sequence[str]) -> None:
        self._allow = allow
        self._deny = deny
        self._lists: dict[bytes, None] = {}

    @property
    def open(self) -> bool:
        """Whether everything passes, so that nothing has to be looked at."""
        return not self._allow and not self._deny

    def refused(self, data: bytes) -> bytes | None:
        """The answer to a request for the server that it must not see; None for everything that goes on."""
        try:
            frame = parse(data)
        except Malformed:
            return None
        if frame.id is UNSET:
            return None
        id = bytes(frame.id)
        if frame.method == "tools/list":
            self._lists[id] = None
            if len(self._lists) > LISTS_REMEMBERED:
                del self._lists[next(iter(self._lists))]
        elif frame.method == "tools/call":
            try:
                params = frame.params if frame.params is not UNSET else msgspec.Raw(b"")
                name = _call_decoder.decode(params).name
                members(params)  # a name that stands there twice may be read otherwise by the server
            except (msgspec.DecodeError, RecursionError, Malformed):
                return self._refusal(id)
            if not shown(name, self._allow, self._deny):
                return self._refusal(id)
        return None

    def passed(self, data: bytes) -> bytes:
        """A frame of the server as it goes on: a list without the tools that are not shown, all else as it is."""
        if not self._lists:
            return data
        try:
            frame = parse(data)
            if frame.method is not UNSET or frame.id is UNSET or bytes(frame.id) not in self._lists:
                return data
            del self._lists[bytes(frame.id)]
            if frame.result is UNSET:
                return data
            tools = _list_decoder.decode(frame.result).tools
            kept = [bytes(tool) for tool in tools if self._kept(tool)]
            if len(kept) == len(tools):
                return data
            result = members(data)["result"]
            place = members(data[result.start : result.end])["tools"]
        except (Malformed, msgspec.DecodeError, RecursionError):
            return data  # no list that a consumer could read either
        return splice(data, [(result.start + place.start, result.start + place.end, b"[" + b",".join(kept) + b"]")])

    def _kept(self, tool: msgspec.Raw) -> bool:
        try:
            return shown(_tool_decoder.decode(tool).name, self._allow, self._deny)
        except (msgspec.DecodeError, RecursionError):
            return False

    @staticmethod
    def _refusal(id: bytes) -> bytes:
        hint = "this server's entry does not show this tool (allow, deny) / 服务器配置没有开放此工具（allow、deny）"
        return jsonrpc.error(id, errors.INVALID_PARAMS, {"source": "broker", "delivered": False, "hint": hint})
