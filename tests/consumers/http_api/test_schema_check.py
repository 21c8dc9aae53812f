"""What fits a schema, what does not, and what nobody waits for: asked of the program as the server asks it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Protocol

import pytest

from mcp_endpoint.consumers.http_api import schema_check as module
from mcp_endpoint.consumers.http_api.schema_check import QUESTION, VERDICT, Schemas, serve

DIALECTS = [
    "https://json-schema.org/draft/2020-12/schema",
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema#",
    "http://json-schema.org/draft-04/schema#",
    "http://json-schema.org/draft-03/schema#",
]
FOR_EVER = "^(a+)+$"
MANY = "a" * 60 + "b"
"""Keeps `FOR_EVER` busy for longer than anybody lives."""
TWICE_FORTY_TIMES = {
    "$defs": {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)} | {"d40": {}},
    "$ref": "#/$defs/d0",
}


class Asked(Protocol):
    def __call__(self, schema: Any, arguments: Any) -> str: ...


@pytest.fixture(scope="module")
def asked() -> Iterator[Asked]:
    """The verdict of one process on (schema, arguments)."""
    with subprocess.Popen([sys.executable, "-I", str(module.__file__)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        asked, said = process.stdin, process.stdout
        assert asked is not None and said is not None

        def verdict() -> str:
            head = said.read(VERDICT.size)
            assert len(head) == VERDICT.size, "the process ended"
            return said.read(*VERDICT.unpack(head)).decode()

        def ask(schema: Any, arguments: Any) -> str:
            definition, data = (json.dumps(one).encode() for one in ({"name": "x", "inputSchema": schema}, arguments))
            asked.write(QUESTION.pack(len(definition), len(data)) + definition + data)
            asked.flush()
            return verdict()

        assert verdict() == "", "it is ready"
        yield ask
        asked.close()
        assert process.wait(20) == 0, "it ends with its questions"


@pytest.mark.row("H10")
@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_does_not_fit_is_said_with_its_place(asked: Asked, dialect: str) -> None:
    schema = {
        "$schema": dialect,
        "type": "object",
        "properties": {"n": {"type": "integer"}, "s": {"pattern": "^a+$"}},
        "additionalProperties": False,
    }
    assert asked(schema, {"n": 1, "s": "aa"}) == ""
    assert asked(schema, {"n": "1"}) == "n: '1' is not of type 'integer'"
    assert asked(schema, {"s": "b"}) == "s: 'b' does not match '^a+$'"
    assert asked(schema, {"m": 1}).startswith("Additional properties")


def test_what_is_said_is_short(asked: Asked) -> None:
    assert len(asked({"properties": {"n": {"type": "integer"}}}, {"n": "x" * 100_000})) == module.MESSAGE_CHARS


@pytest.mark.parametrize(
    "schema", [None, 7, [], {"type": 7}, {"$schema": 7}, {"properties": []}, {"$schema": "https://example.org/own"}, {"$id": "http://["}]
)
def test_a_schema_that_is_none_takes_anything(asked: Asked, schema: Any) -> None:
    assert asked(schema, {"any": "thing"}) == ""


@pytest.mark.parametrize(
    ("ref", "there"),
    [
        ("#/there", "text"),
        ("#/there", 5),
        ("#/there", [1]),
        ("#/there", {"type": 7}),
        ("#/there", {"properties": [1]}),
        ("#/there", {"multipleOf": 0}),
        ("#/there", {"minimum": "x"}),
        ("#/there", {"$id": 7, "allOf": 7}),
        ("#/there", {"pattern": r"(?<year>\d)"}),
        ("#/there/x", [1]),
        ("#nobody", {}),
        ("http://[", {}),
        ("http://127.0.0.1:1/schema", {}),
        ("#", {}),
    ],
)
def test_a_reference_to_what_is_no_schema_takes_anything(asked: Asked, ref: str, there: Any) -> None:
    assert asked({"there": there, "properties": {"a": {"$ref": ref}}}, {"a": "1" if "pattern" in str(there) else 1}) == ""


@pytest.mark.parametrize(
    ("schema", "arguments"),
    [
        ({"properties": {"a": {"pattern": FOR_EVER}}}, {"a": MANY}),
        ({"patternProperties": {FOR_EVER: {"type": "integer"}}}, {MANY: "x"}),
        ({"patternProperties": {FOR_EVER: {}}, "additionalProperties": False}, {MANY: 1}),
        ({"patternProperties": {FOR_EVER: {}}, "unevaluatedProperties": False}, {MANY: 1}),
        ({"properties": {"a": {"uniqueItems": True}}}, {"a": [{"x": n} for n in range(20_000)]}),
        ({"properties": {"a": {"items": {"enum": [[n] for n in range(3_000)]}}}}, {"a": [[-1]] * 1_000}),
        (TWICE_FORTY_TIMES, {}),
        ({"$ref": "#/" + "a/" * 20_000, "a": {}}, {}),
    ],
    ids=["pattern", "patternProperties", "additional", "unevaluated", "unique", "words", "references", "pointer"],
)
def test_what_takes_long_is_left_to_the_tool(asked: Asked, schema: Any, arguments: Any) -> None:
    assert asked(schema, arguments) == "" or "is not one of" in asked(schema, arguments)
    assert asked({"type": "string"}, {}).endswith("is not of type 'string'"), "the next question is answered by the same process"


def test_arguments_nested_beyond_all_reason_are_left_to_the_tool(asked: Asked) -> None:
    deep: Any = {}
    for _ in range(900):
        deep = {"a": deep}
    assert asked({"$defs": {"t": {"additionalProperties": {"$ref": "#/$defs/t"}}}, "$ref": "#/$defs/t"}, deep) == ""


def test_the_schema_used_longest_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VALIDATORS", 2)
    schemas = Schemas()
    definitions = [b'{"inputSchema":{"maxProperties":%d}}' % n for n in range(3)]
    for definition in (definitions[0], definitions[1], definitions[0], definitions[2]):
        schemas.verdict(definition, b"{}")
    assert list(schemas._known) == [definitions[0], definitions[2]]


def test_questions_are_answered_one_after_the_other_until_there_are_no_more() -> None:
    definition = b'{"inputSchema":{"type":"string"}}'
    verdicts = io.BytesIO()
    serve(io.BytesIO(QUESTION.pack(len(definition), 2) + definition + b"{}"), verdicts)
    first = VERDICT.size
    assert verdicts.getvalue()[first + VERDICT.size :] == b"{} is not of type 'string'"
