"""The scenarios: who plays what against which server, and what is measured."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from servers import BUILD, KEY, Kind, Server, finish_load, load, start_load

Row = dict[str, Any]
ALL: tuple[Kind, ...] = ("c", "ours", "starlette")
NAMES: dict[Kind, str] = {"c": "C relay", "ours": "this broker", "starlette": "Starlette relay"}
LINKS = 10_000


@dataclass(frozen=True)
class Case:
    """One scenario. `words` go to the load; `figure` is the field of its answer that is compared."""

    name: str
    title: str
    words: str
    measure: Callable[[Case, Kind, float], Row]
    figure: str = "cpu_us"
    unit: str = "µs CPU"
    servers: tuple[Kind, ...] = ALL
    links: int = 1000


def calls(case: Case, kind: Kind, seconds: float) -> Row:
    """Closed loops of calls for `seconds`."""
    with Server(kind, links=case.links) as server:
        words = ["calls", *case.words.split(), "--seconds", str(seconds), "--warm", str(max(0.3, seconds / 4))]
        return load(server, words) | started(server)


def idle(case: Case, kind: Kind, seconds: float) -> Row:
    """Memory of links that do nothing. A first small crowd comes and goes, so that what is loaded once is not counted."""
    with Server(kind, links=case.links) as server:
        load(server, ["idle", "--tools", "100", "--devices", "100", "--seconds", "0.2"])
        return load(server, ["idle", *case.words.split(), "--seconds", "0.5", "--settle", "1", "--sources", "8"]) | started(server)


def storm(case: Case, kind: Kind, seconds: float) -> Row:
    """Everybody comes back at once, each with a token that has to be opened."""
    with Server(kind, links=case.links, xiaozhi=True) as server:
        words = ["idle", *case.words.split(), "--seconds", "0", "--tokens", str(token_file()), "--sources", "8"]
        return load(server, words) | started(server)


def beside(case: Case, kind: Kind, seconds: float) -> Row:
    """32 busy pairs, first with the attackers' sockets attached and silent, then with the attackers at work."""
    rows = []
    seconds = max(seconds, 1.5)
    for silent in (["--silent"], []):
        with Server(kind, links=case.links) as server:
            attackers = start_load(server, ["attack", *case.words.split(), *silent, "--seconds", str(seconds + 2.5)])
            time.sleep(0.5)  # they are in place before the pairs come
            pairs = load(server, ["calls", "--tools", "32", "--devices", "32", "--seconds", str(seconds), "--warm", "0.5"])
            rows.append(pairs | {"attack": finish_load(attackers)})
    quiet, loud = rows
    return loud | {
        "quiet_p99_us": quiet["p99_us"],
        "quiet_per_second": quiet["per_second"],
        "p99_ratio": loud["p99_us"] / quiet["p99_us"],
        "p99_added_us": loud["p99_us"] - quiet["p99_us"],
        "grown_mib": (loud["attack"]["kib_most"] - quiet["attack"]["kib_most"]) / 1024,
    }


def started(server: Server) -> Row:
    return {"start_seconds": server.start_seconds, "idle_mib": server.idle_kib / 1024}


def token_file() -> Path:
    """Xiaozhi tokens of as many agents as there are endpoints, made as manager-api makes them (AES-ECB, PKCS#7, base64)."""
    path = BUILD / "tokens"
    if not path.exists():
        lines = []
        for agent in range(LINKS // 2):
            pad, lock = padding.PKCS7(128).padder(), Cipher(algorithms.AES(KEY.encode()), modes.ECB()).encryptor()
            text = pad.update(b'{"agentId": "%032x"}' % agent) + pad.finalize()
            lines.append(base64.b64encode(lock.update(text) + lock.finalize()).decode())
        BUILD.mkdir(exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    return path


HALF = f"--tools {LINKS // 2} --devices {LINKS // 2}"
KIB: dict[str, Any] = {"figure": "kib_per_link", "unit": "KiB"}
P99: dict[str, Any] = {"figure": "p99_ratio", "unit": "p99 ratio", "servers": ("ours", "starlette")}
CASES = [
    Case("pairs", "64 tools, 64 devices", "--tools 64 --devices 64", calls),
    Case("fan-in", "4 tools, 64 devices", "--tools 4 --devices 64", calls),
    Case("one", "one pair", "--tools 1 --devices 1", calls),
    Case("2k", "2 KB of text, 32 pairs", "--tools 32 --devices 32 --request 2048 --answer 2048", calls),
    Case("2k-rows", "2 KB of objects, 32 pairs", "--tools 32 --devices 32 --request 2048 --answer 2048 --rows", calls),
    Case("32k-answer", "32 KB answered, 16 pairs", "--tools 16 --devices 16 --answer 32768", calls),
    Case("64k", "64 KB, 8 pairs", "--tools 8 --devices 8 --request 65536 --answer 65536", calls),
    Case("1m", "1 MB, 2 pairs", "--tools 2 --devices 2 --request 1000000 --answer 1000000", calls),
    Case("16-in-flight", "16 in flight, 16 pairs", "--tools 16 --devices 16 --depth 16", calls),
    Case("endpoints-10", "10 busy pairs, 10 endpoints", "--tools 10 --devices 10", calls),
    Case("endpoints-1000", "10 busy pairs, 1,000 endpoints", "--tools 1000 --devices 10", calls, links=2000),
    Case("endpoints-10000", "10 busy pairs, 10,000 endpoints", "--tools 10000 --devices 10 --sources 8", calls, links=12000),
    Case("idle", "10,000 idle links", HALF, idle, **KIB, links=12000),
    Case("idle-deflate", "10,000 idle links that offered deflate", f"{HALF} --deflate", idle, **KIB, links=12000),
    Case("storm", "10,000 links at once, xiaozhi tokens", HALF, storm, "connect_s", "s", links=12000),
    Case("slow-reader", "beside one unread device", "--unread 1", beside, **P99),
    Case("attackers", "beside all attackers", "--unread 1 --flooding 1 --hanging 200", beside, **P99),
]
