"""Reports the service state to systemd (sd_notify(3), Type=notify)."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Final

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"


def send(state: str, environ: Mapping[str, str]) -> bool:
    """Send one state; returns whether it was sent. Without a listening service manager it does nothing."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")) or not hasattr(socket, "AF_UNIX"):
        return False
    if address.startswith("@"):  # Linux's abstract name space
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        try:
            manager.sendto(state.encode(), address)
        except OSError:
            return False
    return True
