"""MCP over HTTP: sessions, streams and the stateless revision."""
