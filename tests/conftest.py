"""What several test files need."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_images() -> Path:
    """Folder of real micrographs, which cannot be shipped: tests that need them are skipped elsewhere."""
    folder = os.environ.get("STEMFIT_REAL_IMAGES")
    if not folder:
        pytest.skip("STEMFIT_REAL_IMAGES is not set")
    return Path(folder)


@pytest.fixture(scope="module")
def drawings() -> Iterator[None]:
    """Make the drawings of the benchmark of flat sheets importable, and forget the path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
        yield
    sys.modules.pop("sheets", None)
