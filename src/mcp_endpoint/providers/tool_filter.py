"""Selects and renames the tools of a server: hidden tools are in no list and cannot be called.

Consumers see the names given in `mcp.json`; the server receives and sends its own. `allow` and `deny` match the server's own names. A new
name that equals another tool's own name hides that other tool, with a warning in the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

import msgspec
from loguru import logger
from msgspec import UNSET

from .. import errors
from ..protocol import jsonrpc, methods
from ..protocol.jsonrpc import Frame, Malformed, Part, kind_of, members, parse, place_in_params, splice, whole

LISTS_REMEMBERED: Final = 1024
"""Requests for a list that wait for their response; the endpoint gives up on each after seconds."""


class ToolChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The changes to one tool; None keeps the server's value."""

    name: str | None = None
    """The name that consumers see."""
    description: str | None = None
    enabled: bool | None = None
    """False: hidden."""


class Checked(NamedTuple):
    """A frame for the server; or, if `refused`, the error response to its sender."""

    data: bytes
    refused: bool


class _CalledTool(msgspec.Struct):
    name: str


class _Cursor(msgspec.Struct):
    cursor: str | None = None


class _NamedTool(msgspec.Struct):
    name: str


class _List(msgspec.Struct):
    tools: list[msgspec.Raw]
    nextCursor: object = None


_call_decoder: Final = msgspec.json.Decoder(_CalledTool)
_cursor_decoder: Final = msgspec.json.Decoder(_Cursor)
_encode: Final = msgspec.json.Encoder().encode
_tool_decoder: Final = msgspec.json.Decoder(_NamedTool)
_list_decoder: Final = msgspec.json.Decoder(_List)


def shown(name: str, allow: Sequence[str], deny: Sequence[str]) -> bool:
    """Whether a tool passes: `allow` is empty or matches, and `deny` does not match. Shell patterns `*`, `?`, `[…]`, case-sensitive."""
    if allow and not any(fnmatchcase(name, pattern) for pattern in allow):
        return False
    return not any(fnmatchcase(name, pattern) for pattern in deny)


