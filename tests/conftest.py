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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes():
    """Have only pytest-cov count lines in the processes of pytest-xdist; coverage would start there by itself, too.

    What started before pytest-cov goes on counting while pytest-cov does not, as for tests marked `no_cover`.
    """
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session):
    """Have pytest-cov count once: version 7.1 starts in such a process as it does alone, and then as it should."""
    plugin = session.config.pluginmanager.getplugin("_cov")
    if hasattr(session.config, "workerinput") and plugin is not None and plugin.cov_controller is not None:
        plugin.cov_controller.pause()
