"""Parses and edits JSON-RPC 2.0 frames: the top level is parsed once, and payloads keep their bytes.

Rules of this module:

1. A frame is parsed exactly once, into `Frame`; `params`, `result` and `error` stay unparsed bytes (`msgspec.Raw`).
2. A value is replaced in place (`with_id`, `splice`), never by encoding the frame again: `1.00`, 25-digit numbers, key order and
   `\\u4f60` or 你 are preserved.
3. The place of a member is known, never guessed. The fast path in `with_id` is used only if the frame's length leaves no room for a second
   member of the same name; every other frame is walked member by member (`members`), and a repeated key is refused (`Unwalked`): with
   `"id"` twice a device could otherwise take over another device's response.
4. Ids are compared by decoded value and type (`id_key`), and returned with their original bytes.
5. A lone surrogate, which a tool sends when it cuts its text inside an emoji, is valid by JSON's grammar (RFC 8259 §8.2) and is passed on;
   the parser does not accept it and gets U+FFFD of the same length instead (`_mended`).
6. Frames of all providers are read by one rule (`parse_lenient`): input with only one possible meaning is accepted, and an unreadable
   response still counts as a response (`Unreadable`), so that nobody waits for it.
7. The parser's maximum depth depends on the free stack. Code that parses a part of a frame again, deeper in the stack, may therefore get
   RecursionError for a frame that was parsed before, and must refuse it (`members` does).
"""

from __future__ import annotations

import codecs
import re
from itertools import islice
from typing import Final, Literal, NamedTuple

import msgspec
from msgspec import UNSET, DecodeError, Raw, UnsetType, ValidationError

from ..errors import ANSWER_TOO_BIG, INVALID_PARAMS, INVALID_REQUEST, PARSE_ERROR, UNREADABLE_ANSWER, Code

Part = bytes | memoryview
"""A piece of an outgoing frame; a frame has at most two, so that large payloads are not copied."""

COPY_BELOW: Final = 16 * 1024
"""Bytes. Smaller frames are joined: copying them costs less than handling two pieces."""

LF, CR, BACKSLASH, UNDERSCORE = b"\n\r\\_"
"""Bytes as numbers: searching for one is several times faster than searching for a one-byte string."""

MEMBERS: Final = 512
"""Most members of an object that is walked; JSON-RPC and MCP objects have a few, and a walk must be short."""
KEY_BYTES: Final = 512
"""Longest key in an object that is walked."""

_UTF8_STEP: Final = 64 * 1024
_MENDED_MOST: Final = 256  # places per frame; more of them are not cut texts
VERSION: Final = "2.0"
"""The only JSON-RPC version; checked first."""
WRONG_VERSION: Final = '"jsonrpc" must be "2.0"'

_HEAD: Final = b'{"jsonrpc":"2.0","id":'
_HEAD_SPACED: Final = b'{"jsonrpc": "2.0", "id": '  # Python's json.dumps, which xiaozhi-server uses
_HEAD_ID_FIRST: Final = b'{"id":'  # the official broker
_NULL: Final = b"null"


class Frame(msgspec.Struct, gc=False):
    """The top level of one frame; absent members are `UNSET`."""

    jsonrpc: str = ""
    id: Raw | UnsetType = UNSET
    method: str | UnsetType = UNSET
    params: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


Kind = Literal["request", "notification", "answer"]


def kind_of(frame: Frame) -> Kind:
    """What a message is: without a method an answer, with one a request, or a notification where it has no id (JSON-RPC 2.0 §4, §5)."""
    if frame.method is UNSET:
        return "answer"
    return "notification" if frame.id is UNSET else "request"


def renumbered(frame: Frame, id: bytes) -> Frame:
    """The frame as `with_id` leaves it; whoever was given `frame` keeps it as it was."""
    return Frame(frame.jsonrpc, Raw(id), frame.method, frame.params, frame.result, frame.error)


def whole(first: Part, second: Part) -> bytes:
    """A frame of two parts as one piece."""
    return first if not second and isinstance(first, bytes) else b"".join((first, second))


class Malformed(Exception):
    """A frame that is not a JSON-RPC message; `id` is the id for an error response (`null` if unknown)."""

    def __init__(self, code: Code, why: str, id: bytes = _NULL) -> None:
        super().__init__(why)
        self.code = code
        self.why = why
        self.id = id


