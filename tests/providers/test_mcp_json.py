"""Every spelling of the `mcpServers` block, and every mistake in one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mcp_endpoint.errors import ConfigError
from mcp_endpoint.providers.command import Command
from mcp_endpoint.providers.entry import mask
from mcp_endpoint.providers.mcp_json import Entries, read
from mcp_endpoint.providers.tool_filter import ToolChange

OURS = {"PATH": "/bin", "HOME": "/home/me", "AWS_SECRET_ACCESS_KEY": "s3cret-s3cret", "CITY": "杭州"}


def _read(folder: Path, servers: object, *, text: str | None = None) -> Entries:
    file = folder / "mcp.json"
    file.write_text(text if text is not None else json.dumps({"mcpServers": servers}), "utf-8")
    return read(file, OURS)


def _command(found: Entries, name: str) -> Command:
    command = found.servers[name].command
    assert command is not None
    return command


def test_a_command_with_everything(tmp_path: Path) -> None:
    found = _read(
        tmp_path,
        {
            "天气": {
                "type": "stdio",
                "command": "python",
                "args": ["server.py", "--port", 8080],
                "env": {"KEY": "k", "LEVEL": 3},
                "cwd": "tools",
                "timeout": 60,
                "autoApprove": ["*"],
            }
        },
    )
    command = _command(found, "天气")
    assert command.program == "python"
    assert command.args == ("server.py", "--port", "8080")
    assert command.env == {"PATH": "/bin", "HOME": "/home/me", "KEY": "k", "LEVEL": "3"}
    assert command.cwd == str(tmp_path / "tools")
    assert found.left_out == ()


@pytest.mark.parametrize("spelling", ["type", "transport", "transportType"])
def test_stdio_may_be_said_in_three_ways(tmp_path: Path, spelling: str) -> None:
    assert list(_read(tmp_path, {"a": {spelling: "STDIO", "command": "x"}}).servers) == ["a"]


@pytest.mark.parametrize("entry", [{"disabled": True}, {"enabled": False}])
def test_a_disabled_server_is_left_out(tmp_path: Path, entry: dict[str, bool]) -> None:
    found = _read(tmp_path, {"a": {"command": "x", **entry}, "b": {"command": "y"}})
    assert list(found.servers) == ["b"]
    assert found.left_out == (("a: disabled", "a：已停用"),)


@pytest.mark.parametrize(
    ("said", "wire"),
    [
        ("sse", "sse"),
        ("SSE", "sse"),
        ("http", "http"),
        ("streamable-http", "http"),
        ("streamableHttp", "http"),
        ("streamablehttp", "http"),
        ("streamable_http", "http"),
        (None, "any"),
    ],
)
@pytest.mark.parametrize("spelling", ["type", "transport", "transportType"])
def test_every_spelling_of_a_server_reached_by_url(tmp_path: Path, spelling: str, said: str | None, wire: str) -> None:
    found = _read(tmp_path, {"a": {"url": " https://x.example/mcp ", spelling: said, "headers": {"X-Key": "k", "X-Level": 3}}})
    server = found.servers["a"]
    assert (server.wire, server.command, server.url) == (wire, None, "https://x.example/mcp")
    assert server.headers == {"X-Key": "k", "X-Level": "3"}


def test_what_the_server_adds_to_an_entry(tmp_path: Path) -> None:
    found = _read(
        tmp_path,
        {
            "a": {
                "command": "x",
                "endpoints": ["home-*", "office"],
                "allow": ["get_*"],
                "deny": "get_secret",
                "timeout": 60,
                "label": "one",
            },
            "b": {"command": "x", "credentials": "pool", "place": "env:API_KEY", "timeout": 60_000, "enabled": True, "disabled": None},
            "c": {"url": "http://x", "credentials": "pool", "place": "query:api_key", "endpoints": []},
        },
    )
    a, b, c = found.servers.values()
    assert (a.endpoints, a.allow, a.deny, a.timeout, a.label) == (("home-*", "office"), ("get_*",), ("get_secret",), 60, "one")
    assert (a.endpoint, a.shown) == ("server:one", "server one")
    assert (b.label, b.endpoints, b.credentials, b.place, b.timeout) == ("b", None, "pool", "env:API_KEY", 60)
    assert (c.place, c.endpoints, c.timeout) == ("query:api_key", (), None)


def test_nothing_that_may_be_a_secret_is_printed(tmp_path: Path) -> None:
    """Threat: the values of a server's environment, headers and address reach a log or /stats."""
    found = _read(
        tmp_path,
        {
            "a": {"command": "x", "args": ["${AWS_SECRET_ACCESS_KEY}", "${CITY:-x}"], "env": {"K": "long-value", "ON": "1"}},
            "b": {"url": "https://me:password@x/mcp?key=query-value&n=1", "headers": {"Authorization": "Bearer abcdefgh"}},
            "c": {"command": "x"},
        },
    )
    a, b, c = found.servers.values()
    assert repr(found) == "Entries(servers={'a': <Server 'a'>, 'b': <Server 'b'>, 'c': <Server 'c'>}, left_out=(), wrong={})"
    assert mask(a)("s3cret-s3cret long-value 1") == "*** *** 1"
    assert (
        mask(b)("get https://me:password@x/mcp?key=query-value&n=1 with Bearer abcdefgh") == "get https://me:***@x/mcp?key=***&n=1 with ***"
    )
    assert mask(c)("anything") == "anything"


