"""Curriculum extraction on sparse parity: how soon a narrow student learns what a wide teacher knows.

    python tools/bench/sparse_parity.py --seeds 7

Inputs are d random signs, the label is the product of the first k; every step sees new ones. Teacher and student are
ReLU networks of one hidden layer. Counted are the student's steps, those of the curriculum among them, until it gets
95 % of 2,000 test inputs right. All arms of a seed share teacher, initial student and batches:

- labels: the logistic loss, without a teacher;
- one-shot: the final teacher's logits;
- progressive: logits of the teacher's checkpoints, one of every 100 steps until it got 99 % right, then of the final
  teacher;
- curriculum-hidden: the hidden units learn a random projection of the teacher's, as many outputs as units, then logits;
- curriculum-output: the output learns a random projection to one number, then logits.

Both curricula divide their loss by the variance of their target, whose mean is taken off. Reference: arXiv 2503.17494
(curriculum extraction), arXiv 2410.05464 (progressive distillation).
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from edgekd_kernels import functional as K
from keep_result import RESULTS, clean_commit, cpu_name
from torch import Tensor

from edgekd.core import atomic
from edgekd.core.seeds import derive_seed

FIELDS = ("arm", "seed", "steps")
Loss = Callable[["Net", Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Setting:
    """The task and how it is trained.

    Attributes:
        inputs: d, signs of an input.
        support: k, signs that decide the label.
        teacher_width: Hidden units of the teacher.
        student_width: Hidden units of the student.
        batch_size: Inputs of a step.
        lr: Learning rate of SGD with momentum 0.9.
        teacher_steps: Steps that the teacher is trained for.
        curriculum_steps: Steps of either curriculum, and of the progressive one.
        most_steps: Steps after which a student is given up.
    """

    inputs: int = 40
    support: int = 5
    teacher_width: int = 1000
    student_width: int = 32
    batch_size: int = 64
    lr: float = 0.1
    teacher_steps: int = 4000
    curriculum_steps: int = 1000
    most_steps: int = 15000


TEST_INPUTS, CHECK_EVERY, ENOUGH, LEARNED = 2000, 100, 0.95, 0.99


@dataclass(frozen=True)
class Net:
    """A ReLU network of one hidden layer and one output, whose sign is the answer."""

    weight: Tensor
    bias: Tensor
    readout: Tensor

    @property
    def parameters(self) -> list[Tensor]:
        """What is trained."""
        return [self.weight, self.bias, self.readout]

    def hidden(self, inputs: Tensor) -> Tensor:
        """Return the hidden units, `[B, width]`."""
        return torch.relu(inputs @ self.weight.T + self.bias)

    def output(self, inputs: Tensor) -> Tensor:
        """Return the outputs, `[B]`."""
        return self.hidden(inputs) @ self.readout

    def frozen(self) -> Net:
        """Return it as it is now."""
        return Net(*(parameter.detach().clone() for parameter in self.parameters))


def fresh(inputs: int, width: int, generator: torch.Generator) -> Net:
    """Make a network with random weights."""
    weight = torch.randn(width, inputs, generator=generator) / math.sqrt(inputs)
    readout = torch.randn(width, generator=generator) / math.sqrt(width)
    return Net(*(values.requires_grad_() for values in (weight, torch.zeros(width), readout)))


def parity(rows: int, setting: Setting, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw inputs `[rows, d]` of -1 and 1 and their labels `[rows]`, the product of the first k."""
    signs = 2.0 * torch.randint(0, 2, (rows, setting.inputs), generator=generator) - 1
    return signs, signs[:, : setting.support].prod(dim=1)


def train(net: Net, loss: Loss, setting: Setting, *, steps: int, seed: int) -> Iterator[tuple[int, float]]:
    """Train a network, yielding after every 100 steps their number and the accuracy on test inputs."""
    batches = torch.Generator().manual_seed(derive_seed(seed, "batches"))
    test, labels = parity(TEST_INPUTS, setting, torch.Generator().manual_seed(derive_seed(seed, "test")))
    optimizer = torch.optim.SGD(net.parameters, lr=setting.lr, momentum=0.9)
    for step in range(steps):
        inputs, expected = parity(setting.batch_size, setting, batches)
        optimizer.zero_grad()
        loss(net, inputs, expected, step).backward()
        optimizer.step()
        if (step + 1) % CHECK_EVERY == 0:
            with torch.no_grad():
                yield step + 1, (net.output(test) * labels > 0).double().mean().item()


def by_labels(net: Net, inputs: Tensor, labels: Tensor, step: int) -> Tensor:
    """Return the logistic loss."""
    return F.softplus(-net.output(inputs) * labels).mean()


