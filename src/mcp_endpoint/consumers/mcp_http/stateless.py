"""MCP over HTTP for revision 2026-07-28: every request is self-contained and answered on its own.

Rules of this module:

1. A request is an exchange at its endpoint. Idle exchanges stay a while for the caller's next request, so that an endpoint does not lose
   its only consumer between two requests.
2. A response is JSON unless something else belongs to it; the first notification, or a while of silence, makes it an event stream. A client
   that closes the stream has cancelled its request.
3. If a tool of the handshake revisions sends a request to the client (elicitation, sampling, roots), the response is `input_required`: the
   exchange is parked with the call in flight, and `requestState` names it. A state is signed, bound to caller, method and parameters,
   valid once and for `http_ask_seconds`; at most `parked_rounds` exchanges are parked.
4. A tool of this revision has a state of its own: it is wrapped in ours, so that it cannot be used at another endpoint or for another
   request.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ... import errors
from ...core.parties import State
from ...core.shares import Shares
from ...protocol import jsonrpc, methods, stateless
from ...protocol.definitions import Tool
from ...protocol.jsonrpc import Frame, Malformed
from ...settings.schema import Limits
from . import envelope, failures, request_state
from .answers import LATER, StreamedAnswer, accepts, error_answer, error_frame, json_answer, refused
from .caller import Caller
from .envelope import STATUS, Rejected, StatelessRequest
from .exchange import Exchange
from .streams import COMMENT, COMMENT_SECONDS, Store, event_of, hung_up
from .subscriptions import Listener, capabilities_of

REMOVED: Final = frozenset({methods.INITIALIZE, methods.PING, methods.SET_LEVEL, methods.SUBSCRIBE, methods.UNSUBSCRIBE})
"""Methods of the handshake revisions that do not exist in this one."""
LINGER_SECONDS: Final = 15.0
"""How long an idle exchange stays for the next request."""
LINGERING: Final = 256
"""Most idle exchanges; above, the least recently used one of the endpoint with most is closed."""

_PARKED: Final = b"P"
_CARRIED: Final = b"C"
_encode: Final = msgspec.json.Encoder().encode


class Stateless:
    """The stateless era of one server."""

    def __init__(self, limits: Limits, secret: bytes = b"", store: Store | None = None) -> None:
        """`secret` signs the states; without one it is random, and states do not survive a restart.

        `store` counts what clients have not read.
        """
        self.limits = limits
        self.store = store or Store.of(limits)
        self.answered = 0
        """Requests since the start."""
        self._seals = request_state.Seals(secret or secrets.token_bytes(32))
        self._lingering: dict[Exchange, asyncio.TimerHandle] = {}
        self._lingerers: Shares[Exchange] = Shares()
        self._busy: dict[Exchange, None] = {}
        self._parked: dict[bytes, tuple[Exchange, asyncio.TimerHandle]] = {}
        self._rounds: Shares[bytes] = Shares()
        """Parked rounds, by endpoint."""
        self._streams: Shares[Listener] = Shares()

    # -- requests ----------------------------------------------------------------------------------------------------------

    async def answer(self, request: Request, body: bytes, caller: Caller) -> Response:
        """Answer one request of any method."""
        if request.method != "POST":
            return refused(405, errors.INVALID_REQUEST, "this revision knows POST only / 此修订版只支持 POST", headers={"allow": "POST"})
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return refused(415, errors.INVALID_REQUEST, "Content-Type must be application/json / 必须为 application/json")
        json, stream = accepts(request)
        if not json:
            return refused(406, errors.INVALID_REQUEST, "Accept must have application/json / Accept 必须包含 application/json")
        headers = request.scope["headers"]
        try:
            frame = envelope.read(body, self.limits.integer_id_chars, self.limits.string_id_bytes)
            if frame.id is UNSET:
                return self._notified(request)
            asked = envelope.examine(frame, headers)
            self.answered += 1
            if caller.broker.draining:
                return refused(503, errors.BUSY, "the server is restarting / 服务器正在重启", asked.id, headers=LATER)
            return await self._serve(request, asked, caller, stream=stream)
        except Rejected as why:
            return error_answer(why.id, why.code, why.message, why.data)

    async def stop(self) -> None:
        """End all streams, and close all exchanges."""
        for listener in list(self._streams):
            listener.end()
        for exchange in list(self._lingering):
            self._call_back(exchange)
            exchange.close(*errors.RESTARTING)
        for number in list(self._parked):
            self._unpark(number).close(*errors.RESTARTING)
        for exchange in list(self._busy):
            exchange.close(*errors.RESTARTING)

    def describe(self) -> Mapping[str, Any]:
        """Numbers of requests, rounds and subscriptions."""
        return {
            "requests": self.answered,
            "in_flight": len(self._busy),
            "parked_rounds": len(self._parked),
            "subscriptions": len(self._streams),
        }

    @staticmethod
    def _notified(request: Request) -> Response:
        """Accept a notification and ignore it: a request is cancelled by closing its response."""
        version = request.headers.get(methods.VERSION_HEADER)
        if version not in (None, methods.STATELESS_REVISION):
            about = {"supported": [methods.STATELESS_REVISION], "requested": version}
            return error_answer(b"null", stateless.UNSUPPORTED_VERSION, "unsupported protocol version / 不支持的协议版本", about)
        return Response(status_code=202)

    # -- requests ----------------------------------------------------------------------------------------------------------

    async def _serve(self, request: Request, asked: StatelessRequest, caller: Caller, *, stream: bool) -> Response:
        if asked.method in REMOVED:
            why = f"{asked.method} is not a method of {methods.STATELESS_REVISION} / 此方法不存在"
            raise Rejected(errors.METHOD_NOT_FOUND.number, why, id=asked.id)
        if asked.method == methods.LISTEN:
            if not stream:
                return refused(406, errors.INVALID_REQUEST, "a subscription is a stream: Accept must have text/event-stream", asked.id)
            return await self._listen(asked, caller)
        exchange, asked = await self._exchange(request, asked, caller)
        leaving = asyncio.ensure_future(hung_up(request.receive))
        leaving.add_done_callback(lambda task: None if task.cancelled() else exchange.close(*errors.GOING_AWAY))
        handed_over = False  # the stream closes both
        try:
            await exchange.news(COMMENT_SECONDS)
            while not stream and not exchange.ended and exchange.answer is None and not exchange.waits:
                exchange.note()
                await exchange.news(COMMENT_SECONDS)
            if stream and (exchange.notes or (exchange.answer is None and not exchange.waits and not exchange.ended)):
                response = Answering(self, exchange, asked, leaving)
                handed_over = True
                return response
            return json_answer(*self.finish(exchange, asked))
        finally:
            if not handed_over:
                leaving.cancel()
                self.leave(exchange)

    async def _exchange(self, request: Request, asked: StatelessRequest, caller: Caller) -> tuple[Exchange, StatelessRequest]:
        """The exchange for the request, and the request with its state unwrapped. Raises Rejected."""
        try:
            state = stateless.fields(asked.params).get("requestState") if asked.method in methods.ASKING else None
            if state is not None and bytes(state) != b"null":
                content = self._open(asked, caller, state)
                if content[:1] == _PARKED:
                    return self._resume(asked, content[1:]), asked
                spans = jsonrpc.members(asked.params)["requestState"]
                asked = asked._replace(params=jsonrpc.splice(asked.params, [(spans.start, spans.end, content[1:])]))
            exchange = await self._take(caller)
            try:
                if not exchange.welcome:
                    raise Rejected(stateless.INTERNAL, "the endpoint does not answer / 接入点没有应答")
                if asked.method == methods.DISCOVER:
                    exchange.answer = Frame(result=Raw(_discovered(exchange)))
                else:
                    if asked.method == methods.TOOLS_CALL:
                        await self._check_params(request, exchange, asked)
                    exchange.begin(asked)
            except BaseException:
                self.leave(exchange)
                raise
        except Rejected as why:
            why.id = asked.id
            raise
        return exchange, asked

    async def _check_params(self, request: Request, exchange: Exchange, asked: StatelessRequest) -> None:
        """Check the headers that the tool's schema asks for; its list is requested first if it is not known yet."""
        endpoint = exchange.consumer.endpoint
        if any(provider.state is State.READY and not provider.listed for provider in endpoint.providers):
            await exchange.request(methods.TOOLS_LIST, b"{}")
        name = stateless.text(stateless.fields(asked.params).get("name"))
        tool = None if name is None else _tool(exchange, name)
        if tool is not None:
            envelope.check_params(tool.definition, asked.params, request.scope["headers"])

    def finish(self, exchange: Exchange, asked: StatelessRequest) -> tuple[bytes, int]:
        """The response to a request, and its HTTP status. May park the exchange."""
        if exchange.answer is not None:
            return self._translated(exchange, asked, exchange.answer)
        if exchange.ended:
            return error_frame(asked.id, stateless.INTERNAL, "the server ended this request / 服务器结束了此请求")
        return self._park(exchange, asked)

    def _translated(self, exchange: Exchange, asked: StatelessRequest, answer: Frame) -> tuple[bytes, int]:
        result, error = answer.result, answer.error
        if exchange.undeclared and (result is UNSET or stateless.fields(result).get("isError") == Raw(b"true")):
            about = {"requiredCapabilities": exchange.undeclared}
            why = "the tool asks what this client did not declare / 客户端未声明所需能力"
            return error_frame(asked.id, stateless.MISSING_CAPABILITY, why, about)
        if result is UNSET:
            raw = stateless.error_for_stateless(asked.method, asked.params, b"{}" if error is UNSET else bytes(error))
            for_http = failures.for_http(asked.method, asked.id, raw)
            if for_http is None:
                return jsonrpc.failure(asked.id, raw), STATUS.get(stateless.read_error(raw).code, 200)
            frame = jsonrpc.parse(for_http, utf8=True)
            if frame.result is UNSET:
                return for_http, 200
            result = frame.result
        body = bytes(result)
        if asked.method in methods.ASKING and stateless.requires_input(body):
            body = self._sealed(exchange.caller, asked, body)
        return jsonrpc.result(asked.id, stateless.for_stateless(asked.method, body, exchange.server)), 200

    # -- rounds ------------------------------------------------------------------------------------------------------------

    def _park(self, exchange: Exchange, asked: StatelessRequest) -> tuple[bytes, int]:
        """Park a call until its client answers; the client gets the tool's requests and the state of the round."""
        if len(self._parked) >= self.limits.parked_rounds:
            crowded = self._rounds.gives_way(exchange.caller.name)
            if crowded is None:
                exchange.close(*errors.GOING_AWAY)
                why = "too many questions wait for answers (limits.parked_rounds) / 等待回答的提问过多"
                return error_frame(asked.id, stateless.INTERNAL, why)
            self._unpark(crowded).close(*errors.GOING_AWAY)
        number = secrets.token_bytes(16)
        seconds = self.limits.http_ask_seconds
        timer = asyncio.get_running_loop().call_later(seconds, self._expire, number)
        exchange.park()
        self._busy.pop(exchange, None)
        self._parked[number] = exchange, timer
        self._rounds.add(exchange.caller.name, number)
        body = {
            "resultType": "input_required",
            "inputRequests": {key: {"method": question.method, "params": question.params} for key, question in exchange.questions.items()},
            "requestState": self._close(asked, exchange.caller, _PARKED + number),
        }
        return jsonrpc.result(asked.id, stateless.for_stateless(asked.method, _encode(body), exchange.server)), 200

    def _expire(self, number: bytes) -> None:
        self._unpark(number).close(*errors.GOING_AWAY)

    def _unpark(self, number: bytes) -> Exchange:
        exchange, timer = self._parked.pop(number)
        self._rounds.remove(exchange.caller.name, number)
        timer.cancel()
        return exchange

    def _resume(self, asked: StatelessRequest, number: bytes) -> Exchange:
        if number not in self._parked:
            raise _bad_state()
        exchange = self._unpark(number)
        if exchange.ended:
            raise _bad_state()
        self._busy[exchange] = None
        exchange.go_on(asked, stateless.fields(stateless.fields(asked.params).get("inputResponses", UNSET)))
        return exchange

    def _sealed(self, caller: Caller, asked: StatelessRequest, body: bytes) -> bytes:
        """Wrap a tool's own `requestState` in ours."""
        try:
            place = jsonrpc.members(body).get("requestState")
        except Malformed:
            return body
        if place is None:
            return body
        state = _encode(self._close(asked, caller, _CARRIED + body[place.start : place.end]))
        return jsonrpc.splice(body, [(place.start, place.end, state)])

    def _close(self, asked: StatelessRequest, caller: Caller, content: bytes) -> str:
        until = time.time() + self.limits.http_ask_seconds
        return self._seals.close(content, _fingerprint(asked, caller), until)

    def _open(self, asked: StatelessRequest, caller: Caller, state: Raw) -> bytes:
        try:
            return self._seals.open(stateless.text(state) or "", _fingerprint(asked, caller), time.time())
        except request_state.Untrusted:
            raise _bad_state() from None

    # -- exchanges ---------------------------------------------------------------------------------------------------------

    async def _take(self, caller: Caller) -> Exchange:
        """An initialized exchange for this caller, idle or new."""
        for exchange in reversed(self._lingerers.of(caller.name)):
            if exchange.caller.place == caller.place and exchange.caller.broker is caller.broker:
                self._call_back(exchange)
                self._busy[exchange] = None
                return exchange
        exchange = Exchange(caller, self.limits, self.store)
        self._busy[exchange] = None
        try:
            await exchange.initialize()
        except BaseException:
            self.leave(exchange)
            raise
        return exchange

    def leave(self, exchange: Exchange) -> None:
        """The request has ended, or the client has disconnected; a parked exchange is kept."""
        self._busy.pop(exchange, None)
        if exchange.parked or exchange.ended:
            return
        if not exchange.clean or not exchange.welcome:
            exchange.close(*errors.GOING_AWAY)
            return
        exchange.rest()
        if len(self._lingering) >= LINGERING:
            self._dismiss(next(iter(self._lingerers.largest(exchange.caller.name))))
        self._lingerers.add(exchange.caller.name, exchange)
        self._lingering[exchange] = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._dismiss, exchange)

    def _dismiss(self, exchange: Exchange) -> None:
        self._call_back(exchange)
        exchange.close(*errors.GOING_AWAY)

    def _call_back(self, exchange: Exchange) -> None:
        """Remove an exchange from the idle ones."""
        self._lingering.pop(exchange).cancel()
        self._lingerers.remove(exchange.caller.name, exchange)

    # -- subscriptions -----------------------------------------------------------------------------------------------------

    async def _listen(self, asked: StatelessRequest, caller: Caller) -> Response:
        if len(self._streams) >= self.limits.http_streams:
            crowded = self._streams.gives_way(caller.name)
            if crowded is None:
                raise Rejected(stateless.INTERNAL, "too many subscriptions (limits.http_streams) / 订阅过多", id=asked.id)
            self.unlisten(crowded)
            crowded.end()
        wanted = stateless.objects(stateless.fields(asked.params).get("notifications", UNSET))
        listener = Listener(asked, caller, self.limits, self.store, self.unlisten)
        self._streams.add(caller.name, listener)
        try:
            await listener.open(wanted)
        except BaseException:
            listener.leave()
            raise
        return listener

    def unlisten(self, listener: Listener) -> None:
        """A subscription has ended."""
        self._streams.remove(listener.owner, listener)