class TooDeep(Malformed):
    """A frame nested deeper than the parser supports; nothing is known about its members."""


class Unwalked(Malformed):
    """An object with a repeated key, which readers interpret differently, or with too many or too long keys."""


class Unreadable(Malformed):
    """A response of a provider that cannot be read.

    `number` is our request that it answers; 0 if it answers another one, None if it cannot be determined.
    """

    def __init__(self, code: Code, why: str, number: int | None) -> None:
        super().__init__(code, why)
        self.number = number

    @property
    def hint(self) -> str:
        """The explanation for people, in both languages."""
        return f"the answer came but cannot be read: {self.why} / 已收到应答，但无法读取：{self.why}"


class Span(NamedTuple):
    """The place of an object's member: start of its key, start and end of its value."""

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
    # Skips everything else, then matches one surrogate without its other half.
    rb"(?:[^\\]++|\\[^u]|\\u(?:[^dD]|[dD][0-7])|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F])*+(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)
_MARK: Final = b"\xef\xbb\xbf"
_NUMBER: Final = rb'(?:"\d{1,10}(?:\.0{1,10})?"|\d{1,10}(?:\.0{1,10})?(?![\d.eE]))'
_ANSWER_HEAD: Final = re.compile(
    # What precedes `result` or `error` in a response of any known peer: version, id, and null members.
    rb'\s*+\{\s*+((?:(?:"(?:jsonrpc|id)"\s*+:\s*+(?:"[^"\\]{0,128}+"|[-+.\deE]{1,32}+|null)|"(?:method|params|result|error)"\s*+:\s*+null)'
    rb'\s*+,\s*+){0,6}+)"(result|error)"\s*+:'
)
_ANSWER_TAIL: Final = re.compile(rb',\s*"id"\s*:\s*(%b|null)\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*\Z' % _NUMBER)
_ANSWER_TAIL_BYTES: Final = 96
_ANSWER_ID: Final = re.compile(rb'"id"\s*+:\s*+([^\s,]++)')
_GIVEN_BACK: Final = re.compile(_NUMBER)
_ANSWER_START: Final = re.compile(rb'\{\s*"(?:jsonrpc|id|result|error)"\s*:')
_STARTS_TRIED: Final = 4  # per line; text printed before a response contains no more
_LINE_BREAKS: Final = bytes.maketrans(b"\r\n", b"  ")


def is_utf8(data: bytes) -> bool:
    """Whether `data` is valid UTF-8 (msgspec does not check undecoded parts); try `isascii` first, it is faster.

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
    """Parse the top level of `data`.

    `utf8=True`: the transport has checked the encoding. Raises `Malformed` with PARSE_ERROR for invalid JSON (also for too deep nesting)
    and INVALID_REQUEST for JSON that is not a single message; a batch is such (MCP removed batches in revision 2025-06-18, and no peer on
    the WebSocket sends them).
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
    """`data` with U+FFFD for every lone surrogate; `data` itself if it has none, or too many."""
    pieces: list[bytes] = []
    at = 0
    while half := _HALF_PAIR.match(data, at):
        if len(pieces) >= 2 * _MENDED_MOST:
            return data
        pieces += data[at : half.start(1)], b"\\ufffd"
        at = half.end()
    return b"".join((*pieces, data[at:])) if pieces else data


def _explain(data: bytes, why: ValidationError) -> Frame:
    """Distinguish JSON of the wrong shape from invalid JSON: the typed decoder stops at the first wrong type."""
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
    """The id normalized, so that keys are equal exactly if type and value are equal; None if it is not allowed.

    Allowed are integers of up to `integer_chars` characters and strings of up to `string_bytes` UTF-8 bytes. MCP forbids null, and
    JSON-RPC 2.0 §4 discourages null and fractions.
    """
    if raw.isdigit():
        return raw if len(raw) <= integer_chars else None
    if raw[:1] == b'"':
        if BACKSLASH not in raw:
            return raw if len(raw) - 2 <= string_bytes else None
        try:
            text = _string_decoder.decode(raw)
        except DecodeError:  # a lone surrogate has no value to compare
            return None
        return _encode(text) if len(text.encode()) <= string_bytes else None
    if raw[:1] == b"-" and raw[1:].isdigit() and len(raw) <= integer_chars:
        return b"0" if raw == b"-0" else raw
    return None


