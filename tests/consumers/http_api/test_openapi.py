"""The document of the API says what the API does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema.validators import Draft202012Validator
from running import BOUND, running

from mcp_endpoint.consumers.http_api.jwt import Bearers
from mcp_endpoint.consumers.http_api.openapi import document
from mcp_endpoint.settings.schema import Api, Config

SECRET = "0123456789abcdef0123456789abcdefXYZ"


def schema_of(found: dict[str, Any], path: str, method: str, status: int) -> dict[str, Any]:
    """The schema of an answer, with what it refers to."""
    answers = found["paths"][path][method]["responses"]
    assert str(status) in answers, f"{method} {path} answered {status}, which is not documented"
    schema: dict[str, Any] = answers[str(status)]["content"]["application/json"]["schema"]
    return {"components": found["components"]} | schema


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_every_schema_of_the_document_is_one(prefix: str) -> None:
    found = document(prefix)
    assert found["openapi"].startswith("3.1")
    assert set(found["paths"]) == {f"{prefix}/{path}" for path in ("tools", "tools/list", "servers", "health")}
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            assert operation["operationId"]
            for status in operation["responses"]:
                Draft202012Validator.check_schema(schema_of(found, path, method, int(status)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
BODY = JSON | st.fixed_dictionaries({"method": st.text(max_size=20) | JSON}, optional={"args": JSON, "server": st.text(max_size=20) | JSON})


async def test_whatever_is_asked_the_answer_is_a_documented_one(tmp_path: Path) -> None:
    """Hypothesis asks; each status and each body is held against the document."""
    token = Bearers(SECRET, "HS256").make("tester", 3600)
    config = Config(api=Api(secret=SECRET, request_log=""))
    asked: list[tuple[str, str, str, Any, bool]] = []

    @given(
        st.sampled_from([("POST", "/tools"), ("GET", "/tools/list"), ("GET", "/servers"), ("GET", "/health")]),
        BODY,
        st.none() | st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=20),
        st.booleans(),
    )
    @settings(database=None, suppress_health_check=list(HealthCheck))
    def collect(where: tuple[str, str], body: Any, server: str | None, known: bool) -> None:
        asked.append((*where, "" if server is None else server, body if where[0] == "POST" else server, known))

    collect()
    async with running(config, root=tmp_path, standalone="api") as service, httpx2.AsyncClient(trust_env=False, timeout=BOUND) as client:
        base = f"http://127.0.0.1:{service.port}"
        found = (await client.get(f"{base}/openapi.json")).json()
        assert found == json.loads(json.dumps(document("")))
        for method, path, server, body, known in asked:
            headers = {"Authorization": f"Bearer {token if known else token[:-3]}"}
            options: dict[str, Any] = {"json": body} if method == "POST" else {"params": {} if body is None else {"server": server}}
            answer = await client.request(method, base + path, headers=headers, **options)
            schema = schema_of(found, path, method.lower(), answer.status_code)
            Draft202012Validator(schema).validate(answer.json())
            assert answer.headers["content-type"] == "application/json"
            assert (answer.status_code == 401) is (not known and path != "/health")
