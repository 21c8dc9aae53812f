"""systemd hears when the service is ready and when it stops."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import BOUND, program

from mcp_endpoint.serving import sd_notify as notify

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="systemd and its sockets exist on POSIX only")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(BOUND)
        yield listener


def test_a_state_reaches_the_manager(manager: socket.socket) -> None:
    assert notify.send(notify.READY, {"NOTIFY_SOCKET": manager.getsockname()})
    assert manager.recv(100) == b"READY=1"


@pytest.mark.skipif(sys.platform != "linux", reason="abstract socket names are Linux's")
def test_an_abstract_address_is_understood() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("")  # Linux picks an abstract name
        listener.settimeout(BOUND)
        assert notify.send(notify.STOPPING, {"NOTIFY_SOCKET": "@" + listener.getsockname()[1:].decode()})
        assert listener.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}, {"NOTIFY_SOCKET": "/nowhere/at/all"}])
def test_without_a_manager_nothing_happens(environ: dict[str, str]) -> None:
    assert not notify.send(notify.READY, environ)


async def test_the_server_tells_when_it_listens_and_when_it_stops(manager: socket.socket, tmp_path: Path) -> None:
    environ = {"NOTIFY_SOCKET": manager.getsockname()}
    async with program(tmp_path, "--root", str(tmp_path), "serve", "--port", "0", environ=environ) as running:
        await running.listens()
        assert manager.recv(100) == b"READY=1"
        running.process.send_signal(signal.SIGTERM)
        assert manager.recv(100) == b"STOPPING=1"
        assert await running.ends() == 0
