"""Parses exchanges with models: model, messages, tool calls and tokens, from JSON bodies and event streams.

Four dialects are known by the end of the request's path: OpenAI chat completions and responses, Anthropic messages, embeddings. A stream
is folded into the one message that its client makes of it. What is unknown, cut short or broken is never an error: as much is said as was
understood.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import msgspec

from ..protocol.sse import Events

Headers = Sequence[tuple[bytes, bytes]]

INFLATED_BYTES: Final = 8 * 1024 * 1024
"""So much is made of a compressed body at most."""
STEP: Final = 1024
"""Bytes that are inflated at a time; of a broken body what the last of them held is lost."""
MEMBERS: Final = 16
"""Members of one gzip body that are read."""
CODINGS: Final = 3
"""Codings of a body that are undone one after the other; more hide something."""
LINES: Final = 200_000
"""Line ends of a stream that are read: a few bytes of gzip hold millions of lines, which would take the writer half a minute."""
SLICE: Final = 64 * 1024
LARGEST: Final = 2**53
"""Of a count or an index; beyond it is a mistake."""
FLOAT_BYTES: Final = 4
"""Bytes of one number of an embedding in base64."""

_DIALECTS: Final = {
    "/chat/completions": "chat",
    "/completions": "chat",
    "/responses": "responses",
    "/messages": "messages",
    "/embeddings": "embeddings",
}
_DEPLOYMENT: Final = re.compile(r"/deployments/([^/]+)/")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_LIKE_EVENTS: Final = re.compile(rb"(?:\xef\xbb\xbf)?(?:data|event)?:")


class ToolCall(NamedTuple):
    """A tool that the model wants to be called."""

    id: str
    """What the result of it will name; empty where the dialect has none."""
    name: str
    arguments: str
    """JSON, as the model wrote it."""


class Said(msgspec.Struct, kw_only=True):
    """What is known of an exchange; a member that nobody said is empty."""

    dialect: str = ""
    """`chat`, `responses`, `messages`, `embeddings`; empty for anything else."""
    model: str = ""
    streamed: bool = False
    messages: Sequence[Any] = ()
    """What the model was told, element by element as it was sent: system words, messages, results of tools."""
    answer: Any = None
    """The answer as one JSON value: a stream folded, embeddings without their vectors; None if it is no JSON."""
    text: str = ""
    """What the model said in words."""
    calls: Sequence[ToolCall] = ()
    results: Sequence[str] = ()
    """The ids of the tool calls whose results the request carries."""
    finish: str = ""
    """Why the model stopped, in the dialect's word."""
    error: str = ""
    """What the upstream says went wrong."""
    tokens_in: int | None = None
    """All tokens of the request, those from a cache too."""
    tokens_out: int | None = None
    cached: int | None = None
    """Tokens of the request that came from a cache."""


def said(path: str, request_headers: Headers, request: bytes, answer_headers: Headers, answer: bytes) -> Said:
    """What an exchange said. `path` may have a query; bodies are as they were sent, perhaps compressed or cut short."""
    path = path.partition("?")[0].rstrip("/")
    dialect = next((name for end, name in _DIALECTS.items() if path.endswith(end)), "")
    asked = _object(value_of(decoded(request_headers, request)))
    body = decoded(answer_headers, answer)
    streamed = is_stream(answer_headers, body)
    found = _folded(dialect, body) if streamed else value_of(body)
    told = Said(dialect=dialect, streamed=streamed, answer=found)
    told.model = _text(_object(found).get("model")) or _text(asked.get("model")) or _deployment(path)
    told.messages, told.results = _asked(dialect, asked)
    with contextlib.suppress(RecursionError):  # nested deeper than any message
        told.error = _error_of(found)
        _understand(dialect, _object(found), told)
    return told


# -- bytes -----------------------------------------------------------------------------------------------------------------


