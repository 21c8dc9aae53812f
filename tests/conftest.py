"""What holds for every test: how long hypothesis looks, and that Ctrl-C ends the run.

`HYPOTHESIS_PROFILE` chooses how long: `make test` is bounded and repeatable, `make check` looks further and elsewhere each time, and
`make quick` and the wrong versions of the core (tests/mutants) need far fewer examples. Stateful tests take the profile "lives": one
example is one whole life of an endpoint.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from hypothesis import HealthCheck, settings

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
