"""The developers' programs are scripts that import their neighbours; tests load them from their folder."""

import importlib
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "tools" / "bench"


@pytest.fixture
def bench(monkeypatch):
    """Return a loader of modules of `tools/bench`."""
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    yield
    for name in [name for name, module in sys.modules.items() if str(BENCH) in str(getattr(module, "__file__", ""))]:
        monkeypatch.delitem(sys.modules, name)
