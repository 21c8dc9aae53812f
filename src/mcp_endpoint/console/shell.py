"""The console's dispatcher: each page as HTML or JSON, for users who may see it, in one layout.

The templates and their packages are loaded with the first page.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ..access.addresses import base_seen
from ..access.admission import Authenticator
from ..access.directory import Directory, KeyHolder
from ..asgi import Bodies, BodyRefused, unless_gone
from ..errors import halves
from ..pages import NotThere, Page, Visit
from ..protocol import methods
from ..settings.schema import Config
from . import asked as requests
from . import assets
from .asked import LANGUAGE, Asked, Denied
from .calls import Calls
from .forms import Wrong
from .login import NOT_OURS, Known, Login
from .pretty import pretty

if TYPE_CHECKING:
    from .live import Live

KEPT: Final = "public, max-age=31536000, immutable"
LANGUAGE_SECONDS: Final = 31_536_000
FORM_BYTES: Final = 16 * 1024
"""Largest form of somebody who is not logged in."""
FORM: Final = "application/x-www-form-urlencoded"
HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Vary": "Accept, Accept-Language, Cookie",
}
"""Of every answer. A page's `<meta name="referrer">` lets it tell its origin to this server: a form is checked by it."""
NOWHERE: Final = Denied(404, "not found", "There is no such page", "没有这个页面")


