"""The addresses people copy are the ones that work, in the form their readers take apart."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

from mcp_endpoint.access.addresses import (
    UNKNOWN_HOST,
    announcement,
    base_of,
    console_address,
    device_side,
    endpoint_addresses,
    free_form,
    hints,
    in_container,
    is_loopback,
    token_in,
    without_secrets,
)
from mcp_endpoint.access.tokens import SINGLE_MODULE, TokenCodec
from mcp_endpoint.settings.schema import Server

KEY = "Zx93mQ0aLw4TfYb7HsRn2VuPc6DgJe15"


def announced(contained: bool = False, **server: Any) -> str:
    settings = Server(key=KEY, **server)
    return announcement(settings, 8004, TokenCodec(KEY), contained=contained)


@pytest.mark.row("D27")
def test_what_is_printed_is_an_address_somebody_listens_on() -> None:
    assert f"http://127.0.0.1:8004/mcp_endpoint/health?key={KEY}" in announced()
    assert "http://192.0.2.44:8004/" in announced(host="192.0.2.44")
    assert "http://[2001:db8::7]:8004/" in announced(host="2001:db8::7")
    assert "https://192.0.2.44:8004/" in announced(host="192.0.2.44", tls_cert="c.pem", tls_key="k.pem")


@pytest.mark.row("U6")
def test_both_addresses_are_printed_under_the_names_users_know_them_by() -> None:
    lines = announced(public_url="https://mcp.example.org").splitlines()
    assert "智控台MCP参数配置" in lines[0]
    assert lines[1].strip() == f"https://mcp.example.org/mcp_endpoint/health?key={KEY}"
    assert "单模块部署MCP接入点" in lines[2]
    tool = lines[3].strip()
    assert tool.startswith("wss://mcp.example.org/mcp_endpoint/mcp/?token=")
    (token,) = parse_qs(urlsplit(tool).query)["token"]
    assert TokenCodec(KEY).open(token, 0).shown == SINGLE_MODULE


def test_manager_api_can_derive_its_addresses_from_the_printed_one() -> None:
    """contract §1.1: the prefix ends at the last slash of the decoded address, the key is everything behind `key=`."""
    decoded = unquote(console_address("http://192.0.2.44:8004/deep", KEY))
    prefix, _, rest = decoded.rpartition("/")
    assert prefix == "http://192.0.2.44:8004/deep/mcp_endpoint"
    assert rest == f"health?key={KEY}"
    pair = endpoint_addresses("http://192.0.2.44:8004/deep", "a+b/c=")
    assert pair.tool == "ws" + prefix.removeprefix("http") + "/mcp/?token=a%2Bb%2Fc%3D"
    assert pair.device == pair.tool.replace("/mcp/", "/call/")


@pytest.mark.parametrize(
    ("given", "device"),
    [
        ("ws://h/mcp_endpoint/mcp/?token=/mcp_endpoint/mcp/", "ws://h/mcp_endpoint/call/?token=/mcp_endpoint/mcp/"),
        ("wss://h/deep/mcp_endpoint/mcp?token=t", "wss://h/deep/mcp_endpoint/call?token=t"),
        ("ws://h/mcp_endpoint/call/?token=t", "ws://h/mcp_endpoint/call/?token=t"),
        ("wss://elsewhere/mcp/?token=t", "wss://elsewhere/mcp/?token=t"),
    ],
)
def test_a_device_finds_its_side_by_the_address_of_either(given: str, device: str) -> None:
    assert device_side(given) == device


def test_a_token_is_found_in_whatever_was_copied() -> None:
    codec = TokenCodec(KEY)
    token = next(token for token in (codec.make_xiaozhi(f"agent-{number}") for number in range(1000)) if "+" in token and "/" in token)
    address = endpoint_addresses("http://192.0.2.44:8004", token).tool
    for copied in (token, quote(token, safe=""), address, f" '{address}&server_id=x'\n"):
        assert codec.open(token_in(copied), 0.0).kind == "xiaozhi"
    signed = codec.make_signed("kitchen")
    assert token_in(signed) == token_in(f"ws://192.0.2.44/mcp_endpoint/call/?token={signed}") == signed


def test_where_no_token_was_copied_there_is_none() -> None:
    assert token_in("ws://192.0.2.1:8004/mcp_endpoint/mcp/") == token_in("") == ""


@pytest.mark.row("D29")
def test_in_a_container_no_address_is_made_up_and_one_sentence_says_what_to_set() -> None:
    text = announced(contained=True, host="0.0.0.0")
    assert f"http://{UNKNOWN_HOST}:8004/mcp_endpoint/health?key=" in text
    assert text.count("public_url = ") == 2  # once in each language
    assert "public_url = " not in announced(contained=True, host="0.0.0.0", public_url="http://192.0.2.44:8004")


def test_a_container_that_listens_on_loopback_is_told() -> None:
    assert 'host = "0.0.0.0"' in announced(contained=True)
    assert 'host = "0.0.0.0"' not in announced(contained=True, host="0.0.0.0")
    assert 'host = "0.0.0.0"' in announced(contained=True, public_url="http://192.0.2.44:8004")


def test_a_loopback_address_comes_with_the_way_out() -> None:
    assert "reachable from this machine only" in announced()
    assert "reachable from this machine only" not in announced(public_url="https://mcp.example.org")


def test_a_server_that_others_reach_only_needs_its_other_address() -> None:
    (hint,) = hints(Server(key=KEY, host="0.0.0.0"), "http://127.0.0.1:8004", "AAAA", contained=False)
    assert "the machine's network address" in hint.en
    assert "0.0.0.0" not in hint.en


def test_a_token_that_xiaozhi_refuses_is_pointed_out() -> None:
    settings = Server(key=KEY, host="192.0.2.44")
    assert not hints(settings, "http://192.0.2.44:8004", "AAAA", contained=False)
    (hint,) = hints(settings, "http://192.0.2.44:8004", "AcAlLA", contained=False)
    assert "xiaozhi-server refuses" in hint.en


def test_listening_everywhere_gives_the_address_the_network_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    class Probe:
        def __enter__(self) -> Probe:
            return self

        def __exit__(self, *_: object) -> None: ...

        def connect(self, address: object) -> None:
            asked.append(address)

        def getsockname(self) -> tuple[str, int]:
            return "198.51.100.5", 4_711

    monkeypatch.setattr(socket, "socket", lambda *_: Probe())
    for host in ("0.0.0.0", "::"):
        assert base_of(Server(host=host), 8004, contained=False) == "http://198.51.100.5:8004"
    assert asked == [("192.0.2.1", 9)] * 2  # an address for documentation: a route is chosen, nothing is sent


def test_without_a_network_the_name_of_the_machine_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise OSError("network unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert base_of(Server(host="0.0.0.0"), 8004, contained=False) == f"http://{socket.gethostname()}:8004"


def test_a_container_is_recognised_by_what_its_engine_leaves(tmp_path: Path) -> None:
    assert not in_container({}, tmp_path)
    assert in_container({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, tmp_path)
    assert in_container({"container": "podman"}, tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.containerenv").touch()
    assert in_container({}, tmp_path)
    (tmp_path / "run/.containerenv").unlink()
    (tmp_path / ".dockerenv").touch()
    assert in_container({}, tmp_path)


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_names_and_addresses_of_this_machine_are_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "192.0.2.1", "::", "localhost.example.org", "example.org", "::ffff:192.0.2.1"])
def test_everything_else_is_not(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("url", ["http://user:hush@host:1/a@b?key=hush#hush", "http://host:1/a@b#hush?x", "http://host:1/a@b"])
def test_an_address_is_shown_without_what_may_be_secret(url: str) -> None:
    assert without_secrets(url) == "http://host:1/a@b"


def test_a_free_form_token_is_told_of_in_both_languages() -> None:
    en, zh = free_form("opaque-12345678")
    assert "opaque-12345678" in en and "made with another key" in en
    assert "opaque-12345678" in zh and "自定义令牌" in zh
