"""Users of the console and their permissions: the holder of the server's key, or the users of another directory."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol


class User(NamedTuple):
    """Somebody who has shown who they are."""

    name: str
    """Unique in its directory; stands in the cookie."""
    en: str
    """The display name, in English and Chinese."""
    zh: str


class Field(NamedTuple):
    """One line of the log-in form."""

    name: str
    en: str
    zh: str
    secret: bool = True
    """Whether the browser hides what is typed."""


class Directory(Protocol):
    """Users and their permissions; a program with users of its own implements it."""

    @property
    def fields(self) -> Sequence[Field]:
        """The fields of the log-in form."""

    async def log_in(self, shown: Mapping[str, str]) -> User | None:
        """The user with these values of the fields; None if they are wrong."""

    async def by_token(self, token: str) -> User | None:
        """The user of a bearer token; None if it is unknown."""

    def by_name(self, name: str) -> User | None:
        """The user named in a cookie; None if there is no such user any more."""

    def may(self, user: User, action: str) -> bool:
        """Whether a user may perform an action: `status.read`, `addresses.read`, `tools.call`, `records.read`."""


OPERATOR: Final = User("operator", "holder of the key", "密钥持有者")


class KeyHolder:
    """The directory of a server without users: who has its key may do everything."""

    fields = (Field("key", "Key", "密钥"),)

    def __init__(self, key: str) -> None:
        """`key` is the server's; with an empty one every log-in is refused."""
        self._key = key.encode()

    async def log_in(self, shown: Mapping[str, str]) -> User | None:
        """The operator, for the right key."""
        return await self.by_token(shown.get("key", ""))

    async def by_token(self, token: str) -> User | None:
        """The operator, for the right key."""
        same = hmac.compare_digest(token.encode("utf-8", "surrogatepass"), self._key)
        return OPERATOR if same and self._key else None

    def by_name(self, name: str) -> User | None:
        """The operator."""
        return OPERATOR if name == OPERATOR.name else None

    def may(self, user: User, action: str) -> bool:
        """Everything."""
        return True