def test_servers_that_are_written_alike_are_equal(tmp_path: Path) -> None:
    entry = {"command": "x", "env": {"K": "v"}, "args": ["1"]}
    assert _read(tmp_path, {"a": entry}) == _read(tmp_path, {"a": entry | {"autoApprove": []}})
    assert _read(tmp_path, {"a": entry}) != _read(tmp_path, {"a": entry | {"env": {"K": "w"}}})


def test_variables_are_filled_in_everywhere(tmp_path: Path) -> None:
    found = _read(
        tmp_path,
        {
            "a": {
                "command": "${HOME}/x",
                "args": ["${CITY}", "${env:CITY}", "${NONE:-else}", "$CITY"],
                "env": {"K": "<${CITY}>"},
                "cwd": "${HOME}",
            }
        },
    )
    command = _command(found, "a")
    assert command.program == "/home/me/x"
    assert command.args == ("杭州", "杭州", "else", "$CITY")
    assert command.env["K"] == "<杭州>"
    assert command.cwd == "/home/me"


def test_a_server_gets_no_variable_that_is_not_named(tmp_path: Path) -> None:
    """Threat: a tool reads every secret of the environment that its starter was started in."""
    found = _read(tmp_path, {"a": {"command": "x"}, "b": {"command": "x", "env": {"AWS_SECRET_ACCESS_KEY": "${AWS_SECRET_ACCESS_KEY}"}}})
    assert "AWS_SECRET_ACCESS_KEY" not in _command(found, "a").env
    assert _command(found, "b").env["AWS_SECRET_ACCESS_KEY"] == "s3cret-s3cret"


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    assert list(_read(tmp_path, None, text='\ufeff{"mcpServers": {"a": {"command": "x"}}}').servers) == ["a"]


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ('{"mcpServers": {}\n', "mcp.json:1:18", "truncated"),
        ('{\n  "名": "你", x}', "mcp.json:2:13", "malformed"),
        ("[]", "mcp.json", "mcpServers"),
        ("{}", "mcp.json", "mcpServers"),
    ],
)
def test_a_file_that_is_no_block_is_told_with_its_place(tmp_path: Path, text: str, place: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _read(tmp_path, None, text=text)
    assert caught.value.place == str(tmp_path / place)
    assert words in caught.value.en
    assert caught.value.zh != caught.value.en


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ('{"mcpServers": {"a": {"command": "x"}, "a": {"command": "y"}}}', "mcp.json:1:17", "twice"),
        ('{"mcpServers": {\n"啊": {"command": "x"},\n  "a": {"args": []}}}', "mcp.json:3:3", 'has no "command"'),
        ('{"mcpServers": {"a": {"command": ["x"]}}}', "mcp.json:1:17", "command is a list […], expected a text"),
        ('{"mcpServers": {"a": {"command": "x", "args": ["${NONE}"]}}}', "mcp.json:1:17", "NONE"),
        ('{"mcpServers": {"": {"command": "x"}}}', "mcp.json:1:17", "name"),
        ('{"mcpServers": {"a": {"command": "x", "label": "\\n"}}}', "mcp.json:1:17", "label"),
        ('{"mcpServers": {"a": {"command": "x", "url": "http://x"}}}', "mcp.json:1:17", "both"),
        ('{"mcpServers": {"a": {"command": "x", "type": "ws"}}}', "mcp.json:1:17", "ws"),
        ('{"mcpServers": {"a": {"type": "http"}}}', "mcp.json:1:17", "url"),
        ('{"mcpServers": {"a": {"url": "ftp://x"}}}', "mcp.json:1:17", "http://"),
        ('{"mcpServers": {"a": {"url": "http://x", "headers": {"a b": ""}}}}', "mcp.json:1:17", "a b"),
        ('{"mcpServers": {"a": {"url": "http://x", "headers": {"a": "\\n"}}}}', "mcp.json:1:17", "cannot be sent"),
        ('{"mcpServers": {"a": {"url": "http://x", "place": "bearer"}}}', "mcp.json:1:17", "must be given together"),
        ('{"mcpServers": {"a": {"url": "http://x", "place": "env:X", "credentials": "p"}}}', "mcp.json:1:17", "bearer"),
        ('{"mcpServers": {"a": {"command": "x", "place": "bearer", "credentials": "p"}}}', "mcp.json:1:17", "env:NAME"),
        ('{"mcpServers": {"a": {"command": "x", "timeout": 0}}}', "mcp.json:1:17", "timeout"),
        ('{"mcpServers": {"a": {"command": "x", "env": {"K": null}}}}', "mcp.json:1:17", "delete the line"),
        ('{"mcpServers": {"a": {"command": "x", "env": {"K": true}}}}', "mcp.json:1:17", "put it in quotes"),
        ('{"mcpServers": {"a": {"command": "x", "timeout": "30"}}}', "mcp.json:1:17", "without quotes"),
        ('{"mcpServers": {"a": {"command": "x", "args": null}}}', "mcp.json:1:17", "args is null"),
        ('{"mcpServers": {"a": "x"}}', "mcp.json:1:17", "is a text, expected an object"),
        (
            '{"servers": {"a": {"command": "x", "args": ["${input:key}"]}}}',
            "mcp.json:1:14",
            "servers.a: contains the placeholder ${input:key}",
        ),
        ('{"mcpServers": {"a": {"url": "http://x", "headers": {"K": "Bearer ${nobody fills this"}}}}', "mcp.json:1:17", "placeholder"),
        ('{"mcpServers": {"a": {"command": "x", "env": {"K": "${config:a.b}"}}}}', "mcp.json:1:17", "${config:a.b}"),
        ('{"mcpServers": {"a": {"command": "x", "envFile": "none.env"}}}', "mcp.json:1:17", "none.env does not exist"),
        ('{"mcpServers": {"a": {"command": "x", "envFile": "bad.env"}}}', "mcp.json:1:17", "bad.env:2: expected NAME=VALUE"),
        ('{"mcpServers": {"a": {"command": "x", "tools": ["get_a"]}}}', "mcp.json:1:17", '"allow" and "deny"'),
        ('{"mcpServers": {"a": {"command": "x", "tools": {"t": "u"}}}}', "mcp.json:1:17", "a: tools.t is a text, expected an object"),
        (
            '{"mcpServers": {"a": {"command": "x", "tools": {"t": {"name": 7}}}}}',
            "mcp.json:1:17",
            "tools.t.name is a number, expected a text",
        ),
        (
            '{"mcpServers": {"a": {"command": "x", "tools": {"t": {"enabled": "no"}}}}}',
            "mcp.json:1:17",
            "t.enabled is a text, expected true or",
        ),
        ('{"mcpServers": {"a": {"command": "x", "tools": {"t": {"title": "T"}}}}}', "mcp.json:1:17", "unknown field `title`"),
        ('{"mcpServers": {"a": {"command": "x", "tools": {"t": {}, "t": {}}}}}', "mcp.json:1:17", "repeated"),
        ('{"mcpServers": {"a": {"command": "x", "tools": {"t": {"name": "a.b"}}}}}', "mcp.json:1:17", "'a.b': devices take 1 to 64"),
        ('{"mcpServers": {"a": {"command": "x", "tools": {"t": {"name": ""}}}}}', "mcp.json:1:17", "devices take 1 to 64"),
        ('{"mcpServers": {"a": {"command": "x", "tools": {"t": {"name": "u"}, "u": {}}}}}', "mcp.json:1:17", 'also named "u"'),
        (
            '{"mcpServers": {"a": {"command": "x", "tools": {"t": {"name": "u"}, "v": {"name": "u"}}}}}',
            "mcp.json:1:17",
            "tools.v: another tool",
        ),
        ('{// one\n"mcpServers": {/* "a" */\n"a": {"command": "x", "url": "http://x",},},}', "mcp.json:3:1", "both"),
    ],
)
def test_a_mistake_is_one_entry_that_does_not_run(tmp_path: Path, text: str, place: str, words: str) -> None:
    (tmp_path / "bad.env").write_text("A=1\nnonsense\n")
    found = _read(tmp_path, None, text=text)
    [(name, error)] = found.wrong.items()
    assert name not in found.servers
    assert error.place == str(tmp_path / place)
    assert words in error.en
    assert error.en.startswith(("mcpServers." + name, "servers." + name))
    assert error.zh != error.en
    # Beside a good one it harms nobody, and switched off it is no mistake.
    block = "mcpServers" if "mcpServers" in text else "servers"
    beside = _read(tmp_path, None, text=text.replace(f'"{block}": {{', f'"{block}": {{"good": {{"command": "y"}}, ', 1))
    assert set(beside.servers) == {"good", *found.servers} and list(beside.wrong) == [name]


