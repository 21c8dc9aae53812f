"""The HTTP API: lists the tools of MCP servers, calls one, reports the servers' state.

All paths except `/health` and `/openapi.json` require a JSON Web Token. Every error has the body `{"error": {"message", "code"}}`, and
every request writes one line of JSON to the request log, with secrets masked.
"""

from __future__ import annotations

import asyncio
import sys
import time
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import msgspec
from loguru import logger
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from ... import errors
from ...access.addresses import without_secrets
from ...access.admission import TWO_TOKENS, TwoTokens, token_of
from ...asgi import Bodies, BodyRefused, unless_gone
from ...core.broker import Broker
from ...errors import EndpointError
from ...line_writer import LineWriter, RotatingFile, Sink, StreamSink
from ...log import BLOT, lines_to, redact
from ...protocol.definitions import Tool
from ...settings.schema import Config
from ..local import Failed
from .arguments import Checker, InvalidArguments
from .event_stream import MEDIA_TYPE, EventStream
from .jwt import BadClaim, Bearers, Holder
from .openapi import document
from .rate_limit import RateLimit
from .servers import Follower, NotPermitted, Servers, Unknown, Where

_READ: Final = ("GET", "HEAD")
PATHS: Final = {"/health": _READ, "/openapi.json": _READ, "/servers": _READ, "/tools/list": _READ, "/tools": ("POST",)}
"""Path below the prefix → allowed methods."""
WITHOUT_TOKEN: Final = ("/health", "/openapi.json")
NO_TOKEN: Final = "没有令牌：请发送 Authorization: Bearer / No token: send Authorization: Bearer"
BAD_TOKEN: Final = "令牌无效或已过期 / The token is not valid or has expired"
LISTS: Final = 4
"""Encoded lists of tools that are cached."""
HUNG_UP: Final = 499
"""Status in the request log for a client that disconnected before its response (nginx's number)."""
LOGGED_CHARS: Final = 4_000
"""Most characters of a text, and of a whole body, in a line of the request log."""
SHOWN_BYTES: Final = LOGGED_CHARS * 4
"""Bytes of a body that may contain that many characters."""
SECRET_NAMES: Final = frozenset(("token", "key", "api_key", "apikey", "password", "passwd", "secret", "authorization"))
BUSY: Final = frozenset(
    code.number
    for code in (
        *(errors.NO_PROVIDER, errors.PROVIDER_GONE, errors.BUSY, errors.TIMED_OUT),
        *(errors.ANSWER_TOO_BIG, errors.UNREADABLE_ANSWER),
    )
)
"""This server's error codes that mean: unavailable now."""


class Startable(Protocol):
    """A server that the API starts and stops itself (`remote.server.RemoteServer`)."""

    async def start(self) -> None:
        """Start it, without waiting until it is ready."""

    async def stop(self) -> None:
        """Stop it for good, within a few seconds."""


class _CallBody(msgspec.Struct):
    """The body of `POST /tools`."""

    method: str
    args: msgspec.Raw = msgspec.Raw(b"null")
    """An object, or null; not decoded on the event loop."""
    server: str | None = None
    arguments: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    """MCP's name for `args`: accepted only to report the mistake, instead of calling the tool without arguments."""


_call: Final = msgspec.json.Decoder(_CallBody)
_parts: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Wanted(NamedTuple):
    """A validated call."""

    tool: str
    arguments: bytes
    """A JSON object."""
    server: str
    """Name or whole URL of the server to try first; "" for any."""


class Incoming:
    """One request, and the beginning of its body for the log."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.body = b""
        self.began = time.perf_counter()


class ApiError(Exception):
    """An error response; `headers` are additional response headers."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] = {}) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers


