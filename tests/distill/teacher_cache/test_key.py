"""Whatever outputs follow from gives another folder; a folder that says otherwise is refused."""

import copy
import json
from dataclasses import dataclass, replace

import pytest
import torch

from edgekd.core.errors import StorageError
from edgekd.data import RandomCrop, SampleViews, augmentation
from edgekd.distill.net import TracedNet
from edgekd.distill.teacher_cache.key import cache_folder, digest_of, facts_of, opened
from edgekd.distill.views import VIEWS


def _net(teacher, **changed):
    return TracedNet(teacher[1], penultimate="net.pool", **changed)


def _facts(teacher, dataset, **changed):
    how = {"augment": augmentation("shift"), "views": SampleViews(0), **changed}
    return facts_of(_net(teacher, resolution=how.pop("resolution", 0)), dataset=dataset, **how)


def test_everything_that_outputs_follow_from_is_in_the_key(teacher, dataset):
    @dataclass(frozen=True)
    class Shift(RandomCrop):
        """Named as a change that is known, with other code."""

        def part(self, inputs, labels, rng, *, rows, of):
            moved, labels = super().part(inputs, labels, rng, rows=rows, of=of)
            return moved[:, ::-1], labels

    Shift.__name__ = "RandomCrop"
    base = _facts(teacher, dataset)
    assert _facts(teacher, dataset) == base
    moved = copy.deepcopy(teacher[1])
    next(moved.parameters()).data.view(-1)[0] += 1e-6
    others = [
        _facts((teacher[0], moved), dataset),
        _facts(teacher, dataset, views=SampleViews(1)),
        _facts(teacher, dataset, augment=augmentation("crop-flip")),
        _facts(teacher, dataset, augment=Shift(1)),
        _facts(teacher, dataset, precision="bf16"),
        _facts(teacher, dataset, resolution=16),
        _facts(teacher, replace(dataset, digest="other")),
        _facts(teacher, dataset, changes=(VIEWS["rotations"](),)),
    ]
    assert all(other != base for other in others)
    # The number of views and a change of batches that changes nothing are no part: runs share across them.
    assert _facts(teacher, dataset, views=SampleViews(0, 5), changes=(VIEWS["identity"](),)) == base


def test_a_networks_digest_is_of_weights_buffers_and_structure():
    def net(activation=torch.nn.ReLU, mean=0.5):
        torch.manual_seed(0)
        one = torch.nn.Sequential(torch.nn.Linear(2, 3), activation(), torch.nn.BatchNorm1d(3))
        one.register_buffer("mean", torch.tensor(mean), persistent=False)
        return one

    base = digest_of(net())
    assert base == digest_of(net())
    moved = net()
    moved[0].weight.data[0, 0] += 1e-7
    counted = net()
    counted[2].running_mean[1] = 0.25
    others = [digest_of(net(torch.nn.GELU)), digest_of(net(mean=0.25)), digest_of(moved), digest_of(counted)]
    assert len({base, *others}) == 5
    assert digest_of(net().to(torch.bfloat16)) != base


def test_a_folder_is_found_again_and_refused_when_it_says_otherwise(tmp_path):
    facts = {"teacher": "a", "data": "b", "schema_version": 1}
    folder = opened(tmp_path, facts)
    assert opened(tmp_path, facts) == folder and json.loads((folder / "key.json").read_text()) == facts
    assert opened(tmp_path, {**facts, "teacher": "c"}) != folder
    (folder / "key.json").write_text(json.dumps({**facts, "teacher": "c", "data": "d"}))
    with pytest.raises(StorageError, match="holds outputs of another data, teacher, not those its name says"):
        opened(tmp_path, facts)
    (folder / "key.json").write_text("{")
    with pytest.raises(StorageError, match=r"key.json cannot be read: .*; remove the folder"):
        opened(tmp_path, facts)


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        opened(tmp_path / "file", {"teacher": "a"})


def test_auto_is_in_the_users_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path))
    assert cache_folder("auto") == tmp_path / "teacher-cache"
    assert cache_folder(str(tmp_path / "mine")) == tmp_path / "mine"
