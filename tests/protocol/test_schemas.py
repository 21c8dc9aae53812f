"""Schemas without references take what the schemas with them took, whatever stands in them, and never grow without bound."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema.validators import Draft7Validator, Draft202012Validator

from mcp_endpoint.protocol.schemas import DEPTH, LIST_BYTES, SCHEMA_BYTES, inlined, tools_inlined

TEXT = {"type": "string"}
POINT = {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}
NODE = {"type": "object", "title": "Node", "properties": {"next": {"$ref": "#/$defs/N"}, "name": TEXT}}
DRAFT_7 = "http://json-schema.org/draft-07/schema#"


def _inlined(schema: Any) -> Any:
    return json.loads(inlined(json.dumps(schema).encode()))


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        # What pydantic, zod-to-json-schema and others write.
        (
            {"type": "object", "properties": {"p": {"$ref": "#/$defs/P"}}, "$defs": {"P": POINT}},
            {"type": "object", "properties": {"p": POINT}},
        ),
        (
            {"$ref": "#/definitions/P", "definitions": {"P": POINT}, "$schema": DRAFT_7},
            POINT | {"$schema": DRAFT_7},
        ),
        (
            {"properties": {"a": TEXT, "b": {"$ref": "#/properties/a", "description": "as a"}}},
            {"properties": {"a": TEXT, "b": TEXT | {"description": "as a"}}},
        ),
        (
            {
                "anyOf": [{"$ref": "#/$defs/E", "default": "x", "title": "T"}, {"type": "null"}],
                "$defs": {"E": {"enum": ["x"], "title": "E"}},
            },
            {"anyOf": [{"enum": ["x"], "title": "T", "default": "x"}, {"type": "null"}]},
        ),
        # One that leads to another, in places of every kind.
        (
            {"items": {"$ref": "#/$defs/A"}, "not": {"$ref": "#/$defs/B"}, "$defs": {"A": {"items": [{"$ref": "#/$defs/B"}]}, "B": TEXT}},
            {"items": {"items": [TEXT]}, "not": TEXT},
        ),
        (
            {"dependencies": {"a": ["b"], "c": {"$ref": "#/prefixItems/1"}}, "prefixItems": [True, TEXT], "x": [{"$ref": "#/nowhere"}]},
            {"dependencies": {"a": ["b"], "c": TEXT}, "prefixItems": [True, TEXT], "x": [{"$ref": "#/nowhere"}]},
        ),
        ({"items": {"$ref": "#/$defs/a~1b%20~0"}, "$defs": {"a/b ~": TEXT}}, {"items": TEXT}),
        (
            {"items": {"$ref": "#/$defs/T"}, "not": {"$ref": "#/$defs/F"}, "$defs": {"T": True, "F": False}},
            {"items": {}, "not": {"not": {}}},
        ),
        # What stands beside a reference.
        (
            {"items": {"$ref": "#/$defs/P", "additionalProperties": False, "title": "T"}, "$defs": {"P": POINT}},
            {"items": {"allOf": [POINT], "additionalProperties": False, "title": "T"}},
        ),
        (
            {"items": {"$ref": "#/$defs/P", "allOf": [{"$ref": "#/$defs/Q"}]}, "$defs": {"P": POINT, "Q": {"maxProperties": 1}}},
            {"items": {"allOf": [POINT, {"maxProperties": 1}]}},
        ),
        ({"items": {"$ref": "#/$defs/P", "type": "object"}, "$defs": {"P": POINT}}, {"items": POINT}),
        (
            {"$schema": DRAFT_7, "items": {"$ref": "#/definitions/T", "type": "object", "title": "T"}, "definitions": {"T": TEXT}},
            {"$schema": DRAFT_7, "items": TEXT | {"title": "T"}},
        ),
        (
            {"$schema": DRAFT_7, "type": "object", "$ref": "#/definitions/A", "definitions": {"A": {"required": ["a"]}}},
            {"$schema": DRAFT_7, "type": "object", "required": ["a"]},
        ),
        # Data and names that only look like references.
        (
            {"properties": {"$ref": TEXT, "$defs": {"const": {"$ref": "#/a"}}, "c": {"$ref": "#/properties/$ref"}}},
            {"properties": {"$ref": TEXT, "$defs": {"const": {"$ref": "#/a"}}, "c": TEXT}},
        ),
        ({"items": TEXT, "$defs": {"A": {"$ref": "#/$defs/B"}}}, {"items": TEXT}),
        # One that begins again is cut there.
        (
            {"$ref": "#/$defs/N", "$defs": {"N": NODE}},
            {**NODE, "properties": {"next": {"type": "object", "title": "Node"}, "name": TEXT}},
        ),
        ({"properties": {"again": {"$ref": "#"}}, "type": "object"}, {"properties": {"again": {"type": "object"}}, "type": "object"}),
        ({"items": {"$ref": "#/$defs/A"}, "$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}}, {"items": {}}),
    ],
)
def test_a_reference_becomes_what_it_points_to(schema: Any, expected: Any) -> None:
    assert _inlined(schema) == expected


@pytest.mark.parametrize(
    "schema",
    [
        b'{ "type" : "object","$defs":{"A":{}} }',
        b'{"items":{"$ref":"https://example.com/schema"}}',
        b'{"items":{"$ref":"other.json#/$defs/A"}}',
        b'{"items":{"$ref":"#name"},"$defs":{"A":{"$anchor":"name"}}}',
        b'{"items":{"$ref":"#/$defs/none"}}',
        b'{"items":{"$ref":"#/items/0"}}',
        b'{"items":{"$ref":"#/allOf/1"},"allOf":[{}]}',
        b'{"items":{"$ref":"#/allOf/x"},"allOf":[{}]}',
        b'{"items":{"$ref":"#/title/x"},"title":"t"}',
        b'{"items":{"$ref":7}}',
        b'{"items":{"$dynamicRef":"#a"},"not":{"$ref":"#/$defs/A"},"$defs":{"A":{}}}',
        b'{"items":{"$ref":"#/$defs/A"},"$defs":{"A":{"$id":"https://example.com/a"}}}',
        b'{"allOf":{"$ref":"#/$defs/A","allOf":{}},"$defs":{"A":{}}}',
        b"[]",
        b"",
    ],
)
def test_what_cannot_be_resolved_stays_as_it_is(schema: bytes) -> None:
    assert inlined(schema) is schema


def test_numbers_and_escapes_keep_their_bytes() -> None:
    schema = b'{"items":{"$ref":"#/$defs/A"},"minimum": 1.00,"$defs":{"A":{"const":"\\u676d","pattern":"^a$", "multipleOf":1e-2}}}'
    assert inlined(schema) == b'{"items":{"const":"\\u676d","pattern":"^a$","multipleOf":1e-2},"minimum":1.00}'


def test_a_small_schema_that_would_become_huge_stays_as_it_is() -> None:
    """Threat: each level doubles what the next one holds (as in "billion laughs")."""
    levels = {str(n): {"anyOf": [{"$ref": f"#/$defs/{n + 1}"}, {"$ref": f"#/$defs/{n + 1}"}]} for n in range(40)}
    bomb = json.dumps({"items": {"$ref": "#/$defs/0"}, "$defs": levels | {"40": TEXT}}).encode()
    assert inlined(bomb) is bomb
    wide = json.dumps({"prefixItems": [{"$ref": "#/$defs/a"}] * 100, "$defs": {"a": {"const": "x" * 10_000}}}).encode()
    assert inlined(wide) is wide
    hidden = json.dumps({"prefixItems": [{"$ref": "#/$defs/a"}] * 100, "$defs": {"a": {"$defs": {"x": "x" * 10_000}}}}).encode()
    assert inlined(hidden) is hidden
    far = json.dumps(
        {"prefixItems": [{"$ref": f"#/$defs/a/prefixItems/{n}"} for n in range(100)], "$defs": {"a": {"prefixItems": ["x" * 99] * 100}}}
    )
    assert inlined(far.encode()).decode() == far


def test_a_schema_that_would_become_too_deep_stays_as_it_is() -> None:
    levels = {str(n): {"items": {"$ref": f"#/$defs/{n + 1}"}} for n in range(DEPTH)}
    deep = json.dumps({"items": {"$ref": "#/$defs/0"}, "$defs": levels | {str(DEPTH): TEXT}}).encode()
    assert inlined(deep) is deep


def _answer(*tools: Any) -> bytes:
    return b'{"jsonrpc":"2.0", "id":1,"result":{"tools": [%b] ,"nextCursor":"2"}}' % b" , ".join(
        tool if isinstance(tool, bytes) else json.dumps(tool).encode() for tool in tools
    )


def test_a_list_keeps_every_other_byte() -> None:
    refers = b'{"name":"a", "inputSchema": {"items":{"$ref":"#/$defs/A"},"$defs":{"A":{}}} ,"outputSchema":{"$ref":"#/x"}}'
    plain = b'{"name": "b","inputSchema": {"minimum":1.0 }}'
    odd = [b'{"description":"$ref"}', b'{"x":"$ref","x":1}', b'"$ref"']
    assert tools_inlined(_answer(refers, plain, *odd)) == (
        b'{"jsonrpc":"2.0", "id":1,"result":{"tools": [%b] ,"nextCursor":"2"}}'
        % b",".join([b'{"name":"a", "inputSchema": {"items":{}} ,"outputSchema":{"$ref":"#/x"}}', plain, *odd])
    )


@pytest.mark.parametrize(
    "answer",
    [
        _answer(b'{"name":"a","inputSchema":{"$ref":"x"}}'),
        b'{"id":1,"error":{"message":"$ref"}}',
        b'{"id":1,"result":{"x":"$ref"}}',
        b'{"id":1,"result":{"tools":"$ref"}}',
        b'{"id":1,"result":["$ref"]}',
        b'{"id":1,"result":{"tools":[],"tools":["$ref"]}}',
    ],
)
def test_a_list_without_anything_to_do_is_given_back_as_it_is(answer: bytes) -> None:
    assert tools_inlined(answer) is answer


def test_all_tools_of_a_list_together_are_bounded() -> None:
    tool = {"name": "a", "inputSchema": {"items": {"$ref": "#/$defs/A"}, "$defs": {"A": {"const": "x" * (SCHEMA_BYTES // 10)}}}}
    count = 4 * LIST_BYTES // SCHEMA_BYTES
    tools = json.loads(tools_inlined(_answer(*[tool] * count)))["result"]["tools"]
    assert "$ref" not in json.dumps(tools[0]) and tools[-1] == tool


names = st.sampled_from(["a", "b", "c"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | names,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2),
)
leaves = st.one_of(
    st.booleans(),
    st.fixed_dictionaries({"type": st.sampled_from(["string", "integer", "object", "array", "null"])}),
    st.fixed_dictionaries({"enum": st.lists(values, min_size=1, max_size=2)}),
    st.fixed_dictionaries({"minimum": st.integers(-2, 2)}),
)


def _around(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(names, inner, max_size=2),
            "additionalProperties": inner,
            "unevaluatedProperties": inner,
            "items": inner,
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "allOf": st.lists(inner, min_size=1, max_size=2),
            "not": inner,
            "title": names,
            "required": st.lists(names, unique=True, max_size=1),
            "type": st.sampled_from(["object", "array"]),
        },
    )


@st.composite
def schemas(draw: st.DrawFn) -> Any:
    """A schema of which each definition refers to later ones only."""
    definitions: dict[str, Any] = {}
    for name in ("C", "B", "A", "root"):
        refers = st.builds(
            lambda to, beside: {"$ref": f"#/$defs/{to}", **beside},
            st.sampled_from([*definitions] or ["C"]),
            _around(leaves) | st.just({}),
        )
        definitions[name] = draw(st.recursive(leaves | refers if definitions else leaves, _around, max_leaves=4))
    root = definitions.pop("root")
    return {"$defs": definitions, **(root if isinstance(root, dict) else {"allOf": [root]})}


@settings(max_examples=settings().max_examples // 10)
@given(schema=schemas(), instances=st.lists(values, min_size=1, max_size=6), old=st.booleans())
def test_what_is_inlined_takes_the_same_instances_and_has_no_reference(schema: Any, instances: list[Any], old: bool) -> None:
    """The arguments of a tool are an object: in old drafts, where `type` beside a `$ref` does not count, only of them this is true."""
    validator = Draft7Validator if old else Draft202012Validator
    if old:
        instances = [instance for instance in instances if isinstance(instance, dict)]
        schema = {"$schema": DRAFT_7, **schema}
    found = _inlined(schema)
    assert "$ref" not in json.dumps(found)
    before, after = validator(schema), validator(found)
    assert [after.is_valid(instance) for instance in instances] == [before.is_valid(instance) for instance in instances]


@settings(max_examples=settings().max_examples // 4)
@given(
    st.recursive(
        st.sampled_from(["#", "#/$defs/A", "#/items", "#/$defs/A/not", 1, True, {}]),
        lambda inner: st.dictionaries(
            st.sampled_from(["$ref", "$defs", "A", "items", "not", "allOf", "properties", "type"]),
            inner | st.lists(inner, max_size=2),
            max_size=4,
        ),
    )
)
def test_whatever_stands_in_a_schema_the_result_is_json_and_bounded(schema: Any) -> None:
    text = json.dumps(schema).encode()
    found = inlined(text)
    json.loads(found)
    assert len(found) <= max(len(text), SCHEMA_BYTES)
