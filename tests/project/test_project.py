"""The project's own promises: one list of dependencies, one version, a start from a bare checkout."""

from __future__ import annotations

import ast
import io
import re
import shutil
import subprocess
import tokenize
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import tomli
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mcp_endpoint.core.parties import Consumer, Provider
from mcp_endpoint.protocol import definitions, jsonrpc, methods

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


PYTHONS = ("CPython", "PyPy")


def locked() -> dict[str, tuple[str, str, list[str]]]:
    """Name → version, marker and hashes of each package in requirements.lock."""
    text = re.sub(r" *\\\n *", " ", (ROOT / "requirements.lock").read_text("utf-8"))
    found = {}
    for line in text.splitlines():
        if line and not line.lstrip().startswith("#"):
            requirement, *hashes = line.split(" --hash=")
            pinned, _, marker = requirement.partition(" ; ")
            name, version = pinned.split("==")
            found[name] = version, marker.strip(), hashes
    return found


def test_the_lock_file_pins_what_requirements_txt_asks_for_with_hashes() -> None:
    lock = locked()
    for line in _requirements((ROOT / "requirements.txt").read_text("utf-8")):
        wanted = Requirement(line)
        version, marker, _ = lock[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version), f"{line}: run make lock"
        assert bool(wanted.marker) == bool(marker), f"{line}: run make lock"
        for there in ({"sys_platform": one, "platform_python_implementation": other} for one in ("linux", "win32") for other in PYTHONS):
            assert wanted.marker is None or wanted.marker.evaluate(there) == Marker(marker).evaluate(there), f"{line}: run make lock"
    for name, (_, _, hashes) in lock.items():
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), name


