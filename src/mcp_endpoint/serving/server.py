"""Runs one server: binds, announces, serves, and drains before the shutdown.

uvicorn serves; this module gives it our protocol classes and drains before uvicorn's shutdown. After SIGTERM, SIGINT or SIGHUP `/ready`
returns 503 and new links are refused while calls in flight finish; then links are closed with 1012 and the process exits with code 0. A
second SIGTERM or SIGINT skips the waiting: open calls are answered with an error.
"""

from __future__ import annotations

import asyncio
import errno
import logging as stdlib
import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

import uvicorn
from loguru import logger
from uvicorn.server import HANDLED_SIGNALS

from .. import __version__, log
from ..access import tls
from ..access.addresses import Hint, announcement, in_container
from ..access.admission import Authenticator
from ..access.tokens import TokenCodec
from ..core.broker import Broker
from ..core.figures import OK, Calls
from ..core.parties import Call
from ..errors import RESTARTING, ConfigError, EndpointError
from ..line_writer import StreamSink
from ..providers.managed import ManagedServers
from ..settings.first_start import Prepared
from ..settings.load import Loaded
from ..settings.schema import Config
from ..settings.schema import Server as ServerSettings
from ..sockets.buffers import keep_large_buffers
from ..sockets.dial_out import DialOut
from ..sockets.guard import make_guard_class
from ..sockets.handshake import Acceptor
from ..sockets.link import make_link_class
from ..sockets.secure import make_securing_class
from ..web.app import create_app
from ..web.metrics import Exposition, Figures
from ..web.room import Room
from ..web.status import View
from . import collector, signals
from . import sd_notify as notify
from .rooms import Context, open_rooms

CLOSE_SECONDS: Final = 2.0
"""Timeout of the closing handshakes at shutdown; together with `drain_seconds` it stays below Docker's 30 s."""
LOOK_SECONDS: Final = 0.02
"""Polling interval of the drain."""
FAILED_CALLS_A_MINUTE: Final = 100
"""Most log lines about failed calls of one endpoint per minute; the next line says how many were left out."""
RECORDER: Final = "recorder"
"""The name of the room that is closed last."""
SPARE_DESCRIPTORS: Final = 64
"""File descriptors beside the sockets of peers: files, pipes, listeners."""