class HttpApi:
    """The room of the HTTP API."""

    name = "api"
    owed = 0

    def __init__(
        self,
        broker: Broker,
        config: Config,
        root: Path,
        bodies: Bodies,
        where: Callable[[], Where],
        kept: Sequence[Startable] = (),
        addresses: Mapping[str, str] = {},
        conditions: Callable[[], Mapping[str, Mapping[str, Any]]] = dict,
        *,
        standalone: bool = False,
    ) -> None:
        """`where` returns the current servers; `kept` are servers that the API starts and stops itself.

        `addresses` maps whole URLs to server names. `conditions` returns the status of servers by name, for operators.

        `standalone`: the API has the port to itself, and its paths begin at `/`.

        Raises ConfigError for an invalid secret.
        """
        api = config.api
        self._bearers = Bearers(api.secret, api.algorithm, old_secrets=api.old_secrets, issuer=api.issuer, audience=api.audience)
        self._rate = RateLimit(api.requests_per_minute)
        self._checker = Checker(config.limits.checked_bytes)
        self._servers = Servers(broker, config.limits, where, self._checker.check, config.endpoint.call_timeout, addresses)
        self._bodies = bodies
        self._calling: Counter[str] = Counter()
        """User → number of calls in progress."""
        self._lists: dict[object, tuple[object, bytes]] = {}
        """Request, permissions and identities of the lists → the lists (kept so that their ids stay valid) and the encoded response."""
        self._config = config
        self._root = root
        self._kept = kept
        self._conditions = conditions
        self._prefix = "" if standalone else "/api"
        self._lines: LineWriter | None = None
        self.requests = 0

    # -- the room ------------------------------------------------------------------------------------------------------------

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """Every path below the prefix, so that unknown paths get the API's own 404."""
        paths = (self._prefix, self._prefix + "/{path:path}") if self._prefix else ("/{path:path}",)
        return [Route(path, _ApiApp(self)) for path in paths]

    def refuses_pages(self, request: Request) -> bool:
        """Whether it has no token; for paths without token, whether it has no valid one. A preflight only announces the header."""
        if request.method == "OPTIONS":
            announced = request.headers.get("access-control-request-headers", "").lower()
            return "authorization" not in announced and not request.query_params.get("token")
        try:
            if self._path(request) not in WITHOUT_TOKEN:
                return not token_of(request.query_params.multi_items(), request.headers.getlist)
            return self._bearers.verify(request) is None
        except TwoTokens:
            return self._path(request) in WITHOUT_TOKEN
        except BadClaim:
            return False  # the token is valid, only its permissions are malformed

    def _path(self, request: Request) -> str:
        """The path below the prefix."""
        return request.scope["path"].removeprefix(self._prefix).rstrip("/") or "/"

    async def start(self) -> None:
        """Open the request log and start the servers. Raises EndpointError if the log cannot be written."""
        if self._config.api.request_log:
            self._lines = self._open_log(self._config.api.request_log)
        await asyncio.gather(*(one.start() for one in self._kept))
        logger.info("HTTP API 已开启 / HTTP API open", path=f"{self._prefix}/tools")

    def _open_log(self, target: str) -> LineWriter:
        logging = self._config.logging
        try:
            if target == "-":
                sink: Sink = StreamSink(sys.stdout)
            else:
                sink = RotatingFile(self._root / target, logging.max_file_size, logging.backup_count)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise EndpointError(
                f"the request log cannot be written: {reason}", f"请求日志无法写入：{reason}", place=f"[api] request_log = {target}"
            ) from error
        return lines_to(sink, logging, "请求日志", "the request log", lambda lines: f'{{"lines_not_written":{lines}}}\n')

    async def stop(self) -> None:
        """Detach from the endpoints, stop the servers, close the request log."""
        self._servers.close()
        await asyncio.gather(self._checker.stop(), *(one.stop() for one in self._kept))
        if self._lines is not None:
            await asyncio.to_thread(self._lines.close)

    def describe(self) -> Mapping[str, Any]:
        """The status for an operator."""
        return {"requests": self.requests, "servers": {name: "up" if up else "down" for name, up in self._servers.up().items()}}

    # -- requests ------------------------------------------------------------------------------------------------------------

    async def answer(self, request: Request) -> Response | EventStream:
        """Answer one request. Never raises for what a client sent."""
        self.requests += 1
        incoming = Incoming(request)
        headers: Mapping[str, str] = {}
        try:
            found = await self._route(incoming)
            if isinstance(found, EventStream):
                return found
            status, said = found
        except ApiError as refused:
            status, said, headers = refused.status, _error(refused.status, refused.message), refused.headers
        except BodyRefused as refused:
            status, said, headers = refused.status, _error(refused.status, refused.message), dict(refused.headers)
        except ClientDisconnect:
            status, said = HUNG_UP, b""
        self._log(incoming, status, said)
        return Response(said, status_code=status, media_type="application/json", headers=headers)

    async def _route(self, incoming: Incoming) -> tuple[int, bytes] | EventStream:
        """Dispatch by path. The token is checked before the body is read."""
        request = incoming.request
        path = self._path(request)
        if path not in PATHS:
            raise ApiError(404, "没有这个路径 / There is no such path")
        if request.method not in PATHS[path]:
            raise ApiError(405, "不支持此方法 / This method is not allowed here", {"Allow": ", ".join(PATHS[path])})
        if path == "/health":
            return self._health()
        if path == "/openapi.json":
            return 200, msgspec.json.encode(document(self._prefix))
        holder = self._holder(request)
        if path == "/tools":
            if request.headers.get("content-encoding", "identity").lower() != "identity":
                raise ApiError(415, "请求体不能压缩 / The body must not be compressed (Content-Encoding)")
            wanted = await self._wanted(incoming, holder)
            if _wants_events(request):
                return await unless_gone(request.receive, self._stream(incoming, wanted, holder))
            return 200, await unless_gone(request.receive, self._call(wanted, holder))
        if path == "/servers":
            return 200, await self._list_servers(holder)
        named = request.query_params.getlist("server")
        if len(named) > 1 or (named and not named[0]):
            raise ApiError(400, "server 参数只能有一个且不能为空 / Give one server, not an empty one")
        return 200, await self._list_tools(named[0] if named else "", holder)

    def _holder(self, request: Request) -> Holder:
        """The holder of a valid token, within the rate limit. Raises ApiError."""
        try:
            holder = self._bearers.verify(request)
        except TwoTokens:
            raise ApiError(400, TWO_TOKENS) from None
        except BadClaim as claim:
            raise ApiError(403, f"令牌的 {claim} 应为模式列表 / The token's claim {claim} must be a list of patterns") from None
        if holder is None:
            shown = token_of(request.query_params.multi_items(), request.headers.getlist)
            raise ApiError(401, BAD_TOKEN if shown else NO_TOKEN, {"WWW-Authenticate": "Bearer"})
        seconds = self._rate.wait(holder.user)
        if seconds:
            raise ApiError(429, TOO_OFTEN, {"Retry-After": str(seconds)})
        return holder

    def _health(self) -> tuple[int, bytes]:
        up = self._servers.up()
        status = 200 if any(up.values()) else 503
        servers = {name: "up" if found else "down" for name, found in up.items()}
        return status, msgspec.json.encode(
            {"status": "healthy" if status == 200 else "unhealthy", "service": "mcp-endpoint-server api", "servers": servers}
        )

    async def _list_tools(self, server: str, holder: Holder) -> bytes:
        try:
            known = await self._servers.tools(server, holder.may_use)
        except NotPermitted:
            raise ApiError(403, NO_SERVER) from None
        except Unknown as unknown:
            raise ApiError(404, str(unknown)) from None
        except Failed as failed:
            raise _refused(failed) from None
        # Encoded once for all clients with the same permissions: a list may be megabytes.
        key = (server, holder.tools, holder.servers, tuple((name, id(brought) if brought else 0) for name, brought in known.items()))
        await self._bodies.in_turn(sum(len(tool.definition) for brought in known.values() for tool in brought.values()))
        if key not in self._lists:
            if len(self._lists) >= LISTS:
                self._lists.clear()
            self._lists[key] = known, self._listed(known, holder)
        return self._lists[key][1]

    @staticmethod
    def _listed(known: Mapping[str, Mapping[str, Tool]], holder: Holder) -> bytes:
        """The tools that a holder may call, each with its servers, as JSON."""
        tools: dict[str, tuple[Tool, list[str]]] = {}
        distribution: dict[str, list[str]] = {name: [] for name in known}
        for name, brought in known.items():
            for tool in brought.values():
                if holder.may_call(tool.name):
                    tools.setdefault(tool.name, (tool, []))[1].append(name)
                    distribution[name].append(tool.name)
        listed = [_definition(tool) | {"servers": names} for tool, names in tools.values()]
        return msgspec.json.encode({"tools": listed, "servers": distribution, "total": len(tools)})

    async def _list_servers(self, holder: Holder) -> bytes:
        known = await self._servers.all_tools(holder.may_use)
        up, conditions = self._servers.up(), self._conditions()
        servers = [
            {
                "server": name,
                "status": "up" if up.get(name) else "down",
                **conditions.get(name, {}),
                "tools": list(filter(holder.may_call, brought)),
            }
            for name, brought in known.items()
        ]
        return msgspec.json.encode({"servers": servers, "total": len(servers), "up": sum(up.get(name, False) for name in known)})

    async def _wanted(self, incoming: Incoming, holder: Holder) -> Wanted:
        """Read and validate the body; only the part for the log is kept. Raises ApiError, BodyRefused."""
        body = await self._bodies.read(incoming.request, self._config.limits.consumer_message_bytes, holder.user)
        incoming.body = body[: SHOWN_BYTES + 1]
        try:
            call = _call.decode(body.removeprefix(BOM_UTF8))
            body.decode()
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise ApiError(400, '请求体应为 {"method": 工具名, "args": {…}} / The body must be {"method": tool, "args": {…}}') from None
        args = bytes(call.args) if bytes(call.args) != b"null" else b"{}"
        if not args.startswith(b"{") or call.arguments is not msgspec.UNSET:
            raise ApiError(400, "工具的参数应为对象，写在 args 中 / The tool's arguments are an object, in args")
        if not call.method or (call.server is not None and not call.server):
            raise ApiError(400, "method 与 server 不能为空 / method and server must not be empty")
        if not holder.may_call(call.method):
            raise ApiError(403, "令牌不允许使用此工具 / The token does not permit this tool (its claim tools)")
        return Wanted(call.method, args, call.server or "")

    async def _stream(self, incoming: Incoming, wanted: Wanted, holder: Holder) -> EventStream:
        """The call as an event stream, once the request is valid. Raises ApiError for an error before that."""
        stream = EventStream()

        async def call() -> tuple[int, bytes]:
            try:
                return 200, await self._call(wanted, holder, stream)
            except ApiError as refused:
                if not stream.begun:
                    raise
                return refused.status, _error(refused.status, refused.message)

        def ended(answer: tuple[int, bytes] | None) -> None:
            self._log(incoming, *(answer or (HUNG_UP, b"")))

        await stream.start(call(), ended)
        return stream

    async def _call(self, wanted: Wanted, holder: Holder, follower: Follower | None = None) -> bytes:
        """Call the tool; returns its result and its server as JSON. Raises ApiError."""
        # All users share the API's limit at an endpoint; each gets at most half of it.
        if self._calling[holder.user] >= max(1, self._config.limits.in_flight_per_consumer // 2):
            raise ApiError(429, TOO_MANY, {"Retry-After": "1"})
        self._calling[holder.user] += 1
        try:
            done = await self._servers.call(wanted.tool, wanted.arguments, wanted.server, holder.may_use, follower)
        except NotPermitted:
            raise ApiError(403, NO_SERVER) from None
        except Unknown as unknown:
            raise ApiError(404, redact(str(unknown))) from None
        except InvalidArguments as wrong:
            raise ApiError(400, f"参数不符合工具的 inputSchema / The arguments do not fit the tool's schema: {wrong}") from None
        except Failed as failed:
            raise _refused(failed) from None
        finally:
            self._calling[holder.user] -= 1
            if not self._calling[holder.user]:
                del self._calling[holder.user]
        return b'{"result":%b,"server":%b}' % (done.result, msgspec.json.encode(done.server))

    # -- the request log -------------------------------------------------------------------------------------------------------

    def _log(self, incoming: Incoming, status: int, said: bytes) -> None:
        if self._lines is None:
            return
        request = incoming.request
        line = {
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "request": {
                "method": request.method,
                "path": _clipped(request.url.path),
                "query": {_clipped(name): _clean(value, name) for name, value in request.query_params.multi_items()[:20]},
                "body": _shown(incoming.body),
            },
            "response": _shown(said),
            "status_code": status,
            "execution_time_ms": round((time.perf_counter() - incoming.began) * 1000, 2),
            "remote_addr": request.client.host if request.client is not None else "",
            "user_agent": _clipped(request.headers.get("user-agent", "")),
        }
        self._lines.write(msgspec.json.encode(line).decode() + "\n")


class _ApiApp:
    """The API as an ASGI application, so that Starlette passes every method."""

    def __init__(self, api: HttpApi) -> None:
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._api.answer(Request(scope, receive, send))
        await answer(scope, receive, send)


def _wants_events(request: Request) -> bool:
    kinds = ",".join(request.headers.getlist("accept")).split(",")
    return any(kind.partition(";")[0].strip().lower() == MEDIA_TYPE for kind in kinds)


NO_SERVER: Final = "令牌不允许使用有此工具的服务器 / The token does not permit this server, or none with this tool (its claim servers)"
TOO_MANY: Final = "此用户等待中的调用过多 / Too many calls of this user are waiting (half of limits.in_flight_per_consumer)"
TOO_OFTEN: Final = "请求过于频繁，请稍后再试 / Too many requests, try again later (api.requests_per_minute)"


def _refused(failed: Failed) -> ApiError:
    """The HTTP error for a failed call."""
    message = redact(failed.message[:LOGGED_CHARS])
    if failed.code in BUSY:
        hint = failed.data.get("hint") if isinstance(failed.data, dict) else None
        return ApiError(503, f"{message}: {hint}" if isinstance(hint, str) else message)
    if failed.code == errors.INVALID_PARAMS.number:
        return ApiError(400, message or "参数无效 / Invalid params")
    return ApiError(500, message or "工具出错 / The tool failed")


def _definition(tool: Tool) -> dict[str, Any]:
    """A tool's definition with its members undecoded; only the name if it is nested too deeply."""
    try:
        return _parts.decode(tool.definition)
    except (msgspec.DecodeError, RecursionError):
        return {"name": tool.name}


def _error(status: int, message: str) -> bytes:
    return msgspec.json.encode({"error": {"message": message, "code": status}})


def _shown(body: bytes) -> Any:
    """A body for the request log: JSON if it is short enough, else the beginning of its text."""
    if not body:
        return None
    if len(body) <= LOGGED_CHARS:
        try:
            return _clean(msgspec.json.decode(body))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
    return _clipped(body[:SHOWN_BYTES].decode("utf-8", "replace"))


def _clean(value: Any, name: str = "") -> Any:
    """A value with secrets masked."""
    if name.lower() in SECRET_NAMES and value is not None:
        return BLOT
    if isinstance(value, str):
        # A server may be named by its whole URL, which may contain a user or a key.
        return _clipped(without_secrets(value) if name == "server" else value)
    if isinstance(value, dict):
        return {_clipped(key): _clean(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [_clean(inner) for inner in value]
    return value


def _clipped(text: str) -> str:
    return redact(text if len(text) <= LOGGED_CHARS else text[:LOGGED_CHARS] + "…")
