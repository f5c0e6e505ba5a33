"""How good a classifier's answers are beyond accuracy: likelihood, calibration, F1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.data import Split
from edgekd.distill.evaluation import outputs_of
from edgekd.distill.probes.probe import PROBES, Figures, Models, Probe, by_role

ECE_BINS = 10


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of rows of `[N, K]` whose largest logit is the label's."""
    return (logits.argmax(dim=1) == labels).double().mean().item()


def top_k_accuracy(logits: Tensor, labels: Tensor, *, k: int) -> float:
    """Return the share of rows of `[N, K]` whose label is among the `k` largest logits; 1 where `k >= K`."""
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (best == labels.unsqueeze(1)).any(dim=1).double().mean().item()


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> float:
    """Return `mean_b -log softmax(z_b)[y_b]` in nats, for logits `[N, K]`."""
    return F.cross_entropy(logits.double(), labels).item()


def expected_calibration_error(logits: Tensor, labels: Tensor, *, bins: int = ECE_BINS) -> float:
    """Return `sum_b n_b / N * |accuracy_b - confidence_b|` over bins of equal width of the largest probability.

    Args:
        logits: `[N, K]`.
        labels: int64 `[N]`.
        bins: Number of bins `((i - 1) / bins, i / bins]`.
    """
    confidence, decision = logits.double().softmax(dim=1).max(dim=1)
    is_right = (decision == labels).double()
    index = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, index, is_right - confidence)
    return gaps.abs().sum().item() / len(labels)


def predictive_entropy(logits: Tensor) -> float:
    """Return the mean entropy of `softmax(z)` in nats, for logits `[N, K]`."""
    log_probabilities = F.log_softmax(logits.double(), dim=1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=1).mean().item()


def macro_f1(logits: Tensor, labels: Tensor) -> float:
    """Return `2 tp / (2 tp + fp + fn)`, averaged over the classes among labels `[N]` and decisions of `[N, K]`."""
    classes = logits.shape[1]
    decided = F.one_hot(logits.argmax(dim=1), classes).double()
    true = F.one_hot(labels, classes).double()
    counted = decided.sum(dim=0) + true.sum(dim=0)
    scores = 2 * (decided * true).sum(dim=0) / counted.clamp(min=1)
    return scores[counted > 0].mean().item()


def quality_of(logits: Tensor, labels: Tensor) -> Figures:
    """Return `accuracy` 0..1, `nll` in nats and `ece` 0..1 (10 bins) of logits `[N, K]`."""
    return {
        "accuracy": accuracy(logits, labels),
        "nll": negative_log_likelihood(logits, labels),
        "ece": expected_calibration_error(logits, labels),
    }


def calibration(models: Models, split: Split) -> Figures:
    """How calibrated, certain and even over classes the networks are.

    Args:
        models: Roles `student`, and `teacher`, `independent` where given.
        split: What to run them on.

    Returns:
        For each: `accuracy`, `top5`, `macro_f1`, `nll`, `ece` (10 bins), `entropy` (mean predictive entropy in nats).

    Reference:
        Thapa 2022, arXiv 2210.09668, names metrics beyond accuracy without formulas: reconstruction of its list.
    """
    labels = torch.from_numpy(split.labels)

    def measure(logits: Tensor) -> Figures:
        return quality_of(logits, labels) | {
            "top5": top_k_accuracy(logits, labels, k=5),
            "macro_f1": macro_f1(logits, labels),
            "entropy": predictive_entropy(logits),
        }

    return by_role(models, lambda network: measure(outputs_of(network, split)), ("student", "independent", "teacher"))


PROBES.add(
    "calibration",
    Probe(
        calibration,
        title="ECE, predictive entropy, macro-F1, top-5 of teacher and students",
        reference="Thapa 2022, arXiv 2210.09668 (list of metrics reconstructed)",
        chance="the independent student's figures; where the student is the teacher, the teacher's",
        needs_pictures=False,
    ),
)
