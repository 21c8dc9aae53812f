"""Known secrets in every place where one may stand: none is in the file, its log, an export, the console or what the commands print."""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
from pathlib import Path
from typing import Final

import httpx2
import pytest
from peers import Device, address, broker, tools_are, until
from running import BOUND, MAIN
from upstream import Seen, reply, upstream
from websockets.asyncio.client import ClientConnection, connect

from mcp_endpoint.access.tokens import TokenCodec
from mcp_endpoint.settings.sources import FILE

KEY: Final = "CanaryZQ8sT3vW5xY7zB9dF1gH2jL4nP"
"""The server's own, known by its value."""
POOL: Final = "canary/pool+key-0016"
"""A key of a pool, known by its value; of no shape."""
XIAOZHI: Final = TokenCodec(KEY).make_xiaozhi("canary-agent")


def canary(place: int) -> str:
    return f"canary-{place:02}-5d81f0a7"


ANSWERS: Final = [
    reply(200, b'{"choices":[],"client_secret":"%s"}' % canary(8).encode(), f"Set-Cookie: session={canary(9)}"),
    reply(401, b'{"error":{"message":"wrong key: Bearer %s"}}' % canary(10).encode()),
    reply(200, gzip.compress(b'{"refresh_token":"%s"}' % canary(11).encode()), "Content-Encoding: gzip"),
]
STREAM: Final = (b'data: {"id":1}\n\ndata: {"pass', b'word":"canary-12', b'-5d81f0a7"}\n\ndata: [DONE]\n\n')
SENT: Final = [
    json.dumps({"model": "m", "api_key": canary(3), "messages": [{"role": "user", "content": f"Bearer {canary(4)}"}]}),
    json.dumps({"messages": [{"role": "tool", "content": json.dumps({"deep": json.dumps({"password": canary(5)})})}]}),
    '{"messages":[{"role":"user","content":"x"}],"\\u0074oken":"%s"}' % canary(6),
    f"user=me&password={canary(7)}&x=1",
]


async def tool(socket: ClientConnection) -> None:
    async for message in socket:
        frame = json.loads(message)
        if "method" in frame and "id" in frame:
            result = {"content": [{"type": "text", "text": f"your token: {XIAOZHI}; my key: {KEY}; jwt={canary(14)}"}]}
            await socket.send(json.dumps({"jsonrpc": "2.0", "id": frame["id"], "result": result}))


async def printed(root: Path, *words: str) -> bytes:
    """What a command of ours prints; `tail` is ended when it has shown what is there."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(MAIN), "--root", str(root), *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert process.stdout is not None
    if words[0] == "tail":
        lines = b""
        while b'"kind":"exchange"' not in lines:
            lines += await asyncio.wait_for(process.stdout.readuntil(b"\n"), BOUND)
        process.kill()
        return lines + (await process.communicate())[0]
    return (await asyncio.wait_for(process.communicate(), BOUND))[0]


@pytest.mark.row("L12")
@pytest.mark.parametrize("raw", [False, True], ids=["redacted", "raw"])
async def test_no_secret_of_a_session_is_kept_unless_everything_is(tmp_path: Path, raw: bool) -> None:
    asked = 0

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        if asked <= len(ANSWERS):
            writer.write(ANSWERS[asked - 1])
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in STREAM:
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(0.01)  # so that they are pieces
        writer.write(b"0\r\n\r\n")

    (tmp_path / "data").mkdir()
    (tmp_path / "keys").write_text(POOL)
    async with upstream(script) as behind:
        (tmp_path / FILE).write_text(
            f"[recorder]\non = true\nraw = {str(raw).lower()}\n"
            f"[credentials.pool]\nfile = 'keys'\n[[gateway]]\nname = 'model'\ntarget = '{behind.url}'\ncredentials = 'pool'\n"
        )
        async with broker(tmp_path, MES_SERVER_KEY=KEY, MES_SERVER_LOG_LEVEL="TRACE") as running:
            async with httpx2.AsyncClient(timeout=BOUND, trust_env=False) as client:
                for body in SENT:
                    await client.post(
                        f"http://127.0.0.1:{running.port}/gateway/model/v1/chat/completions?access_token={canary(0)}",
                        content=body,
                        headers={"X-Api-Key": canary(1), "Cookie": canary(2), "Content-Type": "application/json", "X-Note": f"key {POOL}"},
                    )
            async with connect(address(running, "mcp")) as socket, connect(address(running, "call")) as asking:
                answering = asyncio.create_task(tool(socket))
                await tools_are(1, running)
                asker = Device(asking)
                await asker.calls(1, "who", password=canary(13), note=f"it is {POOL}")
                answering.cancel()
                await asyncio.wait((answering,))
            stats = await until(lambda stats: stats["rooms"]["recorder"]["records_written"] >= 5, running)
            assert asked == 4 and not stats["rooms"]["recorder"]["trouble"]
            kept = [path.read_bytes() for path in (tmp_path / "data").glob("records.db*")]
            commands = (("tail", "--json"), ("records", "export"), ("records", "list", "--json"), ("records", "show", "1"))
            kept += [await printed(tmp_path, *words) for words in commands]
            log = [running.log.encode(), (tmp_path / "logs" / "mcp_server.log").read_bytes()]
    everything = b"".join(kept)
    assert everything.count(b"exchange") > 4 and b"chat/completions" in everything
    secrets = [*(canary(place) for place in range(15)), KEY, POOL, XIAOZHI]
    found = [secret for secret in secrets if secret.encode() in everything]
    if raw:
        assert found == secrets, "the control: they were all there to be found"
    else:
        assert not found and everything.count(b"***~") > 15
        assert not [secret for secret in secrets if secret.encode() in b"".join(log)]
