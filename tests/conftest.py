"""Settings all tests share, and the folder of real data where there is one."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before any library reads them: tests run beside each other, and more threads than cores make the
# boosting libraries many times slower. Kernels get two, to show that results do not depend on it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait do not keep a core busy
os.environ.setdefault("NUMBA_NUM_THREADS", "2")

import pytest
from hypothesis import settings

settings.register_profile(
    "influence", deadline=None, derandomize=True, print_blob=True, max_examples=20
)
settings.load_profile("influence")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of INFLUENCE_DATA, which holds datasets/ and models/; skips where unset."""
    folder = os.environ.get("INFLUENCE_DATA")
    if not folder:
        pytest.skip("INFLUENCE_DATA is not set: this test needs the folder of real data")
    return Path(folder)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium; skips without one."""
    from tests.browser import started

    with started() as running:
        yield running
