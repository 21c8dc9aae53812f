"""One of everything MCP has, as the official conformance suite asks for it: on stdin and stdout, or with a port over HTTP.

    python tests/judges/everything_server.py              behind `mcp-endpoint pipe`
    python tests/judges/everything_server.py 3000         http://127.0.0.1:3000/mcp, what the suite sees without anything between

Written with the low level of the `mcp` package, so that what goes over the wire is what stands here. Tools that ask the client do it as
their caller's era knows it: by a request on the way (to 2025-11-25), or by `input_required` (2026-07-28).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
import sys
import warnings
from typing import Any

import mcp_types as types
import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFAAH/q842iQAAAABJRU5ErkJggg=="
WAV = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAAAAA=="
EMPTY: dict[str, Any] = {"type": "object", "properties": {}}
SECRET = secrets.token_bytes(32)
STEP = 0.05

SCHEMA_2020_12: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def form(*required: str, **properties: dict[str, Any]) -> dict[str, Any]:
    """The schema of a form."""
    return (
        {"type": "object", "properties": properties, "required": list(required)}
        if required
        else {
            "type": "object",
            "properties": properties,
        }
    )


USER = form(
    "username",
    "email",
    username={"type": "string", "description": "User's response"},
    email={"type": "string", "description": "User's email address"},
)
DEFAULTS = form(
    name={"type": "string", "description": "User name", "default": "John Doe"},
    age={"type": "integer", "description": "User age", "default": 30},
    score={"type": "number", "description": "User score", "default": 95.5},
    status={"type": "string", "description": "User status", "enum": ["active", "inactive", "pending"], "default": "active"},
    verified={"type": "boolean", "description": "Verification status", "default": True},
)
ENUMS = form(
    untitledSingle={"type": "string", "enum": ["option1", "option2", "option3"]},
    titledSingle={
        "type": "string",
        "oneOf": [{"const": f"value{n}", "title": f"{word} Option"} for n, word in enumerate(("First", "Second", "Third"), 1)],
    },
    legacyEnum={"type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": ["Option One", "Option Two", "Option Three"]},
    untitledMulti={"type": "array", "items": {"type": "string", "enum": ["option1", "option2", "option3"]}},
    titledMulti={
        "type": "array",
        "items": {"anyOf": [{"const": f"value{n}", "title": f"{word} Choice"} for n, word in enumerate(("First", "Second", "Third"), 1)]},
    },
)
NAME = form("name", name={"type": "string"})

TOOLS: dict[str, tuple[str, dict[str, Any]]] = {
    "test_simple_text": ("Returns simple text", EMPTY),
    "test_image_content": ("Returns an image", EMPTY),
    "test_audio_content": ("Returns audio", EMPTY),
    "test_embedded_resource": ("Returns an embedded resource", EMPTY),
    "test_multiple_content_types": ("Returns text, an image and a resource", EMPTY),
    "test_tool_with_logging": ("Logs while it works", EMPTY),
    "test_logging_tool": ("Logs if it is asked to", EMPTY),
    "test_error_handling": ("Always fails", EMPTY),
    "test_tool_with_progress": ("Reports progress", EMPTY),
    "test_sampling": ("Asks the client's model", form("prompt", prompt={"type": "string", "description": "The prompt to send"})),
    "test_elicitation": ("Asks the user", form("message", message={"type": "string", "description": "The message to show"})),
    "test_elicitation_sep1034_defaults": ("Asks the user with defaults of every type", EMPTY),
    "test_elicitation_sep1330_enums": ("Asks the user with every kind of choice", EMPTY),
    "json_schema_2020_12_tool": ("Has an input schema with features of JSON Schema 2020-12", SCHEMA_2020_12),
    "test_missing_capability": ("Needs sampling", EMPTY),
    "test_streaming_elicitation": ("Reports progress and then asks the user", EMPTY),
    "test_input_required_result_elicitation": ("Needs a name", EMPTY),
    "test_input_required_result_sampling": ("Needs the client's model", EMPTY),
    "test_input_required_result_list_roots": ("Needs the client's roots", EMPTY),
    "test_input_required_result_request_state": ("Needs a confirmation and its own state back", EMPTY),
    "test_input_required_result_multiple_inputs": ("Needs a name, a greeting and roots", EMPTY),
    "test_input_required_result_multi_round": ("Needs a name and then a color", EMPTY),
    "test_input_required_result_tampered_state": ("Needs a confirmation and its own state unchanged", EMPTY),
    "test_input_required_result_capabilities": ("Needs only what the client can do", EMPTY),
}
Inputs = dict[str, Any]


def elicit(message: str, schema: dict[str, Any]) -> types.ElicitRequest:
    """Ask the user."""
    return types.ElicitRequest(params=types.ElicitRequestFormParams(message=message, requested_schema=schema))


def sample(text: str, tokens: int) -> types.CreateMessageRequest:
    """Ask the client's model."""
    message = types.SamplingMessage(role="user", content=types.TextContent(type="text", text=text))
    return types.CreateMessageRequest(params=types.CreateMessageRequestParams(messages=[message], max_tokens=tokens))