def parse_lenient(data: bytes, utf8: bool = False, *, ours: bool = True) -> tuple[Frame, bytes]:
    """Read a frame of a provider: the parsed message, and its bytes. The same rule for every transport.

    A message is a request or notification with `"jsonrpc": "2.0"`, or a response: an id, and a result or an error. In addition to what
    `parse` accepts, these are accepted because they have only one possible meaning:

    - a message after a byte order mark;
    - a response without `jsonrpc`, or with another value, or with `"method": null`; it is corrected to JSON-RPC 2.0, because MCP SDKs read
      nothing else;
    - a response that begins inside a line and ends with it: the text before it was printed without a line end;
    - a response whose id is our number as a string or fraction: `"1"`, `1.0`. It is corrected to the number, unless the ids are not `ours`
      (another broker may use strings).

    All other bytes are preserved. Raises `Unreadable` for an unreadable response, and `Malformed` for anything that is not a message.
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
    """The exception for unreadable `data`: `Unreadable` if it is a response, else `why` itself."""
    if isinstance(why, Unwalked):
        found = _answered_unwalked(data)
    elif why.code is PARSE_ERROR or isinstance(why, TooDeep):
        found = _answered(data, data[-_ANSWER_TAIL_BYTES:])
    else:
        return why
    return why if found == _NO_ANSWER else Unreadable(ANSWER_TOO_BIG if isinstance(why, TooDeep) else UNREADABLE_ANSWER, why.why, found)


def neither(frame: Frame) -> Malformed:
    """The exception for a frame without method, result and error: `Unreadable` if it names a request of ours."""
    number = 0 if frame.id is UNSET or frame.jsonrpc != VERSION else number_given_back(frame.id)
    if number:
        return Unreadable(UNREADABLE_ANSWER, "it has neither a result nor an error", number)
    return Malformed(INVALID_REQUEST, "neither a request nor an answer")


def too_large(beginning: bytes, end: bytes, limit: int) -> Unreadable | None:
    """Classify a message above `limit` bytes of which only both ends are known: a response, else None."""
    found = _answered(beginning.removeprefix(_MARK), end)
    return None if found == _NO_ANSWER else Unreadable(ANSWER_TOO_BIG, f"too large, more than {limit} bytes", found)


def unreadable_answer(unreadable: Unreadable) -> bytes:
    """The error response that replaces an unreadable response, under its number, or null if it has none."""
    id = _NULL if unreadable.number is None else b"%d" % unreadable.number
    return error(id, unreadable.code, {"source": "broker", "delivered": True, "hint": unreadable.hint})


def number_given_back(raw: bytes | Raw) -> int:
    """Our number in the id of a response, in any spelling (`1`, `"1"`, `1.0`); 0 if it is none."""
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
    """A response whose `jsonrpc` is not a string, or whose `method` is null. Raises `why` if it is not one."""
    spans = members(data) if data.lstrip()[:1] == b"{" else {}
    text = {name: Raw(data[span.start : span.end]) for name, span in spans.items()}
    if "id" not in text or not ("result" in text or "error" in text) or bytes(text.get("method", _NULL)) != _NULL:
        raise why
    if "method" in spans:
        data = splice(data, [without(data, "method", spans)])
    return Frame("", text["id"], result=text.get("result", UNSET), error=text.get("error", UNSET)), data


_NO_ANSWER: Final = -1


def _answered(beginning: bytes, end: bytes) -> int | None:
    """The number that an unreadable response answers: all known peers write the id before the result or last.

    None if there is no id at these places, 0 for an id that is not our number or for two ids, `_NO_ANSWER` if the first members show that
    it is not a response: a broken log line must not end a call.
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
    """The same for JSON whose members could not be walked. The parser keeps the last value of a repeated key; None for different ids."""
    values = _last_values(data)[1]
    if "id" not in values or not ("result" in values or "error" in values) or bytes(values.get("method", _NULL)) != _NULL:
        return _NO_ANSWER
    head = _ANSWER_HEAD.match(data)
    ids = {number_given_back(id) for id in (values["id"], *(_ANSWER_ID.findall(head[1]) if head else ()))}
    return ids.pop() if len(ids) == 1 else None


