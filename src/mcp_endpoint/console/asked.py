"""A parsed request to the console, and its error responses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from starlette.requests import Request

from ..access.addresses import ROOM
from ..access.admission import Authenticator, Source
from ..settings.schema import Server
from ..web.page import prefers_chinese
from .room import PATH

LANGUAGE: Final = "mes_console_language"
"""The cookie of the language that was chosen; without it the browser's own is used."""
FIELDS: Final = 1_000
"""Most fields of a form that are read."""


class Denied(Exception):
    """A request that gets an error for an answer: its status, a word for programs, and why, in both languages."""

    def __init__(self, status: int, error: str, en: str, zh: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(f"{zh} / {en}")
        self.status = status
        self.error = error
        self.en = en
        self.zh = zh
        self.headers = headers


class Asked(NamedTuple):
    """One request, and how it is to be answered."""

    request: Request
    path: str
    """Below /console/."""
    html: bool
    """Whether a person reads the answer."""
    chinese: bool
    prefix: str
    """What stands before /console in the addresses of this browser, where a proxy cuts it off."""
    tls: bool
    """Whether the browser speaks TLS."""
    source: Source

    @property
    def query(self) -> Mapping[str, str]:
        """The fields of the address, the last value of each."""
        return self.request.query_params

    @property
    def base(self) -> str:
        """The console's own path as the browser sees it."""
        return self.prefix + PATH

    @property
    def here(self) -> str:
        """The address of this page as the browser sees it, without its host and without a key."""
        rest = [(name, value) for name, value in self.request.query_params.multi_items() if name != "key"]
        path = self.path if self.request.method == "GET" and self.path != "login" else ""
        return "/".join(filter(None, (self.base, quote(path)))) + (f"?{urlencode(rest)}" if rest and path else "")

    def own_page(self, authenticator: Authenticator) -> bool:
        """Whether a page of this server has sent the request, by what its browser says."""
        return authenticator.origins.own_page(self.request.headers.getlist, tls=self.tls)


def read(request: Request, settings: Server, authenticator: Authenticator) -> Asked:
    """What a request asks for."""
    values = request.headers.getlist
    host, port = request.client or ("", 0)
    tls = authenticator.is_tls(host, values, tls=request.scope.get("scheme") == "https")
    local = request.scope.get("server") or ("", 0)
    path = str(request.scope["path"]).removeprefix(PATH).strip("/")
    public = urlsplit(settings.public_url)
    through_public = bool(public.netloc) and public.netloc.lower() == request.headers.get("host", "").lower()
    language = request.cookies.get(LANGUAGE, "")
    return Asked(
        request,
        path,
        html="text/html" in request.headers.get("accept", "") and not path.endswith(".json"),
        chinese=language == "zh" if language in ("zh", "en") else prefers_chinese(request.headers.get("accept-language", "")),
        prefix=public.path.rstrip("/").removesuffix(ROOM) if through_public else "",
        tls=tls or (through_public and public.scheme == "https"),
        source=authenticator.source((host, port), str(local[0]), values, tls=tls),
    )


def fields_of(body: bytes) -> dict[str, str]:
    """The fields of a form (application/x-www-form-urlencoded), the last value of each. Raises Denied."""
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FIELDS, errors="strict"))
    except ValueError:
        raise Denied(400, "bad form", "The form cannot be read", "无法读取此表单") from None
