"""Reads the block of servers that Claude Desktop, Cursor, VS Code, Gemini, mcp_pipe and others share.

The block is called `mcpServers`, or `servers` (VS Code). Comments and commas before a closing bracket are allowed, as in VS Code's JSON.
One entry that cannot be used is one server that does not run: it is given with its place and the remedy, and the others are read.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import msgspec
from msgspec import UNSET

from ..core.broker import INNER
from ..core.catalog import NAME_CHARS
from ..errors import ConfigError
from ..files import read_bytes, why_not
from ..log import BLOT
from ..protocol.jsonrpc import Malformed, members
from ..settings import env_file
from .process.child import Command, environment
from .tool_filter import ToolChange, collisions

Wire = Literal["stdio", "http", "sse", "any"]
"""How a server is spoken to; `any` is a URL whose entry does not say: Streamable HTTP, else HTTP+SSE."""
WIRES: Final[Mapping[str, Wire]] = {"stdio": "stdio", "sse": "sse", "http": "http", "streamablehttp": "http"}
"""What `type`, `transport` and `transportType` may say, without regard to case, `-` and `_`."""
LONGEST_CALL_SECONDS: Final = 300.0
"""The most a `timeout` gives, as for `[endpoint.tools]`."""
MILLISECONDS_FROM: Final = 1000.0
"""From here on a `timeout` is read as milliseconds, which is what some programs that share this block write."""
SECRET_CHARS: Final = 6
"""A value shorter than this is no secret and is not looked for in what a server says: `1`, `true` and `info` are everywhere."""

_VARIABLE: Final = re.compile(r"\$\{(?:env:)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<otherwise>[^}]*))?\}")
_PLACEHOLDER: Final = re.compile(r"\$\{[A-Za-z][A-Za-z0-9_.-]*(?::[A-Za-z][^}]*)?\}")
"""What is left in an argument when every variable is filled in: `${input:key}` of VS Code. Other uses of `${` belong to a shell."""
_ASIDE: Final = re.compile(rb'"(?:[^"\\\n]|\\.)*"|//[^\r\n]*|/\*.*?\*/', re.DOTALL)
_LAST_COMMA: Final = re.compile(rb'"(?:[^"\\\n]|\\.)*"|,(?=\s*[}\]])')
_WRONG_TYPE: Final = re.compile(r"Expected `(?P<wanted>[^`]*)`, got `(?P<got>[^`]*)`(?: - at `(?P<path>[^`]*)`)?")
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f]{1,64}")
_TOOL_NAME: Final = re.compile(rf"[A-Za-z0-9_\u4e00-\u9fff-]{{1,{NAME_CHARS}}}")
"""A name that every device takes: xiaozhi-server replaces all other characters, and language models take no longer one."""
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_URL: Final = re.compile(r"https?://[^/?#\s][^\s]*")
_PLACE: Final = re.compile(r"bearer|(?:query|header|env):[!#$%&'*+.^_`|~0-9A-Za-z-]+")

_KINDS: Final = {
    "null": ("null", "null"),
    "bool": ("true or false", "true 或 false"),
    "str": ("a text", "文本"),
    "int": ("a number", "数字"),
    "float": ("a number", "数字"),
    "array": ("a list […]", "列表 […]"),
    "object": ("an object {…}", "对象 {…}"),
}
"""What msgspec calls a JSON value, in words."""

Word = str | int | float


class _Entry(msgspec.Struct):
    """One server as people write it; what else stands there is somebody else's business."""

    command: str | None = None
    args: list[Word] = []
    env: dict[str, Word] | None = None
    cwd: str | None = None
    url: str | None = None
    http_url: str | None = msgspec.field(default=None, name="httpUrl")
    server_url: str | None = msgspec.field(default=None, name="serverUrl")
    headers: dict[str, Word] | None = None
    env_file: str | None = msgspec.field(default=None, name="envFile")
    type: str | None = None
    transport: str | None = None
    transport_type: str | None = msgspec.field(default=None, name="transportType")
    disabled: bool | None = None
    enabled: bool | None = None
    timeout: float | None = None
    endpoints: str | list[str] | None = None
    allow: str | list[str] | None = None
    deny: str | list[str] | None = None
    tools: msgspec.Raw | msgspec.UnsetType = UNSET
    label: str | None = None
    credentials: str | None = None
    place: str | None = None


