"""The term on relations between the modalities of one input."""

from __future__ import annotations

from typing import Literal

import torch
from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill.step import Step
from edgekd.distill.terms.base import TERMS, Needs
from edgekd.distill.trace import Trace, TraceSpec


@TERMS.register("modality-gram")
class ModalityGram(nn.Module):
    """Squared difference of the inner products between modality embeddings within the student and within the teacher.

    No trainable part: what is compared is as large as the number of modalities, whatever the widths of the embeddings.
    Within one network they must agree in width. A student that lacks a modality follows the relations of those that
    both have, named in one order.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        student_paths: Modules of the student that give one modality's embedding `[B, d]` each, before they are fused;
            those that its family names when empty.
        teacher_paths: The same of the teacher, in the same order.
        normalise: Whether embeddings are divided by their length, so that cosines are compared.
        scope: `"sample"` compares the relations in each sample, `"batch"` their means over the batch.

    Reference:
        arXiv 2112.11447; a reconstruction from the abstract.
    """

    requires = ("two modalities",)
    row_claim = "together"

    def __init__(
        self,
        student: TraceSpec,
        teacher: TraceSpec,
        *,
        student_paths: tuple[str, ...] = (),
        teacher_paths: tuple[str, ...] = (),
        normalise: bool = True,
        scope: Literal["sample", "batch"] = "sample",
    ) -> None:
        super().__init__()
        mine, theirs = student_paths or student.modalities, teacher_paths or teacher.modalities
        for role, paths in (("student", mine), ("teacher", theirs)):
            if len(paths) < 2:
                raise ConfigError(
                    f"modality-gram compares relations between at least two modalities, the {role} has {len(paths)}: "
                    f"take a family that keeps them apart (towers), or name modules that give one's embedding each, "
                    f"{role}_paths: [...]"
                )
        if len(mine) != len(theirs):
            raise ConfigError(
                f"modality-gram: the student has {len(mine)} modalities, the teacher {len(theirs)}; name those that "
                "both have, in one order: student_paths and teacher_paths"
            )
        self.normalise, self.scope = normalise, scope
        self.needs = Needs(tuple(mine), tuple(theirs))

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        mine, theirs = _embeddings(student, self.needs.student), _embeddings(teacher, self.needs.teacher)
        return K.modality_gram(mine, theirs, normalise=self.normalise, scope=self.scope)


def _embeddings(trace: Trace, paths: tuple[str, ...]) -> Tensor:
    """Return `[B, M, d]`."""
    each = [trace.feats[path].flatten(1) for path in paths]
    widths = {path: embedding.shape[1] for path, embedding in zip(paths, each, strict=True)}
    if len(set(widths.values())) > 1:
        raise ConfigError(f"modality-gram: embeddings of one network must agree in width, got {widths}")
    return torch.stack(each, dim=1)
