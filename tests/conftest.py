"""What holds for every test: how long hypothesis looks, what a failure shows, and that Ctrl-C ends the run.

`HYPOTHESIS_PROFILE` chooses how long: `make test` is bounded and repeatable, `make check` looks further and elsewhere each time, and
`make quick` and the wrong versions of the core (tests/mutants) need far fewer examples. Stateful tests take the profile "lives": one
example is one whole life of an endpoint.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from hypothesis import HealthCheck, settings

HERE = Path(__file__).parent
# An assertion of a helper says what was expected and what came, as one of a test does.
HELPERS = {path.stem for folder in ("support", "live") for path in (HERE / folder).glob("*.py") if not path.name.startswith("test_")}
pytest.register_assert_rewrite(*HELPERS - {"conftest"})
pytest.register_assert_rewrite("consumers.web", "sockets.wire_server", "sockets.weather", "sockets.peerframes")

EXAMPLES = {"test": 1_000, "check": 5_000, "mutants": 100, "quick": 100}
LIVES = {"test": 300, "check": 1_500, "mutants": 60, "quick": 60}

_chosen = os.environ.get("HYPOTHESIS_PROFILE", "test")

settings.register_profile(
    "chosen",
    max_examples=EXAMPLES[_chosen],
    derandomize=_chosen != "check",
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("lives", settings.get_profile("chosen"), max_examples=LIVES[_chosen])
settings.load_profile("chosen")


@contextmanager
def _no_signals(server: uvicorn.Server) -> Iterator[None]:
    """Instead of `uvicorn.Server.capture_signals`."""
    yield


@pytest.fixture(autouse=True)
def _ctrl_c_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A uvicorn server takes SIGINT and SIGTERM for itself; inside a test they belong to pytest."""
    monkeypatch.setattr(uvicorn.Server, "capture_signals", _no_signals)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the two sides said before a play of tests/support/plays.py failed."""
    report = yield
    plays = sys.modules.get("plays")
    newest = None if plays is None else plays.Play.newest
    if newest is not None and call.when == "call":
        if report.failed:
            report.sections.append(("what was said", newest.transcript()))
        plays.Play.newest = None
    return report
