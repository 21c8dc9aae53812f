"""The SDKs of OpenAI and Anthropic, unchanged, through a gateway to a model API: as without it, and recorded as they understood it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import anthropic
import openai
import pytest
from model_api import ModelApi
from running import BOUND, running
from served import served
from starlette.applications import Starlette

from mcp_endpoint.asgi import Bodies
from mcp_endpoint.exchanges import Exchange
from mcp_endpoint.gateway.proxy import Gateway
from mcp_endpoint.recorder.dialects import Said, said
from mcp_endpoint.recorder.query import Reader, parse
from mcp_endpoint.settings.schema import Config, GatewaySettings
from mcp_endpoint.settings.schema import Recorder as RecorderSettings

QUESTION: Any = [{"role": "user", "content": "北京天气"}]
TOOL: Any = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}


class Recorder:
    """Takes exchanges, and says what was said in them."""

    body_bytes = 100_000

    def __init__(self) -> None:
        self.taken: asyncio.Queue[Exchange] = asyncio.Queue()

    def exchange(self, exchange: Exchange) -> None:
        self.taken.put_nowait(exchange)

    async def next(self) -> tuple[Exchange, Said]:
        one = await asyncio.wait_for(self.taken.get(), BOUND)
        answer = b"".join(piece for _, piece in one.answer_chunks)
        return one, said(one.path, one.request_headers, one.request_body, one.answer_headers, answer)


class Both(NamedTuple):
    """A model API, directly and through the gateway."""

    api: ModelApi
    recorder: Recorder
    direct: str
    gateway: str

    async def same(self, ask: Callable[[str], Awaitable[Any]]) -> tuple[Any, Exchange, Said]:
        """What a client got through the gateway, once it is shown that it gets the same without; and what was recorded of it."""
        async with asyncio.timeout(BOUND):
            got, without = await ask(self.gateway), await ask(self.direct)
        assert got == without
        exchange, told = await self.recorder.next()
        assert self.recorder.taken.empty()
        return got, exchange, told


@pytest.fixture
async def both() -> AsyncIterator[Both]:
    api, recorder = ModelApi(), Recorder()
    async with served(api.app) as (behind, _), gateway(f"http://127.0.0.1:{behind}", recorder) as port:
        yield Both(api, recorder, f"http://127.0.0.1:{behind}", f"http://127.0.0.1:{port}/gateway/model")


@asynccontextmanager
async def gateway(target: str, recorder: Recorder) -> AsyncIterator[int]:
    config = Config(gateway=(GatewaySettings(kind="llm", name="model", target=target),))
    made = Gateway(config, {}, SimpleNamespace(draining=False), Bodies(8, BOUND), {}, recorder)  # type: ignore[arg-type]
    async with served(Starlette(routes=made.routes)) as (port, _):
        yield port
    await made.stop()


def sdk(base: str, key: str = "sk-mine") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{base}/v1", api_key=key, max_retries=0)


def claude(base: str, key: str = "sk-mine") -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=base, api_key=key, max_retries=0)


def bare(value: Any) -> Any:
    """A value without the members that an SDK adds: empty ones, and the index of a tool call."""
    if isinstance(value, dict):
        added = ("parsed", "parsed_arguments", "parsed_output")
        return {key: bare(one) for key, one in value.items() if one is not None and key not in added}
    return [bare(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("model", ["gpt-x", "zipped"])
async def test_chat(both: Both, model: str) -> None:
    async def ask(base: str) -> Any:
        async with sdk(base) as client:
            return (await client.chat.completions.create(model=model, messages=QUESTION)).to_dict()

    got, exchange, told = await both.same(ask)
    assert bare(told.answer) == bare(got)
    assert (told.text, told.tokens_in, told.messages, exchange.ending) == ("晴天", 9, QUESTION, "ok")


@pytest.mark.parametrize("model", ["gpt-x", "zipped"])
async def test_a_chat_that_streams_tool_calls(both: Both, model: str) -> None:
    async def ask(base: str) -> Any:
        async with sdk(base) as client, client.chat.completions.stream(model=model, messages=QUESTION, tools=[TOOL]) as stream:
            return (await stream.get_final_completion()).to_dict()

    got, exchange, told = await both.same(ask)
    for call in got["choices"][0]["message"]["tool_calls"]:
        call.pop("index", None)
    assert bare(told.answer) == bare(got)
    assert [(call.name, call.arguments) for call in told.calls] == [("get_weather", '{"city":"北京"}'), ("now", "{}")]
    assert (told.streamed, told.cached, exchange.ending) == (True, 8, "ok")


@pytest.mark.parametrize("model", ["gpt-y", "zipped"])
async def test_responses_that_stream(both: Both, model: str) -> None:
    async def ask(base: str) -> Any:
        async with sdk(base) as client, client.responses.stream(model=model, input="北京天气") as stream:
            return (await stream.get_final_response()).to_dict()

    got, _, told = await both.same(ask)
    assert bare(told.answer) == bare(got)
    assert (told.text, told.calls[0].name, told.tokens_out) == ("晴天", "get_weather", 5)


@pytest.mark.parametrize("model", ["claude-x", "zipped"])
async def test_messages_that_stream(both: Both, model: str) -> None:
    async def ask(base: str) -> Any:
        async with claude(base) as client, client.messages.stream(model=model, max_tokens=9, messages=QUESTION) as stream:
            return (await stream.get_final_message()).to_dict()

    got, _, told = await both.same(ask)
    assert bare(told.answer) == bare(got)
    assert (told.text, told.calls[0].arguments, told.tokens_in) == ("晴天", '{"city":"北京"}', 125)


async def test_models_and_embeddings(both: Both) -> None:
    async def models(base: str) -> Any:
        async with sdk(base) as client:
            return [model.id async for model in client.models.list()]

    async def embed(base: str) -> Any:
        async with sdk(base) as client:
            return (await client.embeddings.create(model="e", input="你好")).data[0].embedding

    assert (await both.same(models))[0] == ["gpt-x"]
    vector, _, told = await both.same(embed)
    assert vector == [0.5, 0.25, 1]
    assert (told.answer["count"], told.answer["dimension"], told.tokens_in) == (1, 3, 2)


@pytest.mark.parametrize(("key", "error", "status"), [("bad", "AuthenticationError", 401), ("busy", "RateLimitError", 429)])
async def test_errors_are_those_of_the_sdks(both: Both, key: str, error: str, status: int) -> None:
    async def openais(base: str) -> Any:
        async with sdk(base, key) as client:
            with pytest.raises(getattr(openai, error)) as found:
                await client.chat.completions.create(model="gpt-x", messages=QUESTION)
            return str(found.value), found.value.response.headers.get("retry-after-ms")

    async def anthropics(base: str) -> Any:
        async with claude(base, key) as client:
            with pytest.raises(getattr(anthropic, error)) as found:
                await client.messages.create(model="claude-x", max_tokens=9, messages=QUESTION)
            return str(found.value)

    for ask in (openais, anthropics):
        _, exchange, told = await both.same(ask)
        assert (exchange.status, exchange.ending) == (status, "error")
        assert told.error


async def test_a_client_that_stops_reading_stops_the_model(both: Both) -> None:
    async with asyncio.timeout(BOUND), sdk(both.gateway) as client:
        stream = await client.chat.completions.create(model="endless", messages=QUESTION, stream=True)
        assert (await anext(stream)).choices[0].delta.role == "assistant"
        await stream.close()
        await both.api.left.wait()
    exchange, told = await both.recorder.next()
    assert (exchange.ending, exchange.status, told.model) == ("aborted", 200, "gpt-x")


async def test_an_azure_client_and_the_headers_of_openrouter(both: Both) -> None:
    async with openai.AsyncAzureOpenAI(azure_endpoint=both.gateway, api_key="az", api_version="2024-10-21", max_retries=0) as azure:
        assert (await azure.chat.completions.create(model="gpt x", messages=QUESTION)).model == "gpt-x"
    target, headers = both.api.seen[-1]
    assert target == "/openai/deployments/gpt x/chat/completions?api-version=2024-10-21"
    assert headers["api-key"] == "az"
    named = {"HTTP-Referer": "http://localhost:8004", "X-Title": "Your App Name"}
    async with openai.AsyncOpenAI(base_url=f"{both.gateway}/v1", api_key="k", default_headers=named) as client:
        await client.models.list()
    assert both.api.seen[-1][1].items() >= {"http-referer": "http://localhost:8004", "x-title": "Your App Name"}.items()


async def test_an_sdk_can_be_told_to_send_no_key(both: Both) -> None:
    async with openai.AsyncOpenAI(base_url=f"{both.gateway}/v1", api_key="unused", default_headers={"Authorization": ""}) as client:
        await client.models.list()
    assert both.api.seen[-1][1].get("authorization", "") == ""
    async with anthropic.AsyncAnthropic(base_url=both.gateway, api_key="unused", default_headers={"x-api-key": ""}) as other:
        await other.messages.create(model="claude-x", max_tokens=9, messages=QUESTION)
    assert both.api.seen[-1][1].get("x-api-key", "") == ""


async def test_what_was_said_is_in_the_file_of_records_and_no_key_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the SDK's stream to the file: model, tokens and tool calls, the pinned endpoint, and the message as the SDK understood it."""
    canary = "sk-canary-0123456789abcdef"
    monkeypatch.setenv("OPENAI_API_KEY", "azure+canary/0123456789")
    api = ModelApi()
    async with served(api.app) as (behind, _):
        config = Config(
            recorder=RecorderSettings(on=True, files="logs"),
            gateway=(GatewaySettings(kind="llm", name="model", target=f"http://127.0.0.1:{behind}/v1"),),
        )
        async with running(config, root=tmp_path) as server, asyncio.timeout(BOUND):
            base = f"http://127.0.0.1:{server.port}/gateway/model/@kitchen"
            async with (
                sdk(base, canary) as client,
                client.chat.completions.stream(model="zipped", messages=QUESTION, tools=[TOOL]) as stream,
            ):
                got = (await stream.get_final_completion()).to_dict()
            async with sdk(base, canary) as client:
                await client.embeddings.create(model="e", input="OPENAI_API_KEY is azure+canary/0123456789")
    reader = Reader(tmp_path / "data/records.db")
    chat, embedding = reader.records(parse("kind:exchange", 0))
    summary = chat.summary
    assert (summary.endpoint, summary.label, summary.method) == ("kitchen", "model", "POST /gateway/model/@kitchen/v1/chat/completions")
    assert (summary.model, summary.tool, summary.status, summary.code) == ("gpt-x", "get_weather, now", "ok", 200)
    assert (summary.tokens_in, summary.tokens_out, summary.cached) == (9, 4, 8)
    for call in got["choices"][0]["message"]["tool_calls"]:  # type: ignore[attr-defined]
        call.pop("index", None)
    assert bare(chat.said().answer) == bare(got)
    assert (embedding.summary.model, embedding.said().answer["dimension"]) == ("e", 3)
    reader.close()
    logs = sorted((tmp_path / "logs/llm_proxy").iterdir())
    assert [json.loads(path.read_text("utf-8"))["path"] for path in logs].count("/gateway/model/@kitchen/v1/chat/completions") == 1
    for path in [*(tmp_path / "data").iterdir(), *logs]:
        written = path.read_bytes()
        assert canary.encode() not in written and b"azure+canary/0123456789" not in written
