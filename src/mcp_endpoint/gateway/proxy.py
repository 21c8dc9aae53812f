"""Reverse proxy with key rotation: each request is sent upstream with the next key of a pool, and the response is streamed back.

Bodies are streamed in both directions: a chunk from the upstream is sent to the client at once, and a client disconnect cancels the
upstream request. A request is retried with another key only if the upstream refused it (`refusals.NOT_RUN`) or if repeating it is safe
(idempotent methods, RFC 9110 §9.2.2, and read-only MCP requests): a tool call that may have run is never repeated. `rotation` decides what
a refusal means for the keys.

`ping` and `notifications/initialized` are answered here and use no key, except a notification of an MCP session, which goes to the
upstream that holds the session. All requests of a session use the key that the session began with.

A gateway spends its operator's keys. On loopback, programs of the same machine may use it without a key, but web pages of other origins
may not; everybody else must send the server's key, in `X-Endpoint-Key` or as `?key=`. No upstream key reaches a client: it is removed
from redirects and masked in error responses.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import socket
import time
from collections import OrderedDict
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from math import ceil
from typing import Any, Final
from urllib.parse import quote, unquote

import httpx2
import msgspec
from loguru import logger
from msgspec import UNSET
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from .. import __version__
from ..access.addresses import is_loopback
from ..access.admission import FORWARDED, host_of
from ..asgi import Bodies, BodyRefused, unless_gone
from ..core.broker import Broker
from ..credentials.lookahead import answer_of, worked
from ..credentials.pool import Credential
from ..credentials.refusals import Answer
from ..credentials.rotation import Rotation, route_of
from ..credentials.store import ALL_GONE, KEYS_SHOWN, CredentialStore
from ..exchanges import Exchanges
from ..protocol import jsonrpc, methods
from ..settings.schema import Config
from . import llm
from .answer import Streamed
from .forward import Counts, Forwarded, Rpc, SplitBody, Upstream, rpc_of
from .rewrite import KEY_HEADER, Scrub, Target, climbs, request_headers, unkeyed
from .tee import Recording, Tee

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
IDEMPOTENT: Final = frozenset(("GET", "HEAD", "PUT", "DELETE", "OPTIONS"))
"""RFC 9110 §9.2.2."""
CONNECT_SECONDS: Final = 10.0
"""Timeout for the connection to an upstream."""
RECEIVED: Final = ((socket.SOL_SOCKET, socket.SO_RCVBUF, 128 * 1024),)
"""Receive buffer of an upstream socket: bounds what the kernel holds for a client that reads slowly. uvloop reads all of it at once, and
Linux would let it grow to 8 MB."""
KEPT_CONNECTIONS: Final = 100
"""Idle connections kept to one upstream, each for `KEPT_SECONDS`."""
KEPT_SECONDS: Final = 30.0
SESSIONS: Final = 10_000
"""MCP sessions whose key is remembered; the least recently used is dropped first."""
SESSION: Final = methods.SESSION_HEADER.encode()
PREVIEWS: Final = 20
"""Banned keys whose first characters `/blacklist` shows."""


class Gateway:
    """The HTTP routes of all `[[gateway]]` sections."""

    name = "gateway"

    def __init__(
        self,
        config: Config,
        rings: Mapping[str, CredentialStore],
        broker: Broker,
        bodies: Bodies,
        environ: Mapping[str, str],
        exchanges: Exchanges | None = None,
        *,
        standalone: bool = False,
    ) -> None:
        """`rings` are the key pools by name, `environ` may have keys of model APIs; while `broker` drains, new requests are refused.
        `exchanges`, if somebody records, is given each exchange when it has ended.

        `standalone`: serve only the first gateway, at `/`, with its own status pages.
        """
        most = config.limits.gateway_connections
        limits = httpx2.Limits(max_connections=most, max_keepalive_connections=KEPT_CONNECTIONS, keepalive_expiry=KEPT_SECONDS)
        self.owed = 0
        """Responses in progress, without event streams that were opened by GET: those have no end to wait for."""
        self.stopped = False
        self._config = config
        self._broker = broker
        self._bodies = bodies
        self._recording = None if exchanges is None else Recording(exchanges, _now, time.time)
        self._standalone = standalone
        self._key = config.server.key.encode()
        public = config.server.public_url
        self._unproxied = not public or is_loopback(host_of(public))
        self._open = is_loopback(config.server.host) and self._unproxied
        self.upstreams: dict[str, Upstream] = {}
        for settings in config.gateway[:1] if standalone else config.gateway:
            target = Target.at(settings.target)
            # trust_env=False: connect to the configured target, ignore proxy variables of the environment.
            transport = httpx2.AsyncHTTPTransport(trust_env=False, limits=limits, socket_options=RECEIVED)
            ring = rings.get(settings.credentials)
            known = llm.environment_key(settings.target) if settings.kind == "llm" and ring is None else None
            secret = environ.get(known.variable, "").strip() if known is not None else ""
            own = Credential(secret) if llm.usable(secret) else None
            place = known.place if known is not None else settings.place
            url = httpx2.URL(target.origin)
            self.upstreams[settings.name] = Upstream(settings, target, url, place, ring, own, transport, OrderedDict(), Counts())

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """Every path of every gateway, for every method."""
        if not self._standalone:
            paths = ("/gateway/{name}", "/gateway/{name}/{path:path}")
            return [Route(path, _GatewayApp(self), methods=list(METHODS)) for path in paths]

        return [Route("/{path:path}", _GatewayApp(self), methods=list(METHODS))]

    def refuses_pages(self, request: Request) -> bool:
        """Always true: an image in a web page must not spend a key."""
        return True

    async def start(self) -> None:
        """Log the route of each gateway; connections are opened on demand."""
        for upstream in self.upstreams.values():
            where = "/" if self._standalone else f"/gateway/{upstream.settings.name}/"
            logger.info("网关已开启 / gateway open", path=where, upstream=upstream.target.origin)
            if upstream.own is not None:
                spent = "不带密钥的本机请求使用环境变量中的密钥 / requests of this machine without a key use the environment's"
                logger.info(spent, gateway=upstream.settings.name, key=upstream.own.shown)
        if self._standalone and not self._open:
            open_to_all = "谁能访问此网关，谁就能使用其中的密钥 / whoever can reach this gateway can use its keys"
            logger.warning(open_to_all, host=self._config.server.host)
        elif self._standalone:
            logger.info("只有本机可以访问；HOST=0.0.0.0 对其他机器开放 / only this machine reaches it; HOST=0.0.0.0 opens it to others")

    async def stop(self) -> None:
        """Close the connections to upstreams."""
        self.stopped = True
        for upstream in self.upstreams.values():
            await upstream.transport.aclose()

    def describe(self) -> Mapping[str, Any]:
        """The status of each gateway, ready for JSON."""
        return {name: self._described(upstream) for name, upstream in self.upstreams.items()}

    def _described(self, upstream: Upstream) -> dict[str, Any]:
        found: dict[str, Any] = {"upstream": upstream.target.origin, **msgspec.to_builtins(upstream.counts)}
        if upstream.ring is not None:
            found["keys"] = upstream.ring.pool.counts(_now())._asdict()
        return found

    @property
    def _only(self) -> Upstream:
        return next(iter(self.upstreams.values()))

    def _page(self, request: Request) -> Response | None:
        """The status pages of a standalone gateway. `GET /` from an MCP client opens the upstream's event stream instead."""
        if not self._standalone or request.method not in ("GET", "HEAD"):
            return None
        match request.scope["path"]:
            case "/" if "text/event-stream" not in request.headers.get("accept", ""):
                about = {"status": "healthy", "service": "mcp-endpoint-server gateway", "version": __version__}
                return JSONResponse(about | {"token_stats": self._token_stats()})
            case "/stats":
                ring = self._only.ring
                keys = [] if ring is None else ring.figures(KEYS_SHOWN)
                return JSONResponse({"token_stats": self._token_stats(), "service": self._described(self._only), "keys": keys})
            case "/blacklist":
                return JSONResponse({"blacklist_info": self._blacklist()})
        return None

    def _token_stats(self) -> dict[str, int]:
        ring = self._only.ring
        total, resting, banned, available = ring.pool.counts(_now()) if ring is not None else (0, 0, 0, 0)
        return {
            "total_loaded_tokens": total,
            "temporarily_failed_tokens": resting,
            "permanently_blacklisted_tokens": banned,
            "available_tokens": available,
        }

    def _blacklist(self) -> dict[str, Any]:
        ring = self._only.ring
        banned = ring.pool.banned_credentials() if ring is not None else []
        return {
            "total_blacklisted": len(banned),
            "blacklist_file": ring.bans.name if ring is not None else "",
            "preview": [{"token_preview": key.preview, "full_length": len(key.secret)} for key in banned[:PREVIEWS]],
        }

    # -- one request -------------------------------------------------------------------------------------------------------

    async def answer(self, request: Request) -> _Answer:
        """Answer one request: locally, or with the upstream's response."""
        own = self._refused(request) or self._page(request)
        if own is not None:
            return own
        upstream = self._only if self._standalone else self.upstreams.get(request.path_params["name"])
        raw = bytes(request.scope.get("raw_path") or request.scope["path"].encode())
        path = raw if self._standalone else _below(raw, request.path_params["name"])
        if self._broker.draining:
            return _error(503, "stopping", "服务器正在停止，请稍后再试 / The server is stopping, try again soon", {"Retry-After": "1"})
        if upstream is None:
            return _error(404, "no such gateway", "没有这个网关 / There is no gateway of this name")
        if path is None or climbs(path):
            return _error(400, "bad path", "路径中不能有 . 或 ..，无论怎样编码 / A path here has no . and no .. in it, however spelled")
        upstream.counts.requests += 1
        try:
            return await self._relayed(upstream, request, path)
        except BodyRefused as refused:
            return _error(refused.status, refused.error, refused.message, dict(refused.headers))

    async def _relayed(self, upstream: Upstream, request: Request, path: bytes) -> _Answer:
        """Read the body (buffered up to `gateway_retry_bytes`), then answer locally or forward. Raises BodyRefused."""
        if request.headers.get("transfer-encoding", "chunked").strip().lower() != "chunked":
            return _error(501, "transfer coding", "不支持这种 Transfer-Encoding / Of transfer codings only chunked is known here")
        limits = self._config.limits
        holder = request.client.host if request.client is not None else ""
        tee = self._tee(upstream, request, holder)
        begun, rest = await self._bodies.begin(request, limits.gateway_retry_bytes, holder, limits.stalled_seconds)
        model = upstream.settings.kind == "llm"
        rpc = rpc_of(begun) if rest is None and request.method == "POST" and not model else None
        local = _local(rpc, request)
        if local is not None:
            upstream.counts.local += 1
            return local
        query = unkeyed(request.scope["query_string"], self._key)
        prefix = "" if self._standalone else f"/gateway/{upstream.settings.name}"
        given = prefix.encode() + b"/" + path.lstrip(b"/")
        endpoint, path = llm.pinned(path) if model else ("", path)
        if tee is not None:
            tee.of(endpoint, given, query)
            tee.asked(begun)
            rest = None if rest is None else tee.asking(rest)
        if model:
            prefix += f"/@{quote(endpoint, safe='')}" if endpoint else ""
            path, query = llm.below(upstream.target.path, path), llm.beside(upstream.target.query, query)
        asked = Forwarded(upstream, request, path, query, prefix, self._near(request), begun, rest, rpc)
        carrying = unless_gone(request.receive, self._carry(asked)) if rest is None else self._carry(asked)
        return await carrying if tee is None else await _recorded(carrying, tee)

    def _tee(self, upstream: Upstream, request: Request, client: str) -> Tee | None:
        """Records the exchange; None without a recorder."""
        if self._recording is None or not upstream.settings.record:
            return None
        return self._recording.begin(upstream.settings.name, client, request.method, request.scope["headers"])

    def _refused(self, request: Request) -> Response | None:
        """401 for a request from another machine without the server's key. Web pages of other origins are refused by `refuses_pages`."""
        shown = request.headers.get(KEY_HEADER.decode(), "")
        query = request.scope["query_string"]
        if self._key and (hmac.compare_digest(shown.encode(), self._key) or unkeyed(query, self._key) != query):
            return None
        if not (self._open and self._near(request)) and not (self._standalone and not self._open):
            return _error(401, "key needed", KEY_NEEDED)
        return None

    def _near(self, request: Request) -> bool:
        """Whether a program of this machine sends the request, with no proxy in between."""
        host = request.client.host if request.client is not None else ""
        return self._unproxied and is_loopback(host) and not any(name in request.headers for name in FORWARDED)

    async def _carry(self, asked: Forwarded) -> _Answer:
        """Send the request with one key after the other until one is accepted; the last response is returned."""
        upstream, request, rest = asked.upstream, asked.request, asked.rest
        ring = upstream.ring
        if ring is None:
            spent = asked.near and not llm.shows_key(request.scope["headers"])
            return await self._once(asked, upstream.own if spent else None)
        rotation = ring.rotation(self._route(asked), self._owner(upstream, request))
        repeatable = request.method in IDEMPOTENT or (asked.rpc is not None and asked.rpc.method in methods.READING)
        credential = rotation.take(_now())
        if credential is None:
            return _none_left(ring)
        while True:
            given = await self._once(asked, credential)
            if isinstance(given, Response) and not isinstance(given, _Silent):
                following = None  # an error that no other key changes
            else:
                answer = await answer_of(given.response) if isinstance(given, Streamed) else Answer(None)
                again = rotation.answered(credential, answer, _now(), repeatable=repeatable)
                late = isinstance(given, _Silent) and given.status_code == 504  # the next key would time out as well
                following = rotation.take(_now()) if again and rest is None and not late else None
            if following is None:
                break
            if isinstance(given, Streamed):
                await given.response.aclose()
            upstream.counts.retries += 1
            credential = following
        await self._settle(upstream, ring, rotation, credential, given)
        return given

    async def _settle(self, upstream: Upstream, ring: CredentialStore, rotation: Rotation, credential: Credential, given: _Answer) -> None:
        """Record the outcome of the keys that were tried, and set the Retry-After of the response."""
        if not isinstance(given, Streamed):
            rotation.failed(_now())
            return
        if await worked(given.response):
            rotation.worked(credential, _now())
        else:
            rotation.failed(_now())
        self._remember(upstream, given.response, credential)
        if given.response.status_code in (429, 503):
            given.wait = ring.pool.wait(_now())

    def _route(self, asked: Forwarded) -> int | None:
        """A hash that identifies the operation, see `route_of`."""
        target = asked.upstream.target
        url = target.origin.encode() + target.join(asked.path, asked.query, "", "")
        headers = request_headers(asked.request.scope["headers"], target, "", "", mcp=False)
        return route_of(asked.request.method, url, asked.begun if asked.rest is None else None, headers)

    async def _once(self, asked: Forwarded, credential: Credential | None) -> _Answer:
        """Send the request with one key (or none). A `_Silent` result means that the upstream took the request and did not respond."""
        upstream, request = asked.upstream, asked.request
        name = upstream.settings.name
        try:
            # Bounds a response head that arrives byte by byte. A streamed request body has its own bound.
            async with asyncio.timeout(upstream.settings.timeout + CONNECT_SECONDS if asked.rest is None else None):
                response = await self._send(asked, credential)
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            return self._failed(upstream, "cannot be reached / 无法连接")
        except (httpx2.LocalProtocolError, httpx2.InvalidURL):
            return _error(400, "bad request", "请求无法转发：路径或请求头有误 / Its path or a header is malformed")
        except httpx2.PoolTimeout:
            return _error(503, "busy", BUSY)
        except (httpx2.TransportError, TimeoutError) as error:
            failed = self._failed(upstream, type(error).__name__)
            return _Silent(failed.body, failed.status_code, media_type="application/json")
        status = response.status_code
        if not 200 <= status <= 599:
            await response.aclose()
            return self._failed(upstream, f"status {status} cannot be carried / 状态码 {status} 无法转交")
        logger.debug("已转发 / forwarded", gateway=name, method=request.method, status=status)
        if asked.rpc is not None and response.is_redirect:
            advice = "上游要求换地址：请修改 target / the upstream redirects MCP elsewhere: change target"
            logger.warning(advice, gateway=name, status=status)
        events = response.headers.get("content-type", "").startswith("text/event-stream")
        scrub = Scrub(credential.secret) if credential is not None else None
        endless = events and request.method == "GET"
        return Streamed(upstream, response, asked.prefix, scrub, lambda: self.stopped, endless=endless)

    @staticmethod
    def _failed(upstream: Upstream, reason: str) -> Response:
        upstream.counts.failed += 1
        logger.warning("上游出错 / upstream failed", gateway=upstream.settings.name, reason=reason)
        status = 504 if "Timeout" in reason else 502
        return _error(status, "upstream failed", f"上游服务器没有正常应答 / The upstream did not answer: {reason}")

    @staticmethod
    def _owner(upstream: Upstream, request: Request) -> Credential | None:
        """The key that the request's MCP session began with, if it is still in the pool."""
        session = request.headers.get(SESSION.decode(), "")
        owner = upstream.sessions.get(session)
        if owner is None or upstream.ring is None or owner not in upstream.ring.pool:
            return None
        upstream.sessions.move_to_end(session)
        return owner

    @staticmethod
    def _remember(upstream: Upstream, response: httpx2.Response, credential: Credential) -> None:
        session = response.headers.get(SESSION.decode())
        if session is not None:
            upstream.sessions[session] = credential
            upstream.sessions.move_to_end(session)
            if len(upstream.sessions) > SESSIONS:
                upstream.sessions.popitem(last=False)

    async def _send(self, asked: Forwarded, credential: Credential | None) -> httpx2.Response:
        """Send one request; returns when the response head has arrived."""
        upstream, request, begun, rest = asked.upstream, asked.request, asked.begun, asked.rest
        place, secret = upstream.place, "" if credential is None else credential.secret
        target = upstream.target.join(asked.path, asked.query, place if credential is not None else "", secret)
        given = llm.keyless(request.scope["headers"]) if credential is not None and credential is upstream.own else request.scope["headers"]
        headers = request_headers(given, upstream.target, place, secret, mcp=asked.rpc is not None)
        length = request.headers.get("content-length")
        stream: httpx2.AsyncByteStream | httpx2.ByteStream
        if rest is None:
            stream = httpx2.ByteStream(begun)
            if begun or length is not None or request.method in ("POST", "PUT", "PATCH"):
                headers.append((b"content-length", b"%d" % len(begun)))
        else:
            stream = SplitBody(begun, rest)
            headers.append((b"transfer-encoding", b"chunked") if length is None else (b"content-length", length.encode()))
        seconds = upstream.settings.timeout
        return await upstream.transport.handle_async_request(
            httpx2.Request(
                request.method,
                upstream.url.copy_with(raw_path=target),
                headers=headers,
                stream=stream,
                extensions={"timeout": {"connect": CONNECT_SECONDS, "read": seconds, "write": seconds, "pool": CONNECT_SECONDS}},
            )
        )


