"""What is done to one frame, byte by byte: read once, changed at one place, carried as it came."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from mcp_endpoint import errors
from mcp_endpoint.protocol import jsonrpc
from mcp_endpoint.protocol.jsonrpc import (
    COPY_BELOW,
    KEY_BYTES,
    MEMBERS,
    Frame,
    Malformed,
    Unreadable,
    id_key,
    is_utf8,
    kind_of,
    members,
    parse,
    parse_lenient,
    renumbered,
    too_large,
    unreadable_answer,
    whole,
    with_id,
)


def replaced(data: bytes, new: bytes) -> bytes:
    """What `with_id` makes of a frame, in one piece."""
    return b"".join(with_id(data, parse(data), new))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b'{"jsonrpc":"2.0","id":1,"method":"m"}', "request"),
        (b'{"jsonrpc":"2.0","method":"m"}', "notification"),
        (b'{"jsonrpc":"2.0","id":1,"result":{}}', "answer"),
        (b'{"jsonrpc":"2.0","error":{}}', "answer"),
    ],
)
def test_a_message_is_a_request_a_notification_or_an_answer(data: bytes, kind: str) -> None:
    assert kind_of(parse(data)) == kind


@pytest.mark.parametrize("size", [1, COPY_BELOW])
def test_a_frame_with_another_id_says_what_its_bytes_say(size: int) -> None:
    data = b'{"jsonrpc":"2.0","id":"a","method":"m","params":{"x":"%b"}}' % (b"y" * size)
    read = parse(data)
    assert renumbered(read, b"7") == parse(whole(*with_id(data, read, b"7")))
    assert bytes(read.id) == b'"a"' if read.id is not UNSET else False, "whoever was given it keeps it"
    assert whole(data, b"") is data


# -- a slow reader of its own, to compare with -------------------------------------------------------------------------------


class Reader:
    """Reads JSON character by character (RFC 8259), knows nothing of msgspec, and remembers where the top level's members stand."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def blanks(self) -> None:
        while self.data[self.at : self.at + 1] in (b" ", b"\t", b"\n", b"\r"):
            self.at += 1

    def take(self, text: bytes) -> None:
        assert self.data[self.at : self.at + len(text)] == text
        self.at += len(text)

    def string(self) -> bytes:
        start = self.at
        self.take(b'"')
        while self.data[self.at] != 0x22:
            self.at += 2 if self.data[self.at] == 0x5C else 1
        self.at += 1
        return self.data[start : self.at]

    def value(self) -> None:
        first = self.data[self.at : self.at + 1]
        if first == b'"':
            self.string()
        elif first == b"{":
            for _ in self.object():
                pass
        elif first == b"[":
            self.take(b"[")
            self.blanks()
            while self.data[self.at : self.at + 1] != b"]":
                self.value()
                self.comma(b"]")
            self.take(b"]")
        else:
            while self.data[self.at : self.at + 1].isalnum() or self.data[self.at : self.at + 1] in (b"-", b"+", b"."):
                self.at += 1

    def comma(self, closing: bytes) -> None:
        self.blanks()
        if self.data[self.at : self.at + 1] != closing:
            self.take(b",")
            self.blanks()

    def object(self) -> Iterator[tuple[str, int, int, int]]:
        """Each member's name, and where its key begins, its value begins and its value ends."""
        self.take(b"{")
        self.blanks()
        while self.data[self.at : self.at + 1] != b"}":
            key = self.at
            name = json.loads(self.string())
            self.blanks()
            self.take(b":")
            self.blanks()
            start = self.at
            self.value()
            yield name, key, start, self.at
            self.comma(b"}")
        self.take(b"}")


def read_slowly(data: bytes) -> list[tuple[str, int, int, int]]:
    reader = Reader(data)
    reader.blanks()
    found = list(reader.object())
    reader.blanks()
    assert reader.at == len(data)
    return found


def replaced_slowly(data: bytes, new: bytes) -> bytes:
    ((start, end),) = [(start, end) for name, _, start, end in read_slowly(data) if name == "id"]
    return data[:start] + new + data[end:]


# -- JSON in every spelling --------------------------------------------------------------------------------------------------

NUMBERS = ["0", "-0", "1", "1.00", "-1.5e+10", "1E5", "0.1e-7", "9007199254740993", "1234567890123456789012345", "1e999"]
CHARACTERS = 'ab你😀"\\/{}[]:, \n\x00\x7f'


@st.composite
def spelled(draw: st.DrawFn, text: str) -> str:
    """A string as JSON, each character as it is or escaped."""
    plain = json.dumps(text, ensure_ascii=False)
    if not text or draw(st.integers(0, 2)):
        return plain
    pieces = []
    for character in text:
        short = json.dumps(character, ensure_ascii=False)[1:-1]
        units = character.encode("utf-16-be").hex()
        long = "".join(f"\\u{units[n : n + 4]}" for n in range(0, len(units), 4))
        pieces.append(draw(st.sampled_from([short, long, long.upper().replace("\\U", "\\u")])))
    return f'"{"".join(pieces)}"'


texts = st.text(CHARACTERS, max_size=6)
gaps = st.sampled_from(["", "", "", " ", "\t", "\n", "\r\n", "   "])


@st.composite
def objects(draw: st.DrawFn, members: list[tuple[str, str]], gap: st.SearchStrategy[str]) -> str:
    """An object of (key, value), both JSON already, with any blanks between the tokens."""
    pieces = [f"{draw(gap)}{key}{draw(gap)}:{draw(gap)}{value}{draw(gap)}" for key, value in members]
    return "{" + (",".join(pieces) or draw(gap)) + "}"


