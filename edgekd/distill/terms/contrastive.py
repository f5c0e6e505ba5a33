"""Terms that tell a sample's own student-teacher pair from the pairs of other samples."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.data import UNLABELLED, Batch
from edgekd.distill.step import Step
from edgekd.distill.terms.base import TERMS, Needs, Preparation
from edgekd.distill.terms.labelled import over_labelled
from edgekd.distill.trace import Trace, TraceSpec, shape_of


@TERMS.register("info-nce")
class InBatchContrast(nn.Module):
    """Each student feature has to find its teacher feature among those of the batch, through one linear head a side.

    Negatives are the other samples of the batch, those of the same class among them. Both heads are learned; the
    teacher's feature below its head is not.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        embedding_width: Outputs of each head.
        temperature: Divides the cosines.

    Reference:
        arXiv 1807.03748 (the loss), arXiv 1910.10699 (its use between teacher and student).
    """

    row_claim = "together"

    def __init__(
        self, student: TraceSpec, teacher: TraceSpec, *, embedding_width: int = 128, temperature: float = 0.07
    ) -> None:
        super().__init__()
        if embedding_width < 1 or not temperature > 0:
            raise ConfigError(
                f"info-nce: embedding_width {embedding_width} and temperature {temperature} must be positive"
            )
        self.temperature = temperature
        self.needs = Needs((student.penultimate,), (teacher.penultimate,), least_rows=2)
        self.student_head = nn.Linear(math.prod(shape_of(student, student.penultimate)), embedding_width)
        self.teacher_head = nn.Linear(math.prod(shape_of(teacher, teacher.penultimate)), embedding_width)

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        (on,), (to,) = self.needs.student, self.needs.teacher
        mine = self.student_head(student.feats[on].flatten(1))
        theirs = self.teacher_head(teacher.feats[to].detach().flatten(1))
        return K.info_nce(mine, theirs, temperature=self.temperature)


@TERMS.register("crd")
class ContrastiveRepresentation(nn.Module):
    """Contrast of a sample's student and teacher embeddings with those of samples of other classes, kept in two banks.

    A linear head a side makes embeddings of unit length; both heads are learned, the teacher's feature below its head
    is not. The student's embedding is compared with rows of the bank of teacher embeddings and the teacher's with rows
    of the student's; both losses are added. The own row is the positive, the negatives are drawn anew for each sample,
    without repetition, from the training rows of other classes. Afterwards the own rows move towards the new
    embeddings. The normalisation constants of both critics are estimated from the first batch and then stay.

    Rows without a label, as views make them, are neither compared nor remembered.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        embedding_width: Outputs of each head.
        temperature: Divides the inner products.
        momentum: Share of the old row that stays when a row of a bank is renewed.
        negatives: Negatives of each sample. Never more than the rows outside the largest class; a note says so.

    Reference:
        arXiv 1910.10699, negatives of the authors' mode "exact".
    """

    student_bank: Tensor
    teacher_bank: Tensor
    log_normalisers: Tensor

    requires = ("labels",)
    leaves_out_unlabelled = True
    row_claim = "together"

    def __init__(
        self,
        student: TraceSpec,
        teacher: TraceSpec,
        *,
        embedding_width: int = 128,
        temperature: float = 0.07,
        momentum: float = 0.5,
        negatives: int = 16384,
    ) -> None:
        super().__init__()
        if embedding_width < 1 or negatives < 1 or not temperature > 0 or not 0 <= momentum < 1:
            raise ConfigError(
                f"crd: embedding_width {embedding_width}, negatives {negatives} and temperature {temperature} must be "
                f"positive, momentum {momentum} in [0, 1)"
            )
        if student.kind != "classification":
            raise ConfigError(f"crd takes negatives from other classes of inputs, this task is {student.kind}; use sp")
        self.temperature, self.momentum, self.negatives = temperature, momentum, negatives
        self.needs = Needs((student.penultimate,), (teacher.penultimate,))
        self.student_head = nn.Linear(math.prod(shape_of(student, student.penultimate)), embedding_width)
        self.teacher_head = nn.Linear(math.prod(shape_of(teacher, teacher.penultimate)), embedding_width)
        for name in ("student_bank", "teacher_bank"):
            self.register_buffer(name, torch.empty(0, embedding_width))
        self.register_buffer("log_normalisers", torch.full((2,), torch.nan))
        self._labels = torch.empty(0, dtype=torch.int64)

    def prepare(self, preparation: Preparation) -> None:
        """Make the banks, one random row for each training row, and count the negatives that the data allow.

        Raises:
            ConfigError: All training rows are of one class.
        """
        self._labels = preparation.labels.cpu()
        known = self._labels[self._labels != UNLABELLED]
        allowed = len(known) - int(torch.bincount(known).max())
        if allowed == 0:
            raise ConfigError("crd needs negatives: rows of another class; all training rows are of one")
        if allowed < self.negatives:
            preparation.note(
                f"{allowed} negatives instead of {self.negatives}: the data have no more rows outside the largest class"
            )
            self.negatives = allowed
        for name in ("student_bank", "teacher_bank"):
            bank = _random_rows(len(self._labels), self.student_head.out_features, preparation.generator(name))
            setattr(self, name, bank.to(preparation.device))

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`; rows without a label are 0 and the others scaled so that the mean is over labelled rows."""
        (on,), (to,) = self.needs.student, self.needs.teacher
        kept = batch.is_labelled.nonzero().squeeze(1)
        own = batch.ids[kept]
        mine = F.normalize(self.student_head(student.feats[on].flatten(1)[kept]).float(), dim=1)
        theirs = F.normalize(self.teacher_head(teacher.feats[to].detach().flatten(1)[kept]).float(), dim=1)
        rows = self._rows(own.cpu(), step.generator("crd")).to(own.device)
        pairs = ((mine, self.teacher_bank), (theirs, self.student_bank))
        similarities = [K.bank_similarity(each, bank, rows, temperature=self.temperature) for each, bank in pairs]
        size = len(self.teacher_bank)
        estimates = torch.stack([K.crd_log_normaliser(similarity, size) for similarity in similarities])
        self.log_normalisers = torch.where(self.log_normalisers.isnan(), estimates, self.log_normalisers)
        sides = zip(similarities, self.log_normalisers, strict=True)
        losses = torch.stack([K.crd(similarity, normaliser, size) for similarity, normaliser in sides]).sum(dim=0)
        self.student_bank = self._renewed(self.student_bank, own, mine.detach())
        self.teacher_bank = self._renewed(self.teacher_bank, own, theirs.detach())
        return over_labelled(losses.new_zeros(len(batch)).index_copy(0, kept, losses), batch)

    def _rows(self, own: Tensor, generator: torch.Generator) -> Tensor:
        """Return int64 `[B, 1 + m]`: each sample's own row, then rows of other classes."""
        drawn = []
        for row in own.tolist():
            is_other = (self._labels != self._labels[row]) & (self._labels != UNLABELLED)
            others = is_other.nonzero().squeeze(1)
            chosen = others[torch.randperm(len(others), generator=generator)[: self.negatives]]
            drawn.append(torch.cat([torch.tensor([row]), chosen]))
        return torch.stack(drawn)

    def _renewed(self, bank: Tensor, own: Tensor, embeddings: Tensor) -> Tensor:
        """Return a new tensor, since the graph of this step still holds the old one."""
        moved = self.momentum * bank[own] + (1 - self.momentum) * embeddings
        return bank.index_copy(0, own, F.normalize(moved, dim=1))


def _random_rows(count: int, width: int, generator: torch.Generator) -> Tensor:
    """Return `[count, width]`, uniform and of expected squared length 1."""
    bound = math.sqrt(3 / width)
    return (2 * torch.rand(count, width, generator=generator) - 1) * bound