def test_the_tools_of_a_server_may_have_other_names(tmp_path: Path) -> None:
    tools = {"get": {"name": "查天气-" + "x" * 60, "description": "d"}, "off": {"enabled": False}, "x": {"name": "off"}, "as it is": {}}
    far = {"url": "http://x"}
    found = _read(tmp_path, {"a": {"command": "x", "tools": tools}, "b": far | {"tools": ["*"]}, "c": far | {"tools": None}})
    assert not found.wrong
    assert found.servers["a"].tools == {
        "get": ToolChange(name="查天气-" + "x" * 60, description="d"),
        "off": ToolChange(enabled=False),
        "x": ToolChange(name="off"),
        "as it is": ToolChange(),
    }
    assert found.servers["b"].tools == found.servers["c"].tools == {}


@pytest.mark.parametrize("rest", ['"command": 7', '"url": "ftp://x"', '"args": null', '"command": "${NONE}"'])
def test_a_disabled_entry_is_no_mistake_whatever_it_says(tmp_path: Path, rest: str) -> None:
    found = _read(tmp_path, None, text='{"mcpServers": {"a": {"disabled": true, %s}, "b": {"enabled": false, %s}}}' % (rest, rest))
    assert [en for en, _ in found.left_out] == ["a: disabled", "b: disabled"]
    assert not found.wrong