def by_teacher(teacher: Net) -> Loss:
    """Return the distillation loss at temperature 1 on the logits `(-f / 2, f / 2)` of output `f`."""

    def loss(net: Net, inputs: Tensor, labels: Tensor, step: int) -> Tensor:
        logits = [torch.stack([-f / 2, f / 2], dim=1) for f in (net.output(inputs), teacher.output(inputs))]
        return K.kd_kl(*logits, temperature=1.0).mean()

    return loss


def by_projection(teacher: Net, read: Callable[[Net, Tensor], Tensor], projection: Tensor, sample: Tensor) -> Loss:
    """Return the squared error of what is read against a projection of the teacher's centred hidden units.

    It is divided by the mean squared length of its targets on sample inputs.
    """
    mean = teacher.hidden(sample).mean(dim=0)
    size = ((teacher.hidden(sample) - mean) @ projection.T).square().sum(dim=1).mean()

    def loss(net: Net, inputs: Tensor, labels: Tensor, step: int) -> Tensor:
        return K.projected_match(read(net, inputs), teacher.hidden(inputs) - mean, projection).mean() / size

    return loss


def in_turn(phases: list[Loss], last: Loss, steps: int) -> Loss:
    """Return the loss that goes through phases of equal length for some steps and then stays with the last one."""

    def loss(net: Net, inputs: Tensor, labels: Tensor, step: int) -> Tensor:
        now = last if step >= steps else phases[step * len(phases) // steps]
        return now(net, inputs, labels, step)

    return loss


def taught(setting: Setting, seed: int) -> tuple[list[Net], Net]:
    """Train a teacher; return its checkpoints while it learned, and itself at the end."""
    net = fresh(setting.inputs, setting.teacher_width, _generator(seed, "teacher"))
    checkpoints: list[Net] = []
    best = 0.0
    for _, accuracy in train(net, by_labels, setting, steps=setting.teacher_steps, seed=derive_seed(seed, "taught")):
        if best < LEARNED:
            checkpoints.append(net.frozen())
        best = max(best, accuracy)
    print(f"seed {seed}: teacher {best:.1%}, {len(checkpoints)} checkpoints", flush=True)
    return checkpoints, net.frozen()


def arms(setting: Setting, checkpoints: list[Net], teacher: Net, seed: int) -> dict[str, Loss]:
    """Return every arm's loss."""
    final, length = by_teacher(teacher), setting.curriculum_steps
    sample, _ = parity(TEST_INPUTS, setting, _generator(seed, "sample"))
    drawn = torch.randn(setting.student_width, setting.teacher_width, generator=_generator(seed, "projection"))
    wide, narrow = drawn / math.sqrt(setting.student_width), drawn[:1]
    hidden = by_projection(teacher, lambda net, inputs: net.hidden(inputs), wide, sample)
    output = by_projection(teacher, lambda net, inputs: net.output(inputs).unsqueeze(1), narrow, sample)
    return {
        "labels": by_labels,
        "one-shot": final,
        "progressive": in_turn([by_teacher(checkpoint) for checkpoint in checkpoints], final, length),
        "curriculum-hidden": in_turn([hidden], final, length),
        "curriculum-output": in_turn([output], final, length),
    }


def measured(setting: Setting, seed: int) -> Iterator[dict[str, Any]]:
    """Yield one row for each arm; steps are empty where the student was given up."""
    for arm, loss in arms(setting, *taught(setting, seed), seed).items():
        student = fresh(setting.inputs, setting.student_width, _generator(seed, "student"))
        curve = train(student, loss, setting, steps=setting.most_steps, seed=seed)
        reached = next((steps for steps, accuracy in curve if accuracy >= ENOUGH), None)
        print(f"seed {seed}: {arm} {reached}", flush=True)
        yield {"arm": arm, "seed": seed, "steps": "" if reached is None else reached}


def medians(rows: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Return the median of steps by arm; a student that was given up counts as infinitely slow."""
    by_arm: dict[str, list[float]] = {}
    for row in rows:
        by_arm.setdefault(row["arm"], []).append(math.inf if row["steps"] == "" else float(row["steps"]))
    return {arm: statistics.median(steps) for arm, steps in by_arm.items()}


def main() -> None:
    """Run every arm and seed, print medians and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=7)
    arguments = parser.parse_args()
    version = torch.__version__.partition("+")[0]
    path = RESULTS / f"sparse-parity_cpu-{cpu_name()}_torch{version}_{clean_commit()}.csv"
    torch.set_num_threads(1)
    rows = [row for seed in range(arguments.seeds) for row in measured(Setting(), seed)]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic.write_text(path, stream.getvalue())
    for arm, steps in medians(rows).items():
        print(f"{arm}: median {steps:g} steps")


def _generator(seed: int, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, purpose))


if __name__ == "__main__":
    main()