class Answering(StreamedAnswer):
    """The event stream of one request: its notifications, then its response."""

    def __init__(self, era: Stateless, exchange: Exchange, asked: StatelessRequest, leaving: asyncio.Future[None]) -> None:
        """`leaving` is done when the client has disconnected; the stream cancels it at its end."""
        super().__init__(era.limits.stalled_seconds)
        self._era = era
        self._exchange = exchange
        self._asked = asked
        self._leaving = leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = self._exchange
        try:
            await self._begin(send)
            while not self._leaving.done():
                if exchange.notes:
                    await self._write(send, event_of(exchange.note()))
                elif exchange.answer is not None or exchange.waits or exchange.ended:
                    await self._write(send, event_of(self._era.finish(exchange, self._asked)[0]), more=False)
                    return
                else:
                    await exchange.news(COMMENT_SECONDS)
                    if not (exchange.notes or exchange.answer is not None or exchange.waits or exchange.ended):
                        await self._write(send, COMMENT)
        except TimeoutError:
            exchange.close(*errors.NOT_READING)
        finally:
            self._leaving.cancel()
            self._era.leave(exchange)


def _discovered(exchange: Exchange) -> bytes:
    """The result of `server/discover`, from the endpoint's result of initialize."""
    welcome = stateless.fields(exchange.welcome)
    body: dict[str, Any] = {"supportedVersions": [methods.STATELESS_REVISION], "capabilities": capabilities_of(exchange)}
    if "instructions" in welcome:
        body["instructions"] = welcome["instructions"]
    return _encode(body)


def _tool(exchange: Exchange, name: str) -> Tool | None:
    """The tool with this name for the exchange's caller."""
    return exchange.consumer.endpoint.tool_named(name, exchange.caller.only)


def _fingerprint(asked: StatelessRequest, caller: Caller) -> bytes:
    try:
        return request_state.fingerprint(caller.place, asked.method, stateless.objects(asked.params))
    except RecursionError:
        raise Rejected(errors.INVALID_PARAMS.number, "nested too deep / 嵌套过深") from None


def _bad_state() -> Rejected:
    return Rejected(
        errors.INVALID_PARAMS.number, "the requestState is not valid for this request, or no longer / requestState 无效或已过期"
    )