@st.composite
def compounds(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    values = draw(st.lists(inner, max_size=3))
    if draw(st.booleans()):
        return "[" + (",".join(draw(gaps) + value + draw(gaps) for value in values) or draw(gaps)) + "]"
    names = st.sampled_from(["id", "method", "result", "progressToken", "x", ""])
    return draw(objects([(draw(spelled(draw(names))), value) for value in values], gaps))


scalars = st.sampled_from([*NUMBERS, "true", "false", "null"]) | texts.flatmap(spelled)
values = st.recursive(scalars, compounds, max_leaves=6)
ids = st.sampled_from(["0", "1", "-1", "7", "12", "9007199254740993", '""', '"0"', '"a_b"']) | texts.flatmap(spelled)
KINDS = [("method",), ("method", "params"), ("result",), ("error",), ("method", "result"), ("result", "error"), ()]
UNKNOWN = ["", "a", "ID", "Id", "i", "idx", "serialNumber", "jsonrpc ", "id\x00", "你"]


@st.composite
def frames(draw: st.DrawFn) -> list[tuple[str, str]]:
    """The members of one JSON-RPC message in any order: (key, value) as JSON."""
    found = {"jsonrpc": draw(spelled("2.0")), "id": draw(ids)}
    for name in draw(st.sampled_from(KINDS)):
        found[name] = draw(texts.flatmap(spelled)) if name == "method" else draw(values)
    for name in draw(st.lists(st.sampled_from(UNKNOWN), unique=True, max_size=2)):
        found[name] = draw(values)
    names = draw(st.permutations(list(found)) | st.just(list(found)))
    return [(draw(spelled(name)), found[name]) for name in names]


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """One JSON-RPC message with an id, spelled in any way: as the fleet's libraries write it, or with blanks anywhere."""
    found = draw(frames())
    gap = draw(st.sampled_from([st.just(""), st.just(""), gaps]))
    before, after = draw(gap), draw(st.sampled_from(["", "", "\n", "\r\n", "   "]))
    text = before + draw(objects(found, gap)) + after
    if draw(st.integers(0, 3)) == 0:
        text = before + "{" + ", ".join(f"{key}: {value}" for key, value in found) + "}" + after
    return text.encode()


# -- the id, and nothing else ------------------------------------------------------------------------------------------------


@pytest.mark.row("D8", "E2", "U7")
@given(messages(), ids)
def test_with_id_replaces_the_top_levels_id_and_not_one_byte_more(data: bytes, new: str) -> None:
    """For any order of keys, any blanks, unknown and escaped keys (§3.1, rule 2)."""
    assert replaced(data, new.encode()) == replaced_slowly(data, new.encode())
    assert members(data) == {name: (key, start, end) for name, key, start, end in read_slowly(data)}


@given(frames(), st.data())
def test_a_repeated_key_of_the_top_level_is_always_refused(found: list[tuple[str, str]], data: st.DataObject) -> None:
    """However it is spelled, wherever it stands, whether its values are equal or not (§3.1, rule 4: no answer is taken over)."""
    key, value = data.draw(st.sampled_from(found))
    other = data.draw(st.just(value) | st.just(value + "0") | ids | values)
    if json.loads(key) in ("jsonrpc", "method"):
        other = value  # only strings are read at all
    found.insert(data.draw(st.integers(0, len(found))), (data.draw(spelled(json.loads(key))), other))
    gap = data.draw(st.sampled_from([st.just(""), gaps]))
    message = data.draw(objects(found, gap)).encode()
    with pytest.raises(Malformed):
        replaced(message, b"5")
    with pytest.raises((Malformed, msgspec.DecodeError)):
        members(message)


@pytest.mark.parametrize(
    "message",
    [
        b'{"jsonrpc":"2.0","id":1,"id":2}',
        b'{"jsonrpc":"2.0","id":1,"id":1}',
        b'{"jsonrpc": "2.0", "id": 1,"id":2}',
        b'{"id":1,"jsonrpc":"2.0","id":2}',
        b'{"id":1,"id":2,"jsonrpc":"2.0"}',
        b'{"jsonrpc":"2.0","result":0,"id":1,"id":2}',
        b'{"jsonrpc":"2.0","id":1,"result":0,"id":1}',
        b'{"jsonrpc":"2.0","id":1,"result":0,"\\u0069d":1}',
        b'{"jsonrpc":"2.0","id":1,"result":0,"result":1}',
        b'{"jsonrpc":"2.0","id":1,"result":12,"result":1}',
        b'{"jsonrpc":"2.0","id":1,"result":1,"result":12}',
        b'{"jsonrpc":"2.0","id":1,"method":"a","params":[1],"params":[1]}',
        b'{"jsonrpc":"2.0","jsonrpc":"2.0","id":1}',
        b'{"jsonrpc":"2.0","id":1,"":0,"":0}',
        b'{"jsonrpc":"2.0","id":1,"method":"a","params":1,"id":2}',
        b'{"jsonrpc":"2.0","id":1,"method":"a","id":2}',
        b'{"jsonrpc":"2.0","id":1,"error":{},"id":2}',
        b'{"id":1,"id":2}',
        b'{"jsonrpc":"2.0","id":0,"b":0,"id":"12345"}',  # the last value is as long as what stands between
        b'{"jsonrpc":"2.0","id":"0,1","id":0,"id":1}',
    ],
)
def test_a_frame_that_names_something_twice_is_refused(message: bytes) -> None:
    with pytest.raises(Malformed) as refused:
        replaced(message, b"9")
    assert refused.value.code is errors.INVALID_REQUEST


@pytest.mark.parametrize(
    "message",
    [
        # the official broker, xiaozhi-server (Python), the SDKs, and hands
        b'{"jsonrpc":"2.0","id":1,"method":"ping"}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {}}',
        b'{"id":1,"jsonrpc":"2.0","method":"ping"}',
        b'{"method":"ping","params":{},"jsonrpc":"2.0","id":1}',
        b'{"result":{},"jsonrpc":"2.0","id":1}\n',
        b'{"result":{},"jsonrpc":"2.0","id":1}\r\n',
        b'{"result":{},"jsonrpc":"2.0","id":1 }',
        b'{"result":{},"jsonrpc":"2.0","id":1}   \n',
        b'{"jsonrpc":"2.0","error":{"code":1,"message":""},"id":1}',
        b'{"jsonrpc":"2.0","id": 1,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":\t1,"result":0}',
        b'{"jsonrpc": "2.0", "id":  1}',
        b'{"id": 1,"jsonrpc":"2.0","result":0}',
        b'{"id":\n1,"jsonrpc":"2.0"}',
        b' {"jsonrpc":"2.0","id":1}',
        b'{"jsonrpc":"2.0","id" :1}',
        b'{"jsonrpc":"2.0","":1,"id":1}',
        b'{"jsonrpc":"2.0","id":1,"result":{"id":1}}',
        b'{"jsonrpc":"2.0","result":{"a":0,"id":1},"id":1}',
        b'{"id" :1,"jsonrpc":"2.0","result":{"a":0,"id":1}}',
        b'{"id" :1,"jsonrpc":"2.0","result":[{"a":0,"id":1}]}',
        b'{"jsonrpc":"2.0","result":",\\"id\\":1}","id":1}',
        b'{"jsonrpc":"2.0","id":"a","result":",\\"id\\":\\"a\\"}"}',
        b'{"jsonrpc":"\\u0032.0","\\u0069d":1,"result":0}',
        b'{"id":1}',
    ],
)
def test_every_spelling_of_the_fleet_keeps_its_bytes(message: bytes) -> None:
    assert replaced(message, b'"nine"') == replaced_slowly(message, b'"nine"')
    assert replaced(replaced(message, b"12345678"), b"1") == replaced(message, b"1")


@pytest.mark.row("E2")
@pytest.mark.parametrize("carried", [b"1.00", b"1234567890123456789012345", b'"\\u4f60"', '"你"'.encode(), b"1E+2", b"-0", b"-0.0"])
def test_what_is_only_carried_is_not_written_anew(carried: bytes) -> None:
    """`1.00`, 25 digits, escaped and plain Chinese and the order of keys survive (§3.1, rule 2)."""
    message = b'{"jsonrpc":"2.0","id":1,"result":{"b":%b,"a":[%b]}}' % (carried, carried)
    assert replaced(message, b"2") == message.replace(b'"id":1', b'"id":2')
    found = parse(message).result
    assert isinstance(found, Raw)
    assert bytes(found) == b'{"b":%b,"a":[%b]}' % (carried, carried)


@pytest.mark.parametrize("size", [0, COPY_BELOW, 10 * COPY_BELOW])
def test_a_large_payload_is_not_copied(size: int) -> None:
    """Small frames leave in one piece, of large ones the larger part stays where it is."""
    text = b'"%b"' % (b"x" * size)
    for message in (b'{"jsonrpc":"2.0","id":1,"result":%b}' % text, b'{"result":%b,"jsonrpc":"2.0","id":1}' % text):
        first, second = with_id(message, parse(message), b"77")
        assert b"".join((first, second)) == message.replace(b'"id":1', b'"id":77')
        if size:
            (view,) = [part for part in (first, second) if isinstance(part, memoryview)]
            assert view.obj is message
            assert len(view) >= size
        else:
            assert second == b""


# -- what is no message ------------------------------------------------------------------------------------------------------


@pytest.mark.row("D16", "E27")
@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"  ",
        b"hello",
        b"{",
        b'{"id":1',
        b'{"id":1,}',
        b'{"id":01}',
        b"{'id':1}",
        b'{"id":1}x',
        b'{"id":1}{"id":2}',
        b'{"x":NaN}',
        b'{"x":-Infinity}',
        b'{"x":"a\nb"}',
        b'{"x":"\\q"}',
        b"\xef\xbb\xbf" + b'{"id":1}',
        b'{"id":1}\x00',
        b"[1,2",
        b'{"jsonrpc":2,"id":1',
        b'{"jsonrpc":2,"id":1,"x":nope}',
    ],
)
def test_what_is_no_json_is_a_parse_error_without_an_id(text: bytes) -> None:
    """Also a byte order mark, NaN and raw line breaks within strings (RFC 8259 §7, §8.1)."""
    with pytest.raises(Malformed) as refused:
        parse(text)
    assert refused.value.code is errors.PARSE_ERROR
    assert refused.value.id == b"null"
    assert refused.value.why


