"""Which tools of a server are shown, and under which names and descriptions: the others stand in no list and cannot be called.

Names outside are the ones given in `mcp.json`; the server itself hears and says its own. `allow` and `deny` mean the server's own names.
A name that is given to one tool is taken from another of the server that bears it: that one is not shown, and the operator hears of it.
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
from ..protocol.jsonrpc import Malformed, Part, members, parse, place_in_params, splice

LISTS_REMEMBERED: Final = 1024
"""Lists a server was asked for and has not given yet; the endpoint gives up on each of them after seconds."""


class ToolChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an entry says of one tool; None leaves it as the server has it."""

    name: str | None = None
    """What it is called outside."""
    description: str | None = None
    enabled: bool | None = None
    """False: not shown."""


class Checked(NamedTuple):
    """A frame for the server as it goes on; or, `refused`, the answer that its sender gets instead."""

    data: bytes
    refused: bool


class _CallParams(msgspec.Struct):
    name: str


class _ListParams(msgspec.Struct):
    cursor: str | None = None


class _Tool(msgspec.Struct):
    name: str


class _List(msgspec.Struct):
    tools: list[msgspec.Raw]
    nextCursor: object = None


_call_decoder: Final = msgspec.json.Decoder(_CallParams)
_cursor_decoder: Final = msgspec.json.Decoder(_ListParams)
_encode: Final = msgspec.json.Encoder().encode
_tool_decoder: Final = msgspec.json.Decoder(_Tool)
_list_decoder: Final = msgspec.json.Decoder(_List)


def shown(name: str, allow: Sequence[str], deny: Sequence[str]) -> bool:
    """Whether a tool passes: `allow` names it or is empty, and `deny` does not. Patterns are the shell's: `*`, `?`, `[…]`; case counts."""
    if allow and not any(fnmatchcase(name, pattern) for pattern in allow):
        return False
    return not any(fnmatchcase(name, pattern) for pattern in deny)


class ToolFilter:
    """Stands between one server and its endpoint, through all lives of the server. It sees every frame of both directions, in order."""

    def __init__(
        self,
        allow: Sequence[str],
        deny: Sequence[str],
        changes: Mapping[str, ToolChange] | None = None,
        server: str = "",
    ) -> None:
        """`changes` says what is changed of which tool, by the server's own names; what is wrong with them is logged for `server`."""
        self._allow = allow
        self._deny = deny
        self._server = server
        self._told: set[str] = set()
        self._lists: dict[bytes, bool] = {}
        self.change(changes or {})

    def change(self, changes: Mapping[str, ToolChange]) -> None:
        """From now on these are the changes. Lists that were given before are out of date."""
        self._changes = changes
        self._hidden = frozenset(own for own, change in changes.items() if change.enabled is False)
        self._own = {name: own for own in changes if self._shows(own) and (name := self._name_of(own)) != own}
        """Name outside → the server's own name, where they differ."""
        self._seen: set[str] = set()
        """Of the tools that `changes` names, those in the list that is being given."""
        self._covered: set[str] = set()
        """The tools in it that are not shown because another bears their name."""
        self._from_start = False
        """Whether that list was seen from its first page on."""
        self.problems: tuple[str, ...] = ()
        """What is wrong with the changes as the server's last whole list shows, each in both languages."""

    def begin(self) -> None:
        """A new life of the server: what was asked before is answered no more."""
        self._lists.clear()

    @property
    def open(self) -> bool:
        """Whether everything passes, so that nothing has to be looked at."""
        return not self._allow and not self._deny and not self._changes

    def checked(self, first: Part, second: Part = b"") -> Checked:
        """A frame of the endpoint, in two parts, as its server gets it; or the answer to a request that the server must not see."""
        data = b"".join((first, second))
        try:
            frame = parse(data)
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
                members(params)  # a name that stands there twice may be read otherwise by the server
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

    def passed(self, data: bytes) -> bytes:
        """A frame of the server as it goes on: a list with the tools that are shown, as they are to be shown; all else as it is."""
        if not self._lists:
            return data
        try:
            frame = parse(data)
            if frame.method is not UNSET or frame.id is UNSET or bytes(frame.id) not in self._lists:
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
            return data  # no list that a consumer could read either
        return splice(data, [(result.start + place.start, result.start + place.end, b"[%b]" % b",".join(after))])

    def _name_of(self, own: str) -> str:
        """What a tool is called outside."""
        change = self._changes.get(own)
        return own if change is None or change.name is None else change.name

    def _shows(self, own: str) -> bool:
        """Whether the server's tool of this name is shown at all."""
        return own not in self._hidden and shown(own, self._allow, self._deny)

    def _as_shown(self, definition: bytes) -> bytes | None:
        """A tool as it stands in the list outside; None for one that is not shown."""
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
        """The list was given to its end: say which changes do not fit it."""
        found = [_unknown(own) for own in self._changes if own not in self._seen]
        found += [_taken(self._own[own], own) for own in sorted(self._covered)]
        self.problems = tuple(f"{zh} / {en}" for en, zh in found)
        for en, zh in found:
            if en not in self._told and len(self._told) < LISTS_REMEMBERED:
                self._told.add(en)
                logger.warning("tools 的设置与服务器不符 / its tools are not as its entry says: {} / {}", zh, en, server=self._server)


def collisions(changes: Mapping[str, ToolChange]) -> Iterable[tuple[str, str]]:
    """The changes that give a tool a name which another of them has: (the server's own name, the name)."""
    taken: set[str] = set()
    for own, change in changes.items():
        name = own if change.name is None else change.name
        if change.enabled is not False:
            if name in taken:
                yield own, name
            taken.add(name)


def _is_first(params: msgspec.Raw) -> bool:
    """Whether a list is asked for from its beginning."""
    try:
        return _cursor_decoder.decode(params).cursor is None
    except (msgspec.DecodeError, RecursionError):
        return True


def _unknown(own: str) -> tuple[str, str]:
    return (
        f"tools.{own}: the server has no tool of this name; correct the name or take it out",
        f"tools.{own}：服务器没有此名称的工具，请更正或删除",
    )


def _taken(own: str, name: str) -> tuple[str, str]:
    return (
        f"tools.{own}.name: the server has another tool named {name}, which is not shown now; choose another name, or rename that one too",
        f"tools.{own}.name：服务器另有名为 {name} 的工具，现已不显示；请换一个名称，或为那个工具也起新名称",
    )


def _refusal(id: bytes) -> bytes:
    hint = "this server's entry does not show this tool (allow, deny, tools) / 服务器配置没有开放此工具（allow、deny、tools）"
    return jsonrpc.error(id, errors.INVALID_PARAMS, {"source": "broker", "delivered": False, "hint": hint})
