"""The HTTP API over MCP servers, with JSON Web Tokens."""
