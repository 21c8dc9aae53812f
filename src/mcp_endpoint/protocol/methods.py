"""The names of MCP, each defined once: methods, notifications, `_meta` keys, HTTP headers, revisions and capabilities."""

from __future__ import annotations

from typing import Final

# == methods of requests ===================================================================================================

INITIALIZE: Final = "initialize"
DISCOVER: Final = "server/discover"
PING: Final = "ping"
TOOLS_LIST: Final = "tools/list"
TOOLS_CALL: Final = "tools/call"
PROMPTS_LIST: Final = "prompts/list"
PROMPTS_GET: Final = "prompts/get"
RESOURCES_LIST: Final = "resources/list"
TEMPLATES_LIST: Final = "resources/templates/list"
RESOURCES_READ: Final = "resources/read"
SUBSCRIBE: Final = "resources/subscribe"
UNSUBSCRIBE: Final = "resources/unsubscribe"
COMPLETE: Final = "completion/complete"
SET_LEVEL: Final = "logging/setLevel"
LISTEN: Final = "subscriptions/listen"
SAMPLE: Final = "sampling/createMessage"
ELICIT: Final = "elicitation/create"
ROOTS_LIST: Final = "roots/list"

LISTS: Final = frozenset((TOOLS_LIST, PROMPTS_LIST, RESOURCES_LIST, TEMPLATES_LIST))
ASKING: Final = frozenset((TOOLS_CALL, PROMPTS_GET, RESOURCES_READ))
"""Methods that may be answered with `input_required`."""
CACHEABLE: Final = LISTS | {RESOURCES_READ, DISCOVER}
"""Methods whose results have a caching time (SEP-2549)."""
STATELESS: Final = CACHEABLE | ASKING | {COMPLETE, LISTEN}
"""All methods of the stateless revision."""
READING: Final = CACHEABLE | {INITIALIZE, PROMPTS_GET, COMPLETE}
"""Methods that change nothing at the server."""
CAPABILITIES: Final = {SAMPLE: "sampling", ELICIT: "elicitation", ROOTS_LIST: "roots"}
"""Server-to-client requests → the capability that the client must have declared."""
NAMED_BY: Final = {TOOLS_CALL: "name", PROMPTS_GET: "name", RESOURCES_READ: "uri"}
"""Methods whose `Mcp-Name` header mirrors a parameter → that parameter."""

# == notifications =========================================================================================================

INITIALIZED: Final = "notifications/initialized"
CANCELLED: Final = "notifications/cancelled"
PROGRESS: Final = "notifications/progress"
MESSAGE: Final = "notifications/message"
TOOLS_CHANGED: Final = "notifications/tools/list_changed"
PROMPTS_CHANGED: Final = "notifications/prompts/list_changed"
RESOURCES_CHANGED: Final = "notifications/resources/list_changed"
ROOTS_CHANGED: Final = "notifications/roots/list_changed"
UPDATED: Final = "notifications/resources/updated"
ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"

LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
"""MCP's log levels (RFC 5424 §6.2.1), least urgent first."""

# == `_meta` and its keys ==================================================================================================

META: Final = "_meta"
PROGRESS_TOKEN: Final = "progressToken"
VERSION_KEY: Final = "io.modelcontextprotocol/protocolVersion"
CLIENT_KEY: Final = "io.modelcontextprotocol/clientInfo"
CAPABILITIES_KEY: Final = "io.modelcontextprotocol/clientCapabilities"
LEVEL_KEY: Final = "io.modelcontextprotocol/logLevel"
SERVER_KEY: Final = "io.modelcontextprotocol/serverInfo"
SUBSCRIPTION_KEY: Final = "io.modelcontextprotocol/subscriptionId"
ENVELOPE: Final = (VERSION_KEY, CLIENT_KEY, CAPABILITIES_KEY, LEVEL_KEY)
"""Keys with which a stateless client identifies itself in the `_meta` of each request."""
ASKER: Final = "mcp-endpoint-server/asker"
"""Our own key: passes that envelope on inside the process."""
FAILURE_KEY: Final = "mcp-endpoint-server/error"
"""Our own key: why a tool call failed in the broker."""
MISSING_KEY: Final = "mcp-endpoint-server/missing"
"""Our own key: the providers whose tools are missing in a list."""

# == HTTP headers, in lower case ===========================================================================================

SESSION_HEADER: Final = "mcp-session-id"
VERSION_HEADER: Final = "mcp-protocol-version"
METHOD_HEADER: Final = "mcp-method"
NAME_HEADER: Final = "mcp-name"
PARAM_HEADERS: Final = "mcp-param-"
"""Prefix of headers that mirror an argument of a call."""
LAST_EVENT_HEADER: Final = "last-event-id"

# == revisions =============================================================================================================

BATCHES_IN: Final = "2025-03-26"
"""The only revision with batches."""
STRUCTURED_SINCE: Final = "2025-06-18"
"""The revision that introduced `structuredContent`."""
LATEST: Final = "2025-11-25"
"""The last revision with `initialize`; the first whose event streams begin with an empty event."""
HANDSHAKE_REVISIONS: Final = ("2024-11-05", BATCHES_IN, STRUCTURED_SINCE, LATEST)
"""The revisions with `initialize`, oldest first."""
STATELESS_REVISION: Final = "2026-07-28"
"""The first revision without a handshake, and the one that is implemented."""
