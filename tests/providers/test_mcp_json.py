"""Every spelling of the `mcpServers` block, and every mistake in one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mcp_endpoint.errors import ConfigError
from mcp_endpoint.providers.mcp_json import Found, read

OURS = {"PATH": "/bin", "HOME": "/home/me", "AWS_SECRET_ACCESS_KEY": "s3cret", "CITY": "杭州"}


def _read(folder: Path, servers: object, *, text: str | None = None) -> Found:
    file = folder / "mcp.json"
    file.write_text(text if text is not None else json.dumps({"mcpServers": servers}), "utf-8")
    return read(file, OURS)


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
    command = found.commands["天气"]
    assert command.program == "python"
    assert command.args == ("server.py", "--port", "8080")
    assert command.env == {"PATH": "/bin", "HOME": "/home/me", "KEY": "k", "LEVEL": "3"}
    assert command.cwd == str(tmp_path / "tools")
    assert found.left_out == ()


@pytest.mark.parametrize("spelling", ["type", "transport", "transportType"])
def test_stdio_may_be_said_in_three_ways(tmp_path: Path, spelling: str) -> None:
    assert list(_read(tmp_path, {"a": {spelling: "STDIO", "command": "x"}}).commands) == ["a"]


@pytest.mark.parametrize("entry", [{"disabled": True}, {"enabled": False}])
def test_a_disabled_server_is_left_out(tmp_path: Path, entry: dict[str, bool]) -> None:
    found = _read(tmp_path, {"a": {"command": "x", **entry}, "b": {"command": "y"}})
    assert list(found.commands) == ["b"]
    assert found.left_out == (("a: disabled", "a：已停用"),)


@pytest.mark.parametrize(
    "entry", [{"url": "http://x/mcp"}, {"type": "sse", "url": "http://x"}, {"transportType": "streamableHttp"}, {"transport": "http"}]
)
def test_a_server_reached_by_url_is_left_out_and_says_so(tmp_path: Path, entry: dict[str, str]) -> None:
    found = _read(tmp_path, {"a": entry})
    assert found.commands == {}
    assert "not supported yet" in found.left_out[0][0]
    assert "暂不支持" in found.left_out[0][1]


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
    command = found.commands["a"]
    assert command.program == "/home/me/x"
    assert command.args == ("杭州", "杭州", "else", "$CITY")
    assert command.env["K"] == "<杭州>"
    assert command.cwd == "/home/me"


def test_a_server_gets_no_variable_that_is_not_named(tmp_path: Path) -> None:
    """Threat: a tool reads every secret of the environment that its starter was started in."""
    found = _read(tmp_path, {"a": {"command": "x"}, "b": {"command": "x", "env": {"AWS_SECRET_ACCESS_KEY": "${AWS_SECRET_ACCESS_KEY}"}}})
    assert "AWS_SECRET_ACCESS_KEY" not in found.commands["a"].env
    assert found.commands["b"].env["AWS_SECRET_ACCESS_KEY"] == "s3cret"


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    assert list(_read(tmp_path, None, text='\ufeff{"mcpServers": {"a": {"command": "x"}}}').commands) == ["a"]


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ('{"mcpServers": {}', "mcp.json", "truncated"),
        ('{\n  "名": "你", x}', "mcp.json:2:13", "malformed"),
        ("[]", "mcp.json", "mcpServers"),
        ("{}", "mcp.json", "mcpServers"),
        ('{"mcpServers": {"a": {"args": []}}}', "mcp.json: mcpServers.a", "command"),
        ('{"mcpServers": {"a": {"command": ["x"]}}}', "mcp.json: mcpServers.a", "Expected"),
        ('{"mcpServers": {"a": {"command": "x", "args": ["${NONE}"]}}}', "mcp.json: mcpServers.a", "NONE"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, text: str, place: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _read(tmp_path, None, text=text)
    assert caught.value.place == str(tmp_path / place)
    assert words in caught.value.en
    assert caught.value.zh != caught.value.en


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path / "none.json", {})
    assert caught.value.place == str(tmp_path / "none.json")
