"""Lists and calls the tools of endpoints for the console, with one consumer per endpoint that is detached soon after its last use."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import msgspec

from ..access.tokens import NAME, SINGLE_MODULE
from ..consumers.local import Failed, Local
from ..core.broker import INNER, Broker
from ..errors import halves
from ..pages import NotThere, Visit
from ..protocol.definitions import Tool
from ..settings.schema import Limits
from . import forms
from .forms import Wrong

IDLE_SECONDS: Final = 60.0
"""How long a consumer stays after its last use: whoever looks at a tool mostly calls it next."""
MOST: Final = 32
"""Endpoints that the console is at; beyond, it leaves the one unused for longest."""
LIST_SECONDS: Final = 10.0
"""How long a page waits for a list of tools."""


class Wanted(msgspec.Struct):
    """One call."""

    endpoint: str
    """By its printed name."""
    tool: str
    arguments: msgspec.Raw = msgspec.Raw(b"{}")
    """A JSON object."""


class _Place:
    """The console's consumer at one endpoint."""

    def __init__(self, local: Local) -> None:
        self.local = local
        self.users = 0
        self.leaving: asyncio.TimerHandle | None = None


class Calls:
    """The console's consumers."""

    def __init__(self, broker: Broker, limits: Limits) -> None:
        self._broker = broker
        self._limits = limits
        self._places: dict[tuple[str, str], _Place] = {}

    def endpoints(self) -> list[str]:
        """The printed names of the endpoints that have a link now, each once, and of the one that is always there."""
        shown = {one.shown for one in self._broker.endpoints.values() if not one.name.startswith(INNER)}
        return sorted(shown | {SINGLE_MODULE})

    def close(self) -> None:
        """Leave every endpoint."""
        for place in list(self._places):
            self._leave(place)

    async def tools(self, shown: str) -> list[Tool]:
        """The tools of an endpoint. Raises NotThere, Failed and TimeoutError."""
        with self._at(shown) as local:
            async with asyncio.timeout(LIST_SECONDS):
                return await local.tools()

    async def facts(self, visit: Visit) -> Mapping[str, Any]:
        """What the page of tools shows: the endpoints, the tools of the one that is asked for, and the form of the tool that is."""
        shown = visit.query.get("endpoint") or SINGLE_MODULE
        problem = None
        tools: list[Tool] = []
        try:
            tools = await self.tools(shown)
        except Failed as failed:
            problem = _error(failed)
        except TimeoutError:
            en, zh = f"no list of tools within {LIST_SECONDS:g} s", f"{LIST_SECONDS:g} 秒内没有工具列表"
            problem = {"en": en, "zh": zh}
        chosen = visit.query.get("tool", "")
        return {
            "endpoint": shown,
            "endpoints": self.endpoints(),
            "tools": [_described(tool) for tool in tools],
            "tool": next((_with_form(tool) for tool in tools if tool.name == chosen), None),
            "chosen": chosen,
            "arguments": visit.query.get("arguments", ""),
            "problem": problem,
            "may_call": visit.may("tools.call"),
            "called": None,
        }

    @staticmethod
    def of_json(body: bytes) -> Wanted:
        """The call in a JSON body: `endpoint`, `tool`, `arguments`. Raises Wrong."""
        try:
            wanted = msgspec.json.decode(body, type=Wanted)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Wrong("Send an object with endpoint, tool and arguments", "请发送含 endpoint、tool 和 arguments 的对象") from None
        if not bytes(wanted.arguments).lstrip().startswith(b"{"):
            raise Wrong("arguments is not an object", "arguments 不是对象")
        return wanted

    async def of_form(self, fields: Mapping[str, str]) -> Wanted:
        """The call that a filled-in form means. Raises Wrong and NotThere."""
        endpoint, name = fields.get("endpoint", ""), fields.get("tool", "")
        try:
            tool = next((one for one in await self.tools(endpoint) if one.name == name), None)
        except (Failed, TimeoutError):
            raise Wrong("The tools of this endpoint cannot be listed now", "现在无法列出此接入点的工具") from None
        if tool is None:
            raise Wrong(f"There is no tool {name} now", f"现在没有工具 {name}")
        return Wanted(endpoint, name, msgspec.Raw(forms.arguments(forms.schema_of(tool.definition), fields)))

    async def call(self, wanted: Wanted) -> dict[str, Any]:
        """Call a tool: whether it went well, its result or error, and how long it took, ready for JSON. Raises NotThere."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        answer: dict[str, Any]
        with self._at(wanted.endpoint) as local:
            try:
                result = await local.call(wanted.tool, wanted.arguments)
            except Failed as failed:
                answer = {"ok": False, "error": {"code": failed.code, "message": failed.message, "data": failed.data, **_error(failed)}}
            else:
                answer = {"ok": not _says_error(result), "result": msgspec.Raw(result)}
        milliseconds = round((loop.time() - began) * 1_000, 1)
        return {"endpoint": wanted.endpoint, "tool": wanted.tool, "milliseconds": milliseconds, **answer}

    @contextmanager
    def _at(self, shown: str) -> Iterator[Local]:
        """The consumer at an endpoint, while it is used. Raises NotThere."""
        key = self._named(shown)
        place = self._places.pop(key, None)
        if place is None:
            if len(self._places) >= MOST:
                unused = next((other for other, one in self._places.items() if not one.users), None)
                if unused is None:
                    raise NotThere("Too many endpoints are being asked", "正在查看的接入点过多")
                self._leave(unused)
            place = _Place(Local(self._broker, *key, self._limits))
        self._places[key] = place  # the last one used stands last
        if place.leaving is not None:
            place.leaving.cancel()
            place.leaving = None
        place.users += 1
        try:
            yield place.local
        finally:
            place.users -= 1
            if not place.users and self._places.get(key) is place:
                place.leaving = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._leave, key)

    def _leave(self, key: tuple[str, str]) -> None:
        place = self._places.pop(key)
        if place.leaving is not None:
            place.leaving.cancel()
        place.local.close(1001, "going away")

    def _named(self, shown: str) -> tuple[str, str]:
        """The endpoint that is printed as `shown`: the one that has links, else that of an agent. Raises NotThere."""
        for endpoint in self._broker.endpoints.values():
            if endpoint.shown == shown and not endpoint.name.startswith(INNER):
                return endpoint.name, shown
        if not NAME.fullmatch(shown) or shown.startswith("opaque-"):
            raise NotThere("There is no such endpoint now", "现在没有这个接入点")
        return f"agent:{shown}", shown


class _Result(msgspec.Struct):
    isError: bool = False


def _says_error(result: bytes) -> bool:
    try:
        return msgspec.json.decode(result, type=_Result).isError
    except (msgspec.DecodeError, RecursionError):
        return False


def _error(failed: Failed) -> dict[str, str]:
    """Why something failed, with the hint the broker gives, in both languages."""
    hint = failed.data.get("hint") if isinstance(failed.data, dict) else None
    both = failed.message if not isinstance(hint, str) else f"{failed.message}"
    en, zh = halves(both)
    if isinstance(hint, str):
        hint_en, hint_zh = halves(hint)
        en, zh = f"{en}: {hint_en}", f"{zh}：{hint_zh}"
    return {"en": en, "zh": zh}


class _About(NamedTuple):
    title: str
    description: str


class _Definition(msgspec.Struct):
    title: Any = None
    description: Any = None
    annotations: Any = None


def _about(tool: Tool) -> _About:
    try:
        found = msgspec.json.decode(tool.definition, type=_Definition)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _About("", "")
    title = found.title or (found.annotations.get("title") if isinstance(found.annotations, dict) else "")
    return _About(title if isinstance(title, str) else "", found.description if isinstance(found.description, str) else "")


def _described(tool: Tool) -> dict[str, Any]:
    about = _about(tool)
    return {"name": tool.name, "title": about.title, "description": about.description}


def _with_form(tool: Tool) -> dict[str, Any]:
    schema = forms.schema_of(tool.definition)
    return {**_described(tool), "inputs": forms.inputs(schema), "schema": schema}