def roots() -> types.ListRootsRequest:
    """Ask for the client's roots."""
    return types.ListRootsRequest(params=types.RequestParams())


def text(said: str, *, failed: bool = False) -> types.CallToolResult:
    """A result of words."""
    return types.CallToolResult(content=[types.TextContent(type="text", text=said)], is_error=failed)


def resource(uri: str, mime: str, body: str) -> types.EmbeddedResource:
    """A resource inside a result."""
    return types.EmbeddedResource(type="resource", resource=types.TextResourceContents(uri=uri, mime_type=mime, text=body))


def sealed(state: dict[str, Any]) -> str:
    """State that comes back as it went, or is found out."""
    body = json.dumps(state)
    return f"{hmac.new(SECRET, body.encode(), hashlib.sha256).hexdigest()}.{body}"


def unsealed(state: str | None) -> dict[str, Any]:
    """What was sealed."""
    mac, _, body = (state or "").partition(".")
    if not hmac.compare_digest(mac, hmac.new(SECRET, body.encode(), hashlib.sha256).hexdigest()):
        raise MCPError(types.INVALID_PARAMS, "requestState was tampered with")
    found: dict[str, Any] = json.loads(body)
    return found


def given(params: Any, key: str, kind: type[Any]) -> Any:
    """The client's answer under this key, if it is one of this kind."""
    found = (params.input_responses or {}).get(key)
    return found if isinstance(found, kind) else None


