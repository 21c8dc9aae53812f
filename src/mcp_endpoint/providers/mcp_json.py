"""Reads an `mcpServers` block as used by Claude Desktop, Cursor, VS Code, Gemini, mcp_pipe and others.

The block is called `mcpServers`, or `servers` (VS Code). Comments and trailing commas are allowed, as in VS Code's JSON. An invalid entry
does not run: it is returned with its place and the remedy, and the other entries are used.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import msgspec
from msgspec import UNSET

from ..core.catalog import NAME_CHARS
from ..errors import ConfigError
from ..files import read_bytes, why_not
from ..protocol.jsonrpc import Malformed, members
from ..settings import env_file
from .command import Command, environment
from .entry import ServerEntry, Wire
from .tool_filter import ToolChange, collisions

WIRES: Final[Mapping[str, Wire]] = {"stdio": "stdio", "sse": "sse", "http": "http", "streamablehttp": "http"}
"""Values of `type`, `transport` and `transportType`, compared without case, `-` and `_`."""
LONGEST_CALL_SECONDS: Final = 300.0
"""Upper limit of a `timeout`, as in `[endpoint.tools]`."""
MILLISECONDS_FROM: Final = 1000.0
"""A `timeout` from here on is in milliseconds, as some programs with this block write it."""
SECRET_CHARS: Final = 6
"""A shorter value is not treated as a secret: `1`, `true` and `info` occur everywhere."""

_VARIABLE: Final = re.compile(r"\$\{(?:env:)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<otherwise>[^}]*))?\}")
_PLACEHOLDER: Final = re.compile(r"\$\{[A-Za-z][A-Za-z0-9_.-]*(?::[A-Za-z][^}]*)?\}")
"""A remaining placeholder such as `${input:key}` of VS Code. Other uses of `${` belong to a shell."""
_ASIDE: Final = re.compile(rb'"(?:[^"\\\n]|\\.)*"|//[^\r\n]*|/\*.*?\*/', re.DOTALL)
_LAST_COMMA: Final = re.compile(rb'"(?:[^"\\\n]|\\.)*"|,(?=\s*[}\]])')
_WRONG_TYPE: Final = re.compile(r"Expected `(?P<wanted>[^`]*)`, got `(?P<got>[^`]*)`(?: - at `(?P<path>[^`]*)`)?")
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f]{1,64}")
_TOOL_NAME: Final = re.compile(rf"[A-Za-z0-9_\u4e00-\u9fff-]{{1,{NAME_CHARS}}}")
"""A name that every device accepts: xiaozhi-server replaces other characters, and language models limit the length."""
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
"""msgspec's name of a JSON type → English, Chinese."""

Scalar = str | int | float


class _Entry(msgspec.Struct):
    """One entry as written; unknown members are ignored."""

    command: str | None = None
    args: list[Scalar] = []
    env: dict[str, Scalar] | None = None
    cwd: str | None = None
    url: str | None = None
    http_url: str | None = msgspec.field(default=None, name="httpUrl")
    server_url: str | None = msgspec.field(default=None, name="serverUrl")
    headers: dict[str, Scalar] | None = None
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
    """Whether an entry is disabled, even if it is otherwise invalid."""

    disabled: object = None
    enabled: object = None


class _Block(msgspec.Struct):
    mcp_servers: dict[str, msgspec.Raw] | None = msgspec.field(default=None, name="mcpServers")
    servers: dict[str, msgspec.Raw] | None = None


class Entries(NamedTuple):
    """The content of a file: valid servers by name, disabled entries (English, Chinese), and the errors of invalid ones."""

    servers: Mapping[str, ServerEntry]
    left_out: tuple[tuple[str, str], ...]
    wrong: Mapping[str, ConfigError]


