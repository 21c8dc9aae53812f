"""One JSON-RPC 2.0 frame: its top level is read once, and what is only carried keeps its bytes.

Rules of this module:

1. A frame is parsed exactly once, into `Frame`; `params`, `result` and `error` stay the bytes they came as (`msgspec.Raw`).
2. A value is replaced at its place (`with_id`, `splice`), never by writing the frame anew: `1.00`, 25-digit numbers, key order and
   `\\u4f60` or 你 survive.
3. The place of a member is known, never guessed. The quick way in `with_id` is taken only when the frame's length leaves no room for
   a second member of the same name; every other frame is walked member by member (`members`), and a repeated key is refused
   (`Unwalked`): with `"id"` twice a device could otherwise take over another device's answer.
4. Ids are compared by decoded value and type (`id_key`), and given back as the bytes they came as.
5. Half a surrogate pair, as a tool leaves it that cuts its text within an emoji, is JSON by its grammar (RFC 8259 §8.2) and is carried;
   the parser does not take it and is shown U+FFFD of the same length in its place (`_mended`).
6. What a provider says is read by one rule, whatever way it comes (`parse_lenient`): what can mean one thing only is taken for that, and
   an answer that cannot be read is an answer still (`Unreadable`), so that nobody waits for it any longer.
7. How deep the parser goes depends on the stack it finds. Whoever reads a part of a frame again further down the stack may therefore
   meet RecursionError although the frame was read, and refuses it then (`members` does).
"""

from __future__ import annotations

import codecs
import re
from itertools import islice
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET, DecodeError, Raw, UnsetType, ValidationError

from ..errors import ANSWER_TOO_BIG, INVALID_PARAMS, INVALID_REQUEST, PARSE_ERROR, UNREADABLE_ANSWER, Code

Part = bytes | memoryview
"""A piece of a frame on its way out; a frame is at most two of them, so that large payloads are not copied."""

COPY_BELOW: Final = 16 * 1024
"""Bytes. Smaller frames are joined into one piece: copying them costs less than handling two pieces."""

LF, CR, BACKSLASH, UNDERSCORE = b"\n\r\\_"
"""Bytes as numbers: looking for one is several times quicker than looking for a string of one byte."""

MEMBERS: Final = 512
"""Members of one object that is walked; the objects of JSON-RPC and MCP have a few, and a walk must be short."""
KEY_BYTES: Final = 512
"""Bytes of a key in an object that is walked."""

_UTF8_STEP: Final = 64 * 1024
_MENDED_MOST: Final = 256  # places in one frame; with more of them it is no text that was cut
VERSION: Final = "2.0"
"""The one version of JSON-RPC there is; a message says it first."""
WRONG_VERSION: Final = '"jsonrpc" must be "2.0"'

_HEAD: Final = b'{"jsonrpc":"2.0","id":'
_HEAD_SPACED: Final = b'{"jsonrpc": "2.0", "id": '  # Python's json.dumps, which xiaozhi-server uses
_HEAD_ID_FIRST: Final = b'{"id":'  # the official broker
_NULL: Final = b"null"


class Frame(msgspec.Struct, gc=False):
    """The top level of one frame; what is absent is `UNSET`."""

    jsonrpc: str = ""
    id: Raw | UnsetType = UNSET
    method: str | UnsetType = UNSET
    params: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


class Malformed(Exception):
    """A frame that is not a JSON-RPC message; `id` is what an answer may name (the bytes `null` if nothing can be named)."""

    def __init__(self, code: Code, why: str, id: bytes = _NULL) -> None:
        super().__init__(why)
        self.code = code
        self.why = why
        self.id = id


class TooDeep(Malformed):
    """A frame nested deeper than the parser goes; what is wrong with it is known of no other part."""


class Unwalked(Malformed):
    """An object with a repeated key, which means one thing to one reader and another to the next, or with too many or too long ones."""


