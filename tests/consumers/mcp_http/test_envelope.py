"""What a request of the stateless era must say, and what its headers must say once more."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest

from mcp_endpoint.consumers.mcp_http.envelope import Rejected, check_params, decoded, examine, read
from mcp_endpoint.protocol.methods import CAPABILITIES_KEY, CLIENT_KEY, LEVEL_KEY, VERSION_KEY
from mcp_endpoint.protocol.methods import STATELESS_REVISION as REVISION

META = {VERSION_KEY: REVISION, CLIENT_KEY: {"name": "c", "version": "1"}, CAPABILITIES_KEY: {"roots": {}}}
UNSENT: Any = object()


def body(method: Any = "tools/call", id: Any = 7, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": {"_meta": META} | params}).encode()


def headers(**more: Any) -> list[tuple[bytes, bytes]]:
    """The right headers for a call of the tool `a`, changed by `more`; UNSENT leaves one out, a list sends it more than once."""
    found: list[tuple[bytes, bytes]] = [(b"host", b"x")]
    for name, value in ({"mcp-protocol-version": REVISION, "mcp-method": "tools/call", "mcp-name": "a"} | more).items():
        found += [(name.encode(), one.encode()) for one in (value if isinstance(value, list) else [value]) if one is not UNSENT]
    return found


def refusal(data: bytes, said: list[tuple[bytes, bytes]]) -> Rejected:
    with pytest.raises(Rejected) as caught:
        examine(read(data, 20, 128), said)
    return caught.value


def test_a_good_request_is_read() -> None:
    meta = META | {LEVEL_KEY: "info", "progressToken": 3}
    asked = examine(read(body(name="a", _meta=meta), 20, 128), headers())
    assert (asked.id, asked.method, asked.client, asked.capabilities) == (b"7", "tools/call", "c", {"roots": {}})
    assert (asked.level, asked.token) == ("info", b"3")


def test_a_client_need_not_say_its_name() -> None:
    """It should; a server must not ask for it (MCP, specification pull request 3002)."""
    meta = {VERSION_KEY: REVISION, CAPABILITIES_KEY: {}}
    asked = examine(read(body(name="a", _meta=meta), 20, 128), headers())
    assert (asked.client, asked.level, asked.token) == ("", None, b"")


@pytest.mark.parametrize(
    ("data", "code", "id"),
    [
        (b"{", -32700, b"null"),
        (b"\xff", -32700, b"null"),
        (b"[]", -32600, b"null"),
        (b'{"jsonrpc":"2.0","id":1,"result":{}}', -32600, b"null"),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","result":{}}', -32600, b"null"),
        (b'{"jsonrpc":"1.0","id":1,"method":"a"}', -32600, b"null"),
        (b'{"jsonrpc":"2.0","id":null,"method":"a"}', -32600, b"null"),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"a"}', -32600, b"null"),
        (b'{"jsonrpc":"2.0","id":5,"method":7}', -32600, b"5"),
        (b'{"jsonrpc":"2.0","id":[],"method":7}', -32600, b"null"),
    ],
)
def test_what_is_no_request_is_refused(data: bytes, code: int, id: bytes) -> None:
    with pytest.raises(Rejected) as caught:
        read(data, 20, 128)
    assert (caught.value.code, caught.value.id) == (code, id)


@pytest.mark.parametrize("missing", [VERSION_KEY, CAPABILITIES_KEY])
def test_what_every_request_must_say_is_missed_first(missing: str) -> None:
    """Before any header is looked at."""
    meta = {key: value for key, value in META.items() if key != missing}
    why = refusal(body(_meta=meta), [])
    assert (why.code, why.id) == (-32602, b"7") and missing in why.message


@pytest.mark.parametrize("params", [{}, [1], {"_meta": 7}, {"_meta": None}])
def test_a_request_without_an_envelope_is_refused(params: Any) -> None:
    assert refusal(json.dumps({"jsonrpc": "2.0", "id": 7, "method": "m", "params": params}).encode(), headers()).code == -32602
    assert refusal(b'{"jsonrpc":"2.0","id":7,"method":"m"}', headers()).code == -32602


@pytest.mark.parametrize(
    "more",
    [
        {"mcp-protocol-version": UNSENT},
        {"mcp-protocol-version": "2025-11-25"},
        {"mcp-protocol-version": [REVISION, REVISION]},
        {"mcp-method": UNSENT},
        {"mcp-method": "TOOLS/CALL"},
        {"mcp-method": ["tools/call", "tools/list"]},
        {"mcp-name": UNSENT},
        {"mcp-name": "b"},
        {"mcp-name": "=?base64?YQ=?="},
        {"mcp-name": ["a", "a"]},
    ],
)
def test_headers_that_do_not_agree_with_the_body_are_refused(more: Any) -> None:
    why = refusal(body(name="a"), headers(**more))
    assert (why.code, why.id) == (-32020, b"7")


@pytest.mark.parametrize(
    ("method", "params", "name"),
    [
        ("tools/call", {"name": "a"}, " a\t"),
        ("tools/call", {"name": "工具"}, "=?base64?" + b64encode("工具".encode()).decode() + "?="),
        ("prompts/get", {"name": "p"}, "p"),
        ("resources/read", {"uri": "a:b"}, "a:b"),
        ("tools/list", {}, "whatever"),
        ("tools/call", {}, UNSENT),
    ],
)
def test_headers_that_agree_are_let_in(method: str, params: Any, name: Any) -> None:
    """Also with blanks around a value, and a name that no header can hold as it is."""
    assert examine(read(body(method, **params), 20, 128), headers(**{"mcp-method": method, "mcp-name": name})).method == method


def test_another_revision_is_answered_with_the_one_spoken_here() -> None:
    why = refusal(body(name="a", _meta=META | {VERSION_KEY: "2030-01-01"}), headers(**{"mcp-protocol-version": "2030-01-01"}))
    assert (why.code, why.data) == (-32022, {"supported": [REVISION], "requested": "2030-01-01"})


@pytest.mark.parametrize("version", [7, None, ["2026-07-28"]])
def test_a_revision_that_is_no_text_is_no_revision(version: Any) -> None:
    assert refusal(body(name="a", _meta=META | {VERSION_KEY: version}), headers()).code == -32020


def test_a_key_that_stands_twice_is_refused() -> None:
    """The tool could read the other one."""
    data = b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"b","_meta":%b,"name":"a"}}' % json.dumps(META).encode()
    assert refusal(data, headers()).code == -32602


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, None),
        ("plain", "plain"),
        ("=?base64?5bel?=", "工"),
        ("=?base64??=", ""),
        ("=?base64?!!!!?=", None),
        ("=?base64?5bel5?=", None),
        ("=?base64?YR==?=", None),
        ("=?base64?/w==?=", None),
    ],
)
def test_values_of_headers_may_be_encoded(value: str | None, found: str | None) -> None:
    assert decoded(value) == found


def definition(**properties: Any) -> bytes:
    return json.dumps({"name": "a", "inputSchema": {"type": "object", "properties": properties}}).encode()


REGION = {"type": "string", "x-mcp-header": "Region"}
COUNT = {"type": "integer", "x-mcp-header": "Count"}
LOUD = {"type": "boolean", "x-mcp-header": "Loud"}


def checks(tool: bytes, arguments: Any, **said: Any) -> bool:
    """Whether a call with these arguments and these `Mcp-Param-…` headers is let in."""
    try:
        params = json.dumps({"name": "a", "arguments": arguments}).encode()
        check_params(tool, params, headers(**{f"mcp-param-{name}": value for name, value in said.items()}))
    except Rejected as refused:
        assert refused.code == -32020
        return False
    return True


@pytest.mark.parametrize(
    ("arguments", "said", "right"),
    [
        ({"region": "eu"}, {"region": "eu"}, True),
        ({"region": "eu"}, {"region": "us"}, False),
        ({"region": "eu"}, {}, False),
        ({}, {"region": "eu"}, False),
        ({"region": None}, {}, True),
        ({}, {}, True),
        ({"region": "eu"}, {"region": ["eu", "eu"]}, False),
        ({"region": "东"}, {"region": "=?base64?5Lic?="}, True),
        ({"region": ["eu"]}, {}, True),
        ({"region": ["eu"]}, {"region": "eu"}, False),
        ({"count": 42}, {"count": "42"}, True),
        ({"count": 42}, {"count": "42.0"}, True),
        ({"count": 42}, {"count": "42.5"}, False),
        ({"count": 42.0}, {"count": "42"}, True),
        ({"count": 42}, {"count": "x"}, False),
        ({"loud": True}, {"loud": "true"}, True),
        ({"loud": False}, {"loud": "False"}, False),
        ("odd", {}, True),
    ],
)
def test_arguments_that_a_tool_wants_in_headers_are_compared(arguments: Any, said: Any, right: bool) -> None:
    assert checks(definition(region=REGION, count=COUNT, loud=LOUD), arguments, **said) is right


def test_arguments_within_arguments_are_compared() -> None:
    tool = definition(where={"type": "object", "properties": {"region": REGION}})
    assert checks(tool, {"where": {"region": "eu"}}, region="eu")
    assert not checks(tool, {"where": {"region": "eu"}}, region="us")
    assert checks(tool, {"where": "eu"})


@pytest.mark.parametrize(
    "tool",
    [
        definition(region={"type": "string"}),
        definition(region={"type": "number", "x-mcp-header": "Region"}),
        definition(region={"type": "string", "x-mcp-header": "not a token"}),
        definition(region={"type": "string", "x-mcp-header": 7}),
        definition(region=REGION, other={"type": "string", "x-mcp-header": "REGION"}),
        definition(region=REGION, other={"type": "array", "items": REGION}),
        b'{"name":"a","inputSchema":7,"note":"x-mcp-header"}',
        b'{"name":"a","inputSchema":{"properties":7},"note":"x-mcp-header"}',
        b'["x-mcp-header"]',
    ],
)
def test_a_schema_that_asks_wrongly_asks_for_nothing(tool: bytes) -> None:
    """Clients leave such a tool's headers out."""
    assert checks(tool, {"region": "eu"}, region="us")
