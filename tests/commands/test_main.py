"""The command line as a person meets it: what it prints, what it changes, how it ends."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import tomli
from hypothesis import given, settings
from running import BOUND, MAIN, running
from settings.test_ini import DOCUMENTED, WRITTEN, old_files
from websockets.asyncio.client import ClientConnection, connect

from mcp_endpoint import __version__, files
from mcp_endpoint.access.tokens import TokenCodec
from mcp_endpoint.commands import main as cli
from mcp_endpoint.settings.described import ENVIRONMENT, SETTINGS
from mcp_endpoint.settings.load import load
from mcp_endpoint.settings.schema import Config
from mcp_endpoint.settings.sources import FILE

KEY = "Zx93mQ0aLw4TfYb7HsRn2VuPc6DgJe15"
OLD = f"""# 服务器
[server]
host = 0.0.0.0      # 监听地址
port = 8123
key = {KEY}
; 日志
[logging]
max_file_size = 10MB
"""


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(ENVIRONMENT)]:
        monkeypatch.delenv(name)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/.mcp-endpoint-server.cfg").write_text(f'[server]\nkey = "{KEY}"\nport = 8123\n', "utf-8")
    return tmp_path


def run(root: Path, *arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(root, list(arguments))
    assert isinstance(end.value.code, int)
    return end.value.code


def live(root: Path) -> Path:
    return root / "data/.mcp-endpoint-server.cfg"


@pytest.mark.row("R7")
@pytest.mark.parametrize("before", [[], ["--root", "."], ["--root=."]])
@pytest.mark.parametrize("option", [["--log-level", "loud"], ["--log-level=loud"]])
def test_options_of_serve_may_stand_without_its_name(
    root: Path, before: list[str], option: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    assert run(root, *before, *option) == 78
    assert "server.log_level = 'loud' is not right" in capsys.readouterr().err
    assert run(root, *before, "--nonsense") == 2
    assert "No such option" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "-h"], ["config", "-h"], ["token", "make", "-h"], ["url", "-h"]])
def test_help_is_in_both_languages(root: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, *arguments) == 0
    shown = capsys.readouterr().out
    assert re.search("[一-龥]", shown)
    assert re.search("[A-Za-z]{4}", shown)


def test_version_is_printed_alone(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "--version") == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_a_wrong_command_is_wrong_usage(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "dance") == 2
    assert "dance" in capsys.readouterr().err


def test_config_show_tells_each_value_and_where_it_came_from(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MES_WEBSOCKET_PING_INTERVAL", "20")
    assert run(root, "config", "show", "--set", "server.host=0.0.0.0") == 0
    shown = dict(re.findall(r"^(\S+) += (.*)$", capsys.readouterr().out, re.MULTILINE))
    assert shown["server.port"] == "8123  # data/.mcp-endpoint-server.cfg:3"
    assert shown["websocket.ping_interval"] == "20.0  # environment MES_WEBSOCKET_PING_INTERVAL"
    assert shown["server.host"] == '"0.0.0.0"  # command line'
    assert shown["security.allowed_origins"] == '["*"]  # default'
    assert set(shown) == set(SETTINGS)


@pytest.mark.row("D28")
def test_config_show_never_shows_the_key(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "config", "show") == 0
    shown = capsys.readouterr().out
    assert "server.key" in shown
    assert KEY not in shown


def test_config_show_never_shows_the_token_of_an_address_that_is_dialled(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / FILE).write_text("[[dial]]\nname = 'x'\nurl = 'wss://h/mcp/?token=canary'\n", "utf-8")
    assert run(root, "config", "show") == 0
    told = capsys.readouterr().out
    assert "dial.1.url" in told and '"wss://h/mcp/?***"' in told
    assert "canary" not in told


def test_config_show_never_shows_a_key_in_a_gateways_target(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gateway = "[[gateway]]\nname = 'x'\ntarget = 'http://h/y?api_key=sk-secret'\n"
    (root / FILE).write_text(f"[credentials.a]\nenv = 'KEYS'\n{gateway}", "utf-8")
    assert run(root, "config", "show") == 0
    told = capsys.readouterr().out
    assert "gateway.1.target" in told and '"http://h/y?***"' in told
    assert "credentials.a.env" in told and "sk-secret" not in told


@pytest.mark.parametrize("words", [("list",), ("rest", "a", "1234"), ("unban", "a", "--all")])
def test_the_commands_for_keys_take_settings_as_serve_does(root: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    (root / FILE).write_text("[credentials.a]\nenv = 'NO_SUCH_KEYS'\n", "utf-8")
    assert run(root, "keys", *words, "--set", "server.prt=1") == 78
    assert 'did you mean "port"?' in capsys.readouterr().err


def test_config_show_never_shows_a_secret_of_the_api(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secrets = "secret = 'hush-1'\nold_secrets = ['hush-2', 'hush-3']\nurls = ['http://u:hush-4@h/mcp?key=hush-5']\n"
    live(root).write_text(f"[api]\n{secrets}", "utf-8")
    assert run(root, "config", "show") == 0
    told = capsys.readouterr().out
    assert "api.old_secrets" in told and '["***", "***"]' in told and '["http://h/mcp"]' in told
    assert "hush" not in told


def test_config_show_lists_the_tools_with_their_own_time(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    live(root).write_text('[endpoint.tools."天气"]\ntimeout = 60\n', "utf-8")
    assert run(root, "config", "show") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("endpoint.tools.天气.timeout")]
    assert line.endswith("= 60.0  # data/.mcp-endpoint-server.cfg:2")


def test_config_show_gives_the_warnings_beside_the_values(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    live(root).write_text(OLD, "utf-8")
    assert run(root, "config", "show") == 0
    assert "config convert" in capsys.readouterr().err


def test_config_show_writes_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, "config", "show") == 0
    assert list(tmp_path.iterdir()) == []


def test_config_convert_keeps_values_comments_and_the_old_file(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    live(root).write_text(OLD, "utf-8")
    before = load(root, {}).config
    assert run(root, "config", "convert") == 0
    after = load(root, {})
    assert after.config == before
    assert after.warnings == ()
    new = live(root).read_text("utf-8")
    assert tomli.loads(new)["server"]["key"] == KEY
    assert "# 监听地址" in new
    assert new.index("# 服务器") < new.index("# 日志")
    kept = live(root).with_name(".mcp-endpoint-server.cfg.ini")
    assert kept.read_text("utf-8") == OLD
    if os.name == "posix":
        assert live(root).stat().st_mode & 0o777 == 0o600
        assert kept.stat().st_mode & 0o777 == 0o600
    assert KEY not in capsys.readouterr().out


def assert_converted(root: Path, old: str) -> None:
    """`config convert` on this file: the same values from the same lines, no warning left of its form, and the old file beside it."""
    live(root).parent.mkdir(exist_ok=True)
    live(root).write_text(old, "utf-8", newline="")
    before = load(root, {})
    assert run(root, "config", "convert") == 0
    after = load(root, {})
    assert after.config == before.config
    assert after.sources == before.sources
    assert not any("INI" in en for en, _ in after.warnings)
    (kept,) = [path for path in live(root).parent.iterdir() if path != live(root)]
    assert kept.read_bytes() == old.encode()


@pytest.mark.row("E20", "D26")
@pytest.mark.parametrize("old", [DOCUMENTED, WRITTEN, WRITTEN.replace("\n", "\r\n"), OLD])
def test_config_convert_takes_the_files_people_have(tmp_path: Path, old: str) -> None:
    assert_converted(tmp_path, old)


@settings(max_examples=200)
@given(old=old_files())
def test_config_convert_takes_any_old_file(tmp_path_factory: pytest.TempPathFactory, old: str) -> None:
    """200 files of hypothesis; that order and comments stay is shown in test_config_ini.py."""
    assert_converted(tmp_path_factory.mktemp("old"), old)


def test_config_convert_never_overwrites_an_older_copy(root: Path) -> None:
    live(root).with_name(".mcp-endpoint-server.cfg.ini").write_text("older", "utf-8")
    live(root).write_text(OLD, "utf-8")
    assert run(root, "config", "convert") == 0
    assert live(root).with_name(".mcp-endpoint-server.cfg.ini").read_text("utf-8") == "older"
    assert live(root).with_name(".mcp-endpoint-server.cfg.ini.2").read_text("utf-8") == OLD


def test_config_convert_diff_changes_nothing_and_hides_the_key(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    live(root).write_text(OLD, "utf-8")
    assert run(root, "config", "convert", "--diff") == 0
    shown = capsys.readouterr().out
    assert '+host = "0.0.0.0"' in shown
    assert "-host = 0.0.0.0" in shown
    assert KEY not in shown
    assert live(root).read_text("utf-8") == OLD
    assert [path.name for path in live(root).parent.iterdir()] == [".mcp-endpoint-server.cfg"]


def test_config_convert_without_a_file_or_with_toml_says_so(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "config", "convert") == 78
    assert "TOML" in capsys.readouterr().err
    live(root).unlink()
    assert run(root, "config", "convert") == 78
    assert "没有这个文件" in capsys.readouterr().err


def test_config_convert_of_what_is_not_text_is_a_message(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    live(root).write_bytes(b"[server]\nhost = \xff\xfe\n")
    assert run(root, "config", "convert") == 78
    assert "UTF-8" in capsys.readouterr().err


def test_config_convert_that_cannot_write_leaves_the_old_file(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    live(root).write_text(OLD, "utf-8")

    def refuse(path: Path, text: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "write", refuse)
    assert run(root, "config", "convert") == 1
    assert "Permission denied" in capsys.readouterr().err
    assert live(root).read_text("utf-8") == OLD


def test_a_made_token_opens_under_the_key_and_is_read_again(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "token", "make", "living-room") == 0
    token = capsys.readouterr().out.strip()
    assert TokenCodec(KEY).open(token, 0)[:2] == ("agent:living-room", "living-room")
    assert run(root, "token", "read", token) == 0
    shown = capsys.readouterr().out
    assert "living-room" in shown
    assert "xiaozhi" in shown


def test_a_signed_token_has_a_role_and_an_end(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "token", "make", "kitchen", "--signed", "--role", "tool", "--days", "1") == 0
    token = capsys.readouterr().out.strip()
    opened = TokenCodec(KEY).open(token, 0)
    assert (opened.endpoint, opened.role) == ("signed:kitchen", "tool")
    assert run(root, "token", "make", "kitchen", "--signed") == 0
    assert TokenCodec(KEY).open(capsys.readouterr().out.strip(), 1e12).role == "both"


def test_a_token_is_read_from_standard_input_so_that_no_process_list_shows_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = tmp_path / "token"
    given.write_text(TokenCodec(KEY).make_signed("kitchen", "device") + "\n")
    with given.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert run(root, "token", "read") == 0
    assert "device" in capsys.readouterr().out


def test_a_token_that_opens_nothing_is_said_to_without_being_repeated(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = TokenCodec(KEY[::-1]).make_signed("kitchen")
    assert run(root, "token", "read", foreign) == 1
    shown = capsys.readouterr().err
    assert "bad-signature" in shown
    assert foreign not in shown


@pytest.mark.parametrize("arguments", [["a b"], ["x" * 65, "--signed"], ["a", "--days", "1"], ["a", "--role", "tool"]])
def test_what_no_token_can_say_is_wrong_usage(root: Path, arguments: list[str]) -> None:
    assert run(root, "token", "make", *arguments) == 2


def test_url_prints_both_addresses_of_an_endpoint(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    live(root).write_text(f'[server]\nkey = "{KEY}"\npublic_url = "https://mcp.example.org"\n', "utf-8")
    assert run(root, "url", "living-room") == 0
    tool, device = (line.split()[-1] for line in capsys.readouterr().out.splitlines())
    assert tool.startswith("wss://mcp.example.org/mcp_endpoint/mcp/?token=")
    assert device == tool.replace("/mcp/", "/call/")
    (token,) = parse_qs(urlsplit(tool).query)["token"]
    assert TokenCodec(KEY).open(token, 0).shown == "living-room"


def test_url_without_a_name_is_the_single_modules(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "url") == 0
    captured = capsys.readouterr()
    (token,) = parse_qs(urlsplit(captured.out.split()[3]).query)["token"]
    assert TokenCodec(KEY).open(token, 0).shown == "single_module"


def test_url_of_what_cannot_be_a_name_is_wrong_usage(root: Path) -> None:
    assert run(root, "url", "a b") == 2


def test_a_first_token_makes_the_key_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "token", "make", "kitchen") == 0
    key = load(tmp_path, {}).config.server.key
    assert TokenCodec(key).open(capsys.readouterr().out.strip(), 0).shown == "kitchen"


def test_a_token_that_could_not_outlive_the_command_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path, text: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "write", refuse)
    assert run(tmp_path, "token", "make", "kitchen") == 78
    assert "尚无密钥" in capsys.readouterr().err


def test_another_root_may_be_named(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Path("/"), "--root", str(root), "config", "show") == 0
    assert "8123" in capsys.readouterr().out


def test_a_mistake_in_the_file_is_two_sentences_with_a_place_and_exit_78(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    live(root).write_text("[server]\nport = 99999\n", "utf-8")
    assert run(root, "config", "show") == 78
    complaint = capsys.readouterr().err.splitlines()
    assert len(complaint) == 2
    assert all(line.startswith("data/.mcp-endpoint-server.cfg:2:8: ") for line in complaint)


def test_a_setting_that_is_no_pair_is_wrong_usage(root: Path) -> None:
    assert run(root, "config", "show", "--set", "server.port") == 2


def test_relative_paths_begin_at_the_root_folder_and_absolute_ones_stay(root: Path) -> None:
    live(root).write_text('[server]\ntls_cert = "c.pem"\ntls_key = "/etc/k.pem"\n[logging]\nlog_file = "logs/x.log"\n', "utf-8")
    rooted = cli._rooted(load(root, {}), root).config
    assert rooted.server.tls_cert == str(root / "c.pem")
    assert rooted.server.tls_key == str(root / "/etc/k.pem")
    assert rooted.logging.log_file == str(root / "logs/x.log")
    live(root).write_text('[logging]\nlog_file = ""\n', "utf-8")
    nothing = cli._rooted(load(root, {}), root).config
    assert (nothing.server.tls_cert, nothing.logging.log_file) == ("", "")


# -- against a running server ------------------------------------------------------------------------------------------------


async def answer(link: ClientConnection) -> None:
    """A small tool: it adds, it fails, it reports progress."""
    tools = [
        {
            "name": "add",
            "description": "adds\ntwo numbers",
            "inputSchema": {"properties": {"a": {}, "b": {}}, "required": ["a"]},
        },
        {"name": "\x1b[2Jwipe"},
    ]
    async for frame in link:
        message = json.loads(frame)
        method, params = message.get("method"), message.get("params", {})
        if "id" not in message:
            continue
        result: dict[str, object] = {}
        if method == "initialize":
            about = {"name": "small", "version": "1"}
            result = {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": about}
        elif method == "tools/list":
            result = {"tools": tools}
        elif params["name"] == "add":
            progress = {"progressToken": params["_meta"]["progressToken"], "progress": 1, "total": 2, "message": "adding"}
            await link.send(json.dumps({"jsonrpc": "2.0", "method": "notifications/progress", "params": progress}))
            result = {"content": [{"type": "text", "text": str(sum(params["arguments"].values()))}]}
        else:
            result = {"isError": True, "content": [{"type": "text", "text": "it failed"}]}
        await link.send(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}))


@asynccontextmanager
async def installation(root: Path, *, tool: bool = True) -> AsyncIterator[None]:
    """A server of this process that the configuration at `root` describes, with a tool at the single module's endpoint."""
    async with running(Config()) as server:
        live(root).write_text(f'[server]\nkey = "{KEY}"\nport = {server.port}\n', "utf-8")
        if not tool:
            yield
            return
        token = TokenCodec(KEY).make_xiaozhi("single_module").replace("+", "%2B")
        async with connect(f"ws://127.0.0.1:{server.port}/mcp_endpoint/mcp/?token={token}") as link:
            answering = asyncio.create_task(answer(link))
            yield
            answering.cancel()


