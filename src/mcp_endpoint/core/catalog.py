"""The merged tools of one endpoint: which provider has which tool, under which name, and who answers.

Prompts, resources and resource templates have catalogs of their own with the same rules; a resource's URI corresponds to a tool's name.

Rules of this module:

1. A tool belongs to a label. The same name under the same label from several providers means replicas of one tool: the newest answers, and
   older ones take over when it leaves. A replica whose last call timed out is second choice until it answers anything.
2. The first label with a name exports it unchanged, also Chinese names; another label's tool of that name is exported as `label__name`.
   An exported name means the same (label, tool) for the catalog's lifetime; only when no names are left, those that are on no shelf and
   were never called are reused.
3. Names are assigned in the order in which the providers attached, when they are first needed (`settle`), so that the order in which
   handshakes end does not matter.
4. The list is a function of the shelves: equal shelves give equal bytes in the same order.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import msgspec

from ..protocol import methods
from ..protocol.definitions import Tool
from ..protocol.jsonrpc import Malformed, members, splice
from .parties import Provider

NAME_CHARS: Final = 64
"""Characters. Longest function name that language models accept behind xiaozhi-server."""

LONGEST_PAGE: Final = 4096
"""Most tools of one page that are read."""
NAMES_PER_TOOL: Final = 16
"""Most names an endpoint assigns, per tool of its limit; bounds a provider that keeps renaming its tools."""
LABELS: Final = 1024
"""Most server_ids an endpoint remembers to distinguish labels with the same spelling."""
LONGEST_NAME: Final = 1024
"""Characters. A tool with a longer name is left out; MCP recommends 128."""

_OUTSIDE_LABEL: Final = re.compile(r"[^A-Za-z0-9_-]")
_encode: Final = msgspec.json.Encoder().encode


class Shelf:
    """The tools of one provider; kept for a while after the provider left (`left` is then the time)."""

    __slots__ = ("label", "left", "order", "provider", "tools")

    def __init__(self, provider: Provider, label: str, order: int, tools: dict[str, Tool]) -> None:
        self.provider = provider
        self.label = label
        self.order = order
        self.tools = tools
        self.left: float | None = None


class Kind(NamedTuple):
    """What a catalog contains, and how MCP lists it."""

    method: str
    """The method that lists them."""
    member: str
    """Their member in its result."""
    key: str
    """The field that identifies one."""
    capability: str
    """The capability that a provider must have declared."""
    join: Callable[[str, str, str], str]
    """Builds the exported name from label and name where the name is taken; a third part distinguishes two equal results."""
    decoder: msgspec.json.Decoder[Any]
    named: msgspec.json.Decoder[Any]


def _kind(method: str, member: str, key: str, capability: str, join: Callable[[str, str, str], str]) -> Kind:
    page = msgspec.defstruct("Page", [(member, list[msgspec.Raw]), ("nextCursor", str | None, None)])
    named = msgspec.defstruct("Named", [(key, str)])
    return Kind(method, member, key, capability, join, msgspec.json.Decoder(page), msgspec.json.Decoder(named))


def joined_name(label: str, name: str, more: str = "") -> str:
    """`label__name`; above 64 characters cut, with six hex digits of its SHA-256 or `more`."""
    whole = f"{label}__{name}"
    if len(whole) <= NAME_CHARS and not more:
        return whole
    return f"{whole[: NAME_CHARS - 7]}_{more or _digest(whole)}"


def joined_uri(label: str, uri: str, more: str = "") -> str:
    """`label+uri`: a valid URI (RFC 3986 §3.1 allows `+`, `-` and digits in a scheme, but no `_` and no leading digit)."""
    scheme = label.replace("_", "-") + (f"-{more}" if more else "")
    return f"{scheme if scheme[:1].isalpha() else 'x' + scheme}+{uri}"


TOOLS: Final = _kind(methods.TOOLS_LIST, "tools", "name", "tools", joined_name)
PROMPTS: Final = _kind(methods.PROMPTS_LIST, "prompts", "name", "prompts", joined_name)
RESOURCES: Final = _kind(methods.RESOURCES_LIST, "resources", "uri", "resources", joined_uri)
TEMPLATES: Final = _kind(methods.TEMPLATES_LIST, "resourceTemplates", "uriTemplate", "resources", joined_uri)


def read_page(result: bytes | msgspec.Raw, most: int = LONGEST_PAGE, kind: Kind = TOOLS) -> tuple[list[Tool], str | None] | None:
    """The tools and the next cursor of a `tools/list` result (or of another kind's); None if it is not one.

    At most `most` of them are read: half a million names on one page would block everybody. A tool without a name, with a too long name,
    or with a repeated key cannot be called and is left out.
    """
    try:
        page = kind.decoder.decode(result)
    except (msgspec.DecodeError, RecursionError):
        return None
    tools: list[Tool] = []
    for raw in getattr(page, kind.member)[:most]:
        tool = read_tool(bytes(raw), kind)
        if tool is not None:
            tools.append(tool)
    return tools, page.nextCursor or None


def read_tool(definition: bytes, kind: Kind = TOOLS) -> Tool | None:
    """One tool's definition, or None without a usable name."""
    try:
        name = getattr(kind.named.decode(definition), kind.key)
        place = members(definition)[kind.key]
    except (msgspec.DecodeError, RecursionError, Malformed):
        return None
    return Tool(name, definition, place) if 0 < len(name) <= LONGEST_NAME else None


class _Hints(msgspec.Struct):
    readOnlyHint: bool = False
    idempotentHint: bool = False


class _Annotated(msgspec.Struct):
    annotations: _Hints | None = None


_annotated_decoder: Final = msgspec.json.Decoder(_Annotated)


def is_repeatable(tool: Tool) -> bool:
    """Whether a tool declares itself read-only or idempotent (MCP, ToolAnnotations)."""
    try:
        hints = _annotated_decoder.decode(tool.definition).annotations
    except (msgspec.DecodeError, RecursionError):
        return False
    return hints is not None and (hints.readOnlyHint or hints.idempotentHint)


def clean_label(text: str) -> str:
    """A label with only the characters that all consumers allow (xiaozhi-server: contract 1.4)."""
    return _OUTSIDE_LABEL.sub("_", text)[:NAME_CHARS]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


_NO_OWNERS: Final[dict[str, tuple[str, str]]] = {}
_NO_EXPORTED: Final[dict[tuple[str, str], str]] = {}
_NO_CALLED: Final[dict[str, None]] = {}
_NO_LABELS: Final[dict[str, str]] = {}
"""The empty tables of a catalog without tools, shared by all such catalogs; never filled."""


class Catalog:
    """The tools of one endpoint. `limit` is the number of tools, `page_bytes` the size of a page of a paged list."""

    __slots__ = (
        "_fingerprint",
        "_labels",
        "_pages",
        "called",
        "exported",
        "full",
        "kind",
        "limit",
        "owners",
        "page_bytes",
        "revision",
        "shelves",
    )

    def __init__(self, limit: int, page_bytes: int, kind: Kind = TOOLS) -> None:
        self.kind = kind
        self.limit = limit
        self.page_bytes = page_bytes
        self.shelves: list[Shelf] = []
        self.owners = _NO_OWNERS
        self.exported = _NO_EXPORTED
        self.called = _NO_CALLED
        """Exported names that were called; their meaning is kept."""
        self.full = False
        """Whether a tool on a shelf has no name because none is left."""
        self.revision = 0
        self._labels = _NO_LABELS
        self._pages: list[bytes] | None = None
        self._fingerprint = b""

    # -- shelves -----------------------------------------------------------------------------------------------------------

    def label_for(self, server_id: str, server_name: str) -> str:
        """The label of a provider: its server_id, else its serverInfo.name, else `tool`.

        Different server_ids never share a label, even if they differ only in characters that a label cannot contain.
        """
        label = clean_label(server_id or server_name) or "tool"
        if not server_id:
            return label
        if label not in self._labels and len(self._labels) < LABELS:
            self._labels = {**self._labels, label: server_id}
        if self._labels.get(label) == server_id:
            return label
        return f"{label[: NAME_CHARS - 7]}_{_digest(server_id)}"

    def shelf_of(self, provider: Provider) -> Shelf | None:
        """The provider's shelf, also after it left."""
        for shelf in self.shelves:
            if shelf.provider is provider:
                return shelf
        return None

    def put(self, provider: Provider, label: str, order: int, tools: Iterable[Tool]) -> int:
        """Set a provider's tools; replaces its earlier ones, and shelves of its label whose providers have left.

        Returns the number of tools left out: those above the limit (a replica needs no room, so that a reconnecting tool is not cut while
        its old link still exists), and those larger than a page, which would make the list unreadable for a device.
        """
        kept = [shelf for shelf in self.shelves if shelf.left is None or shelf.label != label]
        nobody_left = len(kept) == len(self.shelves)
        self.shelves = kept
        old = self.shelf_of(provider)
        here = {(shelf.label, name) for shelf in self.shelves if shelf is not old and shelf.left is None for name in shelf.tools}
        room = self.limit - len(here)
        named: dict[str, Tool] = {}
        left_out: set[str] = set()
        for tool in tools:
            name = tool.name
            new = name not in named and (label, name) not in here
            if len(tool.definition) > self.page_bytes or (new and room <= 0):
                left_out.add(name)
                continue
            named[name] = tool
            room -= new
        if old is not None:
            if nobody_left and old.label == label and old.tools == named:
                return len(left_out)  # unchanged: keep the encoded list
            self.shelves.remove(old)
        self.shelves.append(Shelf(provider, label, order, named))
        self.shelves.sort(key=lambda shelf: shelf.order)
        self._make_room()
        self.changed()
        return len(left_out)

    def _make_room(self) -> None:
        """Shelves of providers that left count too: drop the oldest when there are too many tools."""
        left = sorted((shelf for shelf in self.shelves if shelf.left is not None), key=lambda shelf: shelf.left or 0.0)
        total = sum(len(shelf.tools) for shelf in self.shelves)
        for shelf in left:
            if total <= self.limit:
                return
            total -= len(shelf.tools)
            self.shelves.remove(shelf)

    def leave(self, provider: Provider, now: float) -> None:
        """The provider has left; its shelf stays until `sweep` removes it."""
        shelf = self.shelf_of(provider)
        if shelf is not None:
            shelf.left = now
            self.changed()

    def sweep(self, before: float) -> bool:
        """Remove the shelves left at or before `before`; returns whether there were any."""
        kept = [shelf for shelf in self.shelves if shelf.left is None or shelf.left > before]
        if len(kept) == len(self.shelves):
            return False
        self.shelves = kept
        self.changed()
        return True

    def clear(self) -> None:
        """Remove all shelves."""
        self.shelves.clear()
        self.changed()

    def changed(self) -> None:
        """Drop what was computed from the shelves."""
        self.revision += 1
        self._pages = None
        self.full = False

    # -- names -------------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Assign a lasting name to every tool on the shelves."""
        most = self.limit * NAMES_PER_TOOL
        for shelf in self.shelves:
            for name in shelf.tools:
                if (shelf.label, name) not in self.exported:
                    if len(self.owners) >= most and not self.full:
                        self._free()
                    self.full = len(self.owners) >= most
                    if not self.full:
                        self._export(shelf.label, name)

    def _free(self) -> None:
        """Release names that are on no shelf and were never called."""
        here = {(shelf.label, name) for shelf in self.shelves for name in shelf.tools}
        for exported, owner in list(self.owners.items()):
            if owner not in here and exported not in self.called:
                del self.owners[exported], self.exported[owner]

    def _export(self, label: str, name: str) -> None:
        exported = name
        if exported in self.owners:
            exported = self.kind.join(label, name, "")
        if exported in self.owners:
            exported = self.kind.join(label, name, _digest(f"{label}__{name}"))
        # If two 24-bit hashes collide, the second tool stays without a name instead of getting another tool's.
        if not self.owners:
            self.owners, self.exported, self.called = {}, {}, {}
        if exported not in self.owners:
            self.owners[exported] = (label, name)
            self.exported[label, name] = exported

    def plain_for(self, label: str) -> bool:
        """Whether every known name is a tool of `label` under its own name: then nothing needs translation."""
        return all(owner == label for owner, _ in self.owners.values())  # names are changed only if another label has them

    def replicas(self, label: str, name: str) -> list[Shelf]:
        """The shelves that can answer (label, name) now, best first."""
        shelves = [shelf for shelf in self.shelves if shelf.label == label and shelf.left is None and name in shelf.tools]
        shelves.reverse()  # the newest first
        if len(shelves) > 1:
            newest = shelves[0].tools[name].definition
            # The sort is stable. A healthy replica precedes a doubtful newest one; one with another definition never does.
            shelves.sort(key=lambda shelf: 2 if shelf.tools[name].definition != newest else 1 if shelf.provider.doubtful else 0)
        return shelves

    # -- the list ----------------------------------------------------------------------------------------------------------

    def pages(self) -> list[bytes]:
        """The list as `"tools":[…]` arrays of exported definitions, split at `page_bytes`."""
        if self._pages is None:
            self.settle()
            self._pages = self._cut(self.listed())
            self._fingerprint = hashlib.sha256(b"\n".join(self._pages)).digest()
        return self._pages

    def fingerprint(self) -> bytes:
        """Equal exactly if the list's bytes are equal."""
        self.pages()
        return self._fingerprint

    def listed(self) -> list[tuple[str, Tool]]:
        """Every tool once, under its exported name, with the definition of its newest replica; in order of attaching."""
        self.settle()
        found: dict[str, tuple[bool, Tool]] = {}
        for shelf in self.shelves:
            here = shelf.left is None
            for name, tool in shelf.tools.items():
                exported = self.exported.get((shelf.label, name))
                if exported is not None and (here or not found.get(exported, (False,))[0]):
                    found[exported] = here, tool  # a later shelf is a newer provider; the order is kept
        return [(exported, tool) for exported, (_, tool) in found.items()]

    def _cut(self, named: Iterable[tuple[str, Tool]]) -> list[bytes]:
        pages: list[bytes] = []
        page: list[bytes] = []
        size = 0
        for exported, tool in named:
            definition = tool.definition
            if exported != tool.name:
                definition = splice(definition, [(tool.place.start, tool.place.end, _encode(exported))])
            if page and size + len(definition) > self.page_bytes:
                pages.append(b"[%b]" % b",".join(page))
                page, size = [], 0
            page.append(definition)
            size += len(definition) + 1
        pages.append(b"[%b]" % b",".join(page))
        return pages

    def page(self, cursor: str | None, missing: list[str], most: int = 0) -> bytes:
        """The `tools/list` result for a cursor: the whole list if it fits into `most` bytes, because not every consumer follows pages.

        An outdated cursor gets the list from its start. `missing` are labels of providers whose tools are not known yet; they are named in
        `_meta`.
        """
        return self._page(self.pages(), cursor, missing, most)

    def page_of(self, label: str, cursor: str | None, most: int = 0) -> bytes:
        """The same for the tools of one label, under their own names."""
        found: dict[str, tuple[bool, Tool]] = {}
        for shelf in self.shelves:
            if shelf.label == label:
                here = shelf.left is None
                found |= {name: (here, tool) for name, tool in shelf.tools.items() if here or not found.get(name, (False,))[0]}
        return self._page(self._cut((name, tool) for name, (_, tool) in found.items()), cursor, [], most)

    def _page(self, pages: list[bytes], cursor: str | None, missing: list[str], most: int) -> bytes:
        if len(pages) > 1 and sum(map(len, pages)) < most:
            whole = self._page([b"[%b]" % b",".join(page[1:-1] for page in pages)], None, missing, 0)
            if len(whole) <= most:
                return whole
        number = next((number for number in range(1, len(pages)) if cursor == self._cursor(number)), 0)
        parts = [b'{"%b":' % self.kind.member.encode(), pages[number]]
        if number + 1 < len(pages):
            parts.append(b',"nextCursor":"%b"' % self._cursor(number + 1).encode())
        if missing:
            parts.append(b"," + _encode({methods.META: {methods.MISSING_KEY: missing}})[1:-1])
        parts.append(b"}")
        return b"".join(parts)

    def _cursor(self, number: int) -> str:
        return f"{self.revision}.{number}"
