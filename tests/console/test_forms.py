"""A tool's schema as a form, and what is filled in as arguments."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mcp_endpoint.console.forms import MOST, Wrong, arguments, inputs, schema_of


def schema(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "string"}, "text"),
        ({"type": "string", "format": "date"}, "date"),
        ({"type": "integer"}, "integer"),
        ({"type": "number"}, "number"),
        ({"type": "boolean"}, "boolean"),
        ({"type": "string", "enum": ["a", "b"]}, "choice"),
        ({"const": 3}, "choice"),
        ({"type": "object"}, "json"),
        ({"type": "array"}, "json"),
        ({"type": ["string", "null"]}, "text"),
        ({"type": ["string", "integer"]}, "json"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None}, "integer"),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "json"),
        ({}, "json"),
        (True, "json"),
        ({"type": "string", "enum": []}, "text"),
        ({"type": 7, "enum": 7, "title": 7}, "json"),
    ],
)
def test_every_kind_of_property_has_its_input(part: Any, kind: str) -> None:
    (one,) = inputs(schema(x=part))
    assert (one["name"], one["kind"], one["required"]) == ("x", kind, False)


def test_what_is_known_of_a_property_stands_with_its_input() -> None:
    (one,) = inputs(
        schema(("n",), n={"type": "integer", "title": "N", "description": "how many", "minimum": 1, "maximum": 9, "default": 5})
    )
    assert one == {
        "name": "n",
        "kind": "integer",
        "required": True,
        "title": "N",
        "description": "how many",
        "minimum": 1,
        "maximum": 9,
        "default": "5",
    }


def test_references_are_resolved_and_what_is_no_schema_has_no_inputs() -> None:
    whole = {"$defs": {"unit": {"enum": ["C", "F"]}}, **schema(unit={"$ref": "#/$defs/unit"})}
    (one,) = inputs(schema_of(json.dumps({"name": "t", "inputSchema": whole}).encode()))
    assert one["choices"] == ['"C"', '"F"']
    for definition in (b"{}", b"[]", b'{"inputSchema": 7}', b"\xff", b'{"inputSchema":' + b"[" * 3_000):
        assert inputs(schema_of(definition)) == []


def test_a_form_has_only_so_many_inputs() -> None:
    assert len(inputs(schema(**{f"p{number}": {"type": "string"} for number in range(MOST + 1)}))) == MOST


def test_empty_inputs_are_left_out_unless_the_text_is_required() -> None:
    form = schema(("a",), a={"type": "string"}, b={"type": "string"}, c={"type": "integer"}, d={"type": "boolean"})
    assert json.loads(arguments(form, {"arg.a": "", "arg.b": "", "arg.c": "", "arg.d": "", "other": "x"})) == {"a": ""}


def test_every_kind_of_input_becomes_a_value_of_its_type() -> None:
    form = schema(
        a={"type": "string"}, b={"type": "integer"}, c={"type": "number"}, d={"type": "boolean"}, e={"enum": [1, "1"]}, f={"type": "object"}
    )
    fields = {"arg.a": "7", "arg.b": "9007199254740993", "arg.c": "-1.5", "arg.d": "true", "arg.e": '"1"', "arg.f": '{"x": [1]}'}
    assert json.loads(arguments(form, fields)) == {"a": "7", "b": 9007199254740993, "c": -1.5, "d": True, "e": "1", "f": {"x": [1]}}


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ({"type": "integer"}, "1.5"),
        ({"type": "integer"}, "true"),
        ({"type": "number"}, "many"),
        ({"type": "boolean"}, "yes"),
        ({"enum": ["a"]}, '"b"'),
        ({"type": "object"}, "{x}"),
    ],
)
def test_what_does_not_fit_is_told_by_the_name_of_its_input(part: dict[str, Any], text: str) -> None:
    with pytest.raises(Wrong, match="size") as wrong:
        arguments(schema(size=part), {"arg.size": text})
    assert wrong.value.zh.startswith("size 不是")


def test_arguments_as_json_are_taken_as_they_are() -> None:
    assert arguments(schema(a={"type": "integer"}), {"arg.a": "1", "raw": ' {"b": 1.0} '}) == b'{"b": 1.0}'
    for raw in ("[]", "{", "7", "[" * 3_000):
        with pytest.raises(Wrong):
            arguments(schema(), {"raw": raw})