def with_id(data: bytes, frame: Frame, new: bytes) -> tuple[Part, Part]:
    """The frame with `new` as its id and all other bytes unchanged, in one or two pieces. Raises `Malformed` for a repeated key."""
    id = frame.id
    assert id is not UNSET
    length = len(id)
    size = len(data)
    # The length of the shortest frame with these members. The excess, minus the blanks of its head, is room for other
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
            # MCP SDKs write the id last. A string cannot contain `,"id":` (its quotes would be escaped) and a container would end
            # with a bracket, so this is the last member of the top level.
            tail = b',"id":' + id + b"}"
            at = data.rfind(tail, -len(tail) - 2)
            if at >= 0 and not data[at + len(tail) :].strip():
                start = at + 6
    if start < 0 or data[start] <= 0x20:  # there may be a blank before the value
        start = members(data)["id"].start
    end = start + length
    if size < COPY_BELOW:
        return data[:start] + new + data[end:], b""
    if start < size // 2:
        return data[:start] + new, memoryview(data)[end:]
    return memoryview(data)[:start], new + data[end:]


def members(data: bytes | Raw) -> dict[str, Span]:
    """The places of all members of the object `data`.

    Raises `Unwalked` for a repeated key, and above `MEMBERS` members or `KEY_BYTES` per key.

    The cost is one pass of the parser and one step per member: a value is skipped by its known length. If the first occurrence of a key has
    another value than the one the parser kept (the last), it does not match at its place, which detects a repeated key.
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
            raise Unwalked(INVALID_REQUEST, "a key is repeated in one object")
        spans[name] = Span(key.start(1), key.end(), end)
        at = after.end()
    # There were as many steps as different keys: if there are more members, a key was repeated.
    if values and text[at - 1] != 0x7D:
        raise Unwalked(INVALID_REQUEST, "a key is repeated in one object")
    return spans


def _last_values(text: bytes) -> tuple[bytes, dict[str, Raw]]:
    """`text` as the parser accepts it, and the last value of each key."""
    try:
        return text, _members_decoder.decode(text)
    except DecodeError:
        text = _mended(text)
        return text, _members_decoder.decode(text)


def splice(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """`data` with each `(start, end, new)` replaced; the places must not overlap."""
    pieces: list[bytes] = []
    at = 0
    for start, end, new in sorted(edits):
        pieces += data[at:start], new
        at = end
    pieces.append(data[at:])
    return b"".join(pieces)


def without(data: bytes, name: str, spans: dict[str, Span]) -> tuple[int, int, bytes]:
    """The edit that removes the member `name` with its comma."""
    span = spans[name]
    before = [other.end for other in spans.values() if other.end <= span.key]
    if before:
        return max(before), span.end, b""
    behind = [other.key for other in spans.values() if other.key >= span.end]
    return span.key, min(behind) if behind else span.end, b""


def place_in_params(data: bytes, spans: dict[str, Span], *path: str) -> Span | None:
    """The place of the member at `path` below `params`, or None if there is none.

    Raises `Malformed` (INVALID_PARAMS) for a repeated key on the path.
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
    """`data` with raw CR and LF replaced by blanks: they can only be between tokens, and stdio frames are lines."""
    return data.translate(_LINE_BREAKS) if LF in data or CR in data else data


def request(id: bytes, method: str, params: bytes | None = None) -> bytes:
    """Encode a request; `id` and `params` are JSON."""
    tail = b"" if params is None else b',"params":' + params
    return b'{"jsonrpc":"2.0","id":%b,"method":%b%b}' % (id, _encode(method), tail)


def notification(method: str, params: object = UNSET) -> bytes:
    """Encode a notification."""
    tail = b"" if params is UNSET else b',"params":' + _encode(params)
    return b'{"jsonrpc":"2.0","method":%b%b}' % (_encode(method), tail)


def result(id: bytes, body: bytes) -> bytes:
    """Encode a response with the result `body` (JSON)."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (id, body)


def failure(id: bytes, body: bytes) -> bytes:
    """Encode a response with the error object `body` (JSON)."""
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (id, body)


def error(id: bytes, code: Code, data: object = None) -> bytes:
    """Encode a response with one of our errors. It has no `result` key: xiaozhi-server takes `"result": null` for success."""
    body: dict[str, object] = {"code": code.number, "message": code.message}
    if data is not None:
        body["data"] = data
    return failure(id, _encode(body))