@pytest.mark.row("D16", "E27")
@pytest.mark.parametrize("text", [b"[]", b'[{"jsonrpc":"2.0","id":1,"method":"a"}]', b'"x"', b"1", b"null", b"true", b" [ 1 ] "])
def test_json_that_is_not_one_object_is_an_invalid_request_without_an_id(text: bytes) -> None:
    """Batches too (§3.1, rule 5)."""
    with pytest.raises(Malformed) as refused:
        parse(text)
    assert refused.value.code is errors.INVALID_REQUEST
    assert refused.value.id == b"null"


@pytest.mark.parametrize(
    ("text", "id"),
    [
        (b'{"jsonrpc":2,"id":7}', b"7"),
        (b'{"id":"a","method":5}', b'"a"'),
        (b'{"method":null,"id":{"x":1}}', b'{"x":1}'),
        (b'{"method":[]}', b"null"),
    ],
)
def test_a_message_with_a_member_of_the_wrong_type_says_which_id_it_had(text: bytes, id: bytes) -> None:
    with pytest.raises(Malformed) as refused:
        parse(text)
    assert refused.value.code is errors.INVALID_REQUEST
    assert refused.value.id == id


def test_what_is_absent_is_unset_and_null_is_not_absent() -> None:
    empty = parse(b"{}")
    assert (empty.jsonrpc, empty.id, empty.method, empty.params, empty.result, empty.error) == ("", UNSET, UNSET, UNSET, UNSET, UNSET)
    full = parse(b'{"jsonrpc":"2.0","id":null,"params":null,"result":null,"error":null}')
    assert [bytes(raw) for raw in (full.id, full.params, full.result, full.error) if isinstance(raw, Raw)] == [b"null"] * 4


