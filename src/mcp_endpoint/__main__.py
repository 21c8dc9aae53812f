"""`python -m mcp_endpoint` is the command `mcp-endpoint`."""

from .commands.main import main

if __name__ == "__main__":
    main()
