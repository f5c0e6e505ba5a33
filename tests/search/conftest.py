import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def toys():
    """A space and students made of formulas; see `toys.py`."""
    pytest.importorskip("optuna", reason="extra search is not installed")
    spec = importlib.util.spec_from_file_location("search_toys", Path(__file__).with_name("toys.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def begin(toys, tmp_path):
    """Open or join a study in a journal file."""
    from edgekd.search import open_storage, open_study, sampler_for

    def go(plan, *, where=None, name="study", facts=None, worker=0):
        storage = open_storage(where or str(tmp_path / "study.journal"))
        study = open_study(storage, name, directions=plan.directions, facts=facts or {"seed": plan.seed}, sampler=None)
        study.sampler = sampler_for(plan, worker, begun=len(study.get_trials(deepcopy=False)))
        return study

    return go
