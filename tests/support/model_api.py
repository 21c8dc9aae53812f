"""A model API as its servers write it: chat completions, responses, messages, embeddings, in whole and in streams of events."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import struct
import zlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

END = b"data: [DONE]\n\n"


def sse(events: Iterable[Any], *, named: bool = False, end: bytes = b"") -> bytes:
    """A stream of events; `named` as Anthropic and the responses API write them."""
    written = b""
    for event in events:
        written += b"event: %b\n" % event["type"].encode() if named else b""
        written += b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n"
    return written + end


# -- chat completions ------------------------------------------------------------------------------------------------------


def chunk(choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-x", "choices": choices} | more


def delta(more: dict[str, Any], index: int = 0, finish: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": more, "finish_reason": finish}


TOOLS = [
    chunk([delta({"role": "assistant", "content": None})]),
    chunk(
        [delta({"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": ""}}]})]
    ),
    chunk([delta({"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]})]),
    chunk([delta({"tool_calls": [{"index": 0, "function": {"arguments": '"北京"}'}}]})]),
    chunk([delta({"tool_calls": [{"index": 1, "id": "call_2", "type": "function", "function": {"name": "now", "arguments": "{}"}}]})]),
    chunk([delta({}, finish="tool_calls")]),
    chunk([], usage={"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13, "prompt_tokens_details": {"cached_tokens": 8}}),
]


# -- the responses API -----------------------------------------------------------------------------------------------------

TEXT = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "晴天", "annotations": []}],
}
CALL = {
    "id": "fc_1",
    "type": "function_call",
    "call_id": "call_1",
    "name": "get_weather",
    "arguments": '{"city":"北京"}',
    "status": "completed",
}
WHOLE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "model": "gpt-y",
    "status": "completed",
    "output": [TEXT, CALL],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "usage": {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 12,
    },
}
ITEMS: list[dict[str, Any]] = [
    {"type": "response.created", "response": {**WHOLE, "status": "in_progress", "output": [], "usage": None}},
    {"type": "response.output_item.added", "output_index": 0, "item": {**TEXT, "content": [], "status": "in_progress"}},
    {
        "type": "response.content_part.added",
        "output_index": 0,
        "content_index": 0,
        "item_id": "msg_1",
        "part": {"type": "output_text", "text": "", "annotations": []},
    },
    {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "item_id": "msg_1", "delta": "晴", "logprobs": []},
    {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "item_id": "msg_1", "delta": "天", "logprobs": []},
    {"type": "response.output_item.added", "output_index": 1, "item": {**CALL, "arguments": "", "status": "in_progress"}},
    {"type": "response.function_call_arguments.delta", "output_index": 1, "item_id": "fc_1", "delta": '{"city":'},
    {"type": "response.function_call_arguments.delta", "output_index": 1, "item_id": "fc_1", "delta": '"北京"}'},
]
COMPLETED = {"type": "response.completed", "response": WHOLE}


def numbered(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


# -- Anthropic messages ----------------------------------------------------------------------------------------------------

BEGIN = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 5, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20, "output_tokens": 1},
    },
}
FINISH = [
    {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": {"output_tokens": 30}},
    {"type": "message_stop"},
]


def block(index: int, begins: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": begins},
        {"type": "ping"},
        *({"type": "content_block_delta", "index": index, "delta": one} for one in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def pieces_of_json(*pieces: str) -> list[dict[str, Any]]:
    return [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]


# -- the server ------------------------------------------------------------------------------------------------------------

MESSAGE = [
    BEGIN,
    *block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "晴"}, {"type": "text_delta", "text": "天"}),
    *block(1, {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}}, *pieces_of_json('{"city":', '"北京"}')),
    *FINISH,
]
CHAT = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-x",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "晴天"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
}
LIST = {"object": "list", "data": [{"id": "gpt-x", "object": "model", "created": 1, "owned_by": "us"}]}
VECTOR = base64.b64encode(struct.pack("<3f", 0.5, 0.25, 1)).decode()
EMBEDDINGS = {
    "object": "list",
    "model": "e",
    "data": [{"object": "embedding", "index": 0, "embedding": VECTOR}],
    "usage": {"prompt_tokens": 2, "total_tokens": 2},
}


class ModelApi:
    """The server: what it says depends on the path, the key and the name of the model."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str]]] = []
        """Target and headers of each request."""
        self.left = asyncio.Event()
        """A client has left a stream that has no end."""
        posts = {
            "/v1/chat/completions": self.chat,
            "/openai/deployments/{name}/chat/completions": self.chat,
            "/v1/responses": self.responses,
            "/v1/messages": self.messages,
            "/v1/embeddings": self.embeddings,
        }
        routes = [Route(path, end, methods=["POST"]) for path, end in posts.items()]
        self.app = Starlette(routes=[*routes, Route("/v1/models", self.models)])

    def refused(self, request: Request) -> Response | None:
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        self.seen.append((target, dict(request.headers)))
        shown = request.headers.get("authorization", "") + request.headers.get("x-api-key", "") + request.headers.get("api-key", "")
        if "bad" in shown:
            error = {"message": f"Incorrect API key provided: {shown}", "type": "authentication_error", "code": "invalid_api_key"}
            return JSONResponse({"type": "error", "error": error}, 401)
        if "busy" in shown:
            error = {"message": "Rate limit reached", "type": "rate_limit_error"}
            return JSONResponse({"type": "error", "error": error}, 429, {"retry-after-ms": "1500"})
        return None

    async def models(self, request: Request) -> Response:
        return self.refused(request) or JSONResponse(LIST)

    async def embeddings(self, request: Request) -> Response:
        return self.refused(request) or JSONResponse(EMBEDDINGS)

    async def chat(self, request: Request) -> Response:
        return self.refused(request) or await self.told(request, CHAT, [sse([one]) for one in TOOLS] + [END])

    async def responses(self, request: Request) -> Response:
        return self.refused(request) or await self.told(
            request, COMPLETED["response"], [sse([one], named=True) for one in numbered([*ITEMS, COMPLETED])]
        )

    async def messages(self, request: Request) -> Response:
        return self.refused(request) or await self.told(request, BEGIN["message"], [sse([one], named=True) for one in MESSAGE])

    async def told(self, request: Request, whole: Any, events: list[bytes]) -> Response:
        asked = await request.json()
        zipped = "zipped" in asked["model"]
        if not asked.get("stream"):
            body = json.dumps(whole).encode()
            headers = {"content-type": "application/json"} | ({"content-encoding": "gzip"} if zipped else {})
            return Response(gzip.compress(body) if zipped else body, headers=headers)
        headers = {"content-type": "text/event-stream; charset=utf-8"} | ({"content-encoding": "gzip"} if zipped else {})
        return StreamingResponse(self.pieces(events, zipped, endless="endless" in asked["model"]), headers=headers)

    async def pieces(self, events: list[bytes], zipped: bool, *, endless: bool) -> AsyncIterator[bytes]:
        coder = zlib.compressobj(wbits=31)
        for event in events:
            yield coder.compress(event) + coder.flush(zlib.Z_SYNC_FLUSH) if zipped else event
            await asyncio.sleep(0)
            if endless:
                try:
                    await asyncio.get_running_loop().create_future()
                finally:
                    self.left.set()
        if zipped:
            yield coder.flush()