async def typed(root: Path, *arguments: str) -> int:
    return await asyncio.to_thread(run, root, *arguments)


async def test_list_prints_each_tool_with_its_arguments_on_one_harmless_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with installation(root):
        assert await typed(root, "list") == 0
    assert capsys.readouterr().out == "add(a*, b) - adds\n\\x1b[2Jwipe()\n"


async def test_list_without_tools_says_where_to_look(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with installation(root, tool=False):
        assert await typed(root, "list") == 1
    assert "mcp-endpoint check" in capsys.readouterr().err


async def test_call_prints_the_text_of_the_result_and_the_progress_beside_it(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with installation(root):
        assert await typed(root, "call", "add", '{"a": 2, "b": 3}') == 0
    printed = capsys.readouterr()
    assert printed.out == "5\n"
    assert printed.err == "… 0 s 1/2 adding\n"


async def test_call_takes_its_arguments_from_standard_input_and_gives_json_on_request(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"a": 2}'))
    async with installation(root):
        assert await typed(root, "call", "add", "-", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"content": [{"type": "text", "text": "2"}]}


async def test_a_call_that_fails_is_exit_1(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with installation(root):
        assert await typed(root, "call", "nothing") == 1
    assert capsys.readouterr().out == "it failed\n"


async def test_a_call_without_a_tool_says_why_in_both_languages(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with installation(root, tool=False):
        assert await typed(root, "call", "add") == 1
    complaint = capsys.readouterr().err
    assert "工具端未连接" in complaint
    assert "No tool is connected" in complaint
    assert "Traceback" not in complaint


async def test_another_servers_address_may_be_given(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with installation(root):
        assert await typed(root, "url") == 0
        address = capsys.readouterr().out.split()[-1]
        assert await typed(tmp_path, "list", "--endpoint", address) == 0
        assert capsys.readouterr().out.startswith("add(")
        # MCP_ENDPOINT holds the tool's address, for pipe; a device takes the other side of it.
        monkeypatch.setenv("MCP_ENDPOINT", f"'{address.replace('/call/', '/mcp/')}'")
        assert await typed(tmp_path, "list") == 0
        assert capsys.readouterr().out.startswith("add(")
        assert await typed(root, "list", "-e", TokenCodec(KEY).make_xiaozhi("single_module")) == 0
        assert capsys.readouterr().out.startswith("add(")
        assert await typed(root, "list", "-e", "kitchen") == 1


async def test_who_comes_with_a_free_form_token_hears_so(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with installation(root):
        assert await typed(root, "url") == 0
        good = capsys.readouterr().out.split()[-1]
        cut = good.partition("token=")[0] + "token=cut-off"
        for words in (("list",), ("call", "add", "{}")):
            assert await typed(tmp_path, *words, "--endpoint", cut) == 1
            complaint = capsys.readouterr().err
            assert "free-form token, endpoint opaque-" in complaint and "it was cut off or made with another key" in complaint
            assert "自定义令牌" in complaint and "cut-off" not in complaint
        assert await typed(tmp_path, "list", "--endpoint", good) == 0
        assert "free-form" not in capsys.readouterr().err


@pytest.mark.parametrize("endpoint", ["...", "TOKEN", "ws://127.0.0.1:1/mcp_endpoint/call/?token=..."])
async def test_the_token_of_an_example_is_refused_with_the_reason(root: Path, endpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    async with installation(root):
        assert await typed(root, "list", "--endpoint", endpoint) != 0
    complaint = capsys.readouterr().err
    assert "placeholder" in complaint and "占位符" in complaint


async def test_list_gives_json_on_request(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with installation(root):
        assert await typed(root, "list", "--json") == 0
    assert [tool["name"] for tool in json.loads(capsys.readouterr().out)["tools"]] == ["add", "\x1b[2Jwipe"]


def test_without_a_key_or_with_a_token_that_opens_nothing_nothing_is_asked_or_made(
    root: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path_factory.mktemp("empty")
    assert run(empty, "list") == 1
    assert "no key here" in capsys.readouterr().err
    assert list(empty.iterdir()) == []
    foreign = TokenCodec(KEY[::-1]).make_xiaozhi("home")
    assert run(root, "call", "add", "-e", foreign) == 1
    printed = capsys.readouterr().err
    assert "not-ours" in printed
    assert foreign not in printed


async def test_ctrl_c_cancels_the_call_and_ends_with_130(root: Path) -> None:
    async with running(Config()) as server:
        live(root).write_text(f'[server]\nkey = "{KEY}"\nport = {server.port}\n', "utf-8")
        token = TokenCodec(KEY).make_xiaozhi("single_module").replace("+", "%2B")
        async with connect(f"ws://127.0.0.1:{server.port}/mcp_endpoint/mcp/?token={token}") as tool, asyncio.timeout(BOUND):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(MAIN), "--root", str(root), "call", "slow"),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            heard: dict[str, object] = {}
            while heard.get("method") != "tools/call":
                heard = json.loads(await tool.recv())
                if heard.get("method") == "initialize":
                    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {"name": "slow", "version": "1"}}
                    await tool.send(json.dumps({"jsonrpc": "2.0", "id": heard["id"], "result": about}))
            process.send_signal(signal.SIGINT)
            output, complaint = await process.communicate()
            cancelled = json.loads(await tool.recv())
    assert (process.returncode, output) == (130, b"")
    assert b"Traceback" not in complaint
    assert cancelled["method"] == "notifications/cancelled"
    assert cancelled["params"]["requestId"] == heard["id"]
    assert "terminal" in cancelled["params"]["reason"]


@pytest.mark.parametrize("arguments", ["{", "[1]", "7"])
def test_arguments_that_are_no_json_object_are_wrong_usage(root: Path, arguments: str) -> None:
    assert run(root, "call", "add", arguments) == 2


def test_where_no_server_runs_list_names_the_command_that_finds_out(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "--root", str(root), "list", "--endpoint", "ws://127.0.0.1:9/") == 1
    assert "mcp-endpoint check" in capsys.readouterr().err


async def test_check_prints_findings_and_remedies_and_ends_with_1_if_there_is_a_problem(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli.addresses, "in_container", lambda _: False)
    async with installation(root, tool=False):
        assert await typed(root, "check") == 1
    printed = capsys.readouterr().out
    assert "[PROBLEM] 没有工具端连接" in printed
    assert "→ start one: mcp-endpoint pipe" in printed
    async with installation(root):
        assert await typed(root, "check") == 0
    printed = capsys.readouterr().out
    assert "[ok] 一次调用已往返通过服务器" in printed
    assert KEY not in printed


async def test_check_alive_is_for_health_checks_it_prints_nothing_and_asks_for_no_tool(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with installation(root, tool=False):
        assert await typed(root, "check", "--alive") == 0
    assert run(root, "check", "--alive") == 1
    assert capsys.readouterr().out == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_on_a_terminal_a_waiting_call_has_a_line_that_goes_away_and_a_result_moves_no_cursor(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = Terminal(), Terminal()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    async with installation(root):
        assert await typed(root, "call", "add", '{"a": 2}') == 0
    assert out.getvalue() == "2\n"
    assert err.getvalue().startswith("\r\x1b[K… 0 s 1/2 adding\n")
    assert err.getvalue().endswith("\r\x1b[K")
    cli._print_json('{"a": "\x9b2J\u202e 你好"}')
    assert out.getvalue() == '2\n{"a": "\\u009b2J\\u202e 你好"}\n'
    cli._show_progress(3.2, "")
    assert err.getvalue().endswith("… 3 s ")


def test_keys_are_listed_set_aside_and_lifted(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = "sk-" + "x" * 40
    (root / "accounts.txt").write_text(f"ann|pw|{secret}\n")
    assert run(root, "keys", "list") == 0
    line = capsys.readouterr().out
    fingerprint = line.partition("sha256 ")[2][:8]
    assert "accounts" in line and "available" in line and secret not in line
    assert run(root, "keys", "rest", "accounts", fingerprint, "--seconds", "60") == 0
    assert run(root, "keys", "list", "accounts") == 0
    assert "resting" in capsys.readouterr().out
    assert run(root, "keys", "unban", "accounts", "--all") == 0
    assert run(root, "keys", "unban", "accounts") == 2
    assert run(root, "keys", "unban", "unheard", "--all") == 78
    assert run(root, "keys", "unban", "accounts", "ffffffff") == 1
