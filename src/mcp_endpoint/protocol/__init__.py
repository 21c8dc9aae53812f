"""The words and bytes of JSON-RPC and MCP; pure."""
