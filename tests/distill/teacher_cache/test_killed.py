"""Processes that fill one cache: one is killed, another goes on beside it; all end where they should."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

PROGRAM = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from edgekd.core.artifacts import NetSpec
from edgekd.distill import Resumption, RunOptions, TrainSettings, load_recipe, run_recipe
from edgekd.models import build
from tests.distill.conftest import quadrants

cache, folder, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
student, teacher = (NetSpec("resnet", 8, width, 8, 1, 4, (0.3,), (0.2,)) for width in (2, 8))
torch.manual_seed(0)
net = build(teacher).eval()
settings = TrainSettings(
    epochs=12, batch_size=24, augment="shift", device="cpu", teacher_cache=cache, augment_views=5, augment_seed=0
)
resume = Resumption(folder / "state.safetensors", every_s=0, every_steps=3)
options = RunOptions(seed=seed, resume=resume, listener=lambda event: print(event.message, flush=True))
outcome = run_recipe(
    load_recipe("fitnet"), student=student, teacher=(teacher, net), dataset=quadrants(), settings=settings,
    options=options,
)
save_file({name: value.clone() for name, value in outcome.student.state_dict().items()}, folder / "student.safetensors")
"""


@pytest.fixture
def child(tmp_path):
    started = []

    def go(cache, name, seed=0):
        (tmp_path / name).mkdir(exist_ok=True)
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / cache), str(tmp_path / name), str(seed)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        one = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started.append(one)
        return one

    yield go
    for one in started:
        if one.poll() is None:
            one.kill()
        one.communicate()


def _killed_with(process, blocks, cache):
    """Kill a process once so many blocks are there."""
    end = time.monotonic() + 60
    while len(list(cache.rglob("*.zst"))) < blocks and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def _ended(process):
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0, said
    return said


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit_and_writers_share_a_folder(child, tmp_path):
    alone = child("whole", "whole")
    _ended(alone)
    _killed_with(child("cache", "killed"), 2, tmp_path / "cache")
    _killed_with(child("cache", "killed"), 6, tmp_path / "cache")
    _ended(child("cache", "killed"))
    whole, gone_on = (load_file(tmp_path / name / "student.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], gone_on[name]) for name in whole)

    # Two that fill one folder with the same views in other orders, and a third that is killed among them.
    others = [child("shared", f"shared-{seed}", seed) for seed in (1, 2)]
    _killed_with(child("shared", "shared-3", 3), 3, tmp_path / "shared")
    said = [_ended(one) for one in others]
    assert not any("damaged" in text or "not kept" in text for text in said)
    reading = _ended(child("shared", "shared-4", 1))
    assert ", 0 computed" in reading or int(reading.rsplit("outputs were read, ", 1)[1].split()[0]) < 40
    assert not list((tmp_path / "shared").rglob("*.part"))[1:]