def read(file: Path, environ: Mapping[str, str]) -> Entries:
    """Read the servers of `file`.

    `${VAR}`, `${env:VAR}` and `${VAR:-default}` refer to variables of `environ`, in `command`, `args`, `env`, `envFile`, `cwd`, `url` and
    `headers`; a relative `cwd` or `envFile` is below the file's folder. Raises ConfigError, with file:line:column if possible, for a file
    that cannot be read or contains no such block.
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
    servers: dict[str, ServerEntry] = {}
    left_out: list[tuple[str, str]] = []
    wrong: dict[str, ConfigError] = {}
    places, repeated = _places(file, text, key)
    for name, raw in entries.items():
        reading = _Reading(name, f"{key}.{name}", places.get(name, str(file)), file, environ)
        try:
            if name in repeated:
                raise reading.wrong("appears twice: rename one of them", "出现了两次，请改名")
            server = reading.server(raw)
        except ConfigError as error:
            wrong[name] = error
        else:
            if server is None:
                left_out.append((f"{name}: disabled", f"{name}：已停用"))
            else:
                servers[name] = server
    return Entries(servers, tuple(left_out), wrong)


def _without_remarks(text: bytes) -> bytes:
    """Replace comments and trailing commas by blanks, so that places stay the same."""
    if b"//" in text or b"/*" in text:
        text = _ASIDE.sub(lambda found: found[0] if found[0][:1] == b'"' else re.sub(rb"[^\r\n]", b" ", found[0]), text)
    return _LAST_COMMA.sub(lambda found: found[0] if found[0][:1] == b'"' else b" ", text)


class _Reading:
    """Converts one entry; knows its name and place for error messages."""

    def __init__(self, name: str, path: str, place: str, file: Path, environ: Mapping[str, str]) -> None:
        self._name = name
        self._path = path
        self._place = place
        self._file = file
        self._environ = environ
        self._filled: set[str] = set()

    def server(self, raw: msgspec.Raw) -> ServerEntry | None:
        """The entry as a ServerEntry; None if it is disabled. Raises ConfigError for an invalid one."""
        try:
            switches = msgspec.json.decode(raw, type=_Switches)
            if switches.disabled is True or switches.enabled is False:
                return None
            entry = msgspec.json.decode(raw, type=_Entry)
        except (msgspec.DecodeError, RecursionError) as error:
            raise self._unusable(error) from error
        if _NAME.fullmatch(self._name) is None:
            raise self.wrong("its name must be 1 to 64 printable characters", "名称须为 1 到 64 个可见字符")
        label = entry.label or self._name
        if _NAME.fullmatch(label) is None:
            raise self.wrong('its "label" must be 1 to 64 printable characters', '"label" 须为 1 到 64 个可见字符')
        wire = self._wire(entry)
        command = self._command(entry) if wire == "stdio" else None
        url = "" if wire == "stdio" else self._url(entry)
        headers = {} if wire == "stdio" else self._headers(entry)
        own = {*headers.values(), *_secrets_of(url)} if command is None else {command.env[key] for key in entry.env or ()}
        return ServerEntry(
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
                return "http"  # Gemini's name for Streamable HTTP
            return "any" if url else "stdio"
        wire = WIRES.get(said.lower().replace("-", "").replace("_", ""))
        if wire is None:
            raise self.wrong(
                f'type "{said}" is not one of stdio, sse, http, streamable-http', f'type "{said}" 不是 stdio、sse、http、streamable-http'
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
        """The variables in its `envFile`."""
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
            raise self.wrong('its "url" must begin with http:// or https://', '"url" 须以 http:// 或 https:// 开头')
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
            raise self.wrong('"credentials" and "place" must be given together', '"credentials" 与 "place" 必须同时给出')
        if place and (_PLACE.fullmatch(place) is None or place.startswith("env:") != (wire == "stdio")):
            wanted = "env:NAME" if wire == "stdio" else "query:NAME, header:NAME or bearer"
            raise self.wrong(f'its "place" must be {wanted}', f'"place" 须为 {wanted.replace(" or ", " 或 ")}')
        return place

    def _tools(self, given: msgspec.Raw | msgspec.UnsetType) -> dict[str, ToolChange]:
        if given is UNSET or msgspec.json.decode(given) in (None, ["*"]):
            return {}  # GitHub Copilot writes ["*"] for all tools
        try:
            named = msgspec.json.decode(given, type=dict[str, msgspec.Raw])
            members(given)
        except msgspec.ValidationError:
            raise self.wrong(
                '"tools" must be an object {"name": {…}}; select tools by "allow" and "deny"',
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
                f'tools.{own}: another tool is also named "{name}": rename one of them',
                f'tools.{own}：另一个工具也名为 "{name}"，请为其中一个改名',
            )
        return changes

    def _timeout(self, given: float | None) -> float | None:
        if given is None:
            return None
        if given <= 0:
            raise self.wrong('its "timeout" must be more than 0 seconds', '"timeout" 须大于 0 秒')
        return min(given / 1000 if given >= MILLISECONDS_FROM else given, LONGEST_CALL_SECONDS)

    def _fill(self, text: Scalar, *, whole: bool = False) -> str:
        """`text` with its variables substituted. With `whole` no `${…}` may remain."""
        given = str(text)
        left = _VARIABLE.sub("", given)
        placeholder = re.search(r"\$\{[^}]*\}?", left) if whole else _PLACEHOLDER.search(left)
        if placeholder is not None:
            shown = placeholder[0]
            raise self.wrong(
                f"contains the placeholder {shown}, which is not filled in here: write the value, or ${{NAME}} for an environment variable",
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
        """An error of this entry, with its place."""
        return ConfigError(f"{self._path}: {en}", f"{self._path}：{zh}", place=self._place)

    def _unusable(self, error: Exception, within: str = "") -> ConfigError:
        """The error for a wrong type, naming the member and the remedy."""
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
            en, zh = f"{en}: set a value or delete the line", f"{zh}：请写上值或删除这一行"
        elif "str" in wanted:
            en, zh = f"{en}: put it in quotes", f"{zh}：请加上引号"
        elif got == "str" and ("float" in wanted or "bool" in wanted):
            en, zh = f"{en}: write it without quotes", f"{zh}：请去掉引号"
        return self.wrong(en, zh)


def _secrets_of(url: str) -> set[str]:
    """The parts of a URL that may be secret: user, password and values of the query."""
    parts = urlsplit(url)
    return {*filter(None, (parts.username, parts.password)), *(value for _, value in parse_qsl(parts.query))}


def _patterns(given: str | list[str] | None) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given or ())


def _places(file: Path, text: bytes, key: str) -> tuple[dict[str, str], set[str]]:
    """The place of each entry, and the names that occur twice. Raises ConfigError if the block itself does."""
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
    """The place of the byte in msgspec's message; the end of a truncated file; only the file if there is no byte."""
    named = re.search(r"\(byte (\d+)\)", str(error))
    if named is not None:
        return _at(file, text, int(named[1]))
    return str(file) if isinstance(error, msgspec.ValidationError) else _at(file, text, len(text.rstrip()))


def _at(file: Path, text: bytes, byte: int) -> str:
    """`file:line:column`, counted from 1, columns in characters."""
    before = text[:byte].decode("utf-8", "replace")
    return f"{file}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"
