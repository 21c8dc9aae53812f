"""Consumers without a WebSocket: MCP clients over HTTP, the HTTP API, and code of this server."""
