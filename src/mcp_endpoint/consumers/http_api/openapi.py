"""The OpenAPI 3.1 document of the HTTP API."""

from __future__ import annotations

from typing import Any

from ... import __version__

_ERROR = {"$ref": "#/components/schemas/Error"}
_TEXT = {"type": "string"}
EVENTS = (
    "server-sent events: any number of `progress` ({progress, total?, message?}), then one `result` with the JSON of the other form"
    " or one `error` with the JSON of an error"
)


def _answer(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _errors(*codes: int) -> dict[str, Any]:
    said = {
        400: "the request is invalid",
        401: "no valid token",
        403: "the token does not permit it",
        404: "no such tool or server",
        408: "the body did not arrive in time",
        413: "the request is too large",
        415: "the body is compressed",
        429: "too many requests",
        500: "the tool failed",
        503: "no MCP server answered",
    }
    return {str(code): _answer(said[code], _ERROR) for code in codes}


def document(prefix: str) -> dict[str, Any]:
    """The document of an API with the path prefix `prefix`."""
    tool = {
        "type": "object",
        "required": ["name", "servers"],
        "properties": {"name": _TEXT, "servers": {"type": "array", "items": _TEXT}, "inputSchema": {"type": "object"}},
    }
    server = {
        "type": "object",
        "required": ["server", "status", "tools"],
        "properties": {
            "server": _TEXT,
            "status": {"enum": ["up", "down"]},
            "tools": {"type": "array", "items": _TEXT},
            "state": {"type": "string", "description": "of a managed server: starting, running, waiting, stopped, off or error"},
            "reason": {"type": "string", "description": "why it is in this state"},
            "since": {"type": "string", "format": "date-time"},
            "wire": {"type": "string", "description": "stdio, http, sse, or any until it is known"},
            "last_error": {"type": "string", "description": "the last error, also after recovery"},
        },
    }
    call = {
        "type": "object",
        "required": ["method"],
        "properties": {
            "method": {"type": "string", "minLength": 1, "maxLength": 1024, "description": "the tool's name"},
            "args": {"type": "object", "description": "its arguments"},
            "server": {"type": "string", "minLength": 1, "maxLength": 2048, "description": "the server that is asked first"},
        },
    }
    done = {"type": "object", "required": ["result", "server"], "properties": {"result": {"type": "object"}, "server": _TEXT}}
    answered = _answer("the tool's result; as events for a client that accepts them", done)
    answered["content"]["text/event-stream"] = {"schema": {"type": "string", "description": EVENTS}}
    secured: dict[str, Any] = {"security": [{"bearer": []}, {"query": []}]}
    # The parameter is percent-encoded: this many characters of any kind fit into a request head.
    which = {"name": "server", "in": "query", "required": False, "schema": {"type": "string", "minLength": 1, "maxLength": 1024}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "mcp-endpoint-server API", "version": __version__},
        "paths": {
            f"{prefix}/tools": {
                "post": {
                    "operationId": "callTool",
                    "summary": "Call a tool",
                    "requestBody": {"required": True, "content": {"application/json": {"schema": call}}},
                    "responses": {"200": answered, **_errors(400, 401, 403, 404, 408, 413, 415, 429, 500, 503)},
                    **secured,
                }
            },
            f"{prefix}/tools/list": {
                "get": {
                    "operationId": "listTools",
                    "summary": "All tools, and which server has them",
                    "parameters": [which],
                    "responses": {
                        "200": _answer(
                            "the tools",
                            {
                                "type": "object",
                                "required": ["tools", "servers", "total"],
                                "properties": {
                                    "tools": {"type": "array", "items": tool},
                                    "servers": {"type": "object", "additionalProperties": {"type": "array", "items": _TEXT}},
                                    "total": {"type": "integer"},
                                },
                            },
                        ),
                        **_errors(400, 401, 403, 404, 429, 503),
                    },
                    **secured,
                }
            },
            f"{prefix}/servers": {
                "get": {
                    "operationId": "listServers",
                    "summary": "All servers and their state",
                    "responses": {
                        "200": _answer(
                            "the servers",
                            {
                                "type": "object",
                                "required": ["servers", "total", "up"],
                                "properties": {
                                    "servers": {"type": "array", "items": server},
                                    "total": {"type": "integer"},
                                    "up": {"type": "integer"},
                                },
                            },
                        ),
                        **_errors(400, 401, 403, 429),
                    },
                    **secured,
                }
            },
            f"{prefix}/health": {
                "get": {
                    "operationId": "health",
                    "summary": "Whether it works",
                    "responses": {
                        code: _answer(
                            words,
                            {
                                "type": "object",
                                "required": ["status", "service", "servers"],
                                "properties": {"status": _TEXT, "service": _TEXT, "servers": {"type": "object"}},
                            },
                        )
                        for code, words in (("200", "at least one server is up"), ("503", "no server is up"))
                    },
                }
            },
        },
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "query": {"type": "apiKey", "in": "query", "name": "token"},
            },
            "schemas": {
                "Error": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {
                        "error": {
                            "type": "object",
                            "required": ["message", "code"],
                            "properties": {"message": _TEXT, "code": {"type": "integer"}},
                        }
                    },
                }
            },
        },
    }
