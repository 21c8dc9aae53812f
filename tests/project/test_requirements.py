"""Requirements are data: every promise that is built has a test that names it, and no test names a promise that does not exist.

E: the endpoint server's own promises. U: what its real peers need. D: defects of the original server 0.0.6, none of which
may come back. R: the reverse proxy with rotating credentials. H: the HTTP API over many servers.
L: the recorder and the gateway to models.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROWS = {f"E{n}" for n in range(1, 32)} | {f"U{n}" for n in range(1, 19)} | {f"D{n}" for n in range(1, 32)}
ROWS |= {f"R{n}" for n in range(1, 19)} | {f"H{n}" for n in range(1, 16)} | {"L12"}


def _order(row: str) -> tuple[str, int]:
    return row[0], int(row[1:])


def _claims() -> dict[str, list[str]]:
    """Row name → the files whose tests carry `pytest.mark.row(name)`."""
    claims: dict[str, list[str]] = {}
    tests = Path(__file__).resolve().parents[1]
    for file in sorted(tests.rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.row":
                for argument in node.args:
                    assert isinstance(argument, ast.Constant), f"{file.name}:{argument.lineno} claims a row that is not written out"
                    claims.setdefault(str(argument.value), []).append(file.name)
    return claims


def test_every_row_is_claimed_by_a_test() -> None:
    missing = sorted(ROWS - _claims().keys(), key=_order)
    assert not missing, f"no test names {', '.join(missing)}"


def test_no_test_claims_a_row_that_does_not_exist() -> None:
    unknown = {row: files for row, files in _claims().items() if row not in ROWS}
    assert not unknown