async def called(ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult | types.InputRequiredResult:
    """One tool call."""
    arguments = params.arguments or {}
    match params.name:
        case "test_simple_text":
            return text("This is a simple text response for testing.")
        case "test_image_content":
            return types.CallToolResult(content=[types.ImageContent(type="image", data=PNG, mime_type="image/png")])
        case "test_audio_content":
            return types.CallToolResult(content=[types.AudioContent(type="audio", data=WAV, mime_type="audio/wav")])
        case "test_embedded_resource":
            return types.CallToolResult(
                content=[resource("test://embedded-resource", "text/plain", "This is an embedded resource content.")]
            )
        case "test_multiple_content_types":
            return types.CallToolResult(
                content=[
                    types.TextContent(type="text", text="Multiple content types test:"),
                    types.ImageContent(type="image", data=PNG, mime_type="image/png"),
                    resource("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
                ]
            )
        case "test_tool_with_logging":
            for said in ("Tool execution started", "Tool processing data", "Tool execution completed"):
                await ctx.session.send_log_message(level="info", data=said, related_request_id=ctx.request_id)
                await asyncio.sleep(STEP)
            return text("Tool with logging executed")
        case "test_logging_tool":
            await ctx.session.send_log_message(level="info", data="Diagnostic", related_request_id=ctx.request_id)
            return text("Logged if asked to")
        case "test_error_handling":
            return text("This tool intentionally returns an error for testing", failed=True)
        case "test_tool_with_progress":
            for done in (0, 50, 100):
                await ctx.session.report_progress(done, 100, f"Completed step {done} of 100")
                await asyncio.sleep(STEP)
            return text("Tool with progress executed")
        case "json_schema_2020_12_tool":
            return text(f"Called with {json.dumps(arguments)}")
        case "test_sampling":
            return await _sampled(ctx, params, sample(arguments["prompt"], 100))
        case "test_elicitation":
            return await _elicited(ctx, params, arguments["message"], USER, "User response: ")
        case "test_elicitation_sep1034_defaults":
            return await _elicited(
                ctx, params, "Please review and update the form fields with defaults", DEFAULTS, "Elicitation completed: "
            )
        case "test_elicitation_sep1330_enums":
            return await _elicited(ctx, params, "Please select options from the enum fields", ENUMS, "Elicitation completed: ")
        case "test_missing_capability":
            if not ctx.session.check_client_capability(types.ClientCapabilities(sampling=types.SamplingCapability())):
                raise MCPError(
                    types.MISSING_REQUIRED_CLIENT_CAPABILITY, "this tool needs sampling", {"requiredCapabilities": {"sampling": {}}}
                )
            return text("The client can sample")
        case "test_streaming_elicitation":
            await ctx.session.report_progress(50, 100, "about to ask")
            return await _elicited(ctx, params, "What is your name?", NAME, "Elicitation completed: ")
    return await _in_rounds(ctx, params)


KINDS: dict[str, type[Any]] = {
    "elicitation/create": types.ElicitResult,
    "sampling/createMessage": types.CreateMessageResult,
    "roots/list": types.ListRootsResult,
}


async def ask(ctx: Any, params: Any, requests: dict[str, Any], state: str | None = None) -> dict[str, Any] | types.InputRequiredResult:
    """The client's answers to all these requests, as its era gives them."""
    if ctx.protocol_version >= "2026":
        found = {key: given(params, key, KINDS[request.method]) for key, request in requests.items()}
        declined = [one for one in found.values() if isinstance(one, types.ElicitResult) and one.action == "accept" and not one.content]
        if declined or None in found.values():
            return types.InputRequiredResult(input_requests=requests, request_state=state)
        return found
    return dict(zip(requests, await asyncio.gather(*(_ask_now(ctx, request) for request in requests.values())), strict=True))


async def _ask_now(ctx: Any, request: Any) -> Any:
    """By a request on the way."""
    if isinstance(request, types.ListRootsRequest):
        return await ctx.session.list_roots()
    if isinstance(request, types.CreateMessageRequest):
        asked = request.params
        return await ctx.session.create_message(asked.messages, max_tokens=asked.max_tokens, related_request_id=ctx.request_id)
    form = request.params
    return await ctx.session.elicit_form(form.message, form.requested_schema, related_request_id=ctx.request_id)


async def _in_rounds(ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult | types.InputRequiredResult:
    """The tools with which the suite looks at `input_required`."""
    state = params.request_state
    name = {"user_name": elicit("What is your name?", NAME)}
    match params.name:
        case "test_input_required_result_elicitation":
            found = await ask(ctx, params, name)
            return (
                found if isinstance(found, types.InputRequiredResult) else text(f"Hello, {(found['user_name'].content or {}).get('name')}!")
            )
        case "test_input_required_result_sampling":
            found = await ask(ctx, params, {"capital_question": sample("What is the capital of France?", 100)})
            return (
                found if isinstance(found, types.InputRequiredResult) else text(f"The model says: {found['capital_question'].content.text}")
            )
        case "test_input_required_result_list_roots":
            found = await ask(ctx, params, {"client_roots": roots()})
            if isinstance(found, types.InputRequiredResult):
                return found
            return text("Roots: " + ", ".join(str(root.uri) for root in found["client_roots"].roots))
        case "test_input_required_result_request_state" | "test_input_required_result_tampered_state":
            if state is not None:
                unsealed(state)
            confirm = {"confirm": elicit("Please confirm", form("ok", ok={"type": "boolean"}))}
            found = await ask(ctx, params, confirm, sealed({"tool": params.name}))
            return found if isinstance(found, types.InputRequiredResult) else text("state-ok")
        case "test_input_required_result_multiple_inputs":
            if state is not None:
                unsealed(state)
            asks = name | {"greeting": sample("Generate a greeting", 50), "client_roots": roots()}
            found = await ask(ctx, params, asks, sealed({"tool": params.name}))
            return found if isinstance(found, types.InputRequiredResult) else text("All three have come")
        case "test_input_required_result_multi_round":
            step = unsealed(state)["step"] if state is not None else 0
            if step < 2:
                found = await ask(ctx, params, {"step1": elicit("Step 1: What is your name?", NAME)}, sealed({"step": 1}))
                if isinstance(found, types.InputRequiredResult):
                    return found
            color = {"step2": elicit("Step 2: What is your favorite color?", form("color", color={"type": "string"}))}
            found = await ask(ctx, params, color, sealed({"step": 2}))
            return found if isinstance(found, types.InputRequiredResult) else text("Both rounds are done")
        case "test_input_required_result_capabilities":
            can = ctx.session.client_capabilities
            asks = {"sample": sample("Generate a greeting", 50)} if can is not None and can.sampling is not None else {}
            asks |= {"ask": elicit("What is your name?", NAME)} if can is not None and can.elicitation is not None else {}
            found = await ask(ctx, params, asks) if asks else {}
            return found if isinstance(found, types.InputRequiredResult) else text("Asked only what the client can do")
    raise MCPError(types.INVALID_PARAMS, f"no such tool: {params.name}")


async def _sampled(ctx: Any, params: Any, request: types.CreateMessageRequest) -> types.CallToolResult | types.InputRequiredResult:
    found = await ask(ctx, params, {"sample": request})
    return found if isinstance(found, types.InputRequiredResult) else text(f"LLM response: {found['sample'].content.text}")


async def _elicited(
    ctx: Any, params: Any, message: str, schema: dict[str, Any], before: str
) -> types.CallToolResult | types.InputRequiredResult:
    found = await ask(ctx, params, {"ask": elicit(message, schema)})
    if isinstance(found, types.InputRequiredResult):
        return found
    answer = found["ask"]
    return text(f"{before}action={answer.action}, content={json.dumps(answer.content)}")


async def tools(ctx: Any, params: Any) -> types.ListToolsResult:
    """All tools."""
    return types.ListToolsResult(
        tools=[types.Tool(name=name, description=about, input_schema=schema) for name, (about, schema) in TOOLS.items()]
    )


RESOURCES = {
    "test://static-text": ("Static text", "A static text resource", "text/plain"),
    "test://static-binary": ("Static binary", "A static image", "image/png"),
    "test://watched-resource": ("Watched resource", "A resource that can be watched", "text/plain"),
}
TEMPLATE = "test://template/{id}/data"


async def resources(ctx: Any, params: Any) -> types.ListResourcesResult:
    """All resources."""
    return types.ListResourcesResult(
        resources=[types.Resource(uri=uri, name=name, description=about, mime_type=mime) for uri, (name, about, mime) in RESOURCES.items()]
    )


async def templates(ctx: Any, params: Any) -> types.ListResourceTemplatesResult:
    """All templates."""
    template = types.ResourceTemplate(uri_template=TEMPLATE, name="Template", description="A template", mime_type="application/json")
    return types.ListResourceTemplatesResult(resource_templates=[template])


async def read(ctx: Any, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
    """One resource."""
    uri = str(params.uri)
    contents: types.TextResourceContents | types.BlobResourceContents
    if uri == "test://static-binary":
        contents = types.BlobResourceContents(uri=uri, mime_type="image/png", blob=PNG)
    elif uri in RESOURCES:
        word = "static text" if uri == "test://static-text" else "watched"
        contents = types.TextResourceContents(uri=uri, mime_type="text/plain", text=f"This is the content of the {word} resource.")
    elif uri.startswith("test://template/") and uri.endswith("/data"):
        id = uri.removeprefix("test://template/").removesuffix("/data")
        body = json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})
        contents = types.TextResourceContents(uri=uri, mime_type="application/json", text=body)
    else:
        raise MCPError(types.INVALID_PARAMS, "Resource not found", {"uri": uri})
    return types.ReadResourceResult(contents=[contents])


async def subscribed(ctx: Any, params: Any) -> types.EmptyResult:
    """Subscribe to a resource, or no longer."""
    return types.EmptyResult()


PROMPTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "test_simple_prompt": ("A prompt without arguments", ()),
    "test_prompt_with_arguments": ("A prompt with arguments", ("arg1", "arg2")),
    "test_prompt_with_embedded_resource": ("A prompt with a resource", ("resourceUri",)),
    "test_prompt_with_image": ("A prompt with an image", ()),
    "test_input_required_result_prompt": ("A prompt that needs the user", ()),
}


async def prompts(ctx: Any, params: Any) -> types.ListPromptsResult:
    """All prompts."""
    return types.ListPromptsResult(
        prompts=[
            types.Prompt(
                name=name,
                description=about,
                arguments=[types.PromptArgument(name=one, description=f"The argument {one}", required=True) for one in arguments] or None,
            )
            for name, (about, arguments) in PROMPTS.items()
        ]
    )


async def prompt(ctx: Any, params: types.GetPromptRequestParams) -> types.GetPromptResult | types.InputRequiredResult:
    """One prompt."""
    arguments = params.arguments or {}
    said: list[Any]
    match params.name:
        case "test_simple_prompt":
            said = [types.TextContent(type="text", text="This is a simple prompt for testing.")]
        case "test_prompt_with_arguments":
            with_them = f"arg1='{arguments['arg1']}', arg2='{arguments['arg2']}'"
            said = [types.TextContent(type="text", text=f"Prompt with arguments: {with_them}")]
        case "test_prompt_with_embedded_resource":
            embedded = resource(arguments["resourceUri"], "text/plain", "Embedded resource content for testing.")
            said = [embedded, types.TextContent(type="text", text="Please process the embedded resource above.")]
        case "test_prompt_with_image":
            image = types.ImageContent(type="image", data=PNG, mime_type="image/png")
            said = [image, types.TextContent(type="text", text="Please analyze the image above.")]
        case "test_input_required_result_prompt":
            context = elicit("What context should the prompt use?", form("context", context={"type": "string"}))
            found = await ask(ctx, params, {"user_context": context})
            if isinstance(found, types.InputRequiredResult):
                return found
            said = [types.TextContent(type="text", text=f"Use this context: {(found['user_context'].content or {}).get('context')}")]
        case other:
            raise MCPError(types.INVALID_PARAMS, f"no such prompt: {other}")
    return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=content) for content in said])


async def completed(ctx: Any, params: types.CompleteRequestParams) -> types.CompleteResult:
    """Suggestions."""
    values = [word for word in ("paris", "park", "party") if word.startswith(params.argument.value)]
    return types.CompleteResult(completion=types.Completion(values=values, total=len(values), has_more=False))


async def level(ctx: Any, params: Any) -> types.EmptyResult:
    """Whatever level is asked for, everything is logged."""
    return types.EmptyResult()


def everything() -> Server[Any]:
    """The server."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what revision 2026-07-28 deprecates is still asked for
        return Server(
            "everything",
            version="1.0.0",
            on_list_tools=tools,
            on_call_tool=called,
            on_list_resources=resources,
            on_list_resource_templates=templates,
            on_read_resource=read,
            on_subscribe_resource=subscribed,
            on_unsubscribe_resource=subscribed,
            on_list_prompts=prompts,
            on_get_prompt=prompt,
            on_completion=completed,
            on_set_logging_level=level,
        )


async def over_stdio() -> None:
    """Serve one client on stdin and stdout."""
    server = everything()
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if len(sys.argv) > 1:
        uvicorn.run(everything().streamable_http_app(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
    else:
        asyncio.run(over_stdio())