class Shell:
    """Access, language, navigation and errors around the pages that rooms contribute."""

    def __init__(
        self,
        config: Config,
        authenticator: Authenticator,
        bodies: Bodies,
        calls: Calls,
        pages: Sequence[Page],
        directory: Directory | None = None,
        live: Live | None = None,
        *,
        epoch: Callable[[], float] = time.time,
    ) -> None:
        """`pages` in the order of the navigation; the first is also `/console` itself. The holder of the key is who may look, unless
        `directory` says who."""
        self._config = config
        self._authenticator = authenticator
        self._bodies = bodies
        self._calls = calls
        self._pages = {page.path: page for page in pages}
        self._first = pages[0]
        self._directory = directory or KeyHolder(config.server.key)
        self._login = Login(self._directory, authenticator, config.server.key, epoch)
        self._live = live
        self._renderer: Any = None

    def close(self) -> None:
        """Leave the endpoints whose tools were looked at, and end the streams."""
        self._calls.close()
        if self._live is not None:
            self._live.close()

    # -- requests ------------------------------------------------------------------------------------------------------------

    async def answer(self, request: Request) -> Response:
        """The answer to one request. Raises ClientDisconnect when its client has left."""
        asked = requests.read(request, self._config.server, self._authenticator)
        try:
            found = await self._route(asked)
        except Denied as denied:
            found = await self._denied(asked, denied)
        except BodyRefused as refused:
            found = await self._denied(asked, Denied(refused.status, refused.error, *halves(refused.message), refused.headers))
        for name, value in HEADERS.items():
            found.headers.setdefault(name, value)
        return found

    async def _route(self, asked: Asked) -> Response:
        method, path = asked.request.method, asked.path
        if method in ("GET", "HEAD"):
            if path.startswith("-/"):
                return self._file(path.removeprefix("-/"))
            if "key" in asked.query:
                return await self._login.by_address(asked)
            if path == "login":
                return await self._render(asked, 200, "login.html", {"back": "", "refused": ""})
            return await (self._stream(asked) if path == "live" and method == "GET" else self._page(asked))
        act = {"login": self._log_in, "logout": self._log_out, "language": self._set_language, "call": self._call}.get(path)
        if act is None or method != "POST":
            allowed = "GET, HEAD" if act is None else "POST"
            raise Denied(405, "method not allowed", f"Use {allowed}", f"请用 {allowed}", (("Allow", allowed),))
        return await act(asked)

    # -- pages ---------------------------------------------------------------------------------------------------------------

    async def _page(self, asked: Asked) -> Response:
        known = await self._login.known(asked)
        path = asked.path.removesuffix(".json")
        page, item = self._found(path)
        visit = self._visit(asked, known, page, item)
        try:
            facts = await page.facts(visit)
        except NotThere as error:
            raise Denied(404, "not found", error.en, error.zh) from None
        if path != asked.path:
            return Response(msgspec.json.encode(facts), media_type="application/json")
        return await self._render(asked, 200, page.template, facts, known, page)

    async def _stream(self, asked: Asked) -> Response:
        """Records as they come: those of the filter `q` after the record `after`, or after the last one this browser has had."""
        known = await self._login.known(asked)
        if not self._directory.may(known.user, "records.read"):
            raise Denied(403, "not allowed", "You may not see records", "您无权查看记录")
        if self._live is None:
            raise NOWHERE
        if self._live.full:
            en, zh = "Too many pages are open that follow records", "正在跟踪记录的页面过多"
            raise Denied(503, "full", f"{en} (limits.console_streams)", f"{zh}（limits.console_streams）", (("Retry-After", "5"),))
        last = asked.request.headers.get(methods.LAST_EVENT_HEADER) or asked.query.get("after", "")
        return self._live.stream(asked.query.get("q", ""), int(last) if last.isascii() and last.isdigit() and len(last) <= 18 else None)

    def _found(self, path: str) -> tuple[Page, str]:
        """The page at a path below /console/, and what stands there in the place of `{item}`. Raises Denied."""
        if not path:
            return self._first, ""
        if path in self._pages:
            return self._pages[path], ""
        folder, _, item = path.rpartition("/")
        page = self._pages.get(f"{folder}/{{item}}")
        if page is None or not folder:
            raise NOWHERE
        return page, item

    def _visit(self, asked: Asked, known: Known, page: Page, item: str = "") -> Visit:
        """A user's look at a page. Raises Denied where they may not."""

        def may(action: str) -> bool:
            return self._directory.may(known.user, action)

        if not may(page.action):
            raise Denied(403, "not allowed", "You may not see this page", "您无权查看此页面")
        scheme = "https" if asked.tls else "http"
        return Visit(known.user, may, asked.query, base_seen(self._config.server, scheme, asked.request.headers.get("host", "")), item)

    async def _render(
        self, asked: Asked, status: int, template: str, facts: Mapping[str, Any], known: Known | None = None, page: Page | None = None
    ) -> Response:
        """A page, filled in; `known` is who sees it."""
        if self._renderer is None:
            # Its packages take a moment to import: nobody's calls wait for it.
            module = await asyncio.to_thread(importlib.import_module, ".render", __package__)
            self._renderer = self._renderer or module.Renderer([one.folder for one in self._pages.values() if one.folder])
        menu = [] if known is None else [one for one in self._pages.values() if one.menu and self._directory.may(known.user, one.action)]
        around = {
            "base": asked.base,
            "fields": self._directory.fields,
            "form_token": "" if known is None or known.session is None else known.session.form_token,
            "here": asked.here,
            "menu": menu,
            "page": page,
            "user": None if known is None else known.user,
        }
        html = self._renderer.render(template, {**facts, **around}, chinese=asked.chinese)
        return Response(html, status, {"Content-Language": "zh-CN" if asked.chinese else "en"}, media_type="text/html")

    async def _denied(self, asked: Asked, denied: Denied, back: str = "") -> Response:
        """An error as a page for a person, with the way in for whoever is not in, and as JSON for a program."""
        headers = dict(denied.headers)
        if not asked.html:
            body = msgspec.json.encode({"error": denied.error, "message": str(denied)})
            return Response(body, denied.status, headers, media_type="application/json")
        said = {"en": denied.en, "zh": denied.zh}
        if denied.status in (401, 429):
            shown = {"refused": None if denied.error == "not logged in" else said, "back": back or asked.here}
            found = await self._render(asked, denied.status, "login.html", shown)
        else:
            found = await self._render(asked, denied.status, "message.html", {"said": said, "status": denied.status})
        for name, value in headers.items():
            found.headers[name] = value
        return found

    def _file(self, name: str) -> Response:
        """A static file by its marked name. Raises Denied."""
        if name not in assets.files():
            raise NOWHERE
        data, media_type = assets.files()[name]
        return Response(data, headers={"Cache-Control": KEPT}, media_type=media_type)

    # -- what changes something ----------------------------------------------------------------------------------------------

    async def _body(self, asked: Asked, holder: str, largest: int) -> bytes:
        return await self._bodies.read(asked.request, largest, f"console:{holder}")

    async def _log_in(self, asked: Asked) -> Response:
        fields = requests.fields_of(await self._body(asked, asked.source.counted, FORM_BYTES))
        try:
            return await self._login.by_form(asked, fields)
        except Denied as denied:
            return await self._denied(asked, denied, self._login.place(asked, fields.get("back", "")))

    async def _log_out(self, asked: Asked) -> Response:
        known = await self._login.known(asked)
        self._login.check(asked, known, requests.fields_of(await self._body(asked, known.user.name, FORM_BYTES)))
        return self._login.leave(asked)

    async def _set_language(self, asked: Asked) -> Response:
        """Remember a language. It is nobody's secret, so nobody must be logged in."""
        fields = requests.fields_of(await self._body(asked, asked.source.counted, FORM_BYTES))
        if not asked.own_page(self._authenticator):
            raise Denied(403, "not a page of ours", *NOT_OURS)
        response = RedirectResponse(self._login.place(asked, fields.get("back", "")), status_code=303)
        language = "zh" if fields.get("language") == "zh" else "en"
        response.set_cookie(LANGUAGE, language, LANGUAGE_SECONDS, path=asked.base, secure=asked.tls, httponly=True, samesite="strict")
        return response

    async def _call(self, asked: Asked) -> Response:
        """Call a tool: the answer is its page for a form of a person, and JSON for a program."""
        known = await self._login.known(asked)
        page = self._pages["tools"]
        if not self._directory.may(known.user, "tools.call"):
            raise Denied(403, "not allowed", "You may not call tools", "您无权调用工具")
        visit = self._visit(asked, known, page)
        body = await self._body(asked, known.user.name, self._config.limits.consumer_message_bytes)
        kind = asked.request.headers.get("content-type", "").partition(";")[0].strip().lower()
        fields = requests.fields_of(body) if kind == FORM else {}
        self._login.check(asked, known, fields)
        if kind not in (FORM, "application/json"):
            raise Denied(415, "media type", "Send application/json or a form", "请发送 application/json 或表单")
        try:
            wanted = await self._calls.of_form(fields) if kind == FORM else self._calls.of_json(body)
            called = await unless_gone(asked.request.receive, self._calls.call(wanted))
        except Wrong as wrong:
            raise Denied(400, "bad arguments", wrong.en, wrong.zh) from None
        except NotThere as error:
            raise Denied(404, "not found", error.en, error.zh) from None
        if not asked.html:
            shown = {"shown": pretty(called.get("result", called.get("error")))} if kind == FORM else {}
            return Response(msgspec.json.encode(called | shown), media_type="application/json")
        facts = await page.facts(visit._replace(query=fields))
        return await self._render(asked, 200, page.template, {**facts, "called": called}, known, page)
