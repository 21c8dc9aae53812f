"""A server on stdin and stdout that does what a test tells it, among it everything a server should not do.

    python odd_server.py [PORT]

PORT is a place to report to: this process and what it forks connect there and stay connected as long as they live. Every request names in
`method` what to do. Only the standard library, so that it starts fast.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from typing import Any


def report(port: int) -> socket.socket:
    """A connection that closes when this process dies, in whatever way."""
    held = socket.create_connection(("127.0.0.1", port))
    held.sendall(b"%d\n" % os.getpid())
    return held


def say(text: str) -> None:
    sys.stdout.buffer.write(text.encode() + b"\n")
    sys.stdout.buffer.flush()


def answer(request: dict[str, Any], result: object) -> None:
    if "id" in request:
        say(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}, ensure_ascii=False))


def serve(port: int) -> None:
    for raw in sys.stdin.buffer:
        request = json.loads(raw)
        method, params = request["method"], request.get("params")
        if method == "echo":
            answer(request, params)
        elif method == "raw":
            answer(request, raw.decode())
        elif method == "big":
            answer(request, params["letter"] * params["count"])
        elif method == "environment":
            answer(request, dict(os.environ))
        elif method == "where":
            answer(request, {"cwd": os.getcwd(), "argv": sys.argv[2:], "pid": os.getpid()})
        elif method == "silent":
            pass
        elif method == "noise":
            say("Starting up \x1b[31mred\x1b[0m")
            say('{"level": 30, "msg": "a log line of JSON"}')
            say("[1, 2]")
            sys.stdout.buffer.write(b"\xff\xfe\n")
            say("")
            answer(request, "after the noise")
        elif method == "endless":
            for _ in range(9):
                sys.stdout.buffer.write(b"x" * 1024 * 1024)
            sys.stdout.buffer.write(b"\n")
            answer(request, "after the endless line")
        elif method == "says":
            sys.stdout.buffer.write(params["bytes"].encode("latin-1").replace(b"#", b"%d" % request["id"]) + b"\n")
            sys.stdout.buffer.flush()
        elif method == "huge":
            say('{"result":"' + "x" * (9 << 20) + '","jsonrpc":"2.0","id":%d}' % request["id"])
        elif method == "die":
            answer(request, "last words")
            os._exit(params["status"])
        elif method == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif method == "mute":
            os.close(1)
            signal.pause()
        elif method == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            answer(request, "will stay")
            while True:
                signal.pause()
        elif method == "fork":
            helper = subprocess.Popen([sys.executable, "-I", "-S", __file__, "--helper", str(port)], stdout=subprocess.PIPE)
            assert helper.stdout is not None
            helper.stdout.readline()
            answer(request, helper.pid)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--helper"]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        held = report(int(sys.argv[2]))
        say("ready")
        held.recv(1)
    else:
        port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
        held_by_me = report(port) if port else None
        serve(port)