class DrainingServer(uvicorn.Server):
    """uvicorn's server with a drain before its shutdown; it does not raise the signal again after a clean exit."""

    def __init__(
        self, served: uvicorn.Config, view: View, broker: Broker, acceptor: Acceptor, rooms: Sequence[Room], announce: Callable[[int], None]
    ) -> None:
        super().__init__(served)
        self._view = view
        self._broker = broker
        self._acceptor = acceptor
        self._rooms = rooms
        self._announce = announce
        self.port = 0
        """The listening port, known after the start."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain. Second: stop waiting. Not stored in uvicorn's list, which would end the process by the signal."""
        if self.should_exit and signals.hurries(sig):
            self.force_exit = True
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's signals, and the other terminating ones that it leaves to their default action."""
        with super().capture_signals():
            here = threading.current_thread() is threading.main_thread()
            more = [number for number in signals.ending() if number not in HANDLED_SIGNALS] if here else []
            before = {number: signal.signal(number, self.handle_exit) for number in more}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            for room in self._rooms:
                await room.start()
        except EndpointError:
            await self._close_rooms(self._rooms)
            for one in sockets or ():
                one.close()
            raise
        await super().startup(sockets)
        self.port = self.servers[0].sockets[0].getsockname()[1]
        self._announce(self.port)
        notify.send(notify.READY, os.environ)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._drain()
        await super().shutdown(sockets)

    async def _drain(self) -> None:
        notify.send(notify.STOPPING, os.environ)
        self._view.state = "draining"
        self._acceptor.refuse_new = True
        self._broker.drain()
        logger.info("正在停止 / stopping", calls_in_flight=self._broker.in_flight, links=self._acceptor.links)
        await self._until(self._owes_nothing, self._view.config.server.drain_seconds)
        self._broker.finish()
        self._acceptor.close_all(RESTARTING)
        await self._close_rooms([room for room in self._rooms if room.name != RECORDER])
        await self._until(lambda: not self._acceptor.links, CLOSE_SECONDS)
        await self._close_rooms([room for room in self._rooms if room.name == RECORDER])  # how the others ended is recorded too

    def _owes_nothing(self) -> bool:
        return not self._broker.in_flight and not any(room.owed for room in self._rooms)

    async def _close_rooms(self, rooms: Sequence[Room]) -> None:
        """Stop all of them even if one fails: no child process may outlive the server."""
        ends = await asyncio.gather(*(room.stop() for room in rooms), return_exceptions=True)
        for room, failed in zip(rooms, ends, strict=True):
            if failed is not None:
                logger.opt(exception=failed).error("{} 未能正常关闭 / did not stop cleanly", room.name)

    async def _until(self, done: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not (done() or self.force_exit or time.monotonic() >= end):  # noqa: ASYNC110 - the core has no events
            await asyncio.sleep(LOOK_SECONDS)


def run(loaded: Loaded, prepared: Prepared, root: Path, standalone: str = "", environ: Mapping[str, str] = os.environ) -> None:
    """Serve until a signal; `root` and `standalone` as for `create_server`.

    Raises EndpointError for what a person can fix: a port in use, an unusable host or certificate.
    """
    config = loaded.config
    with ExitStack() as after:
        after.callback(log.setup(config.logging, config.server, sys.stderr))
        uvicorns = stdlib.getLogger("uvicorn.error")
        after.callback(uvicorns.setLevel, uvicorns.level)
        if not config.server.debug:
            uvicorns.setLevel(stdlib.WARNING)  # this server logs connections itself
        for en, zh in prepared.notes:
            logger.info("{} / {}", zh, en)
        for en, zh in (*prepared.warnings, *loaded.warnings, *descriptor_shortage(config)):
            logger.warning("{} / {}", zh, en)
        keep_large_buffers()
        certificate = tls.serving(config.server, loaded.sources)
        sockets = bind(config.server, loaded.sources)
        show: Callable[[str], None] = _show_nothing
        if config.server.print_addresses and sys.stdout is not None:
            console = log.lines_to(StreamSink(sys.stdout), config.logging, "控制台", "the console")
            after.callback(console.close)
            show = console.write
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(config, certificate, sockets, root, standalone, environ, show))
        logger.info("已停止 / stopped")


def _show_nothing(text: str) -> None:
    """Prints nothing: without a console, or with print_addresses off."""


async def _serve(
    config: Config,
    certificate: ssl.SSLContext | None,
    sockets: list[socket.socket],
    root: Path,
    standalone: str,
    environ: Mapping[str, str],
    show: Callable[[str], None],
) -> None:
    server = create_server(config, certificate, root=root, standalone=standalone, environ=environ, show=show)
    collector.quiet()
    await server.serve(sockets)
    signals.leaving()


