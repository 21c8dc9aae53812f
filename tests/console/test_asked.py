"""What a request to the console asks for, and its form."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from mcp_endpoint.access.admission import Authenticator
from mcp_endpoint.access.tokens import TokenCodec
from mcp_endpoint.console.asked import Asked, Denied, fields_of, read
from mcp_endpoint.settings.schema import Config, Server


def asked(path: str, query: str = "", public_url: str = "", **headers: str) -> Asked:
    config = Config(server=Server(key="k" * 16, public_url=public_url))
    raw = [(name.lower().replace("_", "-").encode(), value.encode()) for name, value in ({"host": "here:8004"} | headers).items()]
    scope = {"type": "http", "method": "GET", "path": path, "query_string": query.encode(), "headers": raw, "client": ("127.0.0.1", 5)}
    return read(Request(scope), config.server, Authenticator(config, TokenCodec(config.server.key)))


def test_a_path_is_read_without_what_stands_around_it() -> None:
    assert [asked(path).path for path in ("/console", "/console/", "/console/tools/", "/console/records/7")] == [
        "",
        "",
        "tools",
        "records/7",
    ]


def test_the_address_of_a_page_is_told_without_a_key() -> None:
    assert asked("/console/tools", "endpoint=a%26b&key=secret&x=").here == "/console/tools?endpoint=a%26b&x="
    assert asked("/console", "find=x").here == "/console"
    assert asked("/console/login", "key=secret").here == "/console"


def test_a_person_gets_html_and_a_program_json() -> None:
    assert asked("/console", accept="text/html,*/*").html
    assert not asked("/console").html
    assert not asked("/console/overview.json", accept="text/html").html


def test_the_language_is_the_chosen_one_before_the_browsers() -> None:
    assert asked("/console", accept_language="zh").chinese
    assert not asked("/console", accept_language="zh", cookie="mes_console_language=en").chinese
    assert asked("/console", accept_language="zh", cookie="mes_console_language=fr").chinese


def test_a_prefix_counts_for_whoever_comes_by_the_public_address_only() -> None:
    public = "https://mcp.example/house/"
    outside = asked("/console", public_url=public, host="mcp.example")
    assert (outside.base, outside.tls) == ("/house/console", True)
    inside = asked("/console", public_url=public)
    assert (inside.base, inside.tls) == ("/console", False)


def test_a_form_is_read_strictly() -> None:
    assert fields_of(b"a=1&b=&a=2") == {"a": "2", "b": ""}
    for body in (b"\xff", b"a=%ff", b"&".join([b"a=1"] * 1_001)):
        with pytest.raises(Denied):
            fields_of(body)
