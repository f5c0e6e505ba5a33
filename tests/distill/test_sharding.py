"""A teacher whose weights are shared out among two processes teaches what the whole one does."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from edgekd.core.errors import ConfigError
from edgekd.distill import Resumption, RunOptions, load_recipe
from edgekd.distill.jobs import Job, save_job
from edgekd.distill.ranks import Ranks
from edgekd.distill.roles import open_session
from edgekd.distill.run import require_fitting
from edgekd.distill.sharding import _pieces, never_trained
from tests.distill.test_ranks import in_two_processes

CHILD = Path(__file__).with_name("sharded_child.py")
# Logits, maps, a bank, teachers of several stages, a student's own past beside a teacher.
RECIPES = ("kd", "reviewkd", "crd", "takd")


@pytest.mark.slow
def test_the_student_is_the_same_bit_for_bit_and_the_teacher_is_held_in_parts(
    dataset, student, teacher, settings, tmp_path
):
    folders = {}
    for name in RECIPES:
        for is_shared in (False, True):
            folder = folders[name, is_shared] = tmp_path / f"{name}-{is_shared}"
            how = settings.model_copy(update={"epochs": 1, "shard_frozen": is_shared, "channels_last": False})
            resume = Resumption(folder / "state.safetensors", every_steps=2)
            job = Job(load_recipe(name), student, teacher, dataset.digest, how, RunOptions(seed=3, resume=resume))
            save_job(job, folder)
    in_two_processes(folders.values(), child=CHILD)
    for name in RECIPES:
        students = [load_file(folders[name, is_shared] / "student-rank0.safetensors") for is_shared in (False, True)]
        assert all(torch.equal(whole, students[1][key]) for key, whole in students[0].items()), name
        for is_shared in (False, True):
            ranks = [json.loads((folders[name, is_shared] / f"held-rank{rank}.json").read_text()) for rank in (0, 1)]
            for (mine, of), (others, _) in zip(*ranks, strict=True):
                assert (mine, others) == ((of, of) if not is_shared else (mine, of - mine))
                assert not is_shared or 0.3 < mine / of < 0.7


def test_a_network_that_some_stage_trains_stays_whole(student, teacher):
    def shared(recipe):
        return never_trained(
            recipe, open_session(recipe, student=student, teacher=teacher, input_shape=(1, 8, 8), seed=0)
        )

    assert shared(load_recipe("kd")) == ("teacher",)
    assert shared(load_recipe("takd")) == ("teacher",)
    assert shared(load_recipe("sftn")) == ()


def test_large_layers_are_gathered_one_by_one_and_the_rest_with_what_holds_them():
    small, large = nn.Linear(2, 2), nn.Linear(100, 100)
    inner = nn.Sequential(nn.Linear(100, 100), nn.Linear(3, 3))
    net = nn.Sequential(small, large, inner)
    assert _pieces(net) == [large, inner[0], net]
    # A list has no pass of its own before which to gather, however much its small layers hold together.
    listed = nn.Sequential(nn.ModuleList(nn.Linear(2, 2) for _ in range(20)))
    assert _pieces(listed) == [listed]


def test_compiled_passes_are_refused_with_shared_weights(dataset, settings):
    how = settings.model_copy(update={"shard_frozen": True, "compile": "default", "sync_batch_norm": False})
    with pytest.raises(ConfigError, match="shard_frozen gathers weights layer by layer.*set train.compile=no"):
        require_fitting(load_recipe("kd"), dataset, how, Ranks(0, 2))
    require_fitting(load_recipe("kd"), dataset, how, Ranks())


def test_a_cache_is_refused_beside_shared_weights(dataset, settings, tmp_path):
    how = settings.model_copy(update={"shard_frozen": True, "teacher_cache": str(tmp_path)})
    with pytest.raises(ConfigError, match="set one of them"):
        require_fitting(load_recipe("kd"), dataset, how, Ranks(0, 2))
    require_fitting(load_recipe("kd"), dataset, how, Ranks())


def test_where_weights_lie_decides_nothing(settings):
    assert settings.deciding() == settings.model_copy(update={"shard_frozen": True}).deciding()
