"""What several test files need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_images() -> Path:
    """Folder of real micrographs, which cannot be shipped: tests that need them are skipped elsewhere."""
    folder = os.environ.get("STEMFIT_REAL_IMAGES")
    if not folder:
        pytest.skip("STEMFIT_REAL_IMAGES is not set")
    return Path(folder)
