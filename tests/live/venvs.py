"""Interpreters with other versions of the MCP SDKs, each in a venv of its own: what people really run behind a pipe.

They are made once, from the package index, into `.venv-peers/` of the project, and kept for the next run: by `make test` before it
starts, so that no test spends its time on it, or by the first test that wants one.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PLACE: Final = ROOT / ".venv-peers"
SECONDS: Final = 300
"""How long the making of all of them may take."""

PACKAGES: Final = {
    # The SDK of the time when most tool processes in the field were written; it does not start with a newer pydantic.
    "mcp-1.9": ("mcp==1.9.4", "pydantic<2.12"),
    "mcp-1.30": ("mcp==1.30.0",),
    "fastmcp": ("fastmcp>=4,<5",),
}


def make(place: Path, *packages: str) -> None:
    """Make one of them."""
    python = str(place / "bin" / "python")
    venv.create(place, clear=True, with_pip=True)
    with (place / "said").open("wb") as said:
        command = [python, "-m", "pip", "install", "--disable-pip-version-check", *packages]
        subprocess.run(command, check=True, stdout=said, stderr=subprocess.STDOUT)
    (place / "made").write_text(" ".join(packages))


def interpreters() -> dict[str, str]:
    """Name of a set of packages → the interpreter that has it. Raises CalledProcessError with pip's words if one cannot be made."""
    making: list[subprocess.Popen[bytes]] = []
    for name, packages in PACKAGES.items():
        place = PLACE / name
        made = place / "made"
        if not made.exists() or made.read_text() != " ".join(packages):
            making.append(subprocess.Popen([sys.executable, __file__, str(place), *packages]))
    for process in making:
        if process.wait(SECONDS):
            raise subprocess.CalledProcessError(process.returncode, process.args)  # pip's words are in the venv's `said`
    return {"mcp-2": sys.executable, **{name: str(PLACE / name / "bin/python") for name in PACKAGES}}


if __name__ == "__main__":
    if sys.argv[1:]:
        make(Path(sys.argv[1]), *sys.argv[2:])
    else:
        interpreters()
