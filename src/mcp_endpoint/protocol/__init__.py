"""JSON-RPC and MCP: names, parsing and encoding; pure functions."""
