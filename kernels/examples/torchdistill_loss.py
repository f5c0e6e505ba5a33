"""Losses of this package in a torchdistill run: import this module before the configuration is read.

torchdistill finds a loss by the name under which its class was registered, and calls it with two dictionaries of what
went into and came out of the watched modules. In a configuration:

    criterion:
      key: 'WeightedSumLoss'
      kwargs:
        sub_terms:
          kd:
            criterion:
              key: 'FusedLogitLoss'
              kwargs:
                loss: 'KdKl'
                options: {temperature: 4.0}
                student: {path: '.', io: 'output'}
                teacher: {path: '.', io: 'output'}
            weight: 0.9
          hint:
            criterion:
              key: 'FusedMapLoss'
              kwargs:
                loss: 'AttentionTransfer'
                student: {path: 'layer3', io: 'output'}
                teacher: {path: 'layer3', io: 'output'}
            weight: 100.0

Written against `torchdistill.losses.registry.register_mid_level_loss` of torchdistill 1.x; it was tried here with a
stand-in for that decorator, not in a run of torchdistill.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd_kernels import modules
from torch import Tensor, nn
from torchdistill.losses.registry import register_mid_level_loss

Traces = Mapping[str, Mapping[str, Tensor]]
"""By the path of a module, its `"input"` and `"output"`."""


@register_mid_level_loss
class FusedMapLoss(nn.Module):
    """Any loss of two tensors, student's and teacher's.

    Args:
        loss: Name of a class of `edgekd_kernels.modules`.
        student: Which tensor: `path` of the module and `io`, `"input"` or `"output"`.
        teacher: Which tensor of the teacher's.
        options: Of the loss.
    """

    def __init__(
        self,
        loss: str,
        student: Mapping[str, str],
        teacher: Mapping[str, str],
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.loss = getattr(modules, loss)(**(options or {}))
        self.student, self.teacher = student, teacher

    def forward(self, student_io_dict: Traces, teacher_io_dict: Traces, *_: Any, **__: Any) -> Tensor:
        """Return the mean over the batch."""
        values: Tensor = self.loss(_tensor(student_io_dict, self.student), _tensor(teacher_io_dict, self.teacher))
        return values


@register_mid_level_loss
class FusedLogitLoss(FusedMapLoss):
    """Any loss of two rows of logits, and of the labels where the loss takes them (`Dkd`, `Nkd`)."""

    def forward(
        self, student_io_dict: Traces, teacher_io_dict: Traces, targets: Tensor | None = None, *_: Any, **__: Any
    ) -> Tensor:
        """Return the mean over the batch."""
        pair = _tensor(student_io_dict, self.student), _tensor(teacher_io_dict, self.teacher)
        is_labelled = isinstance(self.loss, (modules.Dkd, modules.Nkd))
        values: Tensor = self.loss(*pair, targets) if is_labelled else self.loss(*pair)
        return values


def _tensor(traces: Traces, which: Mapping[str, str]) -> Tensor:
    return traces[which["path"]][which["io"]]