def test_the_lock_file_pins_what_those_packages_need_too() -> None:
    """As the packages of this environment say; pip would refuse an install with hashes where one is missing."""
    lock = locked()
    for name, (_, marker, _) in lock.items():
        if marker and not Marker(marker).evaluate():
            continue
        for line in metadata.requires(name) or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert canonicalize_name(needed.name) in lock, f"{name} needs {needed.name}: run make lock"


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="not a checkout with git")
def test_git_takes_no_secret_along() -> None:
    secrets = (".env", ".env.local", "accounts.txt", "x/accounts.txt", "data/.mcp-endpoint-server.cfg", "data/a.bans.json", "b.bans.json")
    ignored = subprocess.run(["git", "check-ignore", *secrets, ".env.example"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ignored.stdout.split() == list(secrets)


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


def test_the_core_is_made_of_small_pieces() -> None:
    """No module of it is longer than 450 lines, and no class has more than 25 methods."""
    for module in sorted((PACKAGE / "core").rglob("*.py")):
        text = module.read_text("utf-8")
        assert len(text.splitlines()) <= 450, f"{module.name} has {len(text.splitlines())} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                methods = [part.name for part in node.body if isinstance(part, ast.FunctionDef)]
                assert len(methods) <= 25, f"{module.name}: {node.name} has {len(methods)} methods"


def test_each_field_of_a_party_is_written_by_one_module() -> None:
    """A module that wants another's field changed asks for it by a method, so that there is one place to read how it changes."""
    writers: dict[str, set[str]] = {}
    for module in sorted(PACKAGE.rglob("*.py")):
        where = str(module.relative_to(PACKAGE))
        for scope in ast.walk(ast.parse(module.read_text("utf-8"))):
            if isinstance(scope, ast.ClassDef | ast.Module):
                for node in ast.walk(scope):
                    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
                        for field in _fields_of_parties(scope, node, where):
                            writers.setdefault(field, set()).add(where)
    assert not {field: modules for field, modules in writers.items() if len(modules) > 1}
    assert {"Consumer.seen", "Provider.greeting", "Provider.doubtful", "Provider.link"} <= writers.keys(), "it finds what is written"


def _fields_of_parties(scope: ast.ClassDef | ast.Module, node: ast.Attribute, where: str) -> list[str]:
    """The fields that this assignment writes; what the constructors write is not counted."""
    owner = ast.unparse(node.value).split(".")[-1].lstrip("_")
    if isinstance(scope, ast.ClassDef):
        made = next((part for part in scope.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None)
        own = where == "core/parties.py" and scope.name in PARTIES and owner == "self" and made is not None
        return [f"{scope.name}.{node.attr}"] if own and made is not None and node not in ast.walk(made) else []
    return [f"{kind.__name__}.{node.attr}" for kind in PARTIES.values() if owner in CALLED[kind] and node.attr in kind.__slots__]


PARTIES = {"Consumer": Consumer, "Provider": Provider}
CALLED = {Consumer: ("consumer", "party"), Provider: ("provider", "party", "sole", "other")}
"""What variables are called that hold one."""


def test_no_class_bears_a_name_that_says_nothing() -> None:
    for module in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                assert not re.search(r"Manager|Handler|Helper|Service|Util|Unified", node.name), f"{module.name}: {node.name}"


GROWING = ("recorder", "console", "exchanges.py", "pages.py")
"""Parts of the package whose class names are not compared yet: they are being written."""


def test_one_name_stands_for_one_class() -> None:
    """Also a private name: who reads `Server` or `_Server` need not ask which one."""
    modules: dict[str, list[str]] = {}
    for module in sorted(PACKAGE.rglob("*.py")):
        path = module.relative_to(PACKAGE)
        if path.parts[0] not in GROWING:
            for node in ast.parse(module.read_text("utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    modules.setdefault(node.name.strip("_"), []).append(str(path))
    assert not {name: paths for name, paths in modules.items() if len(paths) > 1}


OLD_WORDS = {
    "envoy",
    "farewell",
    "farewells",
    "goodbye",
    "goodbyes",
    "greetings",
    "hoard",
    "homeward",
    "keyring",
    "leash",
    "outward",
    "porter",
    "reckon",
    "seat",
    "seats",
    "sieve",
    "vigil",
    "whence",
}
"""Private words of earlier versions; what each became is a term of MCP, HTTP, WebSocket or asyncio."""
OLD_PHRASES = re.compile(r"\b(servers? of the house|the house|house servers?|the heart|the door|doors)\b", re.IGNORECASE)


def test_the_private_words_of_earlier_versions_do_not_come_back() -> None:
    """Neither as a part of a name nor in a comment or docstring. Strings the program uses may: old names work for one release."""
    found = []
    for module in sorted(PACKAGE.rglob("*.py")):
        text = module.read_text("utf-8")
        used = {line for line, _ in _literals(module)}
        with io.StringIO(text) as lines:
            for token in tokenize.generate_tokens(lines.readline):
                if (
                    token.type == tokenize.NAME
                    or token.type == tokenize.COMMENT
                    or (token.type == tokenize.STRING and token.start[0] not in used)
                ):
                    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", token.string)}
                    if words & OLD_WORDS or (token.type != tokenize.NAME and OLD_PHRASES.search(token.string)):
                        found.append(f"{module.relative_to(PACKAGE)}:{token.start[0]}: {token.string[:60]}")
    assert not found


SPOKEN = ("protocol/methods.py", "protocol/definitions.py", "protocol/jsonrpc.py")
"""Where the words of MCP and JSON-RPC stand; everywhere else they are names."""


def test_the_words_of_mcp_are_written_once() -> None:
    """Methods, notifications, keys of `_meta`, headers, revisions, this program's name and the version of JSON-RPC."""
    named = {value for name, value in vars(methods).items() if isinstance(value, str) and name.isupper()}
    words = named | {*methods.HANDSHAKE_REVISIONS, definitions.NAME, jsonrpc.VERSION}
    marks = {'"jsonrpc":', *(f'"{word}"' for word in words)}
    used: dict[str, list[str]] = {}
    for module in sorted(PACKAGE.rglob("*.py")):
        for line, text in _literals(module):
            if text in words or any(mark in text for mark in marks):
                used.setdefault(str(module.relative_to(PACKAGE)), []).append(f"{line}: {text[:80]!r}")
    elsewhere = {path: literals for path, literals in used.items() if path not in SPOKEN}
    assert not elsewhere, f"write them as names of protocol/methods.py: {elsewhere}"
    assert used.keys() == set(SPOKEN)


def _literals(module: Path) -> Iterator[tuple[int, str]]:
    """The strings and bytes of a module that the program uses: all but docstrings."""
    tree = ast.parse(module.read_text("utf-8"))
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in said and isinstance(node.value, str | bytes):
            yield node.lineno, node.value if isinstance(node.value, str) else node.value.decode("latin-1")


def test_requests_notifications_and_answers_are_told_apart_in_one_place() -> None:
    """Whoever asks for the method of a frame and then for its id asks what `jsonrpc.kind_of` says."""
    for module in sorted(PACKAGE.rglob("*.py")):
        if module != PACKAGE / "protocol" / "jsonrpc.py":
            for node in ast.walk(ast.parse(module.read_text("utf-8"))):
                if isinstance(node, ast.If) and _asks_for(node.test, "method"):
                    inner = [part for part in ast.walk(node) if isinstance(part, ast.If) and _asks_for(part.test, "id")]
                    assert not inner, f"{module.relative_to(PACKAGE)}:{node.lineno}: use jsonrpc.kind_of"


def _asks_for(test: ast.expr, member: str) -> bool:
    """Whether a condition compares this member of a frame with UNSET."""
    return any(
        isinstance(node, ast.Compare)
        and isinstance(node.left, ast.Attribute)
        and node.left.attr == member
        and isinstance(node.comparators[0], ast.Name)
        and node.comparators[0].id == "UNSET"
        for node in ast.walk(test)
    )


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