class _Switches(msgspec.Struct):
    """Whether an entry is switched off, whatever else is wrong with it."""

    disabled: object = None
    enabled: object = None


class _Block(msgspec.Struct):
    mcp_servers: dict[str, msgspec.Raw] | None = msgspec.field(default=None, name="mcpServers")
    servers: dict[str, msgspec.Raw] | None = None


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """One server of the block, ready to be started or dialled. Two that are equal need not be told apart."""

    name: str
    label: str
    """What its tools go by, and its internal endpoint; servers with the same label are replicas."""
    wire: Wire
    command: Command | None = None
    """What to start; None for a server reached by URL."""
    url: str = ""
    headers: Mapping[str, str] = {}
    endpoints: tuple[str, ...] | None = None
    """Patterns of the endpoints it serves, by their printable names; None: those of `[providers] endpoints`."""
    allow: tuple[str, ...] = ()
    """Patterns of the tools that are shown; none is all of them."""
    deny: tuple[str, ...] = ()
    """Patterns of the tools that are not."""
    tools: Mapping[str, ToolChange] = {}
    """What is changed of how its tools are shown, by its own names for them."""
    credentials: str = ""
    """The pool of `[credentials.NAME]` it draws from."""
    place: str = ""
    """Where a credential goes: `query:NAME`, `header:NAME`, `bearer` or `env:NAME`."""
    timeout: float | None = None
    """Seconds a call of its tools may take; None: as everywhere."""
    secrets: frozenset[str] = frozenset()
    """Values that are shown to nobody."""

    @property
    def endpoint(self) -> str:
        """The name of its internal endpoint, which no token opens."""
        return f"{INNER}{self.label}"

    @property
    def shown(self) -> str:
        """How its internal endpoint may be printed."""
        return f"server {self.label}"

    def __repr__(self) -> str:
        """Its name alone: an address, a header or a variable may hold a secret."""
        return f"<Server {self.name!r}>"


class Found(NamedTuple):
    """What a file holds: the servers by name, what is switched off, said in (English, Chinese), and what is wrong with the others."""

    servers: Mapping[str, Server]
    left_out: tuple[tuple[str, str], ...]
    wrong: Mapping[str, ConfigError]


def read(file: Path, environ: Mapping[str, str]) -> Found:
    """The servers of `file`.

    `${VAR}`, `${env:VAR}` and `${VAR:-otherwise}` stand for variables of `environ` in `command`, `args`, `env`, `envFile`, `cwd`, `url` and
    `headers`; a relative `cwd` or `envFile` starts at the file's folder. Raises ConfigError, with file:line:column where there is one, for
    a file that cannot be read or is no such block.
    """
    try:
        text = read_bytes(file).removeprefix(b"\xef\xbb\xbf")
        text.decode()
    except (OSError, UnicodeDecodeError) as error:
        en, zh = why_not(error)
        raise ConfigError(f"cannot be read: {en}", f"无法读取：{zh}", place=str(file)) from error
    text = _without_remarks(text)
    try:
        block = msgspec.json.decode(text, type=_Block)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ConfigError(
            f'is not a JSON object with an "mcpServers" block: {error}',
            f'不是带 "mcpServers" 的 JSON 对象：{error}',
            place=_broken_at(file, text, error),
        ) from error
    key = "servers" if block.mcp_servers is None else "mcpServers"
    entries = block.servers if block.mcp_servers is None else block.mcp_servers
    if entries is None:
        raise ConfigError('has no "mcpServers" block', '缺少 "mcpServers"', place=str(file))
    servers: dict[str, Server] = {}
    left_out: list[tuple[str, str]] = []
    wrong: dict[str, ConfigError] = {}
    places, repeated = _places(file, text, key)
    for name, raw in entries.items():
        reading = _Reading(name, f"{key}.{name}", places.get(name, str(file)), file, environ)
        try:
            if name in repeated:
                raise reading.wrong("stands there twice: give one of them another name", "出现了两次，请改名")
            server = reading.server(raw)
        except ConfigError as error:
            wrong[name] = error
        else:
            if server is None:
                left_out.append((f"{name}: disabled", f"{name}：已停用"))
            else:
                servers[name] = server
    return Found(servers, tuple(left_out), wrong)


