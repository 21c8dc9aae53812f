"""One of everything that mcp 1.x has, for the conformance suite of revision 2026-07-28: a tool that knows the handshake era only.

    mcp-endpoint pipe -- .venv-peers/mcp-1.30/bin/python tests/judges/handshake_server.py

What the suite wants by `input_required` is asked as this era does: by a request while the call is on its way.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from mcp.server.fastmcp import Context, FastMCP, Image
from mcp.server.fastmcp.prompts.base import UserMessage
from mcp.types import (
    AudioContent,
    Completion,
    EmbeddedResource,
    ImageContent,
    ListRootsResult,
    SamplingMessage,
    TextContent,
    TextResourceContents,
)
from pydantic import BaseModel

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFAAH/q842iQAAAABJRU5ErkJggg=="
WAV = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAAAAA=="
STEP = 0.05

server = FastMCP("handshake")


class Name(BaseModel):
    name: str


class Color(BaseModel):
    color: str


class Confirmed(BaseModel):
    ok: bool


class About(BaseModel):
    context: str


def said(text: str) -> TextContent:
    return TextContent(type="text", text=text)


def embedded(uri: str, mime: str, text: str) -> EmbeddedResource:
    return EmbeddedResource(type="resource", resource=TextResourceContents(uri=uri, mimeType=mime, text=text))  # type: ignore[arg-type]


async def sampled(ctx: Context[Any, Any], text: str) -> str:
    """What the client's model says."""
    result = await ctx.session.create_message([SamplingMessage(role="user", content=said(text))], max_tokens=100)
    return getattr(result.content, "text", "")


async def named(ctx: Context[Any, Any]) -> str:
    """What the user is called."""
    found = await ctx.elicit("What is your name?", Name)
    return found.data.name if found.action == "accept" else "nobody"


async def rooted(ctx: Context[Any, Any]) -> str:
    """The client's roots."""
    found: ListRootsResult = await ctx.session.list_roots()
    return ", ".join(str(root.uri) for root in found.roots)


@server.tool()
def test_simple_text() -> str:
    """Returns simple text"""
    return "This is a simple text response for testing."


@server.tool()
def test_image_content() -> ImageContent:
    """Returns an image"""
    return Image(data=base64.b64decode(PNG), format="png").to_image_content()


@server.tool()
def test_audio_content() -> list[AudioContent]:
    """Returns audio"""
    return [AudioContent(type="audio", data=WAV, mimeType="audio/wav")]


