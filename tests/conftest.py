"""How long hypothesis looks: `make test` is bounded and repeatable, `make check` looks further and elsewhere each time.

`HYPOTHESIS_PROFILE` chooses between them; a wrong version of the heart (tests/mutants) must be noticed with far fewer examples.
Stateful tests take the profile "lives": one example is one whole life of an endpoint.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

EXAMPLES = {"test": 1_000, "check": 5_000, "mutants": 100}
LIVES = {"test": 300, "check": 1_500, "mutants": 60}

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
