"""Log-in and log-out of the console, the user of a request, and the protection of POST requests against forgery."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from loguru import logger
from starlette.responses import RedirectResponse, Response

from ..access.admission import Authenticator
from ..access.directory import Directory, User
from .asked import Asked, Denied
from .session import COOKIE, SECONDS, Session, Sessions

LOG_IN: Final = ("Log in first, or send Authorization: Bearer KEY", "请先登录，或发送 Authorization: Bearer 密钥")
NOT_OURS: Final = (
    "Only a page of this console may do that: open the console again and repeat it there",
    "只有本控制台自己的页面可以这样做：请重新打开控制台，在那里操作",
)
PROOF: Final = "X-Console"
"""A header that a page of somebody else cannot send: its browser would ask first (CORS), and hear no."""


class Known(NamedTuple):
    """Who asks."""

    user: User
    session: Session | None
    """None for a program, which shows its key with every request."""


class Login:
    """The way in to one console."""

    def __init__(self, directory: Directory, authenticator: Authenticator, key: str, epoch: Callable[[], float]) -> None:
        """`key` signs the cookies; `epoch` is what they end by, in seconds since 1970."""
        self.directory = directory
        self._authenticator = authenticator
        self._sessions = Sessions(key)
        self._epoch = epoch

    async def known(self, asked: Asked) -> Known:
        """Who asks. Raises Denied: 401 for nobody, and 401 or 429 for a wrong key."""
        shown = [value.partition(" ") for value in asked.request.headers.getlist("authorization")]
        bearers = {rest.strip() for scheme, _, rest in shown if scheme.lower() == "bearer"}
        if bearers:
            user = await self.directory.by_token(bearers.pop()) if len(bearers) == 1 else None
            if user is None:
                raise self._wrong(asked)
            return Known(user, None)
        session = self._sessions.read(asked.request.cookies.get(COOKIE, ""), self._epoch())
        user = None if session is None else self.directory.by_name(session.user)
        if user is None:
            raise Denied(401, "not logged in", *LOG_IN, (("WWW-Authenticate", "Bearer"),))
        return Known(user, session)

    def check(self, asked: Asked, known: Known, fields: Mapping[str, str] = {}) -> None:
        """That no page of somebody else has sent what changes something. Raises Denied.

        A page of ours says where it is from, and proves it with its form's token or with a header.
        """
        if known.session is None:
            return  # no page can show a key for a person who does not type it
        proven = fields.get("form_token") == known.session.form_token or bool(asked.request.headers.get(PROOF))
        if not proven or not asked.own_page(self._authenticator):
            raise Denied(403, "not a page of ours", *NOT_OURS)

    async def by_form(self, asked: Asked, fields: Mapping[str, str]) -> Response:
        """Let somebody in who has filled in the form of a page of ours. Raises Denied."""
        if not asked.own_page(self._authenticator):
            raise Denied(403, "not a page of ours", *NOT_OURS)
        user = await self.directory.log_in({field.name: fields.get(field.name, "") for field in self.directory.fields})
        if user is None:
            raise self._wrong(asked)
        return self._let_in(asked, user, self.place(asked, fields.get("back", "")))

    async def by_address(self, asked: Asked) -> Response:
        """Let somebody in whose address has the key (`?key=`), and lead them to the same address without it. Raises Denied."""
        keys = {key for name, key in asked.request.query_params.multi_items() if name == "key"}
        user = await self.directory.by_token(keys.pop()) if len(keys) == 1 else None
        if user is None:
            raise self._wrong(asked)
        return self._let_in(asked, user, asked.here)

    def leave(self, asked: Asked) -> Response:
        """Take the cookie away."""
        response = RedirectResponse(f"{asked.base}/login", status_code=303)
        response.delete_cookie(COOKIE, path=asked.base, secure=asked.tls, httponly=True, samesite="strict")
        return response

    def place(self, asked: Asked, back: str) -> str:
        """The page of this console that a form leads back to: `back` if it is one, else the first."""
        inside = back == asked.base or back.startswith((f"{asked.base}/", f"{asked.base}?"))
        return back if inside and back.isprintable() and "\\" not in back and "/../" not in f"{back}/" else asked.base

    def _let_in(self, asked: Asked, user: User, to: str) -> Response:
        response = RedirectResponse(to, status_code=303)
        cookie = self._sessions.make(user.name, self._epoch())
        response.set_cookie(COOKIE, cookie, SECONDS, path=asked.base, secure=asked.tls, httponly=True, samesite="strict")
        return response

    def _wrong(self, asked: Asked) -> Denied:
        refusal = self._authenticator.wrong_key(asked.source)
        level = "WARNING" if refusal.status == 401 else "DEBUG"  # whoever tries on is one line a try no more
        logger.log(level, "控制台：密钥错误 / console: wrong key", peer=refusal.address, status=refusal.status)
        zh, _, en = refusal.message.partition(" / ")
        return Denied(refusal.status, refusal.error, en, zh, refusal.headers)