def decoded(headers: Headers, body: bytes, most: int = INFLATED_BYTES) -> bytes:
    """A body without its gzip and deflate codings, at most `most` bytes of it; one in another coding, or in no coding, as it is."""
    codings = [part.strip().lower() for name, value in headers if name.lower() == b"content-encoding" for part in value.split(b",")]
    codings = [coding for coding in codings if coding not in (b"", b"identity")]
    if len(codings) > CODINGS:
        return body
    for coding in reversed(codings):
        if coding not in (b"gzip", b"x-gzip", b"deflate"):
            return body
        body = _inflated(body, most)
    return body


def _inflated(body: bytes, most: int) -> bytes:
    """What zlib makes of a body in gzip, zlib or raw deflate; of a broken one what comes before the break."""
    # gzip and zlib begin with bytes of their own; some servers send deflate without them.
    bare = body[:2] != b"\x1f\x8b" and (len(body) < 2 or body[0] & 0x0F != 8 or (body[0] << 8 | body[1]) % 31 != 0)
    window = -zlib.MAX_WBITS if bare else zlib.MAX_WBITS | 32
    pieces: list[bytes] = []
    left = most
    for _ in range(MEMBERS):
        inflater = zlib.decompressobj(window)
        at = 0
        while left > 0 and at < len(body) and not inflater.eof:
            try:
                pieces.append(inflater.decompress(body[at : at + STEP], left))
            except zlib.error:
                return b"".join(pieces)
            left -= len(pieces[-1])
            at += STEP
        body = inflater.unused_data + body[at:]  # gzip may be several members, one behind the other
    return b"".join(pieces)