class Unreadable(Malformed):
    """An answer of a provider that nobody can read.

    `number` is the request of ours that it names; 0 if it names another, None if it does not show which one it names.
    """

    def __init__(self, code: Code, why: str, number: int | None) -> None:
        super().__init__(code, why)
        self.number = number

    @property
    def hint(self) -> str:
        """What a person may want to know of it, in both languages."""
        return f"the answer came but cannot be read: {self.why} / 已收到应答，但无法读取：{self.why}"


class Span(NamedTuple):
    """Where a member of an object stands: from its key's quote, and from the first to behind the last byte of its value."""

    key: int
    start: int
    end: int


_frame_decoder: Final = msgspec.json.Decoder(Frame)
_raw_decoder: Final = msgspec.json.Decoder(Raw)
_members_decoder: Final = msgspec.json.Decoder(dict[str, Raw])
_string_decoder: Final = msgspec.json.Decoder(str)
_encode: Final = msgspec.json.Encoder().encode
_OPENING: Final = re.compile(rb"\s*\{\s*")
_KEY: Final = re.compile(rb'\s*("(?:[^"\\]|\\.){0,%d}")\s*:\s*' % KEY_BYTES)
_AFTER: Final = re.compile(rb"\s*([,}])")
_HALF_PAIR: Final = re.compile(
    # Everything that is none, and then one: half a surrogate pair without its other half.
    rb"(?:[^\\]++|\\[^u]|\\u(?:[^dD]|[dD][0-7])|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F])*+(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)
_MARK: Final = b"\xef\xbb\xbf"
_NUMBER: Final = rb'(?:"\d{1,10}(?:\.0{1,10})?"|\d{1,10}(?:\.0{1,10})?(?![\d.eE]))'
_ANSWER_HEAD: Final = re.compile(
    # What stands before the result or the error in an answer of any known peer: the version, the id, and members that are null.
    rb'\s*+\{\s*+((?:(?:"(?:jsonrpc|id)"\s*+:\s*+(?:"[^"\\]{0,128}+"|[-+.\deE]{1,32}+|null)|"(?:method|params|result|error)"\s*+:\s*+null)'
    rb'\s*+,\s*+){0,6}+)"(result|error)"\s*+:'
)
_ANSWER_TAIL: Final = re.compile(rb',\s*"id"\s*:\s*(%b|null)\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*\Z' % _NUMBER)
_ANSWER_TAIL_BYTES: Final = 96
_ANSWER_ID: Final = re.compile(rb'"id"\s*+:\s*+([^\s,]++)')
_GIVEN_BACK: Final = re.compile(_NUMBER)
_ANSWER_START: Final = re.compile(rb'\{\s*"(?:jsonrpc|id|result|error)"\s*:')
_STARTS_TRIED: Final = 4  # in one line; what a server prints before its answer holds no more of them
_LINE_BREAKS: Final = bytes.maketrans(b"\r\n", b"  ")


def is_utf8(data: bytes) -> bool:
    """Whether `data` is valid UTF-8 (msgspec does not look inside what it carries); ask `isascii` first, it is quicker.

    A large frame is checked in steps of 64 KiB, so that it is never decoded as a whole.
    """
    end = len(data)
    try:
        if end <= _UTF8_STEP:
            data.decode()
            return True
        view = memoryview(data)
        at = 0
        while at < end:
            at += codecs.utf_8_decode(view[at : at + _UTF8_STEP], "strict", at + _UTF8_STEP >= end)[1]
    except UnicodeDecodeError:
        return False
    return True


def parse(data: bytes, utf8: bool = False) -> Frame:
    """Read the top level of `data`.

    `utf8=True` says that the wire has checked the encoding already. Raises `Malformed` with PARSE_ERROR for what is not JSON (also
    for JSON nested deeper than the parser goes) and INVALID_REQUEST for JSON that is not one message; a batch is one of the latter
    (MCP removed batches in revision 2025-06-18, and no peer on the WebSocket sends them).
    """
    if not (utf8 or data.isascii() or is_utf8(data)):
        raise Malformed(PARSE_ERROR, "not UTF-8")
    try:
        return _frame_decoder.decode(data)
    except ValidationError as why:
        return _explain(data, why)
    except DecodeError as why:
        mended = _mended(data)
        if mended is data:
            raise Malformed(PARSE_ERROR, str(why)) from None
    except RecursionError:
        raise TooDeep(PARSE_ERROR, "nested too deep") from None
    frame = parse(mended, utf8=True)
    if frame.id is not UNSET:
        place = members(data)["id"]
        frame.id = Raw(data[place.start : place.end])
    return frame


def _mended(data: bytes) -> bytes:
    """`data` with U+FFFD for every half of a surrogate pair; `data` itself if it has none, or more than anybody cuts."""
    pieces: list[bytes] = []
    at = 0
    while half := _HALF_PAIR.match(data, at):
        if len(pieces) >= 2 * _MENDED_MOST:
            return data
        pieces += data[at : half.start(1)], b"\\ufffd"
        at = half.end()
    return b"".join((*pieces, data[at:])) if pieces else data


def _explain(data: bytes, why: ValidationError) -> Frame:
    """Tell JSON of the wrong shape from what is no JSON at all: the typed decoder stops at the first wrong type it sees."""
    try:
        _raw_decoder.decode(data)
        found = _members_decoder.decode(data)
    except ValidationError:
        raise Malformed(INVALID_REQUEST, "a message is one JSON object, not an array or a bare value") from None
    except DecodeError as broken:
        raise Malformed(PARSE_ERROR, str(broken)) from None
    except RecursionError:
        raise TooDeep(PARSE_ERROR, "nested too deep") from None
    raise Malformed(INVALID_REQUEST, str(why), bytes(found.get("id", _NULL))) from None


def id_key(raw: bytes, integer_chars: int, string_bytes: int) -> bytes | None:
    """The id as a key that is equal exactly when type and value are equal, or None if it may not be an id.

    Allowed are integers of up to `integer_chars` characters and strings of up to `string_bytes` UTF-8 bytes. MCP forbids null, and
    JSON-RPC 2.0 §4 advises against null and fractions.
    """
    if raw.isdigit():
        return raw if len(raw) <= integer_chars else None
    if raw[:1] == b'"':
        if BACKSLASH not in raw:
            return raw if len(raw) - 2 <= string_bytes else None
        try:
            text = _string_decoder.decode(raw)
        except DecodeError:  # half a surrogate pair has no value to compare
            return None
        return _encode(text) if len(text.encode()) <= string_bytes else None
    if raw[:1] == b"-" and raw[1:].isdigit() and len(raw) <= integer_chars:
        return b"0" if raw == b"-0" else raw
    return None


def parse_lenient(data: bytes, utf8: bool = False, *, ours: bool = True) -> tuple[Frame, bytes]:
    """Read what a provider wrote: its message, and the bytes the message is made of. The one rule for every way in.

    A message is a request or a notification with `"jsonrpc": "2.0"`, or an answer: an id, and a result or an error. Taken for one beside
    what `parse` takes, because it can mean nothing else:

    - a message behind a byte order mark;
    - an answer without `jsonrpc`, or with another value for it, or with `"method": null`; it is given out as JSON-RPC 2.0 has it, because
      the SDKs of MCP read nothing else;
    - an answer that begins somewhere in a line and reaches to its end: what stands before it was printed without a line end;
    - an answer that names a number of ours as a string or as a fraction: `"1"`, `1.0`. It is given out with the number, unless the ids are
      not `ours` (another broker may use strings).

    Everything else keeps its bytes. Raises `Unreadable` for an answer that cannot be read, and `Malformed` for what is no message.
    """
    if data.startswith(_MARK):
        data = data[len(_MARK) :]
    try:
        return _message(data, ours, utf8)
    except Malformed as malformed:
        why = malformed
    if data.lstrip()[:1] == b"{":
        raise unread(data, why)
    for place in islice(_ANSWER_START.finditer(data), _STARTS_TRIED):
        answer = data[place.start() :]
        try:
            frame, answer = _message(answer, ours)
        except Malformed as malformed:
            if isinstance(unreadable := unread(answer, malformed), Unreadable) and data.rstrip().endswith(b"}"):
                raise unreadable from None
        else:
            if frame.method is UNSET:
                return frame, answer
    raise why


def unread(data: bytes, why: Malformed) -> Malformed:
    """What to raise for `data` that could not be read because of `why`: `Unreadable` if it is an answer, else `why` itself."""
    if isinstance(why, Unwalked):
        found = _answered_unwalked(data)
    elif why.code is PARSE_ERROR or isinstance(why, TooDeep):
        found = _answered(data, data[-_ANSWER_TAIL_BYTES:])
    else:
        return why
    return why if found == _NO_ANSWER else Unreadable(ANSWER_TOO_BIG if isinstance(why, TooDeep) else UNREADABLE_ANSWER, why.why, found)


def neither(frame: Frame) -> Malformed:
    """What to raise for a frame with neither a method nor a result nor an error: `Unreadable` if it names a request of ours."""
    number = 0 if frame.id is UNSET or frame.jsonrpc != VERSION else number_given_back(frame.id)
    if number:
        return Unreadable(UNREADABLE_ANSWER, "it has neither a result nor an error", number)
    return Malformed(INVALID_REQUEST, "neither a request nor an answer")


def too_large(beginning: bytes, end: bytes, limit: int) -> Unreadable | None:
    """What a message of more than `limit` bytes is of which only its ends were kept: an answer, or None for anything else."""
    found = _answered(beginning.removeprefix(_MARK), end)
    return None if found == _NO_ANSWER else Unreadable(ANSWER_TOO_BIG, f"too large, more than {limit} bytes", found)


def unreadable_answer(unreadable: Unreadable) -> bytes:
    """The answer that stands for one that cannot be read: our error, under the number it named; null if it named none."""
    id = _NULL if unreadable.number is None else b"%d" % unreadable.number
    return error(id, unreadable.code, {"source": "broker", "delivered": True, "hint": unreadable.hint})


def number_given_back(raw: bytes | Raw) -> int:
    """The number of ours that an answer names in whatever spelling (`1`, `"1"`, `1.0`), or 0 if it is none."""
    text = bytes(raw)
    return int(float(text.strip(b'"'))) if _GIVEN_BACK.fullmatch(text) else 0


def _message(data: bytes, ours: bool, utf8: bool = False) -> tuple[Frame, bytes]:
    try:
        frame = parse(data, utf8)
    except Malformed as malformed:
        if malformed.code is not INVALID_REQUEST or isinstance(malformed, TooDeep):
            raise
        frame, data = _odd_answer(data, malformed)
    if frame.method is not UNSET:
        if frame.jsonrpc != VERSION:
            raise Malformed(INVALID_REQUEST, "a method without jsonrpc 2.0: a line of somebody's log")
        return frame, data
    if frame.id is UNSET or (frame.result is UNSET and frame.error is UNSET):
        raise neither(frame)
    if frame.jsonrpc != VERSION:
        spans = members(data)
        if "jsonrpc" in spans:
            data = splice(data, [(spans["jsonrpc"].start, spans["jsonrpc"].end, b'"2.0"')])
        else:
            data = data.replace(b"{", b'{"jsonrpc":"2.0",', 1)
        frame = parse(data, utf8=True)
    assert frame.id is not UNSET
    with_id(data, frame, bytes(frame.id))  # raises Unwalked
    if ours and not bytes(frame.id).isdigit() and (number := number_given_back(frame.id)):
        data = b"".join(with_id(data, frame, b"%d" % number))
        frame.id = Raw(b"%d" % number)
    return frame, data


def _odd_answer(data: bytes, why: Malformed) -> tuple[Frame, bytes]:
    """An answer whose `jsonrpc` is no string, or whose `method` is null. Raises `why` if it is none."""
    spans = members(data) if data.lstrip()[:1] == b"{" else {}
    text = {name: Raw(data[span.start : span.end]) for name, span in spans.items()}
    if "id" not in text or not ("result" in text or "error" in text) or bytes(text.get("method", _NULL)) != _NULL:
        raise why
    if "method" in spans:
        data = splice(data, [without(data, "method", spans)])
    return Frame("", text["id"], result=text.get("result", UNSET), error=text.get("error", UNSET)), data


_NO_ANSWER: Final = -1


def _answered(beginning: bytes, end: bytes) -> int | None:
    """The number an answer names that cannot be read: the id stands before the result or last, as all known peers write it.

    None if no id is to be seen there, 0 for an id that is no number of ours and for two of them, `_NO_ANSWER` for what is no answer as
    far as its first members show: a broken line of a log must not end anybody's call.
    """
    head = _ANSWER_HEAD.match(beginning)
    if head is None:
        return _NO_ANSWER
    ids = _ANSWER_ID.findall(head[1])
    if not ids and (last := _ANSWER_TAIL.search(end)):
        ids = [last[1]]
    if not ids:
        return None if head[2] == b"result" or b'"jsonrpc"' in head[1] else _NO_ANSWER
    return number_given_back(ids[0]) if len(ids) == 1 else 0


def _answered_unwalked(data: bytes) -> int | None:
    """The same for JSON whose members could not be walked. Of a repeated key the parser keeps the last value; None for ids that differ."""
    values = _last_values(data)[1]
    if "id" not in values or not ("result" in values or "error" in values) or bytes(values.get("method", _NULL)) != _NULL:
        return _NO_ANSWER
    head = _ANSWER_HEAD.match(data)
    ids = {number_given_back(id) for id in (values["id"], *(_ANSWER_ID.findall(head[1]) if head else ()))}
    return ids.pop() if len(ids) == 1 else None


def with_id(data: bytes, frame: Frame, new: bytes) -> tuple[Part, Part]:
    """The frame with `new` for its id and every other byte as it came, in one or two pieces. Raises `Malformed` on a repeated key."""
    id = frame.id
    assert id is not UNSET
    length = len(id)
    size = len(data)
    # The shortest frame with these members. What a frame has beyond it and beyond the blanks of its head is room for other
    # members; six bytes are too few for a second `,"id":0`, so the id that was found is the only one.
    if (method := frame.method) is not UNSET:
        params = frame.params
        shortest = 35 + len(method) if params is UNSET else 45 + len(method) + len(params)
    elif (result := frame.result) is not UNSET:
        shortest = 33 + len(result)
    else:
        shortest = 23 if frame.error is UNSET else 32 + len(frame.error)
    room = size - length - shortest
    start = -1
    if room <= 6 and data[:22] == _HEAD and data[22] > 0x20:
        if size < COPY_BELOW:
            return _HEAD + new + data[22 + length :], b""
        start = 22
    elif room <= 9 and frame.jsonrpc == VERSION:
        if data.startswith(_HEAD_SPACED):
            start = 25
        elif room > 6:
            pass
        elif data.startswith(_HEAD_ID_FIRST):
            start = 6
        else:
            # The SDKs of MCP write the id last. A string cannot hold `,"id":` (its quotes would be escaped) and a container
            # would end in a bracket, so this is the last member of the top level.
            tail = b',"id":' + id + b"}"
            at = data.rfind(tail, -len(tail) - 2)
            if at >= 0 and not data[at + len(tail) :].strip():
                start = at + 6
    if start < 0 or data[start] <= 0x20:  # a blank may stand before the value
        start = members(data)["id"].start
    end = start + length
    if size < COPY_BELOW:
        return data[:start] + new + data[end:], b""
    if start < size // 2:
        return data[:start] + new, memoryview(data)[end:]
    return memoryview(data)[:start], new + data[end:]


def members(data: bytes | Raw) -> dict[str, Span]:
    """The place of every member of the object `data`.

    Raises `Unwalked` if a key stands there twice, or if there are more or longer ones than `MEMBERS` and `KEY_BYTES`.

    The cost is one pass by the parser and one step per member: a value is skipped by its known length. A first occurrence whose
    value is not the one the parser kept (the last) does not match at its place, which is how a repeated key is found.
    """
    try:
        text, values = _last_values(bytes(data))
    except RecursionError:
        raise TooDeep(INVALID_REQUEST, "nested too deep") from None
    if len(values) > MEMBERS:
        raise Unwalked(INVALID_REQUEST, f"more than {MEMBERS} members in one object")
    spans: dict[str, Span] = {}
    opening = _OPENING.match(text)
    assert opening is not None
    at = opening.end()
    for _ in values:
        key = _KEY.match(text, at)
        if key is None:
            raise Unwalked(INVALID_REQUEST, f"a key of more than {KEY_BYTES} bytes")
        name = _string_decoder.decode(key[1])
        value = bytes(values[name])
        end = key.end() + len(value)
        after = _AFTER.match(text, end)
        if after is None or not text.startswith(value, key.end()):
            raise Unwalked(INVALID_REQUEST, "a key stands twice in one object")
        spans[name] = Span(key.start(1), key.end(), end)
        at = after.end()
    # There were as many steps as different keys, each over one member: where there are more members, a key was repeated.
    if values and text[at - 1] != 0x7D:
        raise Unwalked(INVALID_REQUEST, "a key stands twice in one object")
    return spans


def _last_values(text: bytes) -> tuple[bytes, dict[str, Raw]]:
    """`text` as the parser takes it, and the last value of each key of the object that it is."""
    try:
        return text, _members_decoder.decode(text)
    except DecodeError:
        text = _mended(text)
        return text, _members_decoder.decode(text)


def splice(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """`data` with each `(start, end, new)` put in; the places do not overlap."""
    pieces: list[bytes] = []
    at = 0
    for start, end, new in sorted(edits):
        pieces += data[at:start], new
        at = end
    pieces.append(data[at:])
    return b"".join(pieces)


def without(data: bytes, name: str, spans: dict[str, Span]) -> tuple[int, int, bytes]:
    """The edit that takes the member `name` out of `data`, with the comma that belongs to it."""
    span = spans[name]
    before = [other.end for other in spans.values() if other.end <= span.key]
    if before:
        return max(before), span.end, b""
    behind = [other.key for other in spans.values() if other.key >= span.end]
    return span.key, min(behind) if behind else span.end, b""


def place_in_params(data: bytes, spans: dict[str, Span], *path: str) -> Span | None:
    """Where the member `path` below `params` stands in the frame, or None if there is none on that path.

    Raises `Malformed` (INVALID_PARAMS) for a repeated key on the way.
    """
    span = spans["params"]
    for name in path:
        if data[span.start : span.start + 1] != b"{":
            return None
        try:
            inner = members(data[span.start : span.end])
        except Malformed as twice:
            raise Malformed(INVALID_PARAMS, twice.why) from None
        if name not in inner:
            return None
        key, start, end = inner[name]
        span = Span(span.start + key, span.start + start, span.start + end)
    return span


def one_line(data: bytes) -> bytes:
    """`data` with raw CR and LF turned into blanks: they can stand only between tokens, and stdio servers are framed by lines."""
    return data.translate(_LINE_BREAKS) if LF in data or CR in data else data


def request(id: bytes, method: str, params: bytes | None = None) -> bytes:
    """A request of our own; `id` and `params` are JSON already."""
    tail = b"" if params is None else b',"params":' + params
    return b'{"jsonrpc":"2.0","id":%b,"method":%b%b}' % (id, _encode(method), tail)


def notification(method: str, params: object = UNSET) -> bytes:
    """A notification of our own."""
    tail = b"" if params is UNSET else b',"params":' + _encode(params)
    return b'{"jsonrpc":"2.0","method":%b%b}' % (_encode(method), tail)


def result(id: bytes, body: bytes) -> bytes:
    """An answer with the result `body`, JSON already."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (id, body)


def failure(id: bytes, body: bytes) -> bytes:
    """An answer with the error object `body`, JSON already."""
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (id, body)


def error(id: bytes, code: Code, data: object = None) -> bytes:
    """An answer with one of our errors. It has no `result` key: xiaozhi-server takes `"result": null` for success."""
    body: dict[str, object] = {"code": code.number, "message": code.message}
    if data is not None:
        body["data"] = data
    return failure(id, _encode(body))
