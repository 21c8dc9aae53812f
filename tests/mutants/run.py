"""Show that the heart's tests notice every wrong version of the heart: `python tests/mutants/run.py [WORD …]`.

Each wrong version is a patched copy of the sources in a folder of its own; the tests run against it and must fail. Two run at a time.
With words, only the versions whose rule holds one of them. Ends with 0 if the untouched copy passes and every wrong version is noticed;
a patch whose old text does not stand exactly once in its module is an error.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wrong import WRONG, Wrong

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "mcp_endpoint"
CORE = ("core", "protocol", "lives")
SECONDS = 300.0


def tests() -> list[str]:
    """The heart's own test files, the plays first and the lives last."""
    found = [file for name in CORE for file in sorted((ROOT / "tests" / name).glob("test_*.py"))]
    return [str(file) for file in sorted(found, key=lambda file: (file.parent.name == "lives", "endpoint" not in file.name))]


def run(wrong: Wrong | None) -> tuple[bool, str]:
    """Run the heart's tests against the patched sources: whether they failed, and the first one that did."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        sources = Path(folder) / "src"
        shutil.copytree(PACKAGE, sources / "mcp_endpoint", ignore=shutil.ignore_patterns("__pycache__"))
        if wrong is not None:
            module = sources / "mcp_endpoint" / f"{wrong.module}.py"
            module.write_text(module.read_text("utf-8").replace(wrong.old, wrong.new), "utf-8")
        path = f"pythonpath={sources} {ROOT / 'tests'} {ROOT / 'tests' / 'support'}"
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-o", path]
        environment = {**os.environ, "HYPOTHESIS_PROFILE": "mutants", "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            ended = subprocess.run(
                [*command, *tests()], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            return True, f"no end within {SECONDS:g} s"
    noticed = re.search(r"^(?:FAILED|ERROR) (\S+)", ended.stdout, re.MULTILINE)
    if ended.returncode == 0:
        return False, ""
    if ended.returncode == 1 and noticed is not None:
        return True, noticed[1].replace("tests/", "")
    raise SystemExit(f"the tests did not run ({ended.returncode}):\n{ended.stdout}\n{ended.stderr}")


def main(words: list[str]) -> int:
    """Run them all and say which test noticed which."""
    stale = [wrong for wrong in WRONG if (PACKAGE / f"{wrong.module}.py").read_text("utf-8").count(wrong.old) != 1]
    for wrong in stale:
        print(f"STALE     {wrong.rule}: its old text does not stand exactly once in {wrong.module}.py")
    if stale:
        return 1
    chosen = [wrong for wrong in WRONG if not words or any(word in wrong.rule for word in words)]
    with ThreadPoolExecutor(2) as pool:
        survived = 0
        for wrong, (noticed, by) in zip([None, *chosen], pool.map(run, [None, *chosen]), strict=True):
            if wrong is None:
                if noticed:
                    pool.shutdown(wait=False, cancel_futures=True)
                    print(f"the heart's tests fail by themselves: {by}")
                    return 1
                continue
            survived += not noticed
            print(f"{'noticed ' if noticed else 'SURVIVED'}  {wrong.rule}{f' — {by}' if by else ''}", flush=True)
    print(f"{len(chosen) - survived} of {len(chosen)} wrong versions were noticed")
    return 1 if survived or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
