"""Interpreters with other versions of the MCP SDKs, each in a venv of its own: what people really run behind a pipe.

They are made once, from the package index, into `.venv-peers/` of the project, and kept for the next run.
"""

from __future__ import annotations

import subprocess
import sys
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


def interpreters() -> dict[str, str]:
    """Name of a set of packages → the interpreter that has it. Raises CalledProcessError with pip's words if one cannot be made."""
    making: list[subprocess.Popen[bytes]] = []
    for name, packages in PACKAGES.items():
        place = PLACE / name
        if not (place / "made").exists():
            script = (
                f"import subprocess, venv; venv.create({str(place)!r}, clear=True, with_pip=True);"
                f"subprocess.run([{str(place / 'bin/python')!r}, '-m', 'pip', 'install', '-qq', '--disable-pip-version-check',"
                f" *{packages!r}], check=True, stderr=subprocess.STDOUT, stdout=open({str(place / 'said')!r}, 'w')); open({str(place / 'made')!r}, 'w').close()"
            )
            making.append(subprocess.Popen([sys.executable, "-c", script]))
    for process in making:
        if process.wait(SECONDS):
            raise subprocess.CalledProcessError(process.returncode, process.args)  # pip's words are in the venv's `said`
    return {"mcp-2": sys.executable, **{name: str(PLACE / name / "bin/python") for name in PACKAGES}}
