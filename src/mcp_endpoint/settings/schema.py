"""The sections of the configuration: every setting with its type, range, unit, default and reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

KIB: Final = 1024
MIB: Final = 1024 * KIB

Seconds = Annotated[float, Meta(gt=0, le=86_400, extra={"unit": "seconds"})]
Bytes = Annotated[int, Meta(ge=1_024, le=1_024 * MIB, extra={"unit": "bytes"})]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]


class Server(Struct, frozen=True, kw_only=True):
    """`[server]`: where the program listens, how it is reached and the key of its tokens."""

    host: Annotated[str, Meta(min_length=1, description="address to listen on; 0.0.0.0 is every IPv4 address of the machine")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535, description="TCP port to listen on; 0 takes any free one")] = 8004
    debug: Annotated[bool, Meta(description="debug lines and tracebacks in the log; never shown to peers")] = False
    log_level: Annotated[
        Literal["TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL"],
        Meta(description="least important lines to log"),
    ] = "INFO"
    key: Annotated[str, Meta(description="secret that tokens are made and verified with; made on first start")] = ""
    public_url: Annotated[
        str,
        Meta(
            # manager-api derives the device address by replacing "/mcp/" by "/call/" everywhere in the tool address
            pattern=r"^(?!.*/mcp(/|$))(https?://(\[[0-9a-fA-F:.]+\]|[^/?#\s@:\[\]]+)(:\d{1,5})?(/[^?#\s]*)?)?$",
            description="address under which devices and tools reach this server, as printed at start",
            extra={
                "en": "http(s)://HOST[:PORT][/PATH] without a user, a query or a path part named mcp",
                "zh": "http(s)://主机[:端口][/路径]，不带用户名、查询参数，路径中不能有名为 mcp 的一段",
            },
        ),
    ] = ""
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(
            description="addresses of reverse proxies whose X-Forwarded-* headers are believed",
            extra={"en": "IP addresses or networks such as 172.16.0.0/12", "zh": "IP 地址或网段，例如 172.16.0.0/12"},
        ),
    ] = ()
    tls_cert: Annotated[str, Meta(description="PEM file with the certificate chain; wss without a proxy")] = ""
    tls_key: Annotated[str, Meta(description="PEM file with the certificate's private key")] = ""
    drain_seconds: Annotated[
        float, Meta(ge=0, le=3_600, description="how long calls in flight may finish after SIGTERM", extra={"unit": "seconds"})
    ] = 25.0
    legacy_sse: Annotated[bool, Meta(description="also offer MCP over HTTP+SSE (revision 2024-11-05) at /sse, for old clients")] = False
    print_addresses: Annotated[bool, Meta(description="print the two addresses of a xiaozhi installation at start")] = True


class WebSocket(Struct, frozen=True, kw_only=True):
    """`[websocket]`: limits and timeouts of WebSocket links."""

    max_connections: Annotated[Count, Meta(description="links at the same time; beyond, the endpoint with most gives way")] = 1000
    ping_interval: Annotated[Seconds, Meta(description="silence after which a peer is pinged; proxies cut idle links after 60")] = 30.0
    ping_timeout: Annotated[Seconds, Meta(description="how long a pinged peer may stay silent before its link ends")] = 10.0
    close_timeout: Annotated[Seconds, Meta(description="how long a peer may take to answer a close frame")] = 10.0


class Security(Struct, frozen=True, kw_only=True):
    """`[security]`: access control."""

    allowed_origins: Annotated[
        tuple[str, ...], Meta(description="web pages (Origin) that may connect; * is all, but opens what needs no secret to none")
    ] = ("*",)
    enable_cors: Annotated[bool, Meta(description="answer browsers' CORS preflights for the allowed origins")] = True
    allowed_hosts: Annotated[
        tuple[str, ...], Meta(description="names (Host) this server answers to; empty is the built-in rule against DNS rebinding")
    ] = ()
    opaque_tokens: Annotated[
        Literal["loopback", "always", "never"], Meta(description="who may use a token of free choice: local peers, everybody, nobody")
    ] = "loopback"
    agents: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")], ...],
        Meta(
            description="agent ids that may use xiaozhi tokens; empty is all",
            extra={"en": "agent ids of 1 to 64 letters, digits, _ and -", "zh": "智能体 id，1 到 64 个字母、数字、_ 和 -"},
        ),
    ] = ()


class Logging(Struct, frozen=True, kw_only=True):
    """`[logging]`: the log file."""

    log_file: Annotated[str, Meta(description="log file, below the root folder unless absolute; empty is none")] = "logs/mcp_server.log"
    max_file_size: Annotated[int, Meta(ge=1_000, le=10**12, description="size at which a new log file begins", extra={"unit": "bytes"})] = (
        10_000_000
    )
    backup_count: Annotated[int, Meta(ge=0, le=1_000, description="full log files that are kept beside the current one")] = 5
    format: Annotated[Literal["text", "json"], Meta(description="one line of text or one JSON object per event")] = "text"
    queue_size: Annotated[
        int,
        Meta(
            ge=1_000,
            le=10**9,
            description="lines that wait for a console or file that is slow; what finds no room is counted",
            extra={"unit": "bytes"},
        ),
    ] = 1_000_000


class ToolSettings(Struct, frozen=True, kw_only=True):
    """`[endpoint.tools."NAME"]`: settings of one tool, by the name that devices see."""

    timeout: Annotated[float, Meta(gt=0, le=300, description="how long a call of this tool may take", extra={"unit": "seconds"})] = 25.0


class EndpointSettings(Struct, frozen=True, kw_only=True):
    """`[endpoint]`: how endpoints connect devices and tools."""

    greet: Annotated[
        Literal["consumer", "endpoint"], Meta(description="whose initialize a provider receives: the first device's or this server's own")
    ] = "consumer"
    call_timeout: Annotated[
        float, Meta(gt=0, le=300, description="how long a call may take; xiaozhi-server gives up after 30", extra={"unit": "seconds"})
    ] = 25.0
    hold_empty_list_for: Annotated[
        tuple[str, ...],
        Meta(description="client names (*, ? and […] as in file names) whose tools/list waits for all tools, because they never ask again"),
    ] = ("*MCPEndpointClient*", "nilo-server")
    hold_seconds: Annotated[
        float,
        Meta(gt=0, le=300, description="how long such a list waits for a tool that does not answer yet", extra={"unit": "seconds"}),
    ] = 15.0
    inline_references_for: Annotated[
        tuple[str, ...],
        Meta(description="client names (*, ? and […]) whose lists of tools have $ref resolved in place, because they do not look up $defs"),
    ] = ()
    structured_as_text: Annotated[
        Literal["old", "always", "never"],
        Meta(description="who gets the JSON of a result that is only structuredContent as text too; old asks for MCP before 2025-06-18"),
    ] = "old"
    tools: Mapping[str, ToolSettings] = {}


class Providers(Struct, frozen=True, kw_only=True):
    """`[providers]`: the managed servers."""

    file: Annotated[str, Meta(description="file with an mcpServers block, below the root folder unless absolute; empty is none")] = ""
    endpoints: Annotated[
        tuple[str, ...], Meta(description='endpoints its servers are for, by their printed names; an entry\'s own "endpoints" goes before')
    ] = ("*",)


class Api(Struct, frozen=True, kw_only=True):
    """`[api]`: the HTTP API over managed servers, behind JSON Web Tokens."""

    secret: Annotated[str, Meta(description="signs and checks its tokens, at least 32 bytes; empty turns the API off")] = ""
    algorithm: Annotated[Literal["HS256", "HS384", "HS512"], Meta(description="the one algorithm its tokens may have")] = "HS256"
    old_secrets: Annotated[tuple[str, ...], Meta(description="secrets whose tokens are still valid; secret alone signs new ones")] = ()
    issuer: Annotated[str, Meta(description="what tokens must name as iss; empty is anything")] = ""
    audience: Annotated[str, Meta(description="what tokens must name as aud; empty refuses tokens that name one")] = ""
    requests_per_minute: Annotated[int, Meta(ge=0, le=1_000_000, description="requests a user may make; 429 beyond, 0 is any number")] = 0
    urls: Annotated[tuple[str, ...], Meta(description="MCP servers it reaches by URL, beside those of [providers]")] = ()
    endpoints: Annotated[tuple[str, ...], Meta(description="endpoints whose tools it offers too, by their printed names")] = ()
    request_log: Annotated[
        str, Meta(description="file with a line of JSON per request, below the root folder unless absolute; - is stdout, empty is none")
    ] = "logs/api.jsonl"


class ConsoleSettings(Struct, frozen=True, kw_only=True):
    """`[console]`: the pages for people, behind the key."""

    on: Annotated[bool, Meta(description="pages at /console for whoever has the key; nothing of them is loaded before they are opened")] = (
        True
    )


class Recorder(Struct, frozen=True, kw_only=True):
    """`[recorder]`: what is kept of what devices, tools and models said."""

    on: Annotated[bool, Meta(description="keep a record of each call")] = False
    file: Annotated[
        str,
        Meta(min_length=1, description="SQLite file of the records, below the root folder unless absolute; its owner alone may read it"),
    ] = "data/records.db"
    keep_bytes: Annotated[
        int,
        Meta(ge=1_000, le=10**13, description="size of that file beyond which the oldest records go", extra={"unit": "bytes"}),
    ] = 200_000_000
    keep_days: Annotated[int, Meta(ge=1, le=36_500, description="age at which a record goes, in days")] = 7
    raw: Annotated[bool, Meta(description="keep secrets too; only on a server that listens on loopback")] = False
    redact: Annotated[
        tuple[str, ...],
        Meta(description="more parts of names whose values are secret, of 3 letters or more, beside token, password, api_key and the like"),
    ] = ()
    endpoints: Annotated[
        tuple[str, ...], Meta(description="endpoints that are recorded, by their printed names; *, ? and […] may be used")
    ] = ("*",)
    files: Annotated[
        str, Meta(description="folder for a JSON file per HTTP exchange too, below the root folder unless absolute; empty is none")
    ] = ""


class CredentialSettings(Struct, frozen=True, kw_only=True):
    """`[credentials.NAME]`: a pool of keys of an upstream."""

    accounts: Annotated[str, Meta(description="file with lines user|password|sk-…, below the root folder unless absolute")] = ""
    file: Annotated[str, Meta(description="file with one key per line, below the root folder unless absolute")] = ""
    env: Annotated[str, Meta(description="environment variable with keys, separated by commas, blanks or lines")] = ""
    bans: Annotated[str, Meta(description="where banned keys are remembered; empty is data/NAME.bans.json")] = ""
    rest_seconds: Annotated[
        float,
        Meta(gt=0, le=86_400, description="how long a key rests after 429 or a fault, unless Retry-After says", extra={"unit": "seconds"}),
    ] = 60.0
    spent_seconds: Annotated[
        float,
        Meta(gt=0, le=2_678_400, description="how long a key rests that has no money or quota left", extra={"unit": "seconds"}),
    ] = 3600.0
    recheck_seconds: Annotated[
        float,
        Meta(ge=0, le=31_622_400, description="after how long one request tries a banned key again; 0 is never", extra={"unit": "seconds"}),
    ] = 86_400.0
    retries: Annotated[int, Meta(ge=0, le=100, description="how many other keys a request is tried with")] = 3


class GatewaySettings(Struct, frozen=True, kw_only=True):
    """`[[gateway]]`: a named HTTP route to an upstream."""

    name: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_-]{1,64}\Z",
            description="its path is /gateway/NAME/",
            extra={"en": "1 to 64 letters, digits, _ and -", "zh": "1 到 64 个字母、数字、_ 和 -"},
        ),
    ]
    target: Annotated[
        str,
        Meta(
            pattern=r"^https?://[^/?#\s@]+[^#\s]*\Z",
            description="the upstream's URL; what follows /gateway/NAME/ is added to its path",
            extra={"en": "an http:// or https:// URL", "zh": "http:// 或 https:// 地址"},
        ),
    ]
    credentials: Annotated[str, Meta(description="the pool of [credentials.NAME] its requests take turns with; empty is none")] = ""
    place: Annotated[
        str,
        Meta(
            pattern=r"^(bearer|(query|header):[!#$%&'*+.^_`|~0-9A-Za-z-]+)\Z",
            description="where a key goes: query:NAME, header:NAME or bearer",
            extra={"en": "bearer, query:NAME or header:NAME", "zh": "bearer、query:参数名 或 header:头名"},
        ),
    ] = "bearer"
    timeout: Annotated[float, Meta(gt=0, le=86_400, description="how long the upstream may be silent", extra={"unit": "seconds"})] = 300.0
    kind: Annotated[
        Literal["http", "llm"], Meta(description="what the upstream is; llm is a model API: its rules for paths and keys hold")
    ] = "http"
    record: Annotated[bool, Meta(description="whether its exchanges are recorded while the recorder is on")] = True


class DialSettings(Struct, frozen=True, kw_only=True):
    """`[[dial]]`: a remote endpoint that gets the tools of a local one."""

    name: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_-]{1,64}\Z",
            description="what it is called in the log, /stats and /metrics",
            extra={"en": "1 to 64 letters, digits, _ and -", "zh": "1 到 64 个字母、数字、_ 和 -"},
        ),
    ]
    url: Annotated[
        str,
        Meta(
            pattern=r"^(wss?://[^/?#\s@]+[^#\s]*|\$\{[A-Za-z_][A-Za-z0-9_]*\}[^#\s]*)\Z",
            description="the address its console shows, with the token; ${NAME} is that environment variable",
            extra={
                "en": "a wss:// or ws:// address without blanks, where ${NAME} is an environment variable",
                "zh": "wss:// 或 ws:// 地址，不含空格；${NAME} 表示环境变量",
            },
        ),
    ]
    endpoint: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_-]{1,64}\Z",
            description="the endpoint of this server whose tools it gets, by its printed name",
            extra={"en": "the name of an endpoint: 1 to 64 letters, digits, _ and -", "zh": "接入点名称：1 到 64 个字母、数字、_ 和 -"},
        ),
    ] = "single_module"


class Limits(Struct, frozen=True, kw_only=True):
    """`[limits]`: every bound of the program; names ending in `_bytes` and `_seconds` give the unit, the others are counts."""

    provider_message_bytes: Annotated[Bytes, Meta(description="largest message from a provider; 1009 beyond")] = 8 * MIB
    consumer_message_bytes: Annotated[Bytes, Meta(description="largest message from a device; 1009 beyond")] = MIB
    device_answer_bytes: Annotated[Bytes, Meta(description="largest answer to a device; xiaozhi-server hangs beyond 1 MiB")] = MIB
    http_answer_bytes: Annotated[Bytes, Meta(description="largest answer to an HTTP consumer")] = 8 * MIB
    in_flight_per_consumer: Annotated[Count, Meta(description="calls one consumer may have waiting; -32005 beyond")] = 256
    in_flight_per_endpoint: Annotated[Count, Meta(description="calls one endpoint may have waiting; -32005 beyond")] = 2048
    queued_bytes_per_link: Annotated[Bytes, Meta(description="bytes waiting for a slow reader; bounds memory per link")] = 8 * MIB
    overfull_times: Annotated[Count, Meta(description="a queue this many times over queued_bytes_per_link ends the link at once")] = 4
    stalled_seconds: Annotated[Seconds, Meta(description="a full queue without progress for this long ends the link with 1013")] = 30.0
    buffered_bytes: Annotated[
        Bytes, Meta(description="bytes kept for all connections together, unfinished messages and queues; beyond, the fattest is closed")
    ] = 64 * MIB
    message_seconds: Annotated[Seconds, Meta(description="time to send a complete message; 1008 beyond")] = 60.0
    fragments: Annotated[Count, Meta(description="fragments of one WebSocket message; 1008 beyond")] = 1000
    bad_frames: Annotated[Count, Meta(description="frames of a consumer that are not JSON-RPC; 1008 beyond")] = 20
    tools_per_endpoint: Annotated[Count, Meta(description="tools of one endpoint; further ones are left out of the catalog")] = 512
    list_page_bytes: Annotated[Bytes, Meta(description="one page of a merged list that is too much for one answer")] = 256 * KIB
    handshake_seconds: Annotated[Seconds, Meta(description="time to send a complete HTTP head; ends half-sent requests")] = 10.0
    handshake_bytes: Annotated[Bytes, Meta(description="size of an HTTP head")] = 16 * KIB
    unfinished_handshakes: Annotated[Count, Meta(description="sockets that have not finished their HTTP head")] = 1000
    failed_tokens_per_minute: Annotated[Count, Meta(description="bad tokens from one address; 429 beyond")] = 10
    failed_token_addresses: Annotated[Count, Meta(description="addresses remembered for bad tokens")] = 10_000
    late_answers: Annotated[Count, Meta(description="expired or cancelled calls remembered, so that their answers count as late")] = 1024
    initialize_seconds: Annotated[Seconds, Meta(description="time a provider has to answer initialize; manager-api waits 10")] = 8.0
    list_seconds: Annotated[Seconds, Meta(description="time a provider has to answer a list; manager-api waits 10")] = 8.0
    merged_list_seconds: Annotated[Seconds, Meta(description="after this a merged list goes out with what has come")] = 5.0
    own_initialize_seconds: Annotated[
        Seconds, Meta(description="time a provider has to answer this server's own initialize; then it counts as bare")
    ] = 5.0
    progress_seconds: Annotated[Seconds, Meta(description="longest life of a call that reports progress")] = 300.0
    ask_seconds: Annotated[Seconds, Meta(description="time a device has to answer a request of a tool (sampling, elicitation, roots)")] = (
        10.0
    )
    http_ask_seconds: Annotated[Seconds, Meta(description="the same for an HTTP client, where a person may have to decide")] = 300.0
    grace_seconds: Annotated[Seconds, Meta(description="how long the tools of a lost provider stay listed")] = 10.0
    grace_call_seconds: Annotated[Seconds, Meta(description="how long a call to a lost tool waits for its return")] = 4.0
    hold_quiet_seconds: Annotated[Seconds, Meta(description="a held list is answered when no tool has come for this long")] = 1.0
    list_changed_seconds: Annotated[Seconds, Meta(description="least time between two list_changed to a consumer")] = 1.0
    integer_id_chars: Annotated[int, Meta(ge=10, le=1_000, description="digits of an integer request id; 64-bit numbers have 20")] = 20
    string_id_bytes: Annotated[
        int, Meta(ge=36, le=65_536, description="bytes of a string request id; a UUID has 36", extra={"unit": "bytes"})
    ] = 128
    gateway_connections: Annotated[Count, Meta(description="connections to the upstream of one gateway; more requests wait")] = 1000
    gateway_retry_bytes: Annotated[Bytes, Meta(description="a gateway's request above this is sent once, because it is not kept")] = MIB
    remembered_endpoints: Annotated[Count, Meta(description="empty endpoints whose last close reason is kept for hints")] = 1024
    http_requests: Annotated[Count, Meta(description="HTTP requests being answered at a time, streams too; shared as links are")] = 2000
    http_bodies: Annotated[Count, Meta(description="HTTP bodies being received at a time, half of them for one holder; 503 beyond")] = 128
    body_seconds: Annotated[Seconds, Meta(description="time to send the body of an HTTP request; 408 beyond")] = 30.0
    checked_bytes: Annotated[Bytes, Meta(description="arguments or a tool's description above this are not checked by the API")] = 256 * KIB
    http_sessions: Annotated[Count, Meta(description="MCP sessions over HTTP; shared as links are, an unused one goes first")] = 10_000
    http_idle_seconds: Annotated[Seconds, Meta(description="a session nobody uses ends after this")] = 1_800.0
    http_replay_bytes: Annotated[
        Bytes, Meta(description="what HTTP clients have not read, or may come back for; beyond, the endpoint with most pays")
    ] = 64 * MIB
    http_streams: Annotated[Count, Meta(description="subscriptions (revision 2026-07-28) open at a time; shared as links are")] = 1000
    parked_rounds: Annotated[Count, Meta(description="calls that wait for a client's answers (input_required); shared as links are")] = 1000
    console_streams: Annotated[Count, Meta(description="pages of the console that follow records at a time; 503 beyond")] = 100
    metric_endpoints: Annotated[Count, Meta(description="endpoints that calls are counted by in /metrics; later ones are `other`")] = 50
    metric_tools: Annotated[Count, Meta(description="tools of one endpoint that calls are counted by; later ones are `other`")] = 100
    record_queue_bytes: Annotated[
        Bytes, Meta(description="what waits for the writer of records; beyond, the newest is dropped and counted")
    ] = 16 * MIB
    record_call_bytes: Annotated[Bytes, Meta(description="what is recorded of a call's request and of its answer, each")] = 64 * KIB
    record_body_bytes: Annotated[Bytes, Meta(description="what is recorded of each body of an exchange with a model")] = MIB
    record_batch_seconds: Annotated[
        Seconds, Meta(description="how long a record waits for others before they go to the writer together")
    ] = 0.05


class Config(Struct, frozen=True, kw_only=True):
    """All settings; frozen, built by `load`."""

    server: Server = Server()
    websocket: WebSocket = WebSocket()
    security: Security = Security()
    logging: Logging = Logging()
    endpoint: EndpointSettings = EndpointSettings()
    providers: Providers = Providers()
    api: Api = Api()
    recorder: Recorder = Recorder()
    console: ConsoleSettings = ConsoleSettings()

    limits: Limits = Limits()
    credentials: Mapping[str, CredentialSettings] = {}
    gateway: tuple[GatewaySettings, ...] = ()
    dial: tuple[DialSettings, ...] = ()
