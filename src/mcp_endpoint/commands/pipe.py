"""`mcp-endpoint pipe`: connects MCP servers on stdin and stdout to an endpoint, each with a WebSocket link of its own.

A link's life: connect; once accepted, start the server; relay frames until either side ends; report why; wait; reconnect. Every link gets
a new process, because an MCP server is initialized once in its life. A frame becomes one line for the server (line breaks between JSON
tokens become blanks), a line becomes one frame for the endpoint; a line that is not a JSON-RPC message is reported and dropped.

The address of the endpoint contains a token: only its host and path are ever printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from ..backoff import Backoff
from ..errors import GOING_AWAY, TOOL_ENDED, CloseReason, ConfigError, EndpointError
from ..line_writer import LineWriter, StreamSink
from ..protocol.jsonrpc import Unreadable, unreadable_answer
from ..providers import mcp_json
from ..providers.command import Command, environment
from ..providers.process.child import CUT_BYTES, LINE_BYTES, Child, message
from ..serving import signals
from ..sockets import dial
from ..sockets.dial import NoLink, readable

ENDPOINT_VARIABLE: Final = "MCP_ENDPOINT"
"""The environment variable that mcp_pipe and similar programs read."""
LAST_OUTPUT_SECONDS: Final = 1.0
"""Time for the last output of a dead process to reach the endpoint, and for a process that closed its output to exit."""
QUEUE_BYTES: Final = 1_000_000
"""Bytes of lines for the operator that wait while stderr is blocked; lines beyond are counted."""

Report = Callable[[str], None]


class Options(msgspec.Struct, frozen=True):
    """The arguments of `run`."""

    endpoint: str
    """Tool address, ws:// or wss://, with its token."""
    commands: Mapping[str, Command]
    """Commands by name; the name is the link's `server_id` ("" sends none)."""


class Ending(NamedTuple):
    """How an attempt ended, and what that means for the next one."""

    text: str
    lasted: float = 0.0
    slow: bool = False
    at_least: float = 0.0


_ONE_LINE: Final = bytes.maketrans(b"\r\n", b"  ")


def endpoint_address(given: str | None, environ: Mapping[str, str]) -> str:
    """The endpoint's address: `given`, else MCP_ENDPOINT.

    Raises ConfigError if there is none or it is invalid.
    """
    address = (given or environ.get(ENDPOINT_VARIABLE, "")).strip().strip("\"'")
    if not address:
        raise ConfigError(
            f"no endpoint: give --endpoint ws://… or set {ENDPOINT_VARIABLE}; `mcp-endpoint url` prints the address",
            f"没有接入点地址：请用 --endpoint ws://… 或环境变量 {ENDPOINT_VARIABLE} 指定；`mcp-endpoint url` 可打印地址",
        )
    dial.checked(address)
    if urlsplit(address).path.rstrip("/").endswith("/mcp_endpoint/call"):
        raise ConfigError(
            "this is the address for devices (/mcp_endpoint/call/); tools use the one with /mcp_endpoint/mcp/",
            "这是设备使用的地址（/mcp_endpoint/call/）；工具端请使用带 /mcp_endpoint/mcp/ 的地址",
        )
    return address


