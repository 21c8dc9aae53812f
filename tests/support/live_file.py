"""A configuration file below a root folder: written, loaded, and what is wrong with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mcp_endpoint.errors import ConfigError
from mcp_endpoint.settings import load as config
from mcp_endpoint.settings.sources import FILE

KEY = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"


def put(root: Path, text: str | bytes) -> Path:
    path = root / FILE
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def load(
    root: Path, text: str | bytes = "", environ: dict[str, str] | None = None, overrides: dict[str, str] | None = None
) -> config.Loaded:
    put(root, text)
    return config.load(root, environ or {}, overrides or {})


def complaint(
    root: Path, text: str | bytes = "", environ: dict[str, str] | None = None, overrides: dict[str, str] | None = None
) -> ConfigError:
    with pytest.raises(ConfigError) as raised:
        load(root, text, environ, overrides)
    assert re.search("[\u4e00-\u9fff]", raised.value.zh), "said in Chinese"
    assert re.search("[a-z]", raised.value.en), "said in English"
    return raised.value
