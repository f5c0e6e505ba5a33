"""Nothing is overwritten by accident."""

import pytest

from edgekd.cli.writing import planned, require_free
from edgekd.core.errors import ConfigError


def test_free_are_new_paths_and_empty_folders(tmp_path):
    require_free(tmp_path / "new.onnx", is_forced=False)
    require_free(tmp_path, is_forced=False)


def test_taken_are_files_and_filled_folders_unless_forced(tmp_path):
    file = tmp_path / "a.onnx"
    file.touch()
    for path in (file, tmp_path):
        with pytest.raises(ConfigError, match=f"{path} exists: choose another place, or pass --force"):
            require_free(path, is_forced=False)
        require_free(path, is_forced=True)


def test_plan_names_the_path(tmp_path):
    outcome = planned(tmp_path / "x", "an engine")
    assert outcome.document == {"is_dry_run": True, "would_write": [str(tmp_path / "x")]}
    assert outcome.text == f"would write an engine to {tmp_path / 'x'}"
