"""What models say, in every dialect: folded as the SDKs of these APIs accumulate it, wherever the bytes are cut, and never an error."""

from __future__ import annotations

import base64
import gzip
import json
import struct
import zlib
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import anthropic
import httpx2
import msgspec
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_api import BEGIN, COMPLETED, END, FINISH, ITEMS, TEXT, TOOLS, block, chunk, delta, numbered, pieces_of_json, sse

from mcp_endpoint.protocol.sse import Events
from mcp_endpoint.recorder import dialects
from mcp_endpoint.recorder.dialects import Said, ToolCall, decoded, is_stream, said, texts_of, uncoded, value_of

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
EVENTS = [(b"Content-Type", b"text/event-stream; charset=utf-8")]
JSON = [(b"content-type", b"application/json")]
ASKED = {"model": "asked", "messages": [{"role": "user", "content": "Hello!"}]}


def told(path: str, answer: bytes, asked: Any = None, headers: Any = EVENTS) -> Said:
    return said(path, JSON, json.dumps(ASKED if asked is None else asked).encode(), headers, answer)


def bare(value: Any) -> Any:
    """A value without the members that an SDK adds: empty ones, and the index of a tool call."""
    if isinstance(value, dict):
        return {
            key: bare(one) for key, one in value.items() if one is not None and key not in ("parsed", "parsed_arguments", "parsed_output")
        }
    return [bare(one) for one in value] if isinstance(value, list) else value


def client(body: bytes, status: int = 200) -> httpx2.Client:
    """The transport of an SDK whose server says this."""
    headers = {"Content-Type": "text/event-stream"}
    return httpx2.Client(transport=httpx2.MockTransport(lambda request: httpx2.Response(status, headers=headers, content=body)))


# -- chat completions ------------------------------------------------------------------------------------------------------


def openai_says(body: bytes) -> Any:
    """What the OpenAI SDK makes of a stream of chat completions."""
    with (
        openai.OpenAI(api_key="k", http_client=client(body), max_retries=0) as sdk,
        sdk.chat.completions.stream(model="m", messages=[{"role": "user", "content": "x"}]) as stream,
    ):
        whole = stream.get_final_completion().to_dict()
    for choice in whole["choices"]:  # type: ignore[attr-defined]
        for call in choice["message"].get("tool_calls") or ():
            call.pop("index", None)
    return bare(whole)


def test_a_stream_of_chat_is_one_message_with_its_tool_calls_and_tokens() -> None:
    body = sse(TOOLS, end=END)
    found = told(CHAT, body)
    assert found.calls == [ToolCall("call_1", "get_weather", '{"city":"北京"}'), ToolCall("call_2", "now", "{}")]
    assert (found.dialect, found.model, found.finish, found.streamed) == ("chat", "gpt-x", "tool_calls", True)
    assert (found.tokens_in, found.tokens_out, found.cached) == (9, 4, 8)
    assert found.messages == ASKED["messages"]
    assert bare(found.answer) == openai_says(body)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@st.composite
