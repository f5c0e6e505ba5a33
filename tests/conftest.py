"""Fixtures that any test may use."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Small real data kept beside the checkout; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("EDGEKD_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data folder {folder} is absent (set EDGEKD_TEST_DATA)")
    return folder