@pytest.mark.parametrize("depth", [100_000, 1_000_000])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
@pytest.mark.parametrize(
    "frame", [b'{"params":%b}', b"%b", b'{"jsonrpc":0,"params":%b}', b'{"params":%b,"jsonrpc":0}', b'{"a":"\\ud800","b":%b}']
)
def test_json_nested_deep_is_refused_and_breaks_nothing(frame: bytes, depth: int, opening: bytes, closing: bytes) -> None:
    for inside in (b"1", b""):
        with pytest.raises(Malformed):
            parse(frame % (opening * depth + inside + closing * depth if inside else opening * depth))


def test_a_frame_at_the_brink_of_the_parsers_depth_is_refused_or_can_be_changed() -> None:
    """The parser's limit depends on how deep the stack is, and what is in a frame is looked at deeper in it than the frame was read."""

    def further_down(frames: int, data: bytes, frame: Frame) -> bytes | None:
        if frames:
            return further_down(frames - 1, data, frame)
        try:
            assert members(frame.result)  # type: ignore[arg-type]
            return b"".join(with_id(data, frame, b"2"))
        except Malformed as refused:
            assert refused.why == "nested too deep"
            return None

    read = []
    for depth in range(1, sys.getrecursionlimit() + 50):
        message = b'{"jsonrpc":"2.0","unknown":0,"id":1,"result":%b}' % (b'{"a":' * depth + b"0" + b"}" * depth)
        try:
            frame = parse(message)
        except Malformed as refused:
            assert refused.why == "nested too deep"
        else:
            read.append(depth)
            changed = further_down(25, message, frame)
            assert changed == message.replace(b'"id":1', b'"id":2') or (changed is None and depth > 500)
    assert len(read) > 500
    assert read == list(range(1, len(read) + 1))


ANSWER = b'{"jsonrpc":"2.0","id":7,"result":{"n":1.00}}'


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (ANSWER, ANSWER),
        (b"\xef\xbb\xbf" + ANSWER, ANSWER),
        (b'\xef\xbb\xbf{"jsonrpc":"2.0","method":"m"}', b'{"jsonrpc":"2.0","method":"m"}'),
        (b'{"id":7,"result":{"n":1.00}}', ANSWER),
        (b'{"jsonrpc":2.0,"id":7,"error":{}}', b'{"jsonrpc":"2.0","id":7,"error":{}}'),
        (b'{"jsonrpc":null,"id":7,"method":null,"result":{"n":1.00}}', ANSWER),
        (b'{"jsonrpc":"2.0","id":7,"method":null,"result":1}', b'{"jsonrpc":"2.0","id":7,"result":1}'),
        (b"Loading model... " + ANSWER, ANSWER),
        ("正在加载… ".encode("gbk") + ANSWER + b" ", ANSWER + b" "),
        (b'{"id": 1} {"id"' + b"\r", None),
        (b'> {"id":1} > {"result":[],"id":7}', b'{"jsonrpc":"2.0","result":[],"id":7}'),
        (b'{"jsonrpc":"2.0","id":"7","result":1.0}', b'{"jsonrpc":"2.0","id":7,"result":1.0}'),
        (b'{"jsonrpc":"2.0","id":7.00,"result":1.0}', b'{"jsonrpc":"2.0","id":7,"result":1.0}'),
        (b'done {"result":1.0,"id":"7.0"}', b'{"jsonrpc":"2.0","result":1.0,"id":7}'),
        (b'{"jsonrpc":"2.0","id":"3.1","result":1}', b'{"jsonrpc":"2.0","id":"3.1","result":1}'),
        (b'{"jsonrpc":"2.0","id":"7","method":"ping"}', b'{"jsonrpc":"2.0","id":"7","method":"ping"}'),
        (b'{"jsonrpc":"2.0","id":7,"result":"\\ud83d"}', b'{"jsonrpc":"2.0","id":7,"result":"\\ud83d"}'),
        # what a server prints
        (b"Starting up", None),
        (b"", None),
        (b"[1, 2]", None),
        (b"7", None),
        (b'{"level":30,"msg":"a log line of JSON"}', None),
        (b'{"level":"error","error":NaN}', None),
        (b'{"jsonrpc":"2.0","x":0,"id":7,"result":NaN}', None),
        (b'{"id":7,"method":"m"}', None),
        (b'{"jsonrpc":1,"id":7}', None),
        (b'{"jsonrpc":1,"result":7}', None),
        (b'{"jsonrpc":1,"id":7,"result":1,"method":"m"}', None),
        (b'received {"jsonrpc":"2.0","id":7,"method":"tools/list"}', None),
        (b'sent {"jsonrpc":"2.0","id":7,"result":{}} in 5 ms', None),
        (b'x {"id":1} {"id":2} {"id":3} {"id":4} ' + ANSWER, None),
        (b'{"jsonrpc":"2.0","id":7,"method":"m","params":[NaN]}', None),
        (b'{"jsonrpc":1,"id":7,"id":7,"method":"m"}', None),
        (b'{"jsonrpc":1,"id":7,"id":7}', None),
        (b'{"jsonrpc":1,"result":7,"result":8}', None),
    ],
)
def test_one_rule_says_what_a_provider_said(said: bytes, message: bytes | None) -> None:
    """Where the meaning is certain it is a message; its other bytes stay as they came."""
    if message is None:
        with pytest.raises(Malformed) as refused:
            parse_lenient(said)
        assert not isinstance(refused.value, Unreadable)
    else:
        frame, data = parse_lenient(said)
        assert data == message
        if frame.method is UNSET and b"3.1" not in said:
            assert frame.id == Raw(b"7")
            assert b"".join(with_id(data, frame, b"10")) == message.replace(b'"id":7.00', b'"id":7').replace(b'"id":7', b'"id":10')


