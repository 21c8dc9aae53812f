"""A whole live session whose secrets are known words: they stand nowhere but in the two printed lines that are meant to be copied."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
from peers import EXAMPLES, address, broker, device, text_of, tool, tools_are
from running import BOUND, Reply, get
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from mcp_endpoint.access.tokens import TokenCodec

KEY: Final = "CanaryZQ8sT3vW5xY7zB9dF1gH2jL4nP"
OPAQUE: Final = "canary-opaque-5d81f0"
BEARER: Final = "canary-bearer-93ac17"
WRONG: Final = "canary-wrong-key-0b44e2"
BAD: Final = "mep1.canary-bad-token-77"


@pytest.mark.row("D28", "U2", "E28")
@pytest.mark.parametrize("form", ["text", "json"])
async def test_no_secret_of_a_whole_session_is_told_anywhere(tmp_path: Path, form: str) -> None:
    """Tokens of every kind, the key and Authorization values, at the lowest log level; debugging is on as well."""
    codec = TokenCodec(KEY)
    xiaozhi, signed = codec.make_xiaozhi("canary_agent"), codec.make_signed("canary-home")
    secrets = (KEY, OPAQUE, BEARER, WRONG, BAD, xiaozhi, quote(xiaozhi, safe=""), signed)
    settings = {
        "MES_SERVER_KEY": KEY,
        "MES_SERVER_LOG_LEVEL": "TRACE",
        "MES_SERVER_DEBUG": "true",
        "MES_LOGGING_FORMAT": form,
        "MES_ENDPOINT_CALL_TIMEOUT": "1",
    }
    told: list[str] = []  # everything that anybody was answered, apart from what they had sent themselves
    async with broker(tmp_path, **settings) as running:

        async def asks(path: str, *headers: str) -> Reply:
            reply = await get(running.port, path, *headers)
            told.append(f"{dict(reply.headers)} {reply.body.decode()}")
            return reply

        async def is_refused(path: str, **headers: str) -> int:
            with pytest.raises(InvalidStatus) as refused:
                async with connect(f"ws://127.0.0.1:{running.port}{path}", additional_headers=headers):
                    pass
            response = refused.value.response
            told.append(f"{dict(response.headers)} {(response.body or b'').decode()}")
            return response.status_code

        for token in (quote(xiaozhi, safe=""), signed, OPAQUE):
            async with device(running, token) as asker:
                none = await asker.calls(0, "calculator", python_expression="6 * 7")
                assert none["error"]["code"] == -32001
                told.append(json.dumps(none))
                async with tool(running, sys.executable, EXAMPLES / "calculator.py", token=token):
                    await tools_are(1, running)
                    await asker.greets()
                    assert await asker.names() == {"calculator"}
                    assert "42" in text_of(await asker.calls(3, "calculator", python_expression="6 * 7"))
                    for path in (f"/stats?key={KEY}", "/stats", "/metrics", f"/mcp_endpoint/health?key={KEY}"):
                        assert (await asks(path)).status == 200
                await tools_are(0, running)
                told.append(str(asker.notifications))

        # Authorization instead of the query, on both sides, and a call that a silent tool lets expire.
        headers = {"Authorization": f"Bearer {BEARER}"}
        base = f"ws://127.0.0.1:{running.port}/mcp_endpoint"
        async with connect(f"{base}/mcp/", additional_headers=headers), connect(f"{base}/call/", additional_headers=headers) as asking:
            for frame in (b"\xff{garbage", '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"none"}}'):
                await asking.send(frame)
                told.append(str(await asyncio.wait_for(asking.recv(), BOUND)))
            assert "-32006" in told[-1]

        # What goes wrong in the handshake.
        for side in ("mcp", "call"):
            assert await is_refused(f"/mcp_endpoint/{side}/?token={BAD}") == 401
            assert await is_refused(f"/mcp_endpoint/{side}/", Authorization=f"Bearer {BAD}") == 401
            assert await is_refused(f"/mcp_endpoint/{side}/more?token={signed}") == 404
            assert (await asks(f"/mcp_endpoint/{side}/?token={signed}")).status == 426
        assert (await asks(f"/mcp_endpoint/health?key={WRONG}")).status == 401
        assert (await asks("/stats", f"Authorization: Bearer {WRONG}")).status == 401
        assert (await asks("/stats", f"Authorization: Bearer {KEY}")).status == 200
        assert (await asks(f"/nowhere/{signed}?key={KEY}&token={OPAQUE}")).status == 404
        assert (await asks(f"/stats?key={KEY}", "Host: a host that is none")).status == 400
        assert (await asks("/mcp_endpoint/", "Accept: text/html")).status == 200
        assert (await asks(f"/mcp_endpoint/?key={WRONG}", "Accept: text/html")).status == 401
        async with connect(address(running, "call", signed)) as asking:
            running.process.terminate()
            await asyncio.wait_for(asking.wait_closed(), BOUND)
            told.append(asking.close_reason or "")
        assert await running.ends() == 0

        logged = {path.name: path.read_text("utf-8") for path in (tmp_path / "logs").iterdir()}
        assert logged and "canary_agent" in logged["mcp_server.log"], "what may be shown of an endpoint is"
        assert "TRACE" in logged["mcp_server.log"] and "/mcp_endpoint/health" in logged["mcp_server.log"], "little was logged"
        for secret in secrets:
            for name, text in {"console": running.log, **logged, **dict(enumerate(told))}.items():
                assert secret not in text, (secret, name, surroundings(text, secret))
        assert not any(secret in running.printed for secret in secrets if secret != KEY)
        assert running.printed.count(KEY) == 1 and running.printed.count("token=") == 1


def surroundings(text: str, secret: str) -> Any:
    at = text.find(secret)
    return text[max(0, at - 100) : at + 100]