def named_variables(named: Iterable[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Variables for the child: `NAME=VALUE` sets one, `NAME` passes ours on.

    Raises ConfigError for a NAME that is not set.
    """
    variables = {}
    for item in named:
        name, equals, value = item.partition("=")
        if not equals and name not in environ:
            raise ConfigError(f"the environment variable {name} is not set", f"环境变量 {name} 没有设置")
        variables[name] = value if equals else environ[name]
    return variables


def one_command(argv: Sequence[str], name: str, named: Iterable[str], environ: Mapping[str, str]) -> dict[str, Command]:
    """The command of `pipe -- COMMAND ARGS`; `named` and exceptions as for `named_variables`."""
    return {name: Command(argv[0], tuple(argv[1:]), environment(environ, named_variables(named, environ)))}


def block_of_commands(file: Path, environ: Mapping[str, str]) -> dict[str, Command]:
    """The commands of `pipe --config FILE`: the servers of its `mcpServers` block; skipped ones are reported.

    Raises ConfigError for a file that cannot be read or understood.
    """
    found = mcp_json.read(file, environ)
    for en, zh in found.left_out:
        report_now(f"{readable(zh)} / {readable(en)}")
    for error in found.wrong.values():
        report_now(f"{readable(error.place)}: 已跳过，{readable(error.zh)} / left out, {readable(error.en)}")
    for name, server in found.servers.items():
        if server.command is None:
            en, zh = "reached by URL, which is for [providers] file; left out", "以 URL 访问的服务器请用 [providers] file，已跳过"
            report_now(f"{readable(name)}: {zh} / {en}")
    return {name: server.command for name, server in found.servers.items() if server.command is not None}


def run(options: Options) -> None:
    """Run until Ctrl-C, SIGTERM or SIGHUP, which end it cleanly; a second signal skips the waits.

    Raises EndpointError if nothing can be run.
    """
    with reporter() as report, contextlib.suppress(KeyboardInterrupt):  # Windows: the loop cannot handle signals
        asyncio.run(_until_signal(options, report))


async def serve(options: Options, report: Report) -> None:
    """Keep every command of `options` connected to its endpoint until cancelled; `report` is called once per event.

    Raises EndpointError if none of them can be run.
    """
    runnable: dict[str, Command] = {}
    problem = EndpointError("there is nothing to run", "没有可运行的服务器")
    for name, command in options.commands.items():
        try:
            command.found()
        except EndpointError as error:
            problem = error
            report(f"{_title(name, command)}: 已跳过，{error.zh} / left out, {error.en}")
        else:
            runnable[name] = command
    if not runnable:
        raise problem
    # Not a TaskGroup: it would swallow a second cancellation, by which a second Ctrl-C ends the waits in Child.stop.
    await asyncio.gather(
        *(
            _keep_linked(_title(name, command), _with_server_id(options.endpoint, name), command, report)
            for name, command in runnable.items()
        )
    )


async def _until_signal(options: Options, report: Report) -> None:
    serving = asyncio.create_task(serve(options, report))

    def end(number: int) -> None:
        if not serving.cancelling() or signals.hurries(number):
            serving.cancel()

    for number in signals.ending():
        asyncio.get_running_loop().add_signal_handler(number, end, number)
    try:
        await serving
    except asyncio.CancelledError:
        signals.leaving()
        report("已结束 / ended")


async def _keep_linked(title: str, address: str, command: Command, report: Report) -> None:
    backoff = Backoff(random.random)
    while True:
        ending = await _link(title, address, command, report)
        wait = backoff.wait(ending.lasted, slow=ending.slow, at_least=ending.at_least)
        report(f"{title}: {ending.text}; {wait:.1f} 秒后重连 / next attempt in {wait:.1f} s")
        await asyncio.sleep(wait)


async def _link(title: str, address: str, command: Command, report: Report) -> Ending:
    """One link, from connecting to its end."""
    try:
        socket = await dial.dial(address)
    except NoLink as error:
        return Ending(f"{error.zh} / {error.en}", slow=error.status in dial.SLOW_STATUSES, at_least=error.retry_after)
    since = time.monotonic()
    close_reason = GOING_AWAY
    child: Child | None = None
    try:
        child = await Child.start(command)
        report(f"{title}: 已连接 / connected to {dial.shown(address)}")
        if hint := dial.note(socket):
            report(f"{title}: {hint.zh} / {hint.en}")
        text, slow, close_reason = await _carry(title, socket, child, report)
        return Ending(text, time.monotonic() - since, slow)
    except EndpointError as error:
        close_reason = TOOL_ENDED
        return Ending(f"{error.zh} / {error.en}")
    finally:
        closing = socket.close(close_reason.code, close_reason.reason)
        await (closing if child is None else asyncio.gather(closing, child.stop()))


async def _carry(title: str, socket: ClientConnection, child: Child, report: Report) -> tuple[str, bool, CloseReason]:
    """Relay frames until either side ends; returns what happened, whether a person has to fix it, and our close reason."""
    down: asyncio.Future[object] = asyncio.ensure_future(_to_child(socket, child))
    up: asyncio.Future[object] = asyncio.ensure_future(_to_endpoint(title, child, socket, report))
    dead: asyncio.Future[object] = asyncio.ensure_future(child.exited.wait())
    try:
        await asyncio.wait((down, up, dead), return_when=asyncio.FIRST_COMPLETED)
        if socket.close_code is None:
            await asyncio.wait((up, dead), timeout=LAST_OUTPUT_SECONDS)
    finally:
        for task in (down, up, dead):
            task.cancel()
        await asyncio.wait((down, up, dead))
    for task in (down, up, dead):
        if not task.cancelled():
            task.result()
    if socket.close_code is not None:
        code, reason = socket.close_code, readable(socket.close_reason or "")
        why = f"{code} {reason}".strip()
        return f"连接已关闭 / link closed ({why})", code in dial.SLOW_CODES, GOING_AWAY
    if child.exited.is_set():
        ended = f"工具进程已退出 / the tool's process ended (status {child.status})"
        return ended, False, CloseReason(TOOL_ENDED.code, f"{TOOL_ENDED.reason} (status {child.status})")
    return "工具进程关闭了输出 / the tool's process closed its output", False, TOOL_ENDED


async def _to_child(socket: ClientConnection, child: Child) -> None:
    try:
        while True:
            frame = await socket.recv(decode=False)
            if line := frame.translate(_ONE_LINE).strip():
                await child.send(line)
    except ConnectionClosed:
        return


async def _to_endpoint(title: str, child: Child, socket: ClientConnection, report: Report) -> None:
    try:
        async for line in child.lines():
            try:
                found = message(line, ours=False)
                data = None if found is None else found[1]
            except Unreadable as unreadable:
                shown = readable(line.data[:CUT_BYTES].decode("utf-8", "replace"))
                report(f"{title}: 应答无法读取 / an answer that cannot be read ({unreadable.why}): {shown}")
                data = unreadable_answer(unreadable)
            if data is not None:
                await socket.send(data, text=True)
            elif not line.whole:
                shown = readable(line.data.decode("utf-8", "replace"))
                report(f"{title}: 输出行超过 {LINE_BYTES} 字节，已丢弃 / a line of more than {LINE_BYTES} bytes was dropped: {shown}…")
            elif line.data.strip():
                report(f"{title}: 非 JSON-RPC 输出，已丢弃 / not JSON-RPC, dropped: {readable(line.data.decode('utf-8', 'replace'))}")
    except ConnectionClosed:
        return


def _with_server_id(address: str, name: str) -> str:
    query = urlsplit(address).query
    if not name or "server_id" in parse_qs(query):
        return address
    return f"{address}{'&' if query else '?'}server_id={quote(name, safe='')}"


def _title(name: str, command: Command) -> str:
    """The server's name in messages, without its arguments, which may contain a secret."""
    return readable(name or command.program.replace("\\", "/").rpartition("/")[2])


def report_now(text: str) -> None:
    """Print one line to stderr."""
    print(_line(text), end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def reporter() -> Iterator[Report]:
    """The same without blocking, for use while frames are relayed."""
    if sys.stderr is None:  # it was closed at the start
        yield lambda text: None
        return
    writer = LineWriter(
        StreamSink(sys.stderr),
        QUEUE_BYTES,
        lambda lines: _line(f"{lines} 行未能写出 / {lines} lines were not written"),
        lambda error: None,
    )
    try:
        yield lambda text: writer.write(_line(text))
    finally:
        writer.close()


def _line(text: str) -> str:
    return f"{time.strftime('%H:%M:%S')} pipe | {text}\n"