def create_server(
    config: Config,
    certificate: ssl.SSLContext | None = None,
    *,
    root: Path = Path(),
    standalone: str = "",
    environ: Mapping[str, str] = os.environ,
    show: Callable[[str], None] = _show_nothing,
) -> DrainingServer:
    """Build one server inside the running loop; two of them share nothing.

    `root` is the base of relative paths in the configuration. `standalone` names the one room that has the port to itself (`serve --as`).
    `show` prints the addresses, which do not belong in the log. Raises EndpointError if a room's packages are not installed.
    """
    loop = asyncio.get_running_loop()
    settings = config.server
    codec = TokenCodec(settings.key, agents=config.security.agents)
    every = settings.debug or logger.level(settings.log_level).no <= logger.level("DEBUG").no
    calls = Calls(config.limits, CallLog(loop.time).tell, every=every)
    broker = Broker(
        config.endpoint,
        config.limits,
        clock=loop.time,
        call_at=loop.call_at,
        epoch=time.time,
        watch=LogWatch(loop.time),
        figures=calls.of,
    )
    authenticator = Authenticator(config, codec)
    acceptor = Acceptor(config, broker, authenticator)
    started = loop.time()

    def report() -> dict[str, Any]:
        return {"status": view.state, "version": __version__, "uptime_seconds": round(view.uptime(), 3), **snapshot(True)}

    rooms = open_rooms(Context(config, broker, codec, authenticator, root, environ, acceptor.budget.keep, report), standalone)

    def snapshot(detail: bool) -> dict[str, Any]:
        found = broker.snapshot(detail=detail)
        found["counters"] |= dict(sorted(acceptor.counters.items()))
        if detail and rooms:
            found["rooms"] = {room.name: room.describe() for room in rooms}
        return found

    def figures() -> Figures:
        found = snapshot(False)
        links = {"tool": found["tool_connections"], "device": found["device_connections"], "session": found["session_connections"]}
        gauges = {
            "endpoints": found["endpoints"],
            "in_flight": found["in_flight"],
            "buffered_bytes": acceptor.budget.bytes,
            "unfinished_handshakes": len(acceptor.unfinished),
            "tasks": len(asyncio.all_tasks(loop)),
            "ready": view.state == "ready",
        }
        pools = next((room.describe() for room in rooms if room.name == "keys"), {})
        servers = next((room.states() for room in rooms if isinstance(room, ManagedServers)), {})
        dialled = next((room.connected() for room in rooms if isinstance(room, DialOut)), {})
        recorder: Any = next((room for room in rooms if room.name == RECORDER), None)
        if recorder is not None:
            found["counters"] |= recorder.counters()
            gauges |= recorder.gauges()
        return Figures(found["counters"], links, gauges, calls.endpoints, pools, servers, dialled)

    view = View(
        config=config,
        snapshot=snapshot,
        scrape=Exposition(config.limits, figures).scrape,
        uptime=lambda: loop.time() - started,
        codec=codec,
    )
    served = uvicorn.Config(
        create_app(view, rooms, standalone=bool(standalone)),
        http=make_guard_class(acceptor) if certificate is None else make_securing_class(acceptor, certificate),
        ws=make_link_class(acceptor),
        lifespan="off",
        log_config=None,
        access_log=settings.debug,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_graceful_shutdown=1,
    )

    def announce(port: int) -> None:
        logger.info("正在监听 / listening", host=settings.host, port=port, version=__version__)
        if settings.print_addresses:
            show(announcement(settings, port, codec, contained=in_container(os.environ)) + "\n")

    return DrainingServer(served, view, broker, acceptor, rooms, announce)


class LogWatch:
    """Logs the core's rare events; an event that a peer repeats is logged a few times per minute, with the number left out."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._quota = log.LineQuota(clock)

    def tell(self, event: str, shown: str, **fields: object) -> None:
        left_out = self._quota.take(event, shown)
        if left_out is not None:
            zh, level = _EVENTS.get(event, (event, "INFO"))
            logger.log(level, f"{zh} / {event}", endpoint=shown, **fields, **left_out)


class CallLog:
    """Logs finished tool calls: endpoint, tool, provider, duration and outcome, but no arguments and no results."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._quota = log.LineQuota(clock, FAILED_CALLS_A_MINUTE)

    def tell(self, call: Call, seconds: float) -> None:
        """At DEBUG if the call succeeded, else at INFO."""
        assert call.consumer is not None, "only calls of a consumer are logged"
        shown = call.consumer.endpoint.shown
        left_out = self._quota.take(shown) if call.outcome else {}
        if left_out is not None:
            logger.log(
                *(("INFO", "调用失败 / call failed") if call.outcome else ("DEBUG", "调用完成 / call done")),
                endpoint=shown,
                tool=call.tool,
                provider="" if call.provider is None else call.provider.label or call.provider.server_id,
                milliseconds=round(seconds * 1000),
                outcome=call.outcome or OK,
                **left_out,
            )


