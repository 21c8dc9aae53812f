"""Managed servers: the MCP servers that this program runs or connects to, and brings to endpoints as providers."""