def chats(draw: st.DrawFn) -> list[dict[str, Any]]:
    """The chunks of an answer, as OpenAI's servers cut it."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": piece} for piece in draw(st.lists(texts, max_size=4))]
    for index in range(draw(st.integers(0, 3))):
        call = {"index": index, "id": f"call_{index}", "type": "function", "function": {"name": draw(texts) or "t", "arguments": ""}}
        pieces = [{"index": index, "function": {"arguments": piece}} for piece in draw(st.lists(texts, max_size=3))]
        deltas += [{"tool_calls": [one]} for one in (call, *pieces)]
    chunks = [chunk([delta(one)], system_fingerprint="f") for one in deltas]
    chunks.append(chunk([delta({}, finish="stop")], system_fingerprint="f"))
    if draw(st.booleans()):
        chunks.append(chunk([], usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}, system_fingerprint="f"))
    return chunks


@settings(max_examples=40, deadline=None)
@given(chats())
def test_any_chat_is_folded_as_the_openai_sdk_accumulates_it(chunks: list[dict[str, Any]]) -> None:
    body = sse(chunks, end=END)
    assert bare(told(CHAT, body).answer) == openai_says(body)


def test_a_whole_chat_says_the_same_as_its_stream() -> None:
    message = {
        "role": "assistant",
        "content": "晴",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    whole = {"model": "gpt-x", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3}}
    found = told(CHAT, json.dumps(whole).encode(), headers=JSON)
    assert (found.text, found.calls, found.finish, found.tokens_in) == ("晴", [ToolCall("c1", "f", "{}")], "stop", 3)
    assert not found.streamed


@pytest.mark.parametrize(
    "calls",
    [
        # No index: each call whole (Gemini), or the rest of the last one.
        [
            [{"id": "a", "function": {"name": "f", "arguments": "{"}}],
            [{"function": {"arguments": "}"}}],
            [{"id": "b", "function": {"name": "g", "arguments": "{}"}}],
        ],
        # Each call at index 0, told apart by their ids (Ollama).
        [
            [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}],
            [{"index": 0, "id": "b", "function": {"name": "g", "arguments": "{}"}}],
        ],
        # The id is repeated with each piece, the second call comes first.
        [
            [
                {"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}},
                {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}},
            ],
            [{"index": 0, "id": "a", "function": {"arguments": "}"}}, {"index": 0, "id": "", "function": {"arguments": ""}}],
        ],
    ],
    ids=["no index", "one index", "id repeated"],
)
def test_tool_calls_of_servers_that_cut_them_otherwise(calls: list[Any]) -> None:
    found = told(CHAT, sse([chunk([delta({"tool_calls": call})]) for call in calls]))
    assert found.calls == [ToolCall("a", "f", "{}"), ToolCall("b", "g", "{}")]


def test_what_some_servers_repeat_in_each_chunk_is_said_once() -> None:
    chunks = [chunk([delta({"role": "assistant", "content": piece})]) for piece in "你好"]
    details = [{"index": 0, "type": "reasoning.text", "text": piece, "format": "v1"} for piece in "ab"]
    chunks += [chunk([delta({"reasoning_details": [one]})]) for one in details]
    [choice] = told(CHAT, sse(chunks)).answer["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": "你好",
        "reasoning_details": [{"type": "reasoning.text", "text": "ab", "format": "v1"}],
    }


def test_several_choices_log_probabilities_and_older_calls() -> None:
    chunks = [
        chunk([delta({"content": "b"}, 1), delta({"content": "a"})]),
        chunk([{"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [{"token": "a"}]}}]),
        chunk([{"index": 0, "delta": {"content": ["part"]}, "logprobs": {"content": [{"token": "b"}]}}, {"delta": {"content": ["more"]}}]),
        chunk([delta({"function_call": {"name": "old", "arguments": "{"}}, 1), delta({"function_call": {"arguments": "}"}}, 1)]),
        chunk([delta({"content": ""}, 1, "error")], error={"message": "Provider disconnected", "code": 502}),
    ]
    found = told(CHAT, sse(chunks))
    assert [choice["message"]["content"] for choice in found.answer["choices"]] == [["part", "more"], "b"]
    assert found.answer["choices"][0]["logprobs"] == {"content": [{"token": "a"}, {"token": "b"}]}
    assert found.calls == [ToolCall("", "old", "{}")]
    assert found.error == "Provider disconnected"


def test_the_older_completions_are_folded_too() -> None:
    pieces = [
        {"object": "text_completion", "model": "m", "choices": [{"index": 0, "text": text, "finish_reason": None}]} for text in ("a", "b")
    ]
    found = told("/v1/completions", sse(pieces, end=END), {"prompt": "Say"})
    assert (found.text, found.messages) == ("ab", ["Say"])


def test_the_results_of_tools_in_a_request_are_told_by_the_ids_of_their_calls() -> None:
    chat = {"messages": [{"role": "tool", "tool_call_id": "c1", "content": "晴"}]}
    assert told(CHAT, b"", chat).results == ["c1"]
    responses = {
        "instructions": "Be short.",
        "input": [{"type": "function_call_output", "call_id": "c2"}, {"type": "function_call", "call_id": "c3"}],
    }
    found = told(RESPONSES, b"", responses)
    assert (found.results, found.messages[0]) == (["c2"], "Be short.")
    messages = {"system": "Be short.", "messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c4"}]}]}
    assert told(MESSAGES, b"", messages).results == ["c4"]


# -- the responses API -----------------------------------------------------------------------------------------------------


def test_a_stream_of_responses_is_the_response_at_its_end_as_the_sdk_has_it() -> None:
    body = sse(numbered([*ITEMS, COMPLETED]), named=True)
    found = told(RESPONSES, body, {"model": "gpt-y", "input": "天气"})
    with (
        openai.OpenAI(api_key="k", http_client=client(body), max_retries=0) as sdk,
        sdk.responses.stream(model="m", input="x") as stream,
    ):
        assert bare(found.answer) == bare(stream.get_final_response().to_dict())
    assert (found.text, found.finish, found.messages) == ("晴天", "completed", ["天气"])
    assert found.calls == [ToolCall("call_1", "get_weather", '{"city":"北京"}')]
    assert (found.tokens_in, found.tokens_out, found.cached) == (7, 5, 2)


def test_a_response_that_breaks_off_is_told_by_its_items() -> None:
    found = told(RESPONSES, sse(numbered(ITEMS), named=True))
    assert (found.text, found.calls) == ("晴天", [ToolCall("call_1", "get_weather", '{"city":"北京"}')])
    assert found.answer["status"] == "in_progress"


def test_parts_of_responses_that_come_as_a_whole_or_are_no_text() -> None:
    events: list[dict[str, Any]] = [
        {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 0, "delta": "because"},
        {"type": "response.output_text.done", "output_index": 1, "content_index": 0, "text": "whole"},
        {"type": "response.output_text.annotation.added", "output_index": 1, "content_index": 0, "annotation": {}},
        {"type": "response.refusal.delta", "output_index": 1, "content_index": 1, "delta": "no"},
        {"type": "response.function_call_arguments.done", "output_index": 2, "arguments": "{}"},
        {"type": "response.custom_tool_call_input.delta", "output_index": 3, "delta": "x"},
        {"type": "response.output_item.done", "output_index": 4, "item": TEXT},
        {"type": "response.output_text.delta", "output_index": "?", "delta": "lost"},
        {"type": "error", "code": "server_error", "message": "It broke"},
    ]
    found = told(RESPONSES, sse(events))
    assert found.answer["output"] == [
        {"summary": [{"text": "because"}]},
        {"content": [{"text": "whole"}, {"refusal": "no"}]},
        {"arguments": "{}"},
        {"input": "x"},
        TEXT,
    ]
    assert found.error == "It broke"
    broken = {
        "type": "response.incomplete",
        "response": {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": []},
    }
    found = told(RESPONSES, sse([{"type": "response.output_item.done", "output_index": 0, "item": TEXT}, broken]))
    assert (found.finish, found.text) == ("max_output_tokens", "晴天")


# -- Anthropic messages ----------------------------------------------------------------------------------------------------


def anthropic_says(body: bytes) -> Any:
    """What the Anthropic SDK makes of a stream of messages."""
    with (
        anthropic.Anthropic(api_key="k", http_client=client(body), max_retries=0) as sdk,
        sdk.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}]) as stream,
    ):
        return bare(stream.get_final_message().to_dict())


def test_a_stream_of_anthropic_is_one_message_as_the_sdk_has_it() -> None:
    tool = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}}
    citation = {"type": "char_location", "cited_text": "x", "document_index": 0, "start_char_index": 0, "end_char_index": 1}
    events = [
        BEGIN,
        *block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": "hm"},
            {"type": "signature_delta", "signature": "s"},
        ),
        *block(
            1,
            {"type": "text", "text": ""},
            {"type": "text_delta", "text": "晴"},
            {"type": "text_delta", "text": "天"},
            {"type": "citations_delta", "citation": citation},
            {"type": "citations_delta", "citation": citation},
        ),
        *block(2, tool, *pieces_of_json("", '{"city":', '"北京"}')),
        *block(3, {**tool, "id": "toolu_2", "name": "now"}, *pieces_of_json("")),
        *FINISH,
    ]
    body = sse(events, named=True)
    found = told(MESSAGES, body, {"system": "Be short.", **ASKED})
    assert bare(found.answer) == anthropic_says(body)
    assert found.calls == [ToolCall("toolu_1", "get_weather", '{"city":"北京"}'), ToolCall("toolu_2", "now", "{}")]
    assert (found.text, found.finish, found.model) == ("晴天", "tool_use", "claude-x")
    assert (found.tokens_in, found.tokens_out, found.cached) == (125, 30, 100)
    assert found.messages == ["Be short.", *ASKED["messages"]]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.one_of(st.lists(texts, max_size=4), st.dictionaries(texts, st.integers(), max_size=3)), max_size=4), st.integers(1, 5))
def test_any_message_is_folded_as_the_anthropic_sdk_accumulates_it(contents: list[Any], size: int) -> None:
    events = [BEGIN]
    for index, content in enumerate(contents):
        if isinstance(content, list):
            events += block(index, {"type": "text", "text": ""}, *({"type": "text_delta", "text": piece} for piece in content))
        else:
            written = json.dumps(content)
            cut = [written[at : at + size] for at in range(0, len(written), size)]
            events += block(index, {"type": "tool_use", "id": f"t{index}", "name": "f", "input": {}}, *pieces_of_json(*cut))
    body = sse([*events, *FINISH], named=True)
    assert bare(told(MESSAGES, body).answer) == anthropic_says(body)


def test_an_anthropic_stream_that_breaks_off_or_fails_keeps_what_had_come() -> None:
    tool = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    found = told(MESSAGES, sse([BEGIN, *block(0, tool, *pieces_of_json('{"a":')), error], named=True))
    assert found.calls == [ToolCall("t", "f", '{"a":')]
    assert found.error == "Overloaded"
    assert told(MESSAGES, sse([{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}}])).answer == {
        "content": [{"text": "x"}]
    }


# -- embeddings, and everything else ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vector", "dimension"),
    [([0.1, 0.2, 0.3], 3), (base64.b64encode(struct.pack("<4f", 1, 2, 3, 4)).decode(), 4), ("?", 0), (None, 0)],
)
def test_embeddings_are_counted_and_their_vectors_dropped(vector: Any, dimension: int) -> None:
    answer = {"object": "list", "model": "e", "data": [{"embedding": vector}] * 2, "usage": {"prompt_tokens": 4, "total_tokens": 4}}
    found = told("/v1/embeddings", json.dumps(answer).encode(), {"model": "e", "input": ["a", "b"]}, JSON)
    assert found.answer == {"object": "list", "model": "e", "usage": answer["usage"], "count": 2, "dimension": dimension}
    assert (found.messages, found.tokens_in) == (["a", "b"], 4)


def test_no_embedding_has_no_dimension() -> None:
    assert told("/v1/embeddings", b'{"data":[]}', headers=JSON).answer == {"count": 0, "dimension": 0}
    assert told("/v1/embeddings", b'{"error":{"code":1}}', headers=JSON).error == '{"code":1}'


def test_other_paths_have_no_dialect_and_their_json_is_kept() -> None:
    found = told("/v1/models?limit=2", b'{"data":[]}', headers=JSON)
    assert (found.dialect, found.answer, found.messages) == ("", {"data": []}, [])
    assert told("/v1/audio/speech", b"\xff\xfb", headers=[]).answer is None
    assert told("/v1/other", sse(TOOLS)).answer is None


@pytest.mark.parametrize(
    ("path", "asked", "model"),
    [
        (CHAT, {"model": "asked"}, "asked"),
        ("/openai/deployments/my%20gpt/chat/completions?api-version=1", {}, "my gpt"),
        (CHAT, {}, ""),
        (CHAT, [], ""),
    ],
)
def test_the_model_is_the_answers_else_the_requests_else_the_paths(path: str, asked: Any, model: str) -> None:
    assert told(path, b'{"error":"no"}', asked, JSON).model == model
    assert told(path, b'{"model":"answered"}', asked, JSON).model == "answered"
    assert told(path, b'{"error":"no"}', asked, JSON).error == "no"


# -- bytes -----------------------------------------------------------------------------------------------------------------


def raw_deflate(body: bytes) -> bytes:
    coder = zlib.compressobj(wbits=-15)
    return coder.compress(body) + coder.flush()


@pytest.mark.parametrize(
    ("coding", "code"),
    [
        (b"gzip", gzip.compress),
        (b"x-gzip", lambda body: gzip.compress(body[:10]) + gzip.compress(body[10:])),
        (b"Deflate", zlib.compress),
        (b"deflate", raw_deflate),
        (b"deflate, gzip", lambda body: gzip.compress(zlib.compress(body))),
        (b"identity", bytes),
    ],
)
def test_a_compressed_stream_says_what_it_says_without(coding: bytes, code: Callable[[bytes], bytes]) -> None:
    body = sse(TOOLS, end=END)
    found = told(CHAT, code(body), headers=[*EVENTS, (b"Content-Encoding", coding)])
    assert found.answer == told(CHAT, body).answer
    asked = said(CHAT, [(b"content-encoding", coding)], code(b'{"model":"zipped"}'), [], b"")
    assert asked.model == "zipped"
    assert uncoded([*EVENTS, (b"Content-Encoding", coding)]) == EVENTS


def test_a_body_that_inflates_without_end_is_cut() -> None:
    headers = [(b"content-encoding", b"gzip")]
    bomb = gzip.compress(bytes(1_000_000))
    assert decoded(headers, bomb, 1000) == bytes(1000)
    assert decoded(headers, bomb * 3, 1_500_000) == bytes(1_500_000)
    assert len(decoded(headers, gzip.compress(b"x") * 1000)) == dialects.MEMBERS
    assert len(decoded([(b"content-encoding", b"gzip, gzip, gzip, gzip")], bomb)) == len(bomb)
    broken = bytearray(gzip.compress(b"".join(b"%d" % number for number in range(5000))))
    broken[-4000:] = b"\xff" * 4000
    assert decoded(headers, bytes(broken)).startswith(b"0123456789101112")
    assert len(decoded(headers, bytes(broken), 300)) == 300


@pytest.mark.parametrize("cut", [1, 12, 60])
def test_what_came_of_a_compressed_body_before_it_was_cut_is_read(cut: int) -> None:
    body = b"".join(b"%d" % number for number in range(5000))
    given_ = decoded([(b"content-encoding", b"gzip")], gzip.compress(body)[:-cut])
    assert body.startswith(given_)
    assert len(given_) > 10_000


@pytest.mark.parametrize(("coding", "body"), [(b"br", b"\x0b\x02"), (b"gzip", b"plain"), (b"gzip", b""), (b"gzip", b"\x1f")])
def test_a_coding_that_is_not_known_or_not_true_harms_nothing(coding: bytes, body: bytes) -> None:
    assert decoded([(b"content-encoding", coding)], body) in (body, b"")


def test_of_a_stream_with_millions_of_lines_the_beginning_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialects, "LINES", 70_000)
    body = sse(TOOLS) + b"\n" * 200_000 + b"data: late\n\n"
    assert len(texts_of(body)) == len(TOOLS)
    assert told(CHAT, gzip.compress(body), headers=[*EVENTS, (b"content-encoding", b"gzip")]).answer == told(CHAT, sse(TOOLS)).answer
    many = b"data: x\r\n\r\n" * dialects.LINES
    assert dialects.LINES // 8 < len(texts_of(many)) <= dialects.LINES // 4


def test_a_stream_is_known_by_its_type_or_by_how_it_begins() -> None:
    assert is_stream([(b"content-type", b"Text/Event-Stream;charset=utf-8")], b"")
    assert is_stream([], b"\xef\xbb\xbfdata: x\n\n")
    assert is_stream([(b"content-type", b"text/plain")], b": comment\n\n")
    assert not is_stream(JSON, b"data: x\n\n")
    assert not is_stream([], b'{"a":1}')


def test_the_texts_of_a_stream_are_those_of_its_events() -> None:
    assert texts_of(b": hi\r\n\r\ndata: a\r\ndata: b\r\n\r\nevent: x\r\n\r\n" + END) == ["a\nb", "[DONE]"]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([b"\n", b"\r\n", b"\r"]), st.lists(st.integers(0, 2500), max_size=12))
def test_however_the_bytes_of_a_stream_are_cut_it_says_the_same(end: bytes, cuts: list[int]) -> None:
    """The writer joins what came; a reader that takes piece by piece finds the same events."""
    body = b"\xef\xbb\xbf: OPENROUTER PROCESSING\n\n".replace(b"\n", end) + sse(TOOLS, end=END).replace(b"\n", end)
    places = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    events = Events(len(body))
    by_piece = [event.data.decode() for start, stop in pairwise(places) for event in events.feed(body[start:stop])]
    assert by_piece == texts_of(body)
    assert told(CHAT, body).answer == told(CHAT, sse(TOOLS, end=END)).answer


def test_a_letter_whose_halves_come_in_two_events_is_one_letter() -> None:
    written = (
        rb'data: {"choices":[{"index":0,"delta":{"content":"\ud83d"}}]}'
        + b"\n\n"
        + rb'data: {"choices":[{"index":0,"delta":{"content":"\ude00\ude00"}}]}'
        + b"\n\n"
    )
    found = told(CHAT, written)
    assert found.text == "😀�"
    msgspec.json.encode(found)


def test_json_that_is_not_quite_json_is_read_as_clients_do() -> None:
    assert value_of(b'\xef\xbb\xbf{"a":[NaN,"\\ud83d\\ude00","\\ud83d"]}')["a"][1:] == ["😀", "�"]
    for body in (b"", b"{", b"\xff", b"[" * 100_000, b'{"a":' * 50_000, b"[NaN," + b"[" * 100_000, b"1" * 5000 + b"."):
        assert value_of(body) is None


def test_what_is_nested_too_deep_is_not_understood_and_no_error() -> None:
    nested = b'{"x":' * 900 + b"1" + b"}" * 900
    for path in (CHAT, RESPONSES, MESSAGES, "/v1/embeddings"):
        for member in (b"delta", b"error", b"usage", b"input", b"message", b"item", b"response"):
            event = (
                b'{"type":"content_block_delta","output_index":0,"choices":[{"delta":%b}],"content":[{"type":"tool_use","input":%b}],"%b":%b}'
                % (nested, nested, member, nested)
            )
            told(path, b"data: " + event + b"\n\n")
            told(path, event, headers=JSON)


jsons = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-1, 2**70), st.floats(allow_nan=False), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "index",
                    "tool_calls",
                    "id",
                    "function",
                    "arguments",
                    "name",
                    "content",
                    "type",
                    "message",
                    "usage",
                    "item",
                    "part",
                    "response",
                    "output",
                    "input",
                    "error",
                    "text",
                    "output_index",
                    "content_index",
                    "summary_index",
                    "content_block",
                    "partial_json",
                    "prompt_tokens",
                    "input_tokens",
                    "data",
                    "embedding",
                    "function_call",
                ]
            ),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=12,
)
kinds = st.sampled_from(
    [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "message_delta",
        "error",
        "response.output_item.added",
        "response.output_text.delta",
        "response.function_call_arguments.delta",
        "input_json_delta",
        "citations_delta",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([CHAT, RESPONSES, MESSAGES, "/v1/embeddings", "/v1/models"]), st.lists(st.tuples(kinds, jsons), max_size=5), jsons)
def test_nothing_that_an_upstream_says_is_an_error(path: str, events: list[tuple[str, Any]], asked: Any) -> None:
    values = [{"index": 0, "output_index": 0, **one, "type": kind} if isinstance(one, dict) else one for kind, one in events]
    found = told(path, sse(values), asked)
    msgspec.json.encode(found)
    assert found.tokens_in is None or found.tokens_in < 2**63
    for value in values:
        msgspec.json.encode(told(path, json.dumps(value).encode(), asked, JSON))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([CHAT, RESPONSES, MESSAGES]), st.binary(max_size=60), st.sampled_from([b"", b"gzip", b"deflate"]))
def test_no_bytes_are_an_error(path: str, body: bytes, coding: bytes) -> None:
    headers = [(b"content-encoding", coding)]
    msgspec.json.encode(said(path, headers, body, headers, b"data: " + body + b"\n\n"))
    msgspec.json.encode(said(path, headers, body, [*headers, *EVENTS], body))