def uncoded(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers of a body whose codings were undone."""
    return [(name, value) for name, value in headers if name.lower() != b"content-encoding"]


def is_stream(headers: Headers, body: bytes) -> bool:
    """Whether a body is a stream of events: by its type, or, where that says something else, by how it begins."""
    kinds = [value.partition(b";")[0].strip().lower() for name, value in headers if name.lower() == b"content-type"]
    return b"text/event-stream" in kinds or (b"application/json" not in kinds and _LIKE_EVENTS.match(body) is not None)


def texts_of(body: bytes) -> list[str]:
    """The data of each event of a stream, `[DONE]` too."""
    return [data.decode("utf-8", "replace") for data in _events(body)]


def value_of(body: bytes) -> Any:
    """A body as a JSON value; None if it is none."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:  # not valid, and yet what clients take: NaN, half a surrogate pair, a byte order mark
        return _mended(json.loads(body.decode("utf-8-sig")))
    except (ValueError, RecursionError):
        return None


def _events(body: bytes) -> Iterator[bytes]:
    events = Events(len(body))
    lines = 0
    for start in range(0, len(body), SLICE):
        piece = body[start : start + SLICE]
        lines += piece.count(b"\n") + piece.count(b"\r")
        if lines > LINES:
            return
        for event in events.feed(piece):
            if event.data:
                yield event.data


def _mended(value: Any) -> Any:
    """A JSON value in which each text can be written as UTF-8."""
    if isinstance(value, str):
        return _whole_text(value)
    if isinstance(value, list):
        return [_mended(one) for one in value]
    if isinstance(value, dict):
        return {_whole_text(key): _mended(one) for key, one in value.items()}
    return value


def _whole_text(text: str) -> str:
    """A text whose surrogate pairs are letters again; what is left of one alone becomes a question mark."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if _SURROGATE.search(text) else text


# -- streams ---------------------------------------------------------------------------------------------------------------


class _Grown(list[str]):
    """A text that comes in pieces."""


class _Entries:
    """The elements of a list that come in pieces, each named by its index."""

    def __init__(self) -> None:
        self.all: list[tuple[int, dict[str, Any]]] = []
        self._current: dict[int, dict[str, Any]] = {}

    def at(self, index: object, name: object = None) -> dict[str, Any]:
        """The element of an index, a new one where `name` is not its name; without an index the last, if it may be the one."""
        if not _is_count(index):
            index = self._without_index(name)
        assert isinstance(index, int)
        entry = self._current.get(index)
        if entry is None or (name and entry.get("id", name) != name):
            entry = self._current[index] = {}
            self.all.append((index, entry))
        return entry

    def _without_index(self, name: object) -> int:
        last = self.all[-1] if self.all else (-1, {})
        same = not name or last[1].get("id", name) == name
        return last[0] if same and self.all else last[0] + 1


def _folded(dialect: str, body: bytes) -> Any:
    """The one JSON value that the events of a stream make; None for a dialect that is not known."""
    fold = _FOLDS.get(dialect)
    if fold is None:
        return None
    events = (value for data in _events(body) if isinstance(value := _event_value(data), dict))
    try:
        return _finished(fold(events))
    except RecursionError:  # nested deeper than any message
        return None


def _event_value(data: bytes) -> Any:
    """An event's JSON. Half a surrogate pair stays: the other half comes with the next event."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _chat(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Chat completions, and the older completions: `delta` by `index`; the usage also comes in a chunk without choices."""
    whole: dict[str, Any] = {}
    choices = _Entries()
    for event in events:
        for key, value in event.items():
            if key != "choices" and (value is not None or key not in whole):
                whole[key] = value
        for given in _objects(event.get("choices")):
            choice = choices.at(given.get("index", 0))
            for key, value in given.items():
                if key == "delta":
                    _grow(choice.setdefault("message", {}), _object(value))
                elif key in ("text", "logprobs"):
                    _grow(choice, {key: value})
                elif value is not None or key not in choice:
                    choice[key] = value
    if isinstance(whole.get("object"), str):
        whole["object"] = whole["object"].removesuffix(".chunk")
    if whole or choices.all:
        whole["choices"] = [choice for _, choice in sorted(choices.all, key=_index)]
    return whole


_STAY: Final = frozenset(("role", "type", "id", "index", "format"))
"""Members of a delta that some servers repeat in each: they are said once."""


def _grow(whole: dict[str, Any], delta: dict[str, Any]) -> None:
    """Add a delta: texts grow, lists grow by the `index` of their elements."""
    for key, value in delta.items():
        before = whole.get(key)
        if isinstance(value, list) and (
            isinstance(before, _Entries) or any("index" in one for one in _objects(value)) or key == "tool_calls"
        ):
            entries = before if isinstance(before, _Entries) else _Entries()
            for one in _objects(value):
                _grow(entries.at(one.get("index"), one.get("id")), {name: part for name, part in one.items() if name != "index"})
            whole[key] = entries
        elif value is None or (isinstance(value, str) and not value and before is not None):
            whole.setdefault(key, value)
        elif isinstance(value, str) and key not in _STAY:
            whole[key] = _more(before, value)
        elif isinstance(value, list) and isinstance(before, list) and not isinstance(before, _Grown):
            before.extend(value)
        elif isinstance(value, dict):
            if not isinstance(before, dict):
                before = whole[key] = {}
            _grow(before, value)
        else:
            whole[key] = list(value) if isinstance(value, list) else value


def _more(before: Any, text: str) -> _Grown:
    """A text that has grown."""
    grown = before if isinstance(before, _Grown) else _Grown([before] if isinstance(before, str) else [])
    grown.append(text)
    return grown


def _responses(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The responses API: the last event has the whole; before it, items and their parts by their indexes."""
    whole: dict[str, Any] = {}
    items: dict[int, dict[str, Any]] = {}
    for event in events:
        kind = _text(event.get("type"))
        if isinstance(event.get("response"), dict):
            whole = event["response"]
        elif kind == "error" or "error" in event:
            whole = {**whole, "error": event.get("error") or {key: event[key] for key in ("code", "message", "param") if key in event}}
        elif _is_count(event.get("output_index")):
            _item(items, kind, event)
    if items and not whole.get("output"):
        whole = {**whole, "output": [item for _, item in sorted(items.items())]}
    return whole


def _item(items: dict[int, dict[str, Any]], kind: str, event: dict[str, Any]) -> None:
    """What one event says of an item of the output."""
    number = event["output_index"]
    item = items.setdefault(number, {})
    if isinstance(event.get("item"), dict):
        items[number] = dict(event["item"])
        return
    for name, where in (("summary_index", "summary"), ("content_index", "content")):
        if _is_count(event.get(name)):
            parts = item.get(where)
            if not isinstance(parts, _Entries):
                parts = item[where] = _Entries()
            part = parts.at(event[name])
            if isinstance(event.get("part"), dict):
                part.clear()
                part.update(event["part"])
            else:
                _part(part, kind, "refusal" if "refusal" in kind else "text", event)
            return
    _part(item, kind, "input" if "custom_tool_call_input" in kind else "arguments", event)


def _part(part: dict[str, Any], kind: str, member: str, event: dict[str, Any]) -> None:
    """A text that grows, or is there as a whole."""
    if kind.endswith(".delta"):
        _grow(part, {member: event.get("delta")})
    elif kind.endswith(".done") and isinstance(event.get(member), str):
        part[member] = event[member]


def _messages(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Anthropic messages: blocks by their index; the input of a tool comes as pieces of JSON."""
    whole: dict[str, Any] = {}
    blocks = _Entries()
    for event in events:
        kind = event.get("type")
        if kind == "message_start":
            whole |= _object(event.get("message"))
        elif kind == "content_block_start":
            blocks.at(event.get("index")).update(_object(event.get("content_block")))
        elif kind == "content_block_delta":
            _block(blocks.at(event.get("index")), _object(event.get("delta")))
        elif kind == "message_delta":
            whole |= _object(event.get("delta"))
            whole["usage"] = _object(whole.get("usage")) | _given(_object(event.get("usage")))
        elif kind == "error":
            whole["error"] = event.get("error")
    for _, block in blocks.all:
        if isinstance(block.get("input"), _Grown):
            written = "".join(block["input"])
            block["input"] = written if (value := _event_value(written.encode("utf-8", "replace"))) is None else value
    if whole or blocks.all:
        whole["content"] = [block for _, block in sorted(blocks.all, key=_index)]
    return whole


def _block(block: dict[str, Any], delta: dict[str, Any]) -> None:
    match delta.get("type"):
        case "input_json_delta":
            if delta.get("partial_json"):
                block["input"] = _more(block["input"] if isinstance(block.get("input"), _Grown) else None, _text(delta["partial_json"]))
        case "citations_delta":
            if not isinstance(block.get("citations"), list):
                block["citations"] = []
            block["citations"].append(delta.get("citation"))
        case "signature_delta":
            block["signature"] = delta.get("signature")
        case _:
            _grow(block, {key: value for key, value in delta.items() if key != "type"})


_FOLDS: Final = {"chat": _chat, "responses": _responses, "messages": _messages}


def _finished(value: Any) -> Any:
    """A folded value without the marks of what was still growing."""
    if isinstance(value, _Grown):
        return _whole_text("".join(value))
    if isinstance(value, str):
        return _whole_text(value)
    if isinstance(value, _Entries):
        return [_finished(entry) for _, entry in sorted(value.all, key=_index)]
    if isinstance(value, list):
        return [_finished(one) for one in value]
    if isinstance(value, dict):
        return {_whole_text(key): _finished(one) for key, one in value.items()}
    return value


# -- what a message means --------------------------------------------------------------------------------------------------


def _asked(dialect: str, asked: dict[str, Any]) -> tuple[list[Any], list[str]]:
    """What the model was told, and the ids of the calls whose results are in it."""
    told = asked.get("input" if dialect in ("responses", "embeddings") else "messages", asked.get("prompt"))
    messages = told if isinstance(told, list) else [] if told is None else [told]
    first = asked.get("system") if dialect == "messages" else asked.get("instructions")
    found: list[str] = []
    for message in _objects(messages):
        found += [_text(message.get("tool_call_id")), _text(message.get("call_id")) if _is_output(message) else ""]
        found += [_text(part.get("tool_use_id")) for part in _objects(message.get("content"))]
    return ([] if first is None else [first]) + messages if dialect else [], [name for name in found if name]


def _is_output(item: dict[str, Any]) -> bool:
    return _text(item.get("type")).endswith("_output")


def _understand(dialect: str, answer: dict[str, Any], told: Said) -> None:
    """Put into `told` what the answer of a dialect means."""
    usage = _object(answer.get("usage"))
    told.tokens_in = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
    told.tokens_out = _count(usage.get("completion_tokens", usage.get("output_tokens")))
    told.cached = _count(_object(usage.get("prompt_tokens_details", usage.get("input_tokens_details"))).get("cached_tokens"))
    match dialect:
        case "chat":
            choices = _objects(answer.get("choices"))
            messages = [_object(choice.get("message")) for choice in choices]
            told.text = "\n".join(filter(None, (_text(one.get("content")) for one in messages))) or "".join(
                _text(choice.get("text")) for choice in choices
            )
            told.calls = [call for message in messages for call in _chat_calls(message)]
            told.finish = next((_text(choice.get("finish_reason")) for choice in choices), "")
        case "responses":
            items = _objects(answer.get("output"))
            parts = [part for item in items if item.get("type") == "message" for part in _objects(item.get("content"))]
            told.text = "".join(_text(part.get("text")) for part in parts)
            told.calls = [
                ToolCall(
                    _text(item.get("call_id") or item.get("id")),
                    _text(item.get("name")),
                    _json_text(item.get("arguments", item.get("input"))),
                )
                for item in items
                if _text(item.get("type")).endswith("_call") and item.get("name")
            ]
            told.finish = _text(_object(answer.get("incomplete_details")).get("reason")) or _text(answer.get("status"))
        case "messages":
            blocks = _objects(answer.get("content"))
            told.text = "".join(_text(block.get("text")) for block in blocks if block.get("type") == "text")
            told.calls = [
                ToolCall(_text(block.get("id")), _text(block.get("name")), _json_text(block.get("input")))
                for block in blocks
                if _text(block.get("type")).endswith("tool_use")
            ]
            told.finish = _text(answer.get("stop_reason"))
            told.cached = _count(usage.get("cache_read_input_tokens"))
            if told.tokens_in is not None:  # here those of the cache are counted beside the others
                told.tokens_in += (told.cached or 0) + (_count(usage.get("cache_creation_input_tokens")) or 0)
        case "embeddings" if isinstance(answer.get("data"), list):
            vectors = [one.get("embedding") for one in _objects(answer["data"])]
            told.answer = {key: value for key, value in answer.items() if key != "data"}
            told.answer |= {"count": len(vectors), "dimension": _dimension(vectors[0]) if vectors else 0}


def _chat_calls(message: dict[str, Any]) -> list[ToolCall]:
    found = []
    for call in _objects(message.get("tool_calls")):
        what = _object(call.get("function") or call.get("custom"))
        found.append(ToolCall(_text(call.get("id")), _text(what.get("name")), _json_text(what.get("arguments", what.get("input")))))
    older = _object(message.get("function_call"))
    if older:
        found.append(ToolCall("", _text(older.get("name")), _json_text(older.get("arguments"))))
    return found


def _dimension(vector: Any) -> int:
    if isinstance(vector, str):
        try:
            return len(base64.b64decode(vector, validate=True)) // FLOAT_BYTES
        except (binascii.Error, ValueError):
            return 0
    return len(vector) if isinstance(vector, list) else 0


def _error_of(answer: Any) -> str:
    """An upstream's own word of what went wrong; they have several places for it."""
    found = _object(answer).get("error")
    if isinstance(found, dict):
        return _text(found.get("message")) or _json_text(found)
    return _text(found)


def _deployment(path: str) -> str:
    """The model that a path of Azure names."""
    found = _DEPLOYMENT.search(path)
    return unquote(found[1]) if found is not None else ""


def _json_text(value: Any) -> str:
    """A text as it is, any other value as JSON."""
    return value if isinstance(value, str) else "" if value is None else msgspec.json.encode(value).decode()


def _given(members: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in members.items() if value is not None}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST


def _count(value: Any) -> int | None:
    return value if _is_count(value) else None


def _index(entry: tuple[int, dict[str, Any]]) -> int:
    return entry[0]