_EVENTS: Final[Mapping[str, tuple[str, str]]] = {
    "tools": ("工具已就绪", "INFO"),
    "bare": ("工具端不会 MCP 握手", "WARNING"),
    "no list": ("工具端没有给出工具列表", "WARNING"),
    "too many tools": ("工具过多，部分未列出（limits.tools_per_endpoint）", "WARNING"),
    "no names left": ("工具名称过多，新的工具未列出", "WARNING"),
    "noise": ("工具端发来的不是 JSON-RPC，已丢弃", "WARNING"),
    "bad frame": ("使用端发来的不是 JSON-RPC", "WARNING"),
    "timed out": ("调用超时", "WARNING"),
    "fault": ("内部错误，此使用端的连接将关闭", "ERROR"),
}
"""Event of the core → its Chinese text and log level."""


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def bind(settings: ServerSettings, sources: Mapping[str, str]) -> list[socket.socket]:
    """The listening sockets, one for each address of `host`. Port 0 takes any free one, the same for all of them.

    Raises EndpointError when the system refuses (port in use, not permitted) and ConfigError for a host that is not of this machine.
    """
    host, port = settings.host, settings.port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise _not_our_host(host, sources) from error
    bound: list[socket.socket] = []
    refused: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        try:
            one = socket.socket(family, kind, protocol)
        except OSError as error:  # an address family this machine does not have
            refused = error
            continue
        try:
            if os.name == "posix":  # on Windows this option would let a second server take over the port
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind((address[0], port or (bound[0].getsockname()[1] if bound else 0), *address[2:]))
            one.listen()  # fails for the second of two servers that bind at the same moment
        except OSError as error:
            one.close()
            if error.errno != errno.EADDRNOTAVAIL:
                for other in bound:
                    other.close()
                raise _refused(host, port, error, sources) from error
            refused = error
        else:
            bound.append(one)
    if not bound:
        raise _not_our_host(host, sources) from refused
    return bound


def _refused(host: str, port: int, error: OSError, sources: Mapping[str, str]) -> EndpointError:
    place = sources["server.port"]
    if error.errno == errno.EADDRINUSE:
        return EndpointError(
            f"port {port} on {host} is in use by another program, perhaps by a server still running: stop it or set another [server] port",
            f"{host} 的端口 {port} 已被其他程序占用（也可能是仍在运行的本服务）：请停止它，或在 [server] 下改用其他 port",
            place=place,
        )
    reason = error.strerror or type(error).__name__
    return EndpointError(
        f"cannot listen on {host} port {port}: {reason}; ports below 1024 need special privileges: set another [server] port",
        f"无法监听 {host} 的端口 {port}：{reason}；1024 以下的端口需要特殊权限，请在 [server] 下改用其他 port",
        place=place,
    )


def _not_our_host(host: str, sources: Mapping[str, str]) -> ConfigError:
    return ConfigError(
        f'[server] host "{host}" is not an address of this machine: use 127.0.0.1 (this machine only) or 0.0.0.0 (every address)',
        f'[server] host "{host}" 不是本机的地址：请用 127.0.0.1（仅本机）或 0.0.0.0（所有地址）',
        place=sources["server.host"],
    )


def descriptor_shortage(config: Config) -> list[Hint]:
    """Raise the limit of open files to what the configured number of links needs; returns a hint if the system does not allow it."""
    if sys.platform == "win32":
        return []
    import resource  # exists on POSIX only

    limits = config.limits
    needed = config.websocket.max_connections + limits.http_requests + limits.unfinished_handshakes + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return []
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed == needed:
        return []
    most = config.websocket.max_connections
    return [
        Hint(
            f"this machine allows {allowed} open files, max_connections = {most} needs {needed}: "
            f"raise it (ulimit -n {needed}, LimitNOFILE= in systemd) or lower max_connections",
            f"本机允许打开 {allowed} 个文件，而 max_connections = {most} 需要 {needed} 个："
            f"请提高限制（ulimit -n {needed}，systemd 用 LimitNOFILE=）或调低 max_connections",
        )
    ]