def test_an_id_that_is_not_ours_is_kept_as_it_is() -> None:
    """A pipe may speak to another broker, whose ids are strings."""
    said = b'{"jsonrpc":"2.0","id":"7","result":{}}'
    assert parse_lenient(said, ours=False)[1] == parse_lenient(b"Loading... " + said, ours=False)[1] == said


@pytest.mark.parametrize(
    ("said", "number"),
    [
        (b'{"jsonrpc":"2.0","id":7,"result":{"mean":NaN}}', 7),
        (b'{"jsonrpc": "2.0", "id": 7, "error": {"code": Infinity}}', 7),
        ('{"jsonrpc":"2.0","id":7,"result":{"text":"温度"}}'.encode("gbk"), 7),
        (b'{"jsonrpc":"2.0","id":7,"result":"a\tb"}', 7),
        (b'{"jsonrpc":"2.0","id":7,"result":[[', 7),
        (b'{"jsonrpc":"2.0","id":7,"result":{"x":NaN,"id":3}', 7),
        (b'{"id":"7","jsonrpc":"2.0","result":NaN}', 7),
        (b'{"id":7.0,"result":NaN}', 7),
        (b'{"jsonrpc":"2.0","method":null,"error":null,"id":7,"result":NaN}', 7),
        (b' { "jsonrpc" : "2.0" , "result" : NaN , "id" : 7 } \n', 7),
        (b'{"result":NaN,"jsonrpc":"2.0","id":7}', 7),
        (b'{"result":NaN,"id":1234567890,"jsonrpc":"2.0"}', 1234567890),
        (b"\xef\xbb\xbf" + b'{"jsonrpc":"2.0","id":7,"result":NaN}', 7),
        (b'Loading... {"jsonrpc":"2.0","id":7,"result":NaN}', 7),
        (b'{"jsonrpc":"2.0","id":7}', 7),
        (b'{"jsonrpc":"2.0","id":"7","resul":{}}', 7),
        (b'{"jsonrpc":"2.0","id":7,"id":7,"result":{}}', 7),
        (b'{"result":{},"id":8,"id":7}', 7),
        (b'{"jsonrpc":"2.0","id":"7","result":{},"result":{}}', 7),
        (b'Loading... {"id":7,"error":{},"error":{}}', 7),
        (b'{"x":1,"x":2,"jsonrpc":"2.0","id":7,"result":"\\ud83d"}', 7),
        (b'{"jsonrpc":"2.0","id":7,"id":8,"result":{}}', None),
        (b'{"jsonrpc":"2.0","id":7,"result":{},"id":8}', None),
        (b'{"jsonrpc":"2.0","id":null,"result":NaN}', 0),
        (b'{"jsonrpc":"2.0","id":12345678901,"result":NaN}', 0),
        (b'{"jsonrpc":"2.0","id":1,"id":2,"result":NaN}', 0),
        (b'{"jsonrpc":"2.0","result":{"id":7,"x":NaN}}', None),
        (b'{"jsonrpc":"2.0","error":{"x":NaN}}', None),
        (b'{"result":NaN}', None),
        (b'{"jsonrpc":"2.0","id":7,"result":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 7),
    ],
)
def test_an_answer_that_cannot_be_read_is_an_answer_still(said: bytes, number: int | None) -> None:
    """It names its request before the result or last; elsewhere nothing is guessed."""
    with pytest.raises(Unreadable) as refused:
        parse_lenient(said)
    assert refused.value.number == number
    told = json.loads(unreadable_answer(refused.value))
    assert told["id"] == number and told["error"]["code"] in (-32008, -32007)
    assert refused.value.why in told["error"]["data"]["hint"]


def test_an_answer_above_the_limit_is_known_by_its_ends() -> None:
    limit = 8 << 20
    head = too_large(b'{"jsonrpc":"2.0","id":7,"result":"xxxx', b'xxxx"}', limit)
    tail = too_large(b'\xef\xbb\xbf{"result":"xxxx', b'xxxx","jsonrpc":"2.0","id":7}', limit)
    assert head is not None and tail is not None
    assert head.number == tail.number == 7 and head.code is errors.ANSWER_TOO_BIG
    assert "too large, more than 8388608 bytes" in head.hint
    assert too_large(b"xxxx", b"xxxx", limit) is None


def test_an_object_nested_too_deep_has_no_members() -> None:
    with pytest.raises(Malformed) as refused:
        members(b'{"a":' * 100_000 + b"0" + b"}" * 100_000)
    assert refused.value.why == "nested too deep"


def test_a_number_of_a_million_digits_is_carried() -> None:
    message = b'{"jsonrpc":"2.0","id":1,"result":%b}' % (b"9" * 1_000_000)
    assert replaced(message, b"2") == message.replace(b'"id":1', b'"id":2', 1)
    with pytest.raises(Malformed) as refused:
        parse(b'{"jsonrpc":%b,"id":1}' % (b"9" * 1_000_000))
    assert refused.value.id == b"1"


def test_an_object_that_would_take_long_to_walk_is_refused() -> None:
    """One peer's frame must not hold up the others (§3.1, rule 6)."""
    head = b'{"jsonrpc":"2.0","id":1,"result":0'
    assert len(members(head + b"".join(b',"%d":0' % n for n in range(MEMBERS - 3)) + b"}")) == MEMBERS
    many = head + b"".join(b',"%d":0' % n for n in range(MEMBERS - 2)) + b"}"
    long = head + b',"%b":0}' % (b"k" * (KEY_BYTES + 1))
    for message in (many, long):
        with pytest.raises(Malformed) as refused:
            replaced(message, b"2")
        assert refused.value.code is errors.INVALID_REQUEST
    assert len(members(head + b',"%b":0}' % (b"k" * KEY_BYTES))) == 4


# -- UTF-8 and halves of surrogate pairs -------------------------------------------------------------------------------------

STEP = 64 * 1024


@pytest.mark.row("E27")
@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"\xff", "no such byte"),
        (b"\xc3", "cut"),
        (b"\xe4\xbd", "cut"),
        (b"\xed\xa0\x80", "a surrogate, RFC 3629 §3"),
        (b"\xc0\xaf", "longer than needed"),
        (b"\xf4\x90\x80\x80", "above U+10FFFF"),
        (b"\x80", "a middle without a beginning"),
    ],
)
@pytest.mark.parametrize("at", [0, 5, STEP - 3, STEP - 2, STEP - 1, STEP, 2 * STEP - 1])
def test_text_that_is_not_utf8_is_refused_wherever_it_stands(bad: bytes, why: str, at: int) -> None:
    assert not is_utf8(b"x" * at + bad), why
    assert not is_utf8(b"x" * at + bad + b'"}'), why
    with pytest.raises(Malformed) as refused:
        parse(b'{"jsonrpc":"2.0","id":1,"x":"' + b"x" * at + bad + b'"}')
    assert refused.value.code is errors.PARSE_ERROR


