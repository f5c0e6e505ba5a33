"""Two processes on a CPU train to the weights that one process has with the same batches, for whatever claims it."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from edgekd.core.errors import ConfigError, ProcessLost, StorageError
from edgekd.distill import Recipe, Resumption, RunOptions, load_recipe, recipe_names
from edgekd.distill.claims import divides, require_claims, single_process_reasons
from edgekd.distill.group import launched
from edgekd.distill.jobs import Job, load_job, save_job
from edgekd.distill.ranks import Ranks, losing_says_so
from edgekd.distill.run import require_fitting
from edgekd.distill.terms import TERMS
from edgekd.distill.views import VIEWS
from edgekd.distill.weighers import WEIGHERS

# Recipes for texts or for several modalities; their terms are tested by row below, and they fit no pictures.
OTHERS = {"gkd-cls", "modality-gram"}
CLAIMING = [name for name in recipe_names() if not single_process_reasons(load_recipe(name)) and name not in OTHERS]
CHILD = Path(__file__).with_name("ranked_child.py")
# Sums in another order differ in the last bits, and a few steps amplify that.
CLOSE = 1e-4


def in_two_processes(folders, *, child=CHILD, timeout_s=300):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, str(child), *map(str, folders)]
    children = [
        subprocess.Popen(command, env=os.environ | common | {"RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE)
        for rank in ("0", "1")
    ]
    told = [child.communicate(timeout=timeout_s)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], told[0].decode()[-2000:] + told[1].decode()[-2000:]


@pytest.fixture
def compare(dataset, student, teacher, pretrained, settings, tmp_path):
    """Train jobs in one process and in two; gives the largest difference of any weight for each."""

    def go(cases, *, forgotten=()):
        jobs = {}
        for name, (recipe, changed) in cases.items():
            options = RunOptions(seed=3, start=pretrained if recipe.needs_pretrained_student else {})
            common = {"epochs": 1, "augment": "crop-flip", "lr": 0.02, "select": "last"}
            how = settings.model_copy(update={**common, **changed})
            jobs[name] = Job(recipe, student, teacher, dataset.digest, how, options)
            save_job(jobs[name], tmp_path / name)
            if name in forgotten:
                (tmp_path / name / "forget-claims").touch()
        in_two_processes([tmp_path / name for name in cases])
        return {name: _difference(tmp_path / name, job.run(dataset)) for name, job in jobs.items()}

    return go


def _difference(folder, outcome):
    one = outcome.student.state_dict()
    two, other = (load_file(folder / f"student-rank{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(two[name], other[name]) for name in one), "the processes differ"
    losses = zip((folder / "losses-rank0").read_text().split(), outcome.history, strict=True)
    relative = [abs(float(loss) / epoch.loss - 1) for loss, epoch in losses]
    return max(*((one[name].float() - two[name].float()).abs().max().item() for name in one), *relative)


@pytest.mark.slow
@pytest.mark.parametrize("group", range(4))
def test_every_recipe_that_claims_it_is_the_same_in_two_processes(compare, group):
    found = compare({name: (load_recipe(name), {}) for name in CLAIMING[group::4]})
    assert {name: value for name, value in found.items() if value > CLOSE} == {}


def test_the_loops_settings_are_the_same_in_two_processes(compare):
    terms = [
        {"type": "cross-entropy"},
        {"type": "similarity-preserving", "weight": {"type": "balanced", "memory": 0.9}},
    ]
    balanced = Recipe(name="balanced", title="balanced", stages=[{"name": "student", "terms": terms}])
    kd, similarity = load_recipe("kd"), load_recipe("sp")
    cases = {
        "balanced": (balanced, {}),
        "mixed": (kd, {"mixup": 0.5, "cutmix": 1.0, "augment": "randaugment"}),
        "averaged": (kd, {"ema": 0.9, "epochs": 2, "select": "best", "optimizer": "adamw", "lr": 0.005}),
        "resident": (kd, {"resident": True, "max_grad_norm": 0.5}),
        "workers": (kd, {"workers": 2, "layer_decay": 0.5}),
        "channels-last": (load_recipe("fitnet"), {"channels_last": True, "lr": 0.005}),
        "forgotten": (similarity, {}),
    }
    found = compare(cases, forgotten={"forgotten"})
    # What makes the others equal is the gathering of rows: without it the difference is far above the tolerance.
    assert found.pop("forgotten") > 10 * CLOSE
    assert {name: value for name, value in found.items() if value > CLOSE} == {}


def test_two_processes_fill_one_teacher_cache_and_read_it(dataset, student, teacher, settings, tmp_path):
    # In 32 bits, or a few steps amplify the rounding to more than what processes differ by.
    changed = {"epochs": 3, "augment": "crop-flip", "augment_views": 1, "lr": 0.02, "cache_dtype": "fp32"}
    cached = settings.model_copy(update={**changed, "teacher_cache": str(tmp_path / "cache")})
    jobs = {
        name: Job(load_recipe("fitnet"), student, teacher, dataset.digest, how, RunOptions(seed=3))
        for name, how in {"filling": cached, "reading": cached}.items()
    }
    for name, job in jobs.items():
        save_job(job, tmp_path / name)
    in_two_processes([tmp_path / name for name in jobs])
    filled, read = (load_file(tmp_path / name / "student-rank1.safetensors") for name in jobs)
    assert all(torch.equal(filled[name], read[name]) for name in filled)
    said = []
    alone = jobs["reading"].run(dataset, lambda event: said.append(event.message))
    assert any("11 of 12 passes of teacher were spared, 384 of 384 outputs were read" in line for line in said)
    assert _difference(tmp_path / "reading", alone) < CLOSE
    live = replace(jobs["reading"], settings=cached.model_copy(update={"teacher_cache": None})).run(dataset)
    assert _difference(tmp_path / "reading", live) < CLOSE


def test_what_claims_nothing_is_refused_and_says_why():
    for name, reason in {
        "rl-kd": "policy 'selector' .teacher-selection. decides",
        "mixup-kd": "view 'mixed' makes rows of other rows",
    }.items():
        with pytest.raises(ConfigError, match=f"recipe '{name}' is trained by one process only: {reason}"):
            require_claims(load_recipe(name), processes=2, accumulate=1)
        require_claims(load_recipe(name), processes=1, accumulate=1)


def test_a_term_of_ones_own_that_says_nothing_is_refused(monkeypatch):
    monkeypatch.delattr(TERMS["kd"], "row_claim")
    with pytest.raises(ConfigError, match="loss term 'kd': it does not say how it treats the rows of other processes"):
        require_claims(load_recipe("kd"), processes=2, accumulate=1)


def test_a_policy_wants_whole_batches():
    assert not divides(load_recipe("rl-kd").stages[-1]) and divides(load_recipe("sp").stages[-1])
    with pytest.raises(ConfigError, match="has a policy, which decides once for a whole batch: set train.accumulate=1"):
        require_claims(load_recipe("rl-kd"), processes=1, accumulate=2)


def test_everything_built_in_claims_something():
    parts = [registry[name] for registry in (TERMS, WEIGHERS, VIEWS) for name in registry]
    built_in = [part for part in parts if part.__module__.startswith("edgekd.")]
    assert [part for part in built_in if not hasattr(part, "row_claim")] == []


def test_an_incomplete_launch_is_refused(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launched() == Ranks()
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="WORLD_SIZE is 4, but RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set"):
        launched()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"batch_size": 33}, "batches of 33 rows do not divide into 2 processes of 1 equal part"),
        ({"accumulate": 3}, "do not divide into 2 processes of 3 equal part"),
        ({"compile": "default"}, "compiled passes cannot share batch statistics between processes"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(dataset, settings, changed, reason):
    with pytest.raises(ConfigError, match=reason):
        require_fitting(load_recipe("kd"), dataset, settings.model_copy(update=changed), Ranks(0, 2))
    require_fitting(load_recipe("kd"), dataset, settings, Ranks(0, 2))


def test_a_lost_process_is_one_clear_message():
    lost = pytest.raises(ProcessLost, match="process 1 of 2 lost another one .*Connection closed by peer")
    with lost, losing_says_so(Ranks(1, 2)):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:3412")
    for ranks, message in ((Ranks(1, 2), "shapes differ"), (Ranks(), "Connection closed by peer")):
        with pytest.raises(RuntimeError, match=message), losing_says_so(ranks):
            raise RuntimeError(message)


def test_the_first_process_stays_until_the_others_have_heard_that_there_is_nothing_more(tmp_path):
    in_two_processes([tmp_path], child=CHILD.with_name("dismissed_child.py"))
    assert {path.name for path in tmp_path.iterdir()} == {"left0", "left1"}


def test_a_job_comes_back_as_it_was_written(dataset, student, teacher, settings, tmp_path):
    options = RunOptions(
        5, "distilled/seed5", tmp_path / "weights", resume=Resumption(tmp_path / "s.safetensors", keep=3)
    )
    job = Job(load_recipe("sp"), student, teacher, dataset.digest, settings, options)
    save_job(job, tmp_path / "job")
    again = load_job(tmp_path / "job")
    assert (again.recipe, again.student, again.settings) == (job.recipe, job.student, job.settings)
    assert replace(again.options, start={}) == replace(options, start={})
    one, other = (found.teacher[1].state_dict() for found in (job, again))
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(StorageError, match="the data here are not those"):
        again.run(replace(dataset, digest="others"))
    with pytest.raises(ValueError, match="cannot hold a function"):
        save_job(replace(job, options=replace(options, remodel=lambda net: net)), tmp_path / "job")
    with pytest.raises(StorageError, match="all processes need that folder"):
        load_job(tmp_path / "nowhere")
