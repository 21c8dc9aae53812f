"""Who may look at the server's pages, and what each may do there: its key's holder, or the users somebody else hands in."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol


class User(NamedTuple):
    """Somebody who has shown who they are."""

    name: str
    """Unique in its directory; stands in the cookie."""
    en: str
    """What the pages call them, and the same in Chinese."""
    zh: str


class Field(NamedTuple):
    """One line of the log-in form."""

    name: str
    en: str
    zh: str
    secret: bool = True
    """Whether it is typed unseen."""


class Directory(Protocol):
    """Users, and what each may do; whoever keeps users hands its own in."""

    @property
    def fields(self) -> Sequence[Field]:
        """What the log-in form asks for."""

    async def log_in(self, shown: Mapping[str, str]) -> User | None:
        """Who shows these values of the fields; None if they are wrong."""

    async def by_token(self, token: str) -> User | None:
        """Whose token it is that a program shows (`Authorization: Bearer`); None if nobody's."""

    def by_name(self, name: str) -> User | None:
        """The user of a cookie; None once there is no such user any more."""

    def may(self, user: User, action: str) -> bool:
        """Whether a user may do something: `status.read`, `addresses.read`, `tools.call`, `records.read`."""


OPERATOR: Final = User("operator", "holder of the key", "密钥持有者")


class KeyHolder:
    """The directory of a server without users: whoever knows its key may do everything."""

    fields = (Field("key", "Key", "密钥"),)

    def __init__(self, key: str) -> None:
        """`key` is the server's; with an empty one nobody comes in."""
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
