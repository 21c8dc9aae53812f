"""A certificate is used, or it is told why not; and our own commands know it again."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from pathlib import Path

import pytest
from certificates import certificate

from mcp_endpoint.access.tls import serving, trusting
from mcp_endpoint.errors import ConfigError
from mcp_endpoint.settings.schema import Server


def test_without_a_certificate_there_is_no_tls() -> None:
    assert serving(Server(), {}) is None


@pytest.mark.parametrize("trouble", ["missing", "not PEM", "of another key", "with a passphrase", "not readable as a path", "FIFO"])
def test_a_certificate_that_cannot_be_used_is_told_with_both_files(trouble: str, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    if trouble == "missing":
        key = str(tmp_path / "missing.key")
    elif trouble == "not PEM":
        Path(cert).write_text("hello")
    elif trouble == "of another key":
        _, key = certificate(tmp_path, "other")
    elif trouble == "with a passphrase":
        cert, key = certificate(tmp_path, "locked", b"open sesame")
    elif trouble == "FIFO":  # whoever opens one waits for its writer
        key = str(tmp_path / "fifo")
        os.mkfifo(key)
    else:
        cert = "a\0b"
    with pytest.raises(ConfigError) as refused:
        serving(Server(tls_cert=cert, tls_key=key), {"server.tls_cert": "data/.mcp-endpoint-server.cfg:4"})
    assert refused.value.place == "data/.mcp-endpoint-server.cfg:4"
    assert "tls_key" in refused.value.en


def shaken(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """One TLS handshake between the two; raises what the client raises."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            with server.wrap_socket(ours, server_side=True):
                pass
        except OSError:  # the client did not like what it saw
            ours.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(theirs, server_hostname="127.0.0.1"):
            pass
    finally:
        theirs.close()
        thread.join(20)


def test_the_servers_own_certificate_is_recognised_under_any_name_and_no_other(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    other, _ = certificate(tmp_path, "other")
    context = serving(Server(tls_cert=cert, tls_key=key), {})
    assert context is not None
    shaken(context, trusting(cert))
    with pytest.raises(ssl.SSLCertVerificationError):
        shaken(context, trusting(other))


def test_a_certificate_file_that_is_a_fifo_or_no_certificate_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "text").write_text("你好")
    for name in ("fifo", "text"):
        with pytest.raises(ConfigError):
            trusting(str(tmp_path / name))


def test_a_certificate_file_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        trusting(str(tmp_path / "missing.pem"))
