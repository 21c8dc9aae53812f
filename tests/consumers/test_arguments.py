"""What fits a schema, what does not, and what nobody waits for."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from mcp_endpoint.consumers import arguments as module
from mcp_endpoint.consumers.arguments import Shape, Wrong

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


def takes(schema: Any) -> Shape:
    return Shape(json.dumps({"name": "x", "inputSchema": schema}).encode())


@pytest.mark.row("H10")
@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_does_not_fit_is_said_with_its_place(dialect: str) -> None:
    schema = {"$schema": dialect, "type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": False}
    takes(schema).check({"n": 1})
    with pytest.raises(Wrong, match=r"^n: '1' is not of type 'integer'$"):
        takes(schema).check({"n": "1"})
    with pytest.raises(Wrong, match=r"^Additional properties"):
        takes(schema).check({"m": 1})


def test_what_is_said_is_short() -> None:
    with pytest.raises(Wrong) as caught:
        takes({"properties": {"n": {"type": "integer"}}}).check({"n": "x" * 100_000})
    assert len(str(caught.value)) == module.MESSAGE_CHARS


@pytest.mark.parametrize(
    "schema", [None, 7, [], {"type": 7}, {"$schema": 7}, {"properties": []}, {"$schema": "https://example.org/own"}, {"$id": "http://["}]
)
def test_a_schema_that_is_none_takes_anything(schema: Any) -> None:
    takes(schema).check({"any": "thing"})


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
        ("#/there/x", [1]),
        ("#nobody", {}),
        ("http://[", {}),
        ("http://127.0.0.1:1/schema", {}),
        ("#", {}),
    ],
)
def test_a_reference_to_what_is_no_schema_takes_anything(ref: str, there: Any) -> None:
    takes({"there": there, "properties": {"a": {"$ref": ref}}}).check({"a": 1})


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("schema", "arguments"),
    [
        ({"properties": {"a": {"pattern": FOR_EVER}}}, {"a": MANY}),
        ({"patternProperties": {FOR_EVER: {"type": "integer"}}}, {MANY: "x"}),
        ({"patternProperties": {FOR_EVER: {}}, "additionalProperties": False}, {MANY: 1}),
        ({"patternProperties": {FOR_EVER: {}}, "unevaluatedProperties": False}, {MANY: 1}),
        ({"properties": {"a": {"uniqueItems": True}}}, {"a": [{"x": n} for n in range(20_000)]}),
        (TWICE_FORTY_TIMES, {}),
        ({"properties": {"a": {"anyOf": [{"type": "string"}] * 1_000}}}, {"a": [1] * 300_000}),
        ({"enum": [{"x": n} for n in range(20_000)], "required": [1, "a"] * 10_000}, {}),
        ({"properties": {f"p{n}": {"type": "string"} for n in range(30_000)}}, {}),
    ],
    ids=["pattern", "patternProperties", "additional", "unevaluated", "unique", "references", "words", "doubles", "large"],
)
def test_nobody_waits_for_what_takes_long(dialect: str, schema: dict[str, Any], arguments: dict[str, Any]) -> None:
    began = time.thread_time()
    takes({"$schema": dialect} | schema).check(arguments)
    assert time.thread_time() - began < 3, "twice the bound, what was read and written meanwhile, and a slow machine"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_part_that_names_a_dialect_of_its_own_is_watched_as_well(dialect: str) -> None:
    takes({"properties": {"a": {"$schema": dialect, "pattern": FOR_EVER}}}).check({"a": MANY})
    again = {"$schema": dialect, "properties": {"a": {"$ref": "#"}, "b": {"pattern": FOR_EVER}}}
    takes(again).check({"a": {"b": MANY}})


def test_short_lists_are_searched_for_doubles() -> None:
    schema = {"properties": {"a": {"uniqueItems": True}}}
    with pytest.raises(Wrong, match=r"^a: \[1, 1"):
        takes(schema).check({"a": [1] * module.UNIQUE_ITEMS})
    takes(schema).check({"a": [1] * (module.UNIQUE_ITEMS + 1)})


def test_arguments_nested_beyond_all_reason_are_left_to_the_tool() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5_000):
        deep = {"a": deep}
    takes({"$defs": {"t": {"additionalProperties": {"$ref": "#/$defs/t"}}}, "$ref": "#/$defs/t"}).check(deep)
