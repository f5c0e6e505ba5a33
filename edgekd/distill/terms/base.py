"""What a term is, what it declares, and how one is built from a recipe's options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from edgekd.core.registry import Registry
from edgekd.data import Batch
from edgekd.distill.options import checked_options, options_model
from edgekd.distill.trace import Trace, TraceSpec


@dataclass(frozen=True)
class Step:
    """Where training stands.

    Attributes:
        index: Optimiser steps taken in this stage.
        total: Optimiser steps of this stage.
        epoch: Epochs finished in this stage.
    """

    index: int
    total: int
    epoch: int


@dataclass(frozen=True)
class Needs:
    """What a term reads.

    Attributes:
        student: Module paths tapped in the student.
        teacher: Module paths tapped in the teacher.
        is_supervised: It reads labels and no teacher; it is evaluated once, not once for each source.
        undecayed: Its own parameters, by first part of their name, that take no weight decay.
    """

    student: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()
    is_supervised: bool = False
    undecayed: tuple[str, ...] = ()


class Term(Protocol):
    """A loss term; in practice an `nn.Module`, so that its adapters are found by the optimiser."""

    needs: Needs

    def __call__(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`, one value for each sample; the mean over the batch is the loss."""
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


def term_schema(kind: str) -> dict[str, Any]:
    """Return the JSON schema of a term's options."""
    return options_model(f"{kind} options", TERMS[kind]).model_json_schema()