@given(st.text(st.sampled_from("aé你😀"), max_size=40), st.integers(0, 8))
def test_text_that_is_utf8_is_taken_also_when_a_step_of_the_check_ends_within_a_character(text: str, back: int) -> None:
    assert is_utf8(b"x" * (STEP - back) + text.encode())


@given(st.binary(max_size=12), st.integers(0, 12))
def test_the_check_in_steps_says_what_python_says(data: bytes, back: int) -> None:
    data = b"x" * (STEP - back) + data
    try:
        data.decode()
    except UnicodeDecodeError:
        assert not is_utf8(data)
    else:
        assert is_utf8(data)


def test_the_wires_own_check_is_not_repeated() -> None:
    assert bytes(parse(b'{"id":1,"params":"\xff"}', utf8=True).params) == b'"\xff"'  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        b'"cut \\ud83d"',
        b'"\\udc00"',
        b'"\\uD83D\\u0041"',
        b'"\\ud83dx"',
        b'"\\ud83d\\ud83d\\ude00"',
        b'"\\\\\\ud83d"',
        b'{"\\ud83d":"\\ude00"}',
        b'"\\ud83d\\\\ude00"',
    ],
)
@pytest.mark.parametrize(
    "frame",
    [b'{"jsonrpc":"2.0","id":1,"result":%b}', b'{"x":%b,"result":0,"jsonrpc":"2.0","id":1}', b'{"jsonrpc":"2.0","params":%b,"id" :1}'],
)
def test_a_text_cut_within_an_emoji_is_carried_as_it_came(frame: bytes, text: bytes) -> None:
    """JavaScript cuts strings by UTF-16 units and writes the half that is left as an escape: JSON by its grammar (RFC 8259 §8.2)."""
    message = frame % text
    assert replaced(message, b"2") == replaced_slowly(message, b"2")


@pytest.mark.parametrize("text", [b'"\\ud83d\\ude00"', b'"\\\\ud83d"', b'"\\ud7ff\\ue000"', b'"\\uD83D\\uDE00"'])
def test_a_whole_pair_is_read_by_the_parser_itself(text: bytes) -> None:
    frame = parse(b'{"id":1,"params":%b}' % text)
    assert isinstance(frame.params, Raw)
    assert bytes(frame.params) == text


def test_what_is_read_of_a_cut_text_has_a_replacement_character_in_its_place() -> None:
    frame = parse(b'{"jsonrpc":"2.0","method":"m\\ud83d","params":{"a":"\\udc00"}}')
    assert frame.id is UNSET
    assert frame.method == "m�"
    assert msgspec.json.decode(frame.params) == {"a": "�"}  # type: ignore[arg-type]


