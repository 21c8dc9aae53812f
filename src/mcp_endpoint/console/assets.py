"""The console's own styles and scripts, at URLs that contain a hash of their content, so that browsers may cache them for ever."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent / "static"
TYPES: Final = {".css": "text/css", ".js": "text/javascript"}


@lru_cache(maxsize=1)
def files() -> dict[str, tuple[bytes, str]]:
    """`MARK/NAME` below /console/-/ → what the file holds, and its media type. Scripts find each other by their names alone."""
    found = {path.relative_to(FOLDER).as_posix(): path.read_bytes() for path in sorted(FOLDER.rglob("*")) if path.suffix in TYPES}
    mark = hashlib.sha256(repr(found).encode()).hexdigest()[:12]
    return {f"{mark}/{name}": (data, TYPES[Path(name).suffix]) for name, data in found.items()}


def address(name: str) -> str:
    """Where a file is, below /console/."""
    return next(f"-/{marked}" for marked in files() if marked.partition("/")[2] == name)
