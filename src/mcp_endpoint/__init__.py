"""An MCP endpoint broker: consumers and providers meet at a named endpoint."""

from __future__ import annotations

from typing import Final

__version__: Final = "0.1.0"
