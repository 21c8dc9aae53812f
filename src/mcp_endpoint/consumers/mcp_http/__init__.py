"""MCP over HTTP: sessions, streams and the sessionless revision."""
