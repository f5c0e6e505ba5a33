"""`edgekd distill` that is killed, alone or in two processes, and given again."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

RUN = {
    "data": {"name": "digits", "limit": 300},
    "teacher": {"net": "resnet8-w8", "epochs": 1},
    "student": {"family": "resnet", "depths": [8], "widths": [4], "max_share": 0.5},
    "method": "sp",
    "train": {"epochs": 3, "batch_size": 32, "device": "cpu", "checkpoint_every_s": 0, "workers": 1},
    "target": "cpu",
    "seeds": 1,
    "compare_alone": False,
    "calibration_size": 32,
    "also_build": [],
}
PROGRAM = "from edgekd.cli.main import main; main()"
TIMEOUT_S = 120


class Command:
    """The command in a folder of its own."""

    def __init__(self, folder, processes):
        folder.mkdir()
        (folder / "run.yaml").write_text(yaml.safe_dump(RUN))
        self.out = folder / "run"
        self.student = self.out / "student" / "distilled-seed0.safetensors"
        self._states = self.out / "checkpoints" / "distilled" / "seed0"
        self._words = ["distill", str(folder / "run.yaml"), "--out", str(self.out), "--num-processes", str(processes)]

    def start(self):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", PROGRAM, *self._words]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def is_training_student(self):
        return any(self._states.glob("state-*.safetensors"))

    def until(self, condition, process):
        """Wait for a condition; the process may not end before."""
        started = time.monotonic()
        while not condition():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() - started < TIMEOUT_S
            time.sleep(0.01)

    def weights_at_once(self):
        """Run until the student is trained, what comes after it is another test's."""
        process = self.start()
        self.until(self.student.exists, process)
        end(process)
        return load_file(self.student)


def end(process):
    """Kill a command and all it started."""
    for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        one.kill()
    process.communicate()


@pytest.mark.slow
def test_killed_and_given_again_it_ends_with_the_same_student(tmp_path):
    whole = Command(tmp_path / "whole", 1).weights_at_once()
    killed = Command(tmp_path / "killed", 1)
    process = killed.start()
    killed.until(killed.is_training_student, process)
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    again = killed.weights_at_once()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert "going on from" in (killed.out / "log.jsonl").read_text()


@pytest.mark.slow
def test_a_lost_process_ends_the_others_and_so_does_the_launcher(tmp_path):
    command = Command(tmp_path / "two", 2)
    process = command.start()
    command.until(command.is_training_student, process)
    ranks = sorted(psutil.Process(process.pid).children(), key=lambda child: int(child.environ()["RANK"]))
    ranks[1].kill()
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "process 1 of 2 was ended by SIGKILL, so the others were ended; run the same command again" in told
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in ranks)
    process = command.start()
    command.until(command.student.exists, process)
    assert "going on from" in (command.out / "log.jsonl").read_text()
    ranks = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _, alive = psutil.wait_procs(ranks, timeout=30)
    for one in alive:
        one.kill()
    assert len(ranks) == 2 and not alive
