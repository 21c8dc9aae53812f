"""The project's own promises: one list of dependencies, one version, a start from a bare checkout."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import tomli

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "mcp_endpoint"


@pytest.fixture
def project() -> dict[str, Any]:
    return tomli.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def _requirements(text: str) -> set[str]:
    lines = (line.strip() for line in text.splitlines())
    return {line.replace("'", '"') for line in lines if line and not line.startswith("#")}


@pytest.mark.row("E21")
def test_requirements_txt_is_the_core_of_pyproject(project: dict[str, Any]) -> None:
    core = {line.replace("'", '"') for line in project["project"]["dependencies"]}
    assert _requirements((ROOT / "requirements.txt").read_text("utf-8")) == core


def test_every_core_package_has_a_lower_bound(project: dict[str, Any]) -> None:
    for line in project["project"]["dependencies"]:
        assert re.match(r"[A-Za-z0-9-]+>=[0-9.]+", line), line


def test_every_module_has_one_sentence_and_its_own_test_file() -> None:
    for module in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(module.read_text("utf-8"))
        docstring = ast.get_docstring(tree)
        assert docstring, f"{module.relative_to(ROOT)} has no docstring"
        sentence = docstring.split("\n\n")[0].replace("\n", " ").rstrip()
        assert sentence.endswith("."), f"{module.relative_to(ROOT)} does not begin with a sentence"
        if module.name not in ("__init__.py", "__main__.py"):
            test = ROOT / "tests" / module.relative_to(PACKAGE).with_name(f"test_{module.name}")
            assert test.exists(), f"{test.relative_to(ROOT)} is missing"


def test_no_class_bears_a_name_that_says_nothing() -> None:
    for module in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                assert not re.search(r"Manager|Handler|Helper|Service|Util|Unified", node.name), f"{module.name}: {node.name}"


def test_no_loop_of_a_test_can_run_without_waiting() -> None:
    """A loop that swallows an exception and tries again must wait in between, or no timeout can end it."""
    for module in sorted((ROOT / "tests").rglob("*.py")):
        for loop in ast.walk(ast.parse(module.read_text("utf-8"))):
            if isinstance(loop, ast.While):
                assert not _swallows_at_once(loop), f"{module.relative_to(ROOT)}:{loop.lineno} tries again without waiting"


def _swallows_at_once(loop: ast.While) -> bool:
    """Whether an awaiting `try` of this loop has an exception handler that neither leaves the loop nor waits."""
    leaves = (ast.Await, ast.AsyncFor, ast.AsyncWith, ast.Raise, ast.Return, ast.Break)
    after = [statement for statement in loop.body if not isinstance(statement, ast.Try)]
    waits_anyway = any(isinstance(node, ast.Await) for statement in after for node in ast.walk(statement))
    return not waits_anyway and any(
        any(isinstance(node, ast.Await) for statement in attempt.body for node in ast.walk(statement))
        and not any(isinstance(node, leaves) for statement in handler.body for node in ast.walk(statement))
        for attempt in ast.walk(loop)
        if isinstance(attempt, ast.Try)
        for handler in attempt.handlers
    )