def test_a_cut_id_is_an_id_that_cannot_be_used() -> None:
    """Its bytes are told as they came, and it has no value to compare."""
    frame = parse(b'{"jsonrpc":"2.0","method":"m","id":"\\ud83d"}')
    assert bytes(frame.id) == b'"\\ud83d"'  # type: ignore[arg-type]
    assert id_key(b'"\\ud83d"', 20, 128) is None


def test_a_repeated_key_beside_a_cut_text_is_refused() -> None:
    with pytest.raises(Malformed):
        parse(b'{"jsonrpc":"2.0","id":1,"result":"\\ud83d","id":2}')


def test_halves_without_end_are_no_text() -> None:
    half = b"\\ud83d"
    assert replaced(b'{"id":1,"result":"%b"}' % (half * 256), b"2") == b'{"id":2,"result":"%b"}' % (half * 256)
    with pytest.raises(Malformed) as refused:
        parse(b'{"id":1,"result":"%b"}' % (half * 257))
    assert refused.value.code is errors.PARSE_ERROR


@example('"\\ud83d\\ude00\\ud83d"')
@given(
    st.lists(st.sampled_from(["\\ud83d", "\\ude00", "\\\\", "\\n", "a", "\\u0041", "ud83d", "你"]), max_size=8).map(
        lambda parts: f'"{"".join(parts)}"'
    )
)
def test_whatever_python_reads_as_a_string_is_carried(text: str) -> None:
    message = b'{"jsonrpc":"2.0","id":1,"result":%b}' % text.encode()
    json.loads(message)
    assert replaced(message, b"2") == message.replace(b'"id":1', b'"id":2')


# -- ids ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.row("D7", "U7")
@pytest.mark.parametrize(
    ("raw", "key"),
    [
        ("0", "0"),
        ("1", "1"),
        ("-1", "-1"),
        ("-0", "0"),
        ("9007199254740992", "9007199254740992"),
        ("9007199254740993", "9007199254740993"),
        ("99999999999999999999", "99999999999999999999"),
        ("-9999999999999999999", "-9999999999999999999"),
        ('""', '""'),
        ('"0"', '"0"'),
        ('"1"', '"1"'),
        ('"null"', '"null"'),
        ('"a_b"', '"a_b"'),
        ('"你"', '"你"'),
        ('"\\u4f60"', '"你"'),
        ('"\\u0061"', '"a"'),
        ('"\\/"', '"/"'),
        ('"/"', '"/"'),
        ('"\\n"', '"\\n"'),
        ('"\\u000a"', '"\\n"'),
        ('"\\u007f"', '"\x7f"'),
        ('"\x7f"', '"\x7f"'),
        ('"\\ud83d\\ude00"', '"😀"'),
        ('"\\u2028"', '"\u2028"'),
    ],
)
def test_ids_are_compared_by_value_and_type(raw: str, key: str) -> None:
    """0 and "" are ids like any other; a number is never a string (§3.1, rule 3)."""
    assert id_key(raw.encode(), 20, 128) == key.encode()


@pytest.mark.row("U7")
@pytest.mark.parametrize(
    "raw", ["null", "1.5", "1.0", "1e2", "1E2", "-1.5", "true", "false", "[]", "[1]", "{}", '{"a":1}', '"\\udc00"', "", "-"]
)
def test_what_is_neither_an_integer_nor_a_string_is_no_id(raw: str) -> None:
    """MCP forbids null; fractions are advised against (JSON-RPC 2.0 §4)."""
    assert id_key(raw.encode(), 20, 128) is None


@pytest.mark.row("U7")
def test_ids_are_as_long_as_the_limits_say() -> None:
    """Characters of an integer, UTF-8 bytes of a string's value, however it is spelled."""
    assert id_key(b"9" * 20, 20, 128) and not id_key(b"9" * 21, 20, 128)
    assert id_key(b"-" + b"9" * 19, 20, 128) and not id_key(b"-" + b"9" * 20, 20, 128)
    for character in ("a", "é", "你", "\\u0061", "\\u4f60", '\\"', "\\\\", "\\n", "\\u0001", "\\ud83d\\ude00"):
        size = len(json.loads(f'"{character}"').encode())
        fits = f'"{character * (128 // size)}{"x" * (128 % size)}"'
        assert id_key(fits.encode(), 20, 128) is not None, character
        assert id_key(f'{fits[:-1]}x"'.encode(), 20, 128) is None, character


@given(st.text(max_size=8), st.data())
def test_one_text_is_one_id_however_it_is_spelled(text: str, data: st.DataObject) -> None:
    once, again = data.draw(spelled(text)), data.draw(spelled(text))
    assert id_key(once.encode(), 20, 128) == id_key(again.encode(), 20, 128) is not None


@given(st.text(max_size=3), st.text(max_size=3))
def test_two_texts_are_two_ids(one: str, other: str) -> None:
    keys = [id_key(json.dumps(text, ensure_ascii=False).encode(), 20, 128) for text in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)


# -- members, and edits at their places --------------------------------------------------------------------------------------


def test_an_object_without_members_has_no_places() -> None:
    assert members(b" { } ") == {}
    assert members(Raw(b"{}")) == {}


def test_splice_puts_each_piece_in_its_place_in_any_order() -> None:
    assert jsonrpc.splice(b"abcdef", [(4, 5, b"E!"), (0, 1, b""), (2, 2, b"-")]) == b"b-cdE!f"
    assert jsonrpc.splice(b"abc", []) == b"abc"


