"""`python main.py` is `mcp-endpoint`, from a bare checkout: data/ and logs/ lie beside this file."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent


def start() -> None:
    """Say what is missing, or run the command line."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this file is also read by Pythons too old for the package
        sys.exit("需要 Python 3.11 或更新版本 / Python 3.11 or newer is needed; this is " + sys.version.split()[0])
    sys.path.insert(0, str(ROOT / "src"))
    try:
        from mcp_endpoint.commands.main import main
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("mcp_endpoint"):
            raise
        remedy = f"{sys.executable} -m pip install -r requirements.txt"
        sys.exit(f"缺少依赖 {error.name}，请先运行 / package {error.name} is missing, run first: {remedy}")
    main(ROOT)


if __name__ == "__main__":
    start()
