"""What a term is, what it declares, and how one is built from a recipe's options."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from edgekd.core.registry import Registry
from edgekd.core.seeds import derive_seed
from edgekd.data import Batch
from edgekd.distill.options import checked_options
from edgekd.distill.step import Step
from edgekd.distill.trace import Trace, TraceSpec


@dataclass(frozen=True)
class Needs:
    """What a term reads.

    Attributes:
        student: Module paths tapped in the student.
        teacher: Module paths tapped in the teacher.
        is_supervised: It reads no teacher, labels mostly; it is evaluated once, not once for each target.
        input_gradient: It reads `input_gradient` of both traces.
        student_gradients: Module paths at which it reads the student's `feat_gradients`, beside the input's.
        teacher_gradients: Likewise the teacher's.
        least_rows: Fewest rows of a batch for which it is defined.
        undecayed: Its own parameters, by first part of their name, that take no weight decay.
    """

    student: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()
    is_supervised: bool = False
    input_gradient: bool = False
    student_gradients: tuple[str, ...] = ()
    teacher_gradients: tuple[str, ...] = ()
    least_rows: int = 1
    undecayed: tuple[str, ...] = ()


class Term(Protocol):
    """A loss term; in practice an `nn.Module`, so that its adapters are found by the optimiser."""

    needs: Needs

    def __call__(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`, one value for each sample; the mean over the batch is the loss."""
        ...


def _unheard(message: str) -> None:
    """Drop a note where nobody listens."""


@dataclass(frozen=True)
class Preparation:
    """What a term may look at before its stage starts.

    Attributes:
        labels: Those of the training split, `[N, ...]`.
        num_classes: Classes of the task (quantities, in regression).
        device: Where the training runs.
        traces: `traces(rows)` gives student and target traces of so many training rows, evenly spaced over the split,
            unaugmented, in evaluation mode and without a graph, batch by batch.
        seed: Root of whatever the term draws; the run, the stage and the term decide it.
        note: Tells the user something.
    """

    labels: Tensor
    num_classes: int
    device: torch.device
    traces: Callable[[int], Iterator[tuple[Trace, Trace]]]
    seed: int = 0
    note: Callable[[str], None] = _unheard

    def generator(self, *purpose: str | int) -> torch.Generator:
        """Return a CPU generator that only the seed and the purpose decide, whatever ran before."""
        return torch.Generator().manual_seed(derive_seed(self.seed, *purpose))


@runtime_checkable
class Prepared(Protocol):
    """A term that has to see training data before its stage starts."""

    def prepare(self, preparation: Preparation) -> None:
        """Look at the data; called once, at the student's state of that moment."""
        ...


TERMS: Registry[type[nn.Module]] = Registry("loss term")


def build_term(kind: str, student: TraceSpec, teacher: TraceSpec, options: Mapping[str, Any]) -> nn.Module:
    """Build a term by name.

    Args:
        kind: Its name in `TERMS`.
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        options: Keyword options as a recipe gives them.

    Returns:
        The term.

    Raises:
        ConfigError: Unknown name, unknown or ill-typed option, or networks that do not fit.
    """
    builder = TERMS[kind]
    return builder(student, teacher, **checked_options(f"term {kind!r}", builder, options))
