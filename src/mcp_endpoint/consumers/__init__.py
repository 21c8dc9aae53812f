"""Who asks without a WebSocket: MCP clients over HTTP, the HTTP API, and everything inside the house."""
