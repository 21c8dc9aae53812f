"""MCP servers that are reached by URL."""