def _without_remarks(text: bytes) -> bytes:
    """JSON with comments and last commas as JSON of the same length, so that places stay what they are."""
    if b"//" in text or b"/*" in text:
        text = _ASIDE.sub(lambda found: found[0] if found[0][:1] == b'"' else re.sub(rb"[^\r\n]", b" ", found[0]), text)
    return _LAST_COMMA.sub(lambda found: found[0] if found[0][:1] == b'"' else b" ", text)


class _Reading:
    """One entry on its way to a Server: its name and place for complaints, and what its variables stood for."""

    def __init__(self, name: str, path: str, place: str, file: Path, environ: Mapping[str, str]) -> None:
        self._name = name
        self._path = path
        self._place = place
        self._file = file
        self._environ = environ
        self._filled: set[str] = set()

    def server(self, raw: msgspec.Raw) -> Server | None:
        """The entry as a Server; None if it is switched off. Raises ConfigError for one that cannot be used."""
        try:
            switches = msgspec.json.decode(raw, type=_Switches)
            if switches.disabled is True or switches.enabled is False:
                return None
            entry = msgspec.json.decode(raw, type=_Entry)
        except (msgspec.DecodeError, RecursionError) as error:
            raise self._unusable(error) from error
        if _NAME.fullmatch(self._name) is None:
            raise self.wrong("its name has to be 1 to 64 printable characters", "名称须为 1 到 64 个可见字符")
        label = entry.label or self._name
        if _NAME.fullmatch(label) is None:
            raise self.wrong('its "label" has to be 1 to 64 printable characters', '"label" 须为 1 到 64 个可见字符')
        wire = self._wire(entry)
        command = self._command(entry) if wire == "stdio" else None
        url = "" if wire == "stdio" else self._url(entry)
        headers = {} if wire == "stdio" else self._headers(entry)
        own = {*headers.values(), *_secrets_of(url)} if command is None else {command.env[key] for key in entry.env or ()}
        return Server(
            name=self._name,
            label=label,
            wire=wire,
            command=command,
            url=url,
            headers=headers,
            endpoints=None if entry.endpoints is None else _patterns(entry.endpoints),
            allow=_patterns(entry.allow),
            deny=_patterns(entry.deny),
            tools=self._tools(entry.tools),
            credentials=entry.credentials or "",
            place=self._credential_place(entry, wire),
            timeout=self._timeout(entry.timeout),
            secrets=frozenset(value for value in own | self._filled if len(value) >= SECRET_CHARS),
        )

    def _wire(self, entry: _Entry) -> Wire:
        said = entry.type or entry.transport or entry.transport_type
        if said is None:
            url = entry.url or entry.http_url or entry.server_url
            if entry.command and url:
                raise self.wrong('has both "command" and "url"; say which by "type"', '同时有 "command" 和 "url"，请用 "type" 说明用哪个')
            if entry.http_url:
                return "http"  # Gemini's word for Streamable HTTP
            return "any" if url else "stdio"
        wire = WIRES.get(said.lower().replace("-", "").replace("_", ""))
        if wire is None:
            raise self.wrong(
                f'type "{said}" is none of stdio, sse, http, streamable-http', f'type "{said}" 不是 stdio、sse、http、streamable-http'
            )
        return wire

    def _command(self, entry: _Entry) -> Command:
        if not entry.command:
            raise self.wrong('has no "command"; a server on the network has "url" instead', '缺少 "command"；网络上的服务器请写 "url"')
        own = self._of_file(entry) | {key: self._fill(text, whole=True) for key, text in (entry.env or {}).items()}
        return Command(
            program=self._fill(entry.command),
            args=tuple(self._fill(word) for word in entry.args),
            env=environment(self._environ, own),
            cwd=None if entry.cwd is None else str(self._file.parent / self._fill(entry.cwd, whole=True)),
        )

    def _of_file(self, entry: _Entry) -> dict[str, str]:
        """The variables of its `envFile`."""
        if entry.env_file is None:
            return {}
        path = self._file.parent / self._fill(entry.env_file, whole=True)
        try:
            if not path.exists():
                raise self.wrong(f'its "envFile" {entry.env_file} does not exist', f'"envFile" {entry.env_file} 不存在')
            found = env_file.read(path, str(path))
        except ConfigError as error:
            raise (
                error
                if error.place == self._place
                else self.wrong(f'its "envFile": {error.place}: {error.en}', f'"envFile"：{error.place}：{error.zh}')
            ) from error
        self._filled.update(found.values())
        return found

    def _url(self, entry: _Entry) -> str:
        url = self._fill(entry.http_url or entry.url or entry.server_url or "", whole=True).strip()
        if not url:
            raise self.wrong('has no "url"', '缺少 "url"')
        if not _URL.fullmatch(url):
            raise self.wrong('its "url" has to begin with http:// or https://', '"url" 须以 http:// 或 https:// 开头')
        return url

    def _headers(self, entry: _Entry) -> dict[str, str]:
        headers = {name: self._fill(value, whole=True) for name, value in (entry.headers or {}).items()}
        for name, value in headers.items():
            if _HEADER.fullmatch(name) is None or re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
                raise self.wrong(f"the header {name!r} cannot be sent", f"请求头 {name!r} 无法发送")
        return headers

    def _credential_place(self, entry: _Entry, wire: Wire) -> str:
        place = entry.place or ""
        if bool(place) != bool(entry.credentials):
            raise self.wrong('"credentials" and "place" go together', '"credentials" 与 "place" 必须同时给出')
        if place and (_PLACE.fullmatch(place) is None or place.startswith("env:") != (wire == "stdio")):
            wanted = "env:NAME" if wire == "stdio" else "query:NAME, header:NAME or bearer"
            raise self.wrong(f'its "place" has to be {wanted}', f'"place" 须为 {wanted.replace(" or ", " 或 ")}')
        return place

    def _tools(self, given: msgspec.Raw | msgspec.UnsetType) -> dict[str, ToolChange]:
        if given is UNSET or msgspec.json.decode(given) in (None, ["*"]):
            return {}  # GitHub Copilot writes ["*"] for all of them
        try:
            named = msgspec.json.decode(given, type=dict[str, msgspec.Raw])
            members(given)
        except msgspec.ValidationError:
            raise self.wrong(
                '"tools" has to be an object {"name": {…}}; which tools are shown, "allow" and "deny" say',
                '"tools" 须为对象 {"名称": {…}}；显示哪些工具请用 "allow" 和 "deny"',
            ) from None
        except Malformed as error:
            raise self.wrong(f'"tools" cannot be used: {error}', f'"tools" 无法使用：{error}') from error
        changes: dict[str, ToolChange] = {}
        for name, raw in named.items():
            try:
                changes[name] = msgspec.json.decode(raw, type=ToolChange)
            except msgspec.DecodeError as error:
                raise self._unusable(error, f"tools.{name}") from error
            new = changes[name].name
            if new is not None and _TOOL_NAME.fullmatch(new) is None:
                raise self.wrong(
                    f"tools.{name}.name {new!r}: devices take 1 to {NAME_CHARS} letters, digits, _, - and Chinese characters",
                    f"tools.{name}.name {new!r}：设备只接受 1 到 {NAME_CHARS} 个字母、数字、_、- 和汉字",
                )
        for own, name in collisions(changes):
            raise self.wrong(
                f'tools.{own}: another tool is named "{name}" too: give one of them another name',
                f'tools.{own}：另一个工具也名为 "{name}"，请为其中一个改名',
            )
        return changes

    def _timeout(self, given: float | None) -> float | None:
        if given is None:
            return None
        if given <= 0:
            raise self.wrong('its "timeout" has to be more than 0 seconds', '"timeout" 须大于 0 秒')
        return min(given / 1000 if given >= MILLISECONDS_FROM else given, LONGEST_CALL_SECONDS)

    def _fill(self, text: Word, *, whole: bool = False) -> str:
        """`text` with its variables filled in. With `whole` nothing of the form `${…}` may be left."""
        given = str(text)
        left = _VARIABLE.sub("", given)
        placeholder = re.search(r"\$\{[^}]*\}?", left) if whole else _PLACEHOLDER.search(left)
        if placeholder is not None:
            shown = placeholder[0]
            raise self.wrong(
                f"has the placeholder {shown}, which nobody fills in here: write the value, or ${{NAME}} for an environment variable",
                f"含有占位符 {shown}，这里无人填写：请写上值，或用 ${{名称}} 引用环境变量",
            )
        return _VARIABLE.sub(self._value, given)

    def _value(self, variable: re.Match[str]) -> str:
        name, otherwise = variable["name"], variable["otherwise"]
        if otherwise is not None and not self._environ.get(name):
            return otherwise
        if name not in self._environ:
            raise self.wrong(f"needs the environment variable {name}, which is not set", f"需要环境变量 {name}，但它没有设置")
        self._filled.add(self._environ[name])
        return self._environ[name]

    def wrong(self, en: str, zh: str) -> ConfigError:
        """This entry's mistake, with its place."""
        return ConfigError(f"{self._path}: {en}", f"{self._path}：{zh}", place=self._place)

    def _unusable(self, error: Exception, within: str = "") -> ConfigError:
        """What msgspec says of a wrong type `within` a member of the entry, with the member's name in front and the remedy behind."""
        said = _WRONG_TYPE.fullmatch(str(error))
        if said is None:
            en, zh = (f"{within}: ", f"{within}：") if within else ("", "")
            return self.wrong(f"{en}cannot be used: {error}", f"{zh}无法使用：{error}")
        member = (within + (said["path"] or "").removeprefix("$")).removeprefix(".")
        got, wanted = said["got"], [kind for kind in said["wanted"].split(" | ") if kind != "null"]
        names = list(dict.fromkeys(_KINDS.get(kind, (kind, kind)) for kind in wanted))
        got_en, got_zh = _KINDS.get(got, (got, got))
        en = f"{f'{member} ' if member else ''}is {got_en}, expected {' or '.join(name for name, _ in names)}"
        zh = f"{f'{member} ' if member else ''}是 {got_zh}，应为{'或'.join(name for _, name in names)}"
        if got == "null":
            en, zh = f"{en}: give it a value or take the line out", f"{zh}：请写上值或删除这一行"
        elif "str" in wanted:
            en, zh = f"{en}: put it in quotes", f"{zh}：请加上引号"
        elif got == "str" and ("float" in wanted or "bool" in wanted):
            en, zh = f"{en}: write it without quotes", f"{zh}：请去掉引号"
        return self.wrong(en, zh)


