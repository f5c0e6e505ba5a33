"""Terms on the states of tokens `[B, L, D]`, layer by layer."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill.step import Step
from edgekd.distill.terms.base import TERMS
from edgekd.distill.terms.pairs import needs_of, paired_by_depth
from edgekd.distill.trace import Trace, TraceSpec, shape_of

StatePairs = Literal["all", "inner", "last"] | list[tuple[str, str]]
"""All layers paired by relative depth, all but the last pair, the last pair alone, or explicit module paths."""

_PADDING = 0


@TERMS.register("cls-hint")
class ClsHint(nn.Module):
    """Mean squared difference of `[CLS]` states of paired layers, of unit length by default; averaged over pairs.

    Layers go together by relative depth, every second one for a teacher twice as deep. A student's state of another
    width than the teacher's first goes through a learned linear map; the paper takes equal widths.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        pairs: Which layers; the paper leaves the last out, whose state the logits already follow.
        normalise: Whether only the direction of a state counts.

    Reference:
        Sun, Cheng, Gan, Liu, Patient knowledge distillation, arXiv 1908.09355.
    """

    row_claim = "apart"

    requires = ("texts",)

    def __init__(
        self, student: TraceSpec, teacher: TraceSpec, *, pairs: StatePairs = "inner", normalise: bool = True
    ) -> None:
        super().__init__()
        self.pairs = state_pairs(student, teacher, pairs)
        self.projectors = _projectors(student, teacher, self.pairs)
        self.needs = needs_of(self.pairs)
        self._loss = K.hint_l2 if normalise else K.hint_mse

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        values = [
            self._loss(project(student.feats[on][:, 0]), teacher.feats[to][:, 0])
            for (on, to), project in zip(self.pairs, self.projectors, strict=True)
        ]
        return torch.stack(values).mean(dim=0)


@TERMS.register("hidden-relation")
class HiddenRelation(nn.Module):
    """Inner products over tokens between the states of consecutive paired layers brought together; padding left out.

    Averaged over consecutive layers. Layers go together, and widths are brought together, as in `ClsHint`.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        pairs: Which layers, at least two pairs, shallow to deep.

    Reference:
        arXiv 2302.00444, relation knowledge.
    """

    row_claim = "apart"

    requires = ("texts",)

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, pairs: StatePairs = "all") -> None:
        super().__init__()
        self.pairs = state_pairs(student, teacher, pairs)
        if len(self.pairs) < 2:
            raise ConfigError(
                f"hidden-relation compares what goes on between layers: it needs two pairs, got {self.pairs}"
            )
        self.projectors = _projectors(student, teacher, self.pairs)
        self.needs = needs_of(self.pairs)

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        mine = [project(student.feats[on]) for (on, _), project in zip(self.pairs, self.projectors, strict=True)]
        theirs = [teacher.feats[to] for _, to in self.pairs]
        is_token = student.inputs != _PADDING
        layers = zip(pairwise(mine), pairwise(theirs), strict=True)
        return torch.stack([K.hidden_relation(*one, *other, is_token=is_token) for one, other in layers]).mean(dim=0)


def state_pairs(student: TraceSpec, teacher: TraceSpec, pairs: StatePairs) -> tuple[tuple[str, str], ...]:
    """Turn a pairing of layers into module paths.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        pairs: Which layers.

    Returns:
        `(student path, teacher path)` of states `[B, L, D]`, shallow to deep.

    Raises:
        ConfigError: A path does not exist or gives no states, or no pair is left.
    """
    if isinstance(pairs, list):
        for role, spec, paths in (
            ("student", student, [a for a, _ in pairs]),
            ("teacher", teacher, [b for _, b in pairs]),
        ):
            for path in paths:
                if len(shape := shape_of(spec, path)) != 2:
                    raise ConfigError(f"{role} module {path!r} gives {shape}, not states of tokens (L, D)")
        return tuple(pairs)
    found = paired_by_depth(student.states, teacher.states)
    chosen = {"all": found, "inner": found[:-1], "last": found[-1:]}[pairs]
    if not chosen:
        raise ConfigError(
            f"no layers to pair: student has {len(student.states)} with states of tokens, teacher "
            f"{len(teacher.states)}, and pairs are {pairs!r}; name them: pairs: [[student, teacher]]"
        )
    return chosen


def _projectors(student: TraceSpec, teacher: TraceSpec, pairs: tuple[tuple[str, str], ...]) -> nn.ModuleList:
    widths = [(shape_of(student, on)[1], shape_of(teacher, to)[1]) for on, to in pairs]
    return nn.ModuleList(nn.Identity() if mine == theirs else nn.Linear(mine, theirs) for mine, theirs in widths)