@pytest.mark.row("D21")
@pytest.mark.parametrize(
    ("text", "left"),
    [
        (b'{"params":null}', b"{}"),
        (b'{"params":null,"id":1}', b'{"id":1}'),
        (b'{"id":1,"params":null}', b'{"id":1}'),
        (b'{"id":1,"params":null,"method":"a"}', b'{"id":1,"method":"a"}'),
        (b' { "id" : 1 , "params" : null , "method" : "a" } ', b' { "id" : 1 , "method" : "a" } '),
        (b'{ "params" : null , "id" : 1 }', b'{ "id" : 1 }'),
    ],
)
def test_a_member_is_taken_out_with_the_comma_that_belongs_to_it(text: bytes, left: bytes) -> None:
    assert jsonrpc.splice(text, [jsonrpc.without(text, "params", members(text))]) == left


@given(messages(), st.data())
@settings(max_examples=settings().max_examples // 4)
def test_a_message_without_a_member_is_the_message_without_it(message: bytes, data: st.DataObject) -> None:
    spans = members(message)
    name = data.draw(st.sampled_from(list(spans)))
    left = jsonrpc.splice(message, [jsonrpc.without(message, name, spans)])
    expected = {other: message[span.start : span.end] for other, span in spans.items() if other != name}
    assert {other: left[start:end] for other, _, start, end in read_slowly(left)} == expected


@given(messages())
@settings(max_examples=settings().max_examples // 4)
def test_a_message_in_one_line_says_the_same(message: bytes) -> None:
    """A stdio server is framed by lines (§3.1, rule 2)."""
    line = jsonrpc.one_line(message)
    assert b"\n" not in line
    assert b"\r" not in line
    assert len(line) == len(message)
    assert json.loads(line) == json.loads(message)


def test_a_place_below_params_is_found_in_the_frame() -> None:
    data = b'{"id":1, "params" : {"a":1, "_meta": { "progressToken" : "t" , "x":1}}}'
    place = jsonrpc.place_in_params(data, members(data), "_meta", "progressToken")
    assert place is not None
    assert data[place.start : place.end] == b'"t"'
    assert data[place.key : place.start] == b'"progressToken" : '
    whole = jsonrpc.place_in_params(data, members(data))
    assert whole == members(data)["params"]


@pytest.mark.parametrize(
    "params", [b"null", b"[]", b'"_meta"', b"{}", b'{"_meta":null}', b'{"_meta":[]}', b'{"_meta":{}}', b'{"meta":{"progressToken":1}}']
)
def test_a_place_that_is_not_there_is_none(params: bytes) -> None:
    data = b'{"params":%b}' % params
    assert jsonrpc.place_in_params(data, members(data), "_meta", "progressToken") is None


@pytest.mark.parametrize("params", [b'{"_meta":{},"_meta":{}}', b'{"_meta":{"progressToken":1,"progressToken":2}}', b'{"a":1,"\\u0061":1}'])
def test_a_repeated_key_on_the_way_below_params_makes_the_params_invalid(params: bytes) -> None:
    data = b'{"params":%b}' % params
    with pytest.raises(Malformed) as refused:
        jsonrpc.place_in_params(data, members(data), "_meta", "progressToken")
    assert refused.value.code is errors.INVALID_PARAMS


def test_a_place_is_found_beside_a_cut_text() -> None:
    data = b'{"params":{"name":"x","arguments":"\\ud83d"}}'
    place = jsonrpc.place_in_params(data, members(data), "name")
    assert place is not None
    assert data[place.start : place.end] == b'"x"'


def test_a_message_of_one_line_is_handed_on_as_it_is() -> None:
    message = b'{"id":1}'
    assert jsonrpc.one_line(message) is message
    assert jsonrpc.one_line(b'{"id":1}\r') == b'{"id":1} '


# -- frames of our own -------------------------------------------------------------------------------------------------------


def test_our_own_frames_are_json_rpc() -> None:
    def read(frame: bytes) -> Any:
        assert b"\n" not in frame
        return json.loads(frame)

    assert read(jsonrpc.request(b"1", "ping")) == {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    assert read(jsonrpc.request(b'"a"', "m", b'{"x":1}')) == {"jsonrpc": "2.0", "id": "a", "method": "m", "params": {"x": 1}}
    assert read(jsonrpc.notification("n")) == {"jsonrpc": "2.0", "method": "n"}
    assert read(jsonrpc.notification("n", {"x": "你"})) == {"jsonrpc": "2.0", "method": "n", "params": {"x": "你"}}
    assert read(jsonrpc.result(b"0", b"{}")) == {"jsonrpc": "2.0", "id": 0, "result": {}}


@pytest.mark.row("D11")
def test_our_errors_have_no_result_and_are_not_escaped() -> None:
    """xiaozhi-server takes `"result": null` for success; escapes would double the bytes of Chinese (contract 1.4)."""
    assert json.loads(jsonrpc.error(b'"7"', errors.BUSY)) == {
        "jsonrpc": "2.0",
        "id": "7",
        "error": {"code": -32005, "message": errors.BUSY.message},
    }
    told = jsonrpc.error(b"null", errors.NO_PROVIDER, {"hint": "从未连接"})
    assert "工具端未连接".encode() in told
    assert json.loads(told)["error"]["data"] == {"hint": "从未连接"}
    assert "result" not in json.loads(told)


def test_a_malformed_frame_says_what_and_why() -> None:
    malformed = Malformed(errors.PARSE_ERROR, "not JSON")
    assert (malformed.code, malformed.why, malformed.id, str(malformed)) == (errors.PARSE_ERROR, "not JSON", b"null", "not JSON")
