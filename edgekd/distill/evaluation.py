"""How good a network is on a split, and how well it follows another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from edgekd.data import IGNORED, Batch, Kind, Split, Task, eval_batches
from edgekd.data.metrics import Tally
from edgekd.models import evaluating

_LARGEST_LOG_VARIANCE = 30.0
_LEAST_VARIANCE = 1e-14


@dataclass(frozen=True)
class Evaluation:
    """Quality of a network on a split.

    Attributes:
        score: In the metric of the split's task; 1.0 is perfect.
        nll: Mean negative log-likelihood of the labels in nats, over inputs or over pixels that are not ignored; for
            real values without the constant `log(2 pi) / 2` of each.
        samples: Size of the split.
    """

    score: float
    nll: float
    samples: int


def outputs_of(model: nn.Module, split: Split) -> Tensor:
    """Return a network's outputs `[N, ...]` in float32 on the CPU, in evaluation mode and without a graph.

    Args:
        model: Inputs as networks take them to one output; the mode of each of its modules is restored.
        split: What to run it on.
    """
    with evaluating(model):
        return torch.cat([outputs for _, (outputs,) in _answered([model], split)])


def evaluate(model: nn.Module, split: Split) -> Evaluation:
    """Evaluate a network on a split by the split's task; inputs without a label count nothing."""
    nll_of, metric = _NLL[split.task.kind], split.task.metric
    tallies, sums = [], []
    with evaluating(model):
        for batch, (outputs,) in _answered([model], split):
            answers, labels = outputs[batch.is_labelled], batch.labels[batch.is_labelled]
            tallies.append(metric.tally(answers.numpy(), labels.numpy()))
            sums.append(torch.stack(nll_of(answers, labels)).double())
    total, count = torch.stack(sums).sum(dim=0).tolist()
    return Evaluation(metric.score(np.sum(tallies, axis=0)), total / max(1.0, count), len(split))


def fidelity_of(student: Tensor, teacher: Tensor, task: Task) -> dict[str, float]:
    """Compare two networks' outputs `[N, ...]` of one task.

    Returns:
        `agreement` (see `Task.agreement`), and `kl`: mean KL(teacher || student) in nats, never negative, of class
        probabilities (each pixel counting alike), or of Gaussians summed over targets.

    Reference:
        Stanton et al. 2021, arXiv 2106.05945, for classes of inputs.
    """
    return _fidelity([_compared(student, teacher, task)], task)


def fidelities_of(students: Sequence[nn.Module], teacher: nn.Module, split: Split) -> list[dict[str, float]]:
    """Compare networks with their teacher on a split, batch by batch; see `fidelity_of`."""
    parts: list[list[tuple[Tally, Tensor]]] = [[] for _ in students]
    with ExitStack() as stack:
        for network in (teacher, *students):
            stack.enter_context(evaluating(network))
        for _, (theirs, *answers) in _answered([teacher, *students], split):
            for part, mine in zip(parts, answers, strict=True):
                part.append(_compared(mine, theirs, split.task))
    return [_fidelity(part, split.task) for part in parts]


def _compared(student: Tensor, teacher: Tensor, task: Task) -> tuple[Tally, Tensor]:
    kl = (_gaussian_kl if task.kind == "regression" else _class_kl)(student.double(), teacher.double())
    return task.agreement_measure.tally(student.numpy(), task.answers(teacher.numpy())), kl.flatten()


def _fidelity(parts: Sequence[tuple[Tally, Tensor]], task: Task) -> dict[str, float]:
    agreement = task.agreement_measure.score(np.sum([tally for tally, _ in parts], axis=0))
    return {"agreement": agreement, "kl": max(0.0, torch.cat([kl for _, kl in parts]).mean().item())}


def _class_kl(student: Tensor, teacher: Tensor) -> Tensor:
    mine, theirs = (F.log_softmax(logits, dim=1) for logits in (student, teacher))
    return (theirs.exp() * (theirs - mine)).sum(dim=1)


def _gaussian_kl(student: Tensor, teacher: Tensor) -> Tensor:
    return kl_divergence(_gaussians(teacher), _gaussians(student)).sum(dim=1)


def _gaussians(outputs: Tensor) -> Normal:
    means, log_variances = outputs.chunk(2, dim=1)
    return Normal(means, (log_variances.clamp(-_LARGEST_LOG_VARIANCE, _LARGEST_LOG_VARIANCE) / 2).exp())


def _answered(networks: Sequence[nn.Module], split: Split) -> Iterator[tuple[Batch, list[Tensor]]]:
    """Yield batches with each network's outputs; the caller holds the networks in evaluation mode."""
    for batch in eval_batches(split):
        yield batch, [network(batch.inputs.to(_device(network))).float().cpu() for network in networks]


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _class_nll(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return F.cross_entropy(outputs, labels, reduction="sum"), torch.tensor(float(len(labels)))


def _pixel_nll(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    total = F.cross_entropy(outputs, labels, reduction="sum", ignore_index=IGNORED)
    return total, (labels != IGNORED).sum().float()


def _gaussian_nll(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    spread = _gaussians(outputs)
    return F.gaussian_nll_loss(spread.loc, labels, spread.variance, reduction="sum", eps=_LEAST_VARIANCE), torch.tensor(
        float(len(labels))
    )


_NLL: Mapping[Kind, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "classification": _class_nll,
    "segmentation": _pixel_nll,
    "regression": _gaussian_nll,
}
