"""Fixtures that any test may use, and one CPU thread for PyTorch: tests run in several processes at once."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Small real data kept beside the checkout; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("EDGEKD_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data folder {folder} is absent (set EDGEKD_TEST_DATA)")
    return folder
