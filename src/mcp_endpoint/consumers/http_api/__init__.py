"""The HTTP API over many MCP servers, behind JSON Web Tokens."""