class ToolFilter:
    """The filter between one server and its endpoint, across restarts. It must see every frame of both directions, in order."""

    def __init__(
        self,
        allow: Sequence[str],
        deny: Sequence[str],
        changes: Mapping[str, ToolChange] | None = None,
        server: str = "",
    ) -> None:
        """`changes` by the server's own tool names; problems with them are logged for `server`."""
        self._allow = allow
        self._deny = deny
        self._server = server
        self._logged: set[str] = set()
        self._lists: dict[bytes, bool] = {}
        self.change(changes or {})

    def change(self, changes: Mapping[str, ToolChange]) -> None:
        """Replace the changes. Lists sent before are out of date."""
        self._changes = changes
        self._hidden = frozenset(own for own, change in changes.items() if change.enabled is False)
        self._own = {name: own for own in changes if self._shows(own) and (name := self._name_of(own)) != own}
        """Visible name → the server's own name, where they differ."""
        self._seen: set[str] = set()
        """Tools named in `changes` that occur in the current list."""
        self._covered: set[str] = set()
        """Tools in it that are hidden because another tool has their name."""
        self._from_start = False
        """Whether that list was seen from its first page on."""
        self.problems: tuple[str, ...] = ()
        """Mismatches between the changes and the last complete list, in both languages."""

    def begin(self) -> None:
        """The server was restarted: earlier requests get no response."""
        self._lists.clear()

    @property
    def open(self) -> bool:
        """Whether every frame passes unchanged."""
        return not self._allow and not self._deny and not self._changes

    def checked(self, first: Part, second: Part = b"", frame: Frame | None = None) -> Checked:
        """A frame (in two parts) from the endpoint, as the server gets it; or the error for a request that must not reach the server.

        `frame` is the parsed frame, if it was parsed. A frame that is not changed is returned as the same object.
        """
        data = whole(first, second)
        try:
            frame = frame or parse(data)
        except Malformed:
            return Checked(data, False)
        if frame.id is UNSET:
            return Checked(data, False)
        id = bytes(frame.id)
        params = frame.params if frame.params is not UNSET else msgspec.Raw(b"")
        if frame.method == methods.TOOLS_LIST:
            self._lists[id] = _is_first(params)
            if len(self._lists) > LISTS_REMEMBERED:
                del self._lists[next(iter(self._lists))]
        elif frame.method == methods.TOOLS_CALL:
            try:
                name = _call_decoder.decode(params).name
                members(params)  # rejects duplicate names, which the server might read differently
                own = self._own.get(name, name)
                if not self._shows(own) or (own == name and self._name_of(own) != name):
                    return Checked(_refusal(id), True)
                if own != name:
                    place = place_in_params(data, members(data), "name")
                    assert place is not None
                    data = splice(data, [(place.start, place.end, _encode(own))])
            except (msgspec.DecodeError, RecursionError, Malformed):
                return Checked(_refusal(id), True)
        return Checked(data, False)

    def passed(self, data: bytes, frame: Frame | None = None) -> bytes:
        """A frame from the server, as the endpoint gets it: lists are filtered and renamed, other frames unchanged.

        `frame` and the returned object as in `checked`.
        """
        if not self._lists:
            return data
        try:
            frame = frame or parse(data)
            if kind_of(frame) != "answer" or frame.id is UNSET or bytes(frame.id) not in self._lists:
                return data
            first = self._lists.pop(bytes(frame.id))
            if frame.result is UNSET:
                return data
            page = _list_decoder.decode(frame.result)
            if first:
                self._seen, self._covered, self._from_start = set(), set(), True
            before = [bytes(tool) for tool in page.tools]
            after = [shown for tool in before if (shown := self._as_shown(tool)) is not None]
            if self._from_start and not page.nextCursor:
                self._judge()
            if before == after:
                return data
            result = members(data)["result"]
            place = members(data[result.start : result.end])["tools"]
        except (Malformed, msgspec.DecodeError, RecursionError):
            return data  # not a readable list: pass it on
        return splice(data, [(result.start + place.start, result.start + place.end, b"[%b]" % b",".join(after))])

    def _name_of(self, own: str) -> str:
        """The visible name of a tool."""
        change = self._changes.get(own)
        return own if change is None or change.name is None else change.name

    def _shows(self, own: str) -> bool:
        """Whether the server's tool of this name is visible."""
        return own not in self._hidden and shown(own, self._allow, self._deny)

    def _as_shown(self, definition: bytes) -> bytes | None:
        """The definition of a tool as consumers see it; None for a hidden one."""
        try:
            own = _tool_decoder.decode(definition).name
            change = self._changes.get(own)
            if change is not None:
                self._seen.add(own)
            if not self._shows(own):
                return None
            if self._own.get(self._name_of(own), own) != own:
                self._covered.add(own)
                return None
            if change is None:
                return definition
            places = members(definition)
        except (msgspec.DecodeError, RecursionError, Malformed):
            return None
        edits: list[tuple[int, int, bytes]] = []
        name = places["name"]
        if change.name is not None and change.name != own:
            edits.append((name.start, name.end, _encode(change.name)))
        if change.description is not None:
            text = _encode(change.description)
            if "description" in places:
                edits.append((places["description"].start, places["description"].end, text))
            else:
                edits.append((name.end, name.end, b',"description":' + text))
        return splice(definition, edits) if edits else definition

    def _judge(self) -> None:
        """At the end of a list: log the changes that do not match it."""
        found = [_unknown(own) for own in self._changes if own not in self._seen]
        found += [_taken(self._own[own], own) for own in sorted(self._covered)]
        self.problems = tuple(f"{zh} / {en}" for en, zh in found)
        for en, zh in found:
            if en not in self._logged and len(self._logged) < LISTS_REMEMBERED:
                self._logged.add(en)
                logger.warning("tools 的设置与服务器不符 / its tools do not match its entry: {} / {}", zh, en, server=self._server)


def collisions(changes: Mapping[str, ToolChange]) -> Iterable[tuple[str, str]]:
    """The changes that give a tool the name of another: (the server's own name, the name)."""
    taken: set[str] = set()
    for own, change in changes.items():
        name = own if change.name is None else change.name
        if change.enabled is not False:
            if name in taken:
                yield own, name
            taken.add(name)


def _is_first(params: msgspec.Raw) -> bool:
    """Whether the request is for the first page."""
    try:
        return _cursor_decoder.decode(params).cursor is None
    except (msgspec.DecodeError, RecursionError):
        return True


def _unknown(own: str) -> tuple[str, str]:
    return (
        f"tools.{own}: the server has no tool of this name; correct or remove the name",
        f"tools.{own}：服务器没有此名称的工具，请更正或删除",
    )


def _taken(own: str, name: str) -> tuple[str, str]:
    return (
        f"tools.{own}.name: the server has another tool named {name}, which is hidden now; choose another name, or rename that one too",
        f"tools.{own}.name：服务器另有名为 {name} 的工具，现已不显示；请换一个名称，或为那个工具也起新名称",
    )


def _refusal(id: bytes) -> bytes:
    hint = "this server's entry does not show this tool (allow, deny, tools) / 服务器配置没有开放此工具（allow、deny、tools）"
    return jsonrpc.error(id, errors.INVALID_PARAMS, {"source": "broker", "delivered": False, "hint": hint})