def test_comments_and_last_commas_are_read_as_in_vs_code(tmp_path: Path) -> None:
    text = """// the managed servers
    {
      /* two
         lines */
      "servers": {
        "a": {"command": "x", "args": ["http://x//y", "/* no */", ",}", "\\\\\\"//",]}, // a remark, with "quotes"
      },
    }
    // the end"""
    assert _command(_read(tmp_path, None, text=text), "a").args == ("http://x//y", "/* no */", ",}", '\\"//')


def test_the_words_of_other_programs(tmp_path: Path) -> None:
    found = _read(tmp_path, {"gemini": {"httpUrl": "http://x/mcp"}, "windsurf": {"serverUrl": "http://y/mcp"}})
    assert [(server.wire, server.url) for server in found.servers.values()] == [("http", "http://x/mcp"), ("any", "http://y/mcp")]


def test_variables_of_an_env_file_are_the_servers_own(tmp_path: Path) -> None:
    (tmp_path / "own.env").write_text("KEY='a secret value'\nLEVEL=1\n")
    found = _read(tmp_path, {"a": {"command": "x", "envFile": "own.env", "env": {"LEVEL": "2"}}})
    assert _command(found, "a").env == {"PATH": "/bin", "HOME": "/home/me", "KEY": "a secret value", "LEVEL": "2"}
    assert mask(found.servers["a"])("a secret value") == "***"


def test_what_belongs_to_a_shell_is_left_to_it(tmp_path: Path) -> None:
    words = ["-c", "echo ${A%.*} ${#A} ${A:1:2} $HOME $(date)"]
    assert _command(_read(tmp_path, {"a": {"command": "sh", "args": words}}), "a").args == tuple(words)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path / "none.json", {})
    assert caught.value.place == str(tmp_path / "none.json")
