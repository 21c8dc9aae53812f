"""The TLS contexts: of the server with its certificate, and of the commands that verify it."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

from ..errors import ConfigError
from ..files import read_bytes
from ..settings.schema import Server


def serving(settings: Server, sources: Mapping[str, str]) -> ssl.SSLContext | None:
    """The server's context, None without a certificate. Raises ConfigError, with the place of the setting, if it cannot be used."""
    if not settings.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        for path in (settings.tls_cert, settings.tls_key):
            read_bytes(Path(path))  # OpenSSL would wait for the writer of a FIFO
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password=_no_passphrase)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"tls_cert {settings.tls_cert!r} with tls_key {settings.tls_key!r} cannot be used: {reason}; both must be readable PEM files "
            "that belong together, the key without a passphrase",
            f"tls_cert {settings.tls_cert!r} 与 tls_key {settings.tls_key!r} 无法使用：{reason}；"
            "两者须为可读且相互匹配的 PEM 文件，私钥不带密码",
            place=sources["server.tls_cert"],
        ) from error
    return context


def trusting(certificate: str) -> ssl.SSLContext:
    """The context of a command on the same machine: it accepts exactly the certificate in the server's file, under any host name.

    Raises ConfigError if the file cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=read_bytes(Path(certificate)).decode("ascii", "ignore"))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"tls_cert {certificate!r} cannot be read: {reason}", f"无法读取 tls_cert {certificate!r}：{reason}") from error
    return context


def _no_passphrase() -> str:
    """Instead of the passphrase prompt that OpenSSL would show on the terminal."""
    raise ValueError("the key has a passphrase")
