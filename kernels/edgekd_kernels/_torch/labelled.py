"""Losses on rows of logits that know the right class. Forward keeps the gradient of each value."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd_kernels._op import accumulation_dtype
from edgekd_kernels._torch.rowwise import scaled

_FILL = -1e30
"""Stands for minus infinity at the label: it stays finite when one is subtracted from another."""


class _Side(NamedTuple):
    """A network's probabilities with the label apart, `[B, 1]` or `[B, K]`."""

    log_label: Tensor
    log_rest: Tensor
    log_each: Tensor
    each: Tensor


def dkd_forward(
    student: Tensor, teacher: Tensor, labels: Tensor, *, alpha: float, beta: float, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and their gradients `[B, K]`."""
    dtype, label = accumulation_dtype(student, teacher), labels.unsqueeze(1)
    mine, theirs = (_apart(_logits(logits, temperature, dtype), label) for logits in (student, teacher))
    q, p = mine.log_label.exp(), theirs.log_label.exp()
    pair = p * (theirs.log_label - mine.log_label) + theirs.log_rest.exp() * (theirs.log_rest - mine.log_rest)
    rest = theirs.log_each.sub_(mine.log_each).mul_(theirs.each).sum(1)
    values = pair.squeeze(1).mul_(alpha).add_(rest, alpha=beta).mul_(temperature**2)
    at_label = (q - p).mul_(alpha * temperature)
    slope = (mine.each * (beta * temperature - at_label)).sub_(theirs.each, alpha=beta * temperature)
    return values, slope.scatter_(1, label, at_label)


def nkd_forward(
    student: Tensor, teacher: Tensor, labels: Tensor, *, gamma: float, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and their gradients `[B, K]`."""
    dtype, label = accumulation_dtype(student, teacher), labels.unsqueeze(1)
    mine, theirs = student.to(dtype), teacher.to(dtype)
    log_q = torch.log_softmax(mine, 1)
    log_label = _at(log_q, label)
    weight = _at(torch.log_softmax(theirs, 1), label).exp_()
    log_q_rest, p_rest = (
        F.log_softmax(_without(mine, temperature, label), 1),
        _without(theirs, temperature, label).softmax(1),
    )
    rest = (p_rest * log_q_rest).sum(1)
    values = (log_label * weight).squeeze(1).add_(rest, alpha=gamma * temperature**2).neg_()
    slope = log_q.exp_().mul_(weight).scatter_add_(1, label, -weight)
    return values, slope.add_(log_q_rest.exp_().sub_(p_rest), alpha=gamma * temperature)


def kd_ce_forward(
    student: Tensor, teacher: Tensor, labels: Tensor, *, label_weight: float, teacher_weight: float, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and their gradients `[B, K]`."""
    dtype, label = accumulation_dtype(student, teacher), labels.unsqueeze(1)
    mine, theirs = student.to(dtype), teacher.to(dtype)
    plain = torch.log_softmax(mine, 1)
    log_q, log_p = (torch.log_softmax(logits / temperature, 1) for logits in (mine, theirs))
    difference = log_p - log_q
    p = log_p.exp_()
    values = difference.mul_(p).sum(1).mul_(teacher_weight * temperature**2)
    values.sub_(_at(plain, label).squeeze(1), alpha=label_weight)
    slope = log_q.exp_().sub_(p).mul_(teacher_weight * temperature).add_(plain.exp_(), alpha=label_weight)
    return values, slope.scatter_add_(1, label, torch.full_like(label, -label_weight, dtype=dtype))


def dkd_backward(grad: Tensor, *kept: Tensor, **_: Any) -> tuple[Tensor]:
    """Return the last of the kept tensors, the gradient of each value, times that of the loss by the value."""
    return scaled(grad, kept[-1])


nkd_backward = kd_ce_backward = dkd_backward


def _logits(logits: Tensor, temperature: float, dtype: torch.dtype) -> Tensor:
    """Return logits divided by the temperature, a tensor of their own."""
    return logits.to(dtype) / temperature


def _at(rows: Tensor, label: Tensor) -> Tensor:
    """Return the entries at the labels, `[B, 1]`.

    Raises:
        ValueError: A label is no column.
    """
    try:
        return rows.gather(1, label)
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"labels must be in 0..{rows.shape[1] - 1}, got {label.squeeze(1).tolist()}") from error


def _without(logits: Tensor, temperature: float, label: Tensor) -> Tensor:
    return (logits / temperature).scatter_(1, label, _FILL)


def _apart(logits: Tensor, label: Tensor) -> _Side:
    """Return log probabilities of the label, of all the rest, and of each of the rest among the rest.

    `log(1 - p)` comes from the difference of the label's logit and the rest's log-normaliser, never from `1 - p`.
    """
    own = _at(logits, label)
    rest = logits.scatter_(1, label, _FILL)
    largest = rest.amax(1, keepdim=True)
    rest.sub_(largest)
    each = rest.exp()
    total = each.sum(1, keepdim=True)
    log_total = total.log()
    log_odds = own.sub_(largest).sub_(log_total)
    return _Side(F.logsigmoid(log_odds), F.logsigmoid(-log_odds), rest.sub_(log_total), each.div_(total))
