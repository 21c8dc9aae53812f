"""The servers under measurement, each as a process that ends with the `with` block, and the load that is put on them."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = HERE / "build"
KEY = "0123456789abcdefghijABCDEFGHIJ01"
"""The key of every server measured here, so that one list of xiaozhi tokens opens all of them."""
LIFE_SECONDS = 300
"""After this a server that nobody stopped ends by itself."""

Kind = Literal["ours", "c", "starlette"]


class Missing(Exception):
    """Something this machine lacks; the text says what."""


def raise_limits() -> int:
    """Take as many descriptors as the machine allows; returns the number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1_048_576 if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def compiled(name: str) -> Path:
    """The program made of benchmarks/NAME.c, built anew when its source is younger."""
    source, program = HERE / f"{name}.c", BUILD / name
    if program.exists() and program.stat().st_mtime > source.stat().st_mtime:
        return program
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise Missing("a C compiler (cc) is needed for the relay and the load / 需要 C 编译器")
    BUILD.mkdir(exist_ok=True)
    fresh = BUILD / f"{name}.{os.getpid()}"  # two runs at once must not meet a half-written program
    subprocess.run([compiler, "-O2", "-o", fresh, source], check=True)
    fresh.replace(program)
    return program


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def resident_kib(pid: int) -> int:
    """Resident memory of a process, KiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * (os.sysconf("SC_PAGESIZE") // 1024)


@dataclass
class Server:
    """One running server. `settings` are ours only: "limits.bad_frames" → "100"."""

    kind: Kind
    links: int = 1000
    xiaozhi: bool = False
    settings: dict[str, str] | None = None
    port: int = 0
    pid: int = 0
    start_seconds: float = 0.0
    """From the start of the process to the first accepted connection."""
    idle_kib: int = 0
    """Resident memory before the first link."""

    def __enter__(self) -> Server:
        self._folder = tempfile.TemporaryDirectory(prefix="bench-")
        self._log = open(Path(self._folder.name) / "output", "w+")
        self.port = free_port()
        began = time.monotonic()
        self._process = subprocess.Popen(self._command(), stdout=self._log, stderr=subprocess.STDOUT, env=self._environment(), cwd=ROOT)
        self.pid = self._process.pid
        try:
            self._wait(began)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._log.close()
        self._folder.cleanup()

    def output(self) -> str:
        """What it printed so far."""
        return (Path(self._folder.name) / "output").read_text(errors="replace")

    def _command(self) -> list[str]:
        if self.kind == "c":
            return [str(compiled("relay")), str(self.port), str(LIFE_SECONDS)]
        if self.kind == "starlette":
            return [sys.executable, str(HERE / "starlette_relay.py"), str(self.port), str(LIFE_SECONDS)]
        return [sys.executable, str(ROOT / "main.py"), "--root", self._folder.name]

    def _environment(self) -> dict[str, str]:
        if self.kind != "ours":
            return os.environ | ({"BENCH_KEY": KEY} if self.xiaozhi else {})
        (Path(self._folder.name) / "data").mkdir()
        (Path(self._folder.name) / "logs").mkdir()
        settings = {"server.port": str(self.port), "server.key": KEY, "websocket.max_connections": str(self.links)} | (self.settings or {})
        return os.environ | {"MES_" + name.replace(".", "_").upper(): value for name, value in settings.items()}

    def _wait(self, began: float) -> None:
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError as error:
                if self._process.poll() is not None or time.monotonic() - began > 20:
                    raise RuntimeError(f"{self.kind} did not start:\n{self.output()[-2000:]}") from error
                time.sleep(0.005)
            else:
                break
        self.start_seconds = time.monotonic() - began
        time.sleep(0.2)  # let it finish its first turn before its memory is looked at
        self.idle_kib = resident_kib(self.pid)


def start_load(server: Server, words: list[str]) -> subprocess.Popen[str]:
    """A load process on `server`; it ends by itself."""
    command = [str(compiled("load")), *words, "--port", str(server.port), "--pid", str(server.pid)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish_load(process: subprocess.Popen[str], seconds: float = 200) -> dict[str, Any]:
    """What a load process measured. Raises RuntimeError when it found a single thing wrong."""
    try:
        text, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    result: dict[str, Any] = json.loads(text) if text else {"ok": False}
    if not result["ok"]:
        raise RuntimeError(f"the load found something wrong: {text or process.returncode}")
    return result


def load(server: Server, words: list[str]) -> dict[str, Any]:
    return finish_load(start_load(server, words))
