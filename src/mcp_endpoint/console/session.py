"""The signed cookie of a logged-in user: name and expiry; the server keeps no state."""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from typing import Final, NamedTuple

COOKIE: Final = "mes_console"
SECONDS: Final = 12 * 3_600
"""How long a log-in is good for."""
_PURPOSE: Final = b"mcp-endpoint-server: cookie of the console, version 1"
_FORM: Final = b"form:"
_SHAPE: Final = re.compile(r"([A-Za-z0-9_-]{1,344})\.([0-9]{1,12})\.([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{43})")


class Session(NamedTuple):
    """A log-in that is still good."""

    user: str
    """The name of the user in the directory."""
    form_token: str
    """What every form of this log-in sends along, and no other page can know."""


class Sessions:
    """Makes and reads the cookies of one key: with another key of the server nobody is logged in any more."""

    def __init__(self, key: str) -> None:
        self._key = hmac.digest(key.encode(), _PURPOSE, "sha256")

    def make(self, user: str, now: float) -> str:
        """The cookie of `user` from `now` (seconds since 1970) on."""
        body = f"{_url64(user.encode())}.{int(now) + SECONDS}.{secrets.token_urlsafe(16)}"
        return f"{body}.{self._mac(body.encode())}"

    def read(self, cookie: str, now: float) -> Session | None:
        """Whose cookie this is; None if nobody's, or no longer."""
        found = _SHAPE.fullmatch(cookie)
        if found is None:
            return None
        user, end, _, mac = found.groups()
        if not hmac.compare_digest(mac, self._mac(cookie.rpartition(".")[0].encode())) or now >= int(end):
            return None
        name = base64.urlsafe_b64decode(user + "=" * (-len(user) % 4)).decode()
        return Session(name, self._mac(_FORM + cookie.encode()))

    def _mac(self, data: bytes) -> str:
        return _url64(hmac.digest(self._key, data, "sha256"))


def _url64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