@server.tool()
def test_embedded_resource() -> list[EmbeddedResource]:
    """Returns an embedded resource"""
    return [embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")]


@server.tool()
def test_multiple_content_types() -> list[Any]:
    """Returns text, an image and a resource"""
    image = ImageContent(type="image", data=PNG, mimeType="image/png")
    return [said("Multiple content types test:"), image, embedded("test://mixed-content-resource", "application/json", '{"test":"data"}')]


@server.tool()
def test_error_handling() -> str:
    """Always fails"""
    raise ValueError("This tool intentionally returns an error for testing")


@server.tool()
async def test_tool_with_progress(ctx: Context[Any, Any]) -> str:
    """Reports progress"""
    for done in (0, 50, 100):
        await ctx.report_progress(done, 100, f"Completed step {done} of 100")
        await asyncio.sleep(STEP)
    return "done"


@server.tool()
async def test_logging_tool(ctx: Context[Any, Any]) -> str:
    """Logs"""
    await ctx.info("Diagnostic")
    return "Logged"


@server.tool()
async def test_missing_capability(ctx: Context[Any, Any]) -> str:
    """Needs sampling"""
    return await sampled(ctx, "Hello?")


@server.tool()
async def test_streaming_elicitation(ctx: Context[Any, Any]) -> str:
    """Reports progress and then asks the user"""
    await ctx.report_progress(50, 100, "about to ask")
    return await named(ctx)


@server.tool()
async def test_trigger_tool_change(ctx: Context[Any, Any]) -> str:
    """Changes the list of tools"""
    if "test_comes_and_goes" in server._tool_manager._tools:
        server.remove_tool("test_comes_and_goes")
    else:
        server.add_tool(test_simple_text, name="test_comes_and_goes")
    await ctx.session.send_tool_list_changed()
    return "changed"


@server.tool()
async def test_input_required_result_elicitation(ctx: Context[Any, Any]) -> str:
    """Needs a name"""
    return f"Hello, {await named(ctx)}!"


@server.tool()
async def test_input_required_result_sampling(ctx: Context[Any, Any]) -> str:
    """Needs the client's model"""
    return await sampled(ctx, "What is the capital of France?")


@server.tool()
async def test_input_required_result_list_roots(ctx: Context[Any, Any]) -> str:
    """Needs the client's roots"""
    return await rooted(ctx)


@server.tool()
async def test_input_required_result_request_state(ctx: Context[Any, Any]) -> str:
    """Needs a confirmation; the state is the call itself, which waits"""
    await ctx.elicit("Please confirm", Confirmed)
    return "state-ok"


@server.tool()
async def test_input_required_result_tampered_state(ctx: Context[Any, Any]) -> str:
    """Needs a confirmation"""
    await ctx.elicit("Please confirm", Confirmed)
    return "confirmed"


@server.tool()
async def test_input_required_result_multiple_inputs(ctx: Context[Any, Any]) -> str:
    """Needs a name, a greeting and roots"""
    return " ".join(await asyncio.gather(named(ctx), sampled(ctx, "Generate a greeting"), rooted(ctx)))


@server.tool()
async def test_input_required_result_multi_round(ctx: Context[Any, Any]) -> str:
    """Needs a name and then a color"""
    name = await named(ctx)
    color = await ctx.elicit("Step 2: What is your favorite color?", Color)
    return f"{name} {color.action}"


@server.tool()
async def test_input_required_result_capabilities(ctx: Context[Any, Any]) -> str:
    """Needs only what the client can do; this era's server knows it for a connection, not for a request, so it has to try"""
    found = await asyncio.gather(sampled(ctx, "Generate a greeting"), named(ctx), return_exceptions=True)
    return f"{sum(not isinstance(one, BaseException) for one in found)} of 2"


@server.resource("test://static-text")
def static_text() -> str:
    """A static text"""
    return "This is the content of the static text resource."


@server.resource("test://static-binary", mime_type="image/png")
def static_binary() -> bytes:
    """A static image"""
    return base64.b64decode(PNG)


@server.resource("test://template/{id}/data", mime_type="application/json")
def template(id: str) -> dict[str, Any]:
    """A template"""
    return {"id": id, "templateTest": True, "data": f"Data for ID: {id}"}


@server.prompt()
def test_simple_prompt() -> str:
    """A prompt without arguments"""
    return "This is a simple prompt for testing."


@server.prompt()
def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    """A prompt with arguments"""
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


@server.prompt()
def test_prompt_with_embedded_resource(resourceUri: str) -> list[Any]:
    """A prompt with a resource"""
    return [UserMessage(embedded(resourceUri, "text/plain", "Embedded resource content.")), UserMessage("Please process it.")]


@server.prompt()
def test_prompt_with_image() -> list[Any]:
    """A prompt with an image"""
    return [UserMessage(ImageContent(type="image", data=PNG, mimeType="image/png")), UserMessage("Please analyze it.")]


@server.prompt()
async def test_input_required_result_prompt() -> str:
    """A prompt that needs the user"""
    found = await server.get_context().elicit("What context should the prompt use?", About)
    return found.data.context if found.action == "accept" else "no context"


@server.completion()
async def completed(ref: Any, argument: Any, context: Any) -> Completion:
    """Suggestions"""
    values = [word for word in ("paris", "park", "party") if word.startswith(argument.value)]
    return Completion(values=values, total=len(values), hasMore=False)


if __name__ == "__main__":
    server.run()