class _Silent(Response):
    """The gateway's own 502 or 504, for an upstream that took the request and did not respond."""


_Answer = Response | Streamed


async def _recorded(carrying: Coroutine[Any, Any, _Answer], tee: Tee) -> _Answer:
    """Return the response. A streamed one ends its record itself; one of the gateway's own is recorded here."""
    try:
        given = await carrying
    except BaseException:  # the client has left, or sent its body too slowly
        tee.end("aborted")
        raise
    if isinstance(given, Streamed):
        given.tee = tee
        return given
    tee.answered(given.status_code, given.raw_headers)
    tee.add(bytes(given.body))
    tee.end("broken" if isinstance(given, _Silent) else "error")
    return given


class _GatewayApp:
    """The gateway's ASGI application."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(ClientDisconnect):  # the client left while it sent its body
            with self._owing():
                answer = await self._gateway.answer(Request(scope, receive, send))
                if not (isinstance(answer, Streamed) and answer.endless):
                    await answer(scope, receive, send)
                    return
            await answer(scope, receive, send)

    @contextlib.contextmanager
    def _owing(self) -> Iterator[None]:
        self._gateway.owed += 1
        try:
            yield
        finally:
            self._gateway.owed -= 1


def _below(raw: bytes, name: str) -> bytes | None:
    """The raw path below `/gateway/NAME/`; None where that prefix itself contains an encoded slash."""
    _, *own, rest = (*raw.split(b"/", 3), b"")[:4]
    return rest if [unquote(step.decode("latin-1")) for step in own] == ["gateway", name] else None


def _local(rpc: Rpc | None, request: Request) -> Response | None:
    """The response to a message that the gateway answers itself, else None."""
    if rpc is None:
        return None
    if rpc.method == methods.PING and rpc.id is not UNSET:
        return Response(jsonrpc.result(bytes(rpc.id), b"{}"), media_type="application/json")
    if rpc.method == methods.INITIALIZED and SESSION.decode() not in request.headers:
        return Response(status_code=202)
    return None


BUSY: Final = "到上游的连接都在使用中，请稍后再试 / All connections to the upstream are in use, try again later"
KEY_NEEDED: Final = "请在 X-Endpoint-Key 或 ?key= 中给出 [server] key / Show the [server] key in X-Endpoint-Key or ?key="


def _none_left(ring: CredentialStore) -> Response:
    wait, en, zh = ring.none_left()
    if wait is None:
        return _error(503, "no key left", f"{ALL_GONE}：所有密钥都已停用 / {en}")
    return _error(429, "every key waits", f"{zh} / {en}", {"Retry-After": str(ceil(wait))})


def _error(status: int, error: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": error, "message": message}, status, headers)


def _now() -> float:
    return asyncio.get_running_loop().time()
