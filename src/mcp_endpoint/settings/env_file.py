"""Reads the `NAME=VALUE` lines of a `.env` file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from ..errors import ConfigError
from ..files import read_bytes, why_not

_ASSIGNMENT: Final = re.compile(r"(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*(?P<value>.*)")


def read(path: Path, shown: str) -> dict[str, str]:
    """The variables in the file; empty if it does not exist.

    Raises ConfigError, placed at `shown`, for a file that cannot be read and for a line that is no assignment.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        en, zh = why_not(error)
        raise ConfigError(f"cannot be read: {en}", f"无法读取：{zh}", place=shown) from error
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        assignment = _ASSIGNMENT.fullmatch(stripped)
        if assignment is None:
            raise ConfigError("expected NAME=VALUE", "应为 名称=值", place=f"{shown}:{number}")
        value = assignment["value"]
        if value[:1] in ("'", '"'):
            quoted, _, rest = value[1:].partition(value[0])
            if len(value) < 2 or (rest.strip() and not rest.strip().startswith("#")) or value[0] not in value[1:]:
                raise ConfigError("a quote is not closed", "引号没有闭合", place=f"{shown}:{number}")
            value = quoted
        else:
            value = re.split(r"\s+#", value, maxsplit=1)[0].strip()
        found[assignment["name"]] = value
    return found
