import os
from pathlib import Path

import numpy as np
import pytest

from edgekd.core.errors import ConfigError, PreconditionError
from edgekd.data import (
    DATASETS,
    ArrayImages,
    DataConfig,
    DatasetKind,
    Part,
    Source,
    Task,
    dataset_names,
    load_dataset,
)
from edgekd.data.augment import augmentation
from edgekd.data.sources import default_augmentation, required_path


def test_dataset_names_are_the_documented_ones() -> None:
    documented = {"digits", "idx", "mnist", "fashion-mnist", "cifar10", "cifar100", "cifar-strips", "folder"}
    assert documented <= set(dataset_names())


@pytest.mark.parametrize("name", dataset_names())
def test_default_augmentation_is_registered_for_every_data_set(name: str) -> None:
    assert callable(augmentation(default_augmentation(name)))


def test_default_augmentation_never_mirrors_digits_but_mirrors_cifar() -> None:
    assert default_augmentation("digits") == default_augmentation("mnist") == "shift"
    assert default_augmentation("cifar10") == default_augmentation("cifar-strips") == "crop-flip"


@pytest.mark.parametrize("ask", [default_augmentation, lambda name: load_dataset(DataConfig(name=name))])
def test_unknown_data_set_names_near_ones(ask) -> None:
    with pytest.raises(ConfigError, match="unknown data set 'cifar11'; did you mean cifar10"):
        ask("cifar11")


@pytest.mark.parametrize("name", [name for name in dataset_names() if DATASETS[name].needs])
def test_every_data_set_that_needs_a_path_says_what_it_needs(name: str, tmp_path: Path) -> None:
    with pytest.raises(PreconditionError, match=f"data set '{name}' needs data.path: ") as caught:
        load_dataset(DataConfig(name=name, path=str(tmp_path / "absent"), resolution=8))
    assert caught.value.exit_code == 5


def test_required_path_expands_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "set").mkdir()
    assert required_path(DataConfig(path="~/set"), "x") == tmp_path / "set"


def test_required_path_tells_when_it_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.R_OK)
    with pytest.raises(PreconditionError, match="this user may not read it"):
        required_path(DataConfig(path=str(tmp_path)), "x")


def test_users_may_register_a_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DATASETS, "_items", dict(DATASETS._items))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 6, 6, 3), np.uint8)
    part = Part(ArrayImages(pixels), np.arange(40) % 2)
    DATASETS.add(
        "mine", DatasetKind(lambda config: Source(Task("classification", ("a", "b")), part, part), augmentation="none")
    )
    dataset = load_dataset(DataConfig(name="mine", val_fraction=0.5))
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (20, 20, 40)
    with pytest.raises(ValueError, match="registered twice"):
        DATASETS.add("mine", DATASETS["mine"])
