"""Time of one round trip through the core in one process, without sockets: `python benchmarks/core.py [SOURCES …]`.

A device calls, the endpoint hands the call to a tool, the tool answers, the device gets its answer. Each run is a fresh interpreter; the
smallest of all times counts. With folders of several sources (`src` of other work trees), the runs take turns, so that a busy machine slows
all of them alike, and each is compared with the first. The second time is with the figures that a server keeps of tool calls, where a source
has them.
"""

# ruff: noqa: E501 - frames stand on one line

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RUNS = 9
ROUND = """
import sys, time
sys.path.insert(0, sys.argv[1])
try:
    from mcp_endpoint.core.endpoint import Endpoint
    from mcp_endpoint.core.parties import Counters
    from mcp_endpoint.settings.schema import EndpointSettings, Limits
except ImportError:  # before the sources had folders
    from mcp_endpoint.calls import Counters
    from mcp_endpoint.config import EndpointSettings, Limits
    from mcp_endpoint.endpoint import Endpoint
listening = {}
if sys.argv[2] == "figures":
    try:
        from mcp_endpoint.core.figures import Calls
        listening["figures"] = Calls(Limits(), lambda call, seconds: None, every=False).of("a")
    except ImportError:
        sys.exit("none")

class Link:
    queued = 0
    frame = b""
    def send(self, first, second=b""):
        self.frame = bytes(first) + bytes(second)
    def close(self, code, reason): pass
    def ping(self): pass

class Watch:
    def tell(self, event, shown, **fields): pass

endpoint = Endpoint("agent:a", "a", EndpointSettings(), Limits(), counters=Counters(), watch=Watch(), version="1", **listening)
tool, device = Link(), Link()
provider = endpoint.attach_provider(tool, 0.0)
consumer = endpoint.attach_consumer(device, 0.0)
asks, tells = (getattr(party, "receive" if hasattr(party, "receive") else "says") for party in (consumer, provider))
hello = b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"d","version":"1"}}}'
welcome = b'{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"t","version":"1"}}}'
def number():
    import json
    return b"%d" % json.loads(tool.frame)["id"]
asks(consumer, hello, 0.0, True)
tells(provider, welcome % number(), 0.0, True)
asks(consumer, b'{"jsonrpc":"2.0","method":"notifications/initialized"}', 0.0, True)
asks(consumer, b'{"jsonrpc":"2.0","id":2,"method":"tools/list"}', 0.0, True)
tells(provider, b'{"jsonrpc":"2.0","id":%s,"result":{"tools":[{"name":"light","inputSchema":{"type":"object"}}]}}' % number(), 0.0, True)
first = int(number())
calls = [b'{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"light","arguments":{"on":true}}}' % (i + 3) for i in range(500)]
best, sent = 9.0, first
for _ in range(160):
    answers = [b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"done"}]}}' % (sent + i + 1) for i in range(500)]
    sent += 500
    began = time.perf_counter()
    for call, answer in zip(calls, answers):
        asks(consumer, call, 1.0, True)
        tells(provider, answer, 1.0, True)
    best = min(best, time.perf_counter() - began)
assert device.frame.startswith(b'{"jsonrpc":"2.0","id":502,"result"'), device.frame
print(best / 500 * 1e6)
"""


KINDS = {"core": "the core alone", "figures": "with figures"}


def main(sources: list[str]) -> None:
    """Print the smallest time of each source in microseconds, and its ratio to the first source alone."""
    sources = sources or [str(Path(__file__).resolve().parents[1] / "src")]
    times: dict[tuple[str, str], float] = {}
    for _ in range(RUNS):
        for source in sources:
            for kind in KINDS:
                done = subprocess.run([sys.executable, "-I", "-c", ROUND, source, kind], capture_output=True, text=True)
                if done.stderr.strip() == "none":
                    continue
                done.check_returncode()
                times[source, kind] = min(times.get((source, kind), float("inf")), float(done.stdout))
    for (source, kind), best in times.items():
        print(f"{best:.3f} µs per round trip, {best / times[sources[0], 'core']:.3f} x  {KINDS[kind]:14}  {source}")


if __name__ == "__main__":
    main(sys.argv[1:])
