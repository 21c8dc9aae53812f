"""The interpreters are made once for all tests of this folder."""

from __future__ import annotations

import pytest
from venvs import interpreters


@pytest.fixture(scope="session")
def pythons() -> dict[str, str]:
    return interpreters()