def _secrets_of(url: str) -> set[str]:
    """The parts of an address that may be a secret: its user, its password and the values of its query."""
    parts = urlsplit(url)
    return {*filter(None, (parts.username, parts.password)), *(value for _, value in parse_qsl(parts.query))}


def _patterns(given: str | list[str] | None) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given or ())


def _places(file: Path, text: bytes, key: str) -> tuple[dict[str, str], set[str]]:
    """Where each entry stands, and which names stand there twice. Raises ConfigError where the block itself does."""
    try:
        start, end = members(text)[key][1:]
    except Malformed as error:
        raise ConfigError(f'"{key}" cannot be used: {error}', f'"{key}" 无法使用：{error}', place=str(file)) from error
    block = text[start:end]
    try:
        return {name: _at(file, text, start + span.key) for name, span in members(block).items()}, set()
    except Malformed:
        names = Counter(name for name, _ in json.loads(block, object_pairs_hook=list))
        spelled = {name: block.find(json.dumps(name, ensure_ascii=False).encode()) for name in names}
        return {name: _at(file, text, start + max(at, 0)) for name, at in spelled.items()}, {name for name in names if names[name] > 1}


def _broken_at(file: Path, text: bytes, error: Exception) -> str:
    """The place of the byte that msgspec names in its message; the end where the file breaks off; the file alone where it names none."""
    named = re.search(r"\(byte (\d+)\)", str(error))
    if named is not None:
        return _at(file, text, int(named[1]))
    return str(file) if isinstance(error, msgspec.ValidationError) else _at(file, text, len(text.rstrip()))


def _at(file: Path, text: bytes, byte: int) -> str:
    """`file:line:column`, both counted from 1, columns in characters."""
    before = text[:byte].decode("utf-8", "replace")
    return f"{file}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


def mask(server: Server) -> Callable[[str], str]:
    """Takes a server's secrets out of a text it wrote or an error it caused."""
    words = sorted(server.secrets, key=len, reverse=True)
    if not words:
        return str
    secret = re.compile("|".join(map(re.escape, words)))
    return lambda text: secret.sub(BLOT, text)
