"""How good a network is on a split, and how well it follows another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from edgekd.data import IGNORED, Batch, Kind, Split, Task, eval_batches
from edgekd.models import evaluating

EVAL_BATCH_SIZE = 256
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
    return torch.cat([outputs for _, outputs in _answered(model, split)])


def evaluate(model: nn.Module, split: Split) -> Evaluation:
    """Evaluate a network on a split by the split's task."""
    nll_of, metric = _NLL[split.task.kind], split.task.metric
    tallies, sums = [], []
    for batch, outputs in _answered(model, split):
        tallies.append(metric.tally(outputs.numpy(), batch.labels.numpy()))
        sums.append(torch.stack(nll_of(outputs, batch.labels)).double())
    total, count = torch.stack(sums).sum(dim=0).tolist()
    return Evaluation(metric.score(sum(tallies[1:], start=tallies[0])), total / max(1.0, count), len(split))


def fidelity_of(student: Tensor, teacher: Tensor, task: Task) -> dict[str, float]:
    """Compare two networks' outputs `[N, ...]` of one task.

    Returns:
        `agreement` (see `Task.agreement`), and `kl`: mean KL(teacher || student) in nats, never negative, of class
        probabilities (each pixel counting alike), or of Gaussians summed over targets.

    Reference:
        Stanton et al. 2021, arXiv 2106.05945, for classes of inputs.
    """
    kl = (_gaussian_kl if task.kind == "regression" else _class_kl)(student.double(), teacher.double())
    agreement = task.agreement(student.numpy(), teacher.numpy())
    return {"agreement": agreement, "kl": max(0.0, kl.mean().item())}


def _class_kl(student: Tensor, teacher: Tensor) -> Tensor:
    mine, theirs = (F.log_softmax(logits, dim=1) for logits in (student, teacher))
    return (theirs.exp() * (theirs - mine)).sum(dim=1)


def _gaussian_kl(student: Tensor, teacher: Tensor) -> Tensor:
    return kl_divergence(_gaussians(teacher), _gaussians(student)).sum(dim=1)


def _gaussians(outputs: Tensor) -> Normal:
    means, log_variances = outputs.chunk(2, dim=1)
    return Normal(means, (log_variances.clamp(-_LARGEST_LOG_VARIANCE, _LARGEST_LOG_VARIANCE) / 2).exp())


def _answered(model: nn.Module, split: Split) -> Iterator[tuple[Batch, Tensor]]:
    device = next(model.parameters()).device
    with evaluating(model):
        for batch in eval_batches(split, batch_size=EVAL_BATCH_SIZE):
            yield batch, model(batch.inputs.to(device)).float().cpu()


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
