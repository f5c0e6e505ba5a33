"""What terms that compare rows of a batch see where several processes have parts of it: all rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import cast

from torch import Tensor

from edgekd.data import Batch
from edgekd.distill.ranks import Ranks, gathered, gathered_batch
from edgekd.distill.step import Step
from edgekd.distill.terms.base import Term
from edgekd.distill.trace import Trace


class WideView:
    """A batch as all processes together see it, gathered when the first term asks.

    Args:
        batch: The rows of this process.
        ranks: The processes.
    """

    def __init__(self, batch: Batch, ranks: Ranks) -> None:
        self._batch, self._ranks = batch, ranks
        self._wide: Batch | None = None

    def values(self, term: Term, student: Trace, teacher: Trace, step: Step) -> Tensor:
        """Return a term's values `[B]` for the rows of this process, as they are among the rows of all."""
        if self._ranks.is_alone or getattr(term, "row_claim", None) != "together":
            return term(student, teacher, self._batch, step)
        self._wide = self._wide or gathered_batch(self._batch)
        needs = term.needs
        mine = self._gathered(student, needs.student)
        same = teacher is student
        theirs = mine if same else self._gathered(teacher, needs.teacher)
        values = term(mine, theirs, self._wide, step)
        return values[self._ranks.portion.rows(len(values))]

    def _gathered(self, trace: Trace, paths: Collection[str]) -> Trace:
        wide = cast(Batch, self._wide)
        is_batch = trace.inputs is self._batch.inputs
        return replace(
            trace,
            logits=gathered(trace.logits),
            feats=_each({path: trace.feats[path] for path in dict.fromkeys(paths)}),
            aux=_each(trace.aux),
            inputs=wide.inputs if is_batch else gathered(trace.inputs),
            input_gradient=None if trace.input_gradient is None else gathered(trace.input_gradient),
            feat_gradients=_each(trace.feat_gradients),
        )


def _each(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: gathered(tensor) for name, tensor in tensors.items()}
