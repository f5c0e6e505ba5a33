"""The sparse parity experiment: its task, the order of its phases, and how students that were given up count."""

import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "tools" / "bench"))
import sparse_parity as experiment

SMALL = experiment.Setting(inputs=6, support=2, teacher_width=20, student_width=5, teacher_steps=300)


def test_the_label_is_the_product_of_the_first_signs():
    inputs, labels = experiment.parity(50, SMALL, torch.Generator().manual_seed(0))
    assert set(inputs.flatten().tolist()) == {-1.0, 1.0}
    assert [row[0] * row[1] for row in inputs.tolist()] == labels.tolist()


def test_phases_come_in_turn_and_the_last_one_stays():
    named = [lambda *_, name=name: name for name in ("a", "b", "c")]
    loss = experiment.in_turn(named[:2], named[2], 10)
    assert [loss(None, None, None, step) for step in (0, 4, 5, 9, 10, 99)] == ["a", "a", "b", "b", "c", "c"]


def test_a_projection_is_learned_exactly_by_a_network_that_carries_it():
    teacher = experiment.fresh(6, 4, torch.Generator().manual_seed(1)).frozen()
    inputs, labels = experiment.parity(30, SMALL, torch.Generator().manual_seed(2))
    projection = torch.randn(3, 4, generator=torch.Generator().manual_seed(3))
    targets = (teacher.hidden(inputs) - teacher.hidden(inputs).mean(dim=0)) @ projection.T
    exact = experiment.by_projection(teacher, lambda net, x: targets, projection, inputs)
    nothing = experiment.by_projection(teacher, lambda net, x: torch.zeros(30, 3), projection, inputs)
    assert exact(teacher, inputs, labels, 0).item() < 1e-10
    assert nothing(teacher, inputs, labels, 0).item() == pytest.approx(1.0, rel=1e-5)


def test_arms_share_their_batches_and_only_the_curriculum_ones_leave_the_output_alone_at_first():
    checkpoints, teacher = experiment.taught(SMALL, 0)
    losses = experiment.arms(SMALL, checkpoints, teacher, 0)
    inputs, labels = experiment.parity(20, SMALL, torch.Generator().manual_seed(4))
    for arm, loss in losses.items():
        student = experiment.fresh(6, 5, torch.Generator().manual_seed(5))
        loss(student, inputs, labels, 0).backward()
        assert (student.readout.grad is None) == (arm == "curriculum-hidden"), arm
    final = losses["one-shot"](student, inputs, labels, 0)
    for arm in ("progressive", "curriculum-hidden", "curriculum-output"):
        assert torch.equal(losses[arm](student, inputs, labels, SMALL.curriculum_steps), final)


def test_a_student_that_was_given_up_counts_as_infinitely_slow():
    rows = [{"arm": "a", "steps": steps} for steps in (300, "", 100)] + [{"arm": "b", "steps": ""}]
    assert experiment.medians(rows) == {"a": 300.0, "b": math.inf}
