"""Losses that tell a sample's own pair from the pairs of other samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgekd_kernels._checks import require_positive
from edgekd_kernels._dispatch import Impl
from edgekd_kernels._maps import require_features
from edgekd_kernels._op import FusedLoss, Signature, accumulation_dtype


def _fake_info_nce(student: Tensor, teacher: Tensor, **_: object) -> tuple[Tensor, ...]:
    dtype = accumulation_dtype(student, teacher)
    return tuple(student.new_empty(len(student), dtype=dtype) for _ in range(4))


def _fake_bank_similarity(embedding: Tensor, bank: Tensor, rows: Tensor, **_: object) -> tuple[Tensor, ...]:
    return (embedding.new_empty(rows.shape, dtype=accumulation_dtype(embedding, bank)),)


def _fake_crd(similarity: Tensor, _: Tensor, **__: object) -> tuple[Tensor, ...]:
    return (similarity.new_empty(len(similarity), dtype=accumulation_dtype(similarity)),)


_INFO_NCE = FusedLoss(
    Signature(
        name="info_nce",
        family="contrastive",
        inputs=("student", "teacher"),
        options={"temperature": "float"},
        gradients=("student", "teacher"),
        kept=("student", "teacher"),
        saved=("log_total", "inverse", "its_inverse"),
        fake=_fake_info_nce,
        torch_keeps_own=True,
    )
)
_BANK_SIMILARITY = FusedLoss(
    Signature(
        name="bank_similarity",
        family="contrastive",
        inputs=("embedding", "bank", "rows"),
        options={"temperature": "float"},
        gradients=("embedding",),
        kept=("embedding", "bank", "rows"),
        saved=(),
        fake=_fake_bank_similarity,
    )
)
_CRD = FusedLoss(
    Signature(
        name="crd",
        family="contrastive",
        inputs=("similarity", "log_normaliser"),
        options={"log_noise": "float"},
        gradients=("similarity",),
        kept=("similarity", "log_normaliser"),
        saved=(),
        fake=_fake_crd,
        torch_keeps_own=True,
    )
)


def info_nce(
    student_embedding: Tensor, teacher_embedding: Tensor, *, temperature: float = 0.07, impl: Impl = "auto"
) -> Tensor:
    """In-batch contrast, `-log softmax_j(cos(s_i, t_j) / T)` at `j = i`: each student row finds its teacher row.

    Args:
        student_embedding: `[B, D]`.
        teacher_embedding: `[B, D]`, a learned head's output; it receives a gradient too, the feature below the head
            should be detached.
        temperature: `T > 0`.
        impl: Which implementation.

    Returns:
        `[B]`; zeros without gradient for a batch of one.

    Raises:
        ValueError: Shapes or devices differ, they are not `[B, D]`, a tensor has no elements, or the temperature is not
            positive.
        TypeError: Embeddings are not of floating point, or the temperature is a tensor.
        RuntimeError: The wanted implementation cannot run.

    Reference:
        arXiv 1807.03748.
    """
    require_features(student_embedding=student_embedding, teacher_embedding=teacher_embedding)
    if student_embedding.dim() != 2:
        raise ValueError(f"embeddings have shape {tuple(student_embedding.shape)}, expected [B, D]")
    require_positive(temperature)
    return _INFO_NCE(student_embedding, teacher_embedding, impl=impl, temperature=temperature)


def bank_similarity(
    embedding: Tensor, bank: Tensor, rows: Tensor, *, temperature: float = 0.07, impl: Impl = "auto"
) -> Tensor:
    """Inner products of each embedding with chosen rows of a memory bank, divided by the temperature.

    Args:
        embedding: `[B, D]`, of unit length; it receives a gradient.
        bank: `[N, D]`, earlier embeddings; no gradient reaches it.
        rows: int64 `[B, 1 + m]`, each sample's own row first, then those of its negatives.
        temperature: Divides the products.
        impl: Which implementation.

    Returns:
        `[B, 1 + m]`.

    Raises:
        ValueError: Widths, batch sizes or devices differ, a tensor has no elements, the temperature is not positive, or
            on a CPU a row is out of range; on a GPU that gives NaN.
        TypeError: Embeddings are not of floating point, rows not int64, or the temperature is a tensor.
        RuntimeError: The wanted implementation cannot run.

    Reference:
        CRD, arXiv 1910.10699.
    """
    shapes = f"embedding {tuple(embedding.shape)}, bank {tuple(bank.shape)}, rows {tuple(rows.shape)}"
    if not embedding.dim() == bank.dim() == rows.dim() == 2:
        raise ValueError(f"expected [B, D], [N, D] and [B, 1 + m], got {shapes}")
    if embedding.shape[1] != bank.shape[1] or len(embedding) != len(rows):
        raise ValueError(f"shapes do not go together: {shapes}")
    if 0 in (embedding.numel(), bank.numel(), rows.numel()):
        raise ValueError(f"nothing to compare: {shapes}")
    if not embedding.is_floating_point() or not bank.is_floating_point() or rows.dtype != torch.int64:
        raise TypeError(
            f"expected embedding and bank of floating point and rows of torch.int64, got {embedding.dtype}, "
            f"{bank.dtype} and {rows.dtype}"
        )
    if not embedding.device == bank.device == rows.device:
        raise ValueError(f"devices differ: embedding on {embedding.device}, bank {bank.device}, rows {rows.device}")
    require_positive(temperature)
    return _BANK_SIMILARITY(embedding, bank.detach(), rows, impl=impl, temperature=temperature)


def crd_log_normaliser(similarity: Tensor, bank_size: int) -> Tensor:
    """Estimate `log Z` of CRD's critic, `Z = N * mean exp(similarity)`, from one batch.

    Args:
        similarity: `[B, 1 + m]`, see `bank_similarity`.
        bank_size: `N`, rows of the bank.

    Returns:
        A scalar without a gradient.

    Raises:
        ValueError: There is no similarity, or the bank is empty.
    """
    if similarity.numel() == 0:
        raise ValueError(f"similarity has shape {tuple(similarity.shape)}, nothing to estimate from")
    _require_bank(bank_size)
    flat = similarity.detach().flatten()
    return flat.logsumexp(dim=0) + math.log(bank_size / len(flat))


def crd(similarity: Tensor, log_normaliser: Tensor, bank_size: int, *, impl: Impl = "auto") -> Tensor:
    """Noise-contrastive loss of CRD, one side: is a row the sample's own, or one of `m` drawn from noise?

    With `h = exp(similarity) / Z` and `c = m / N`, `N` being the size of the bank:
    `-log(h_own / (h_own + c)) - sum over negatives of log(c / (h + c))`.

    Args:
        similarity: `[B, 1 + m]`, own row first, see `bank_similarity`.
        log_normaliser: `log Z`, see `crd_log_normaliser`; no gradient reaches it.
        bank_size: `N`.
        impl: Which implementation.

    Returns:
        `[B]`.

    Raises:
        ValueError: The similarity is not `[B, 1 + m]`, the batch is empty, there is no negative, the normaliser is no
            scalar, the bank is empty, or devices differ.
        TypeError: The similarity or the normaliser is not of floating point.
        RuntimeError: The wanted implementation cannot run.

    Reference:
        arXiv 1910.10699. Computed as log-sigmoids, so that the 1e-7 of the authors' code in both denominators is not
        needed.
    """
    if similarity.dim() != 2 or len(similarity) == 0:
        raise ValueError(f"similarity has shape {tuple(similarity.shape)}, expected [B, 1 + m] with B >= 1")
    negatives = similarity.shape[1] - 1
    if negatives < 1:
        raise ValueError(f"similarity {tuple(similarity.shape)} holds no negative")
    for name, tensor in (("similarity", similarity), ("log_normaliser", log_normaliser)):
        if not tensor.is_floating_point():
            raise TypeError(f"{name} has dtype {tensor.dtype}, expected floating point")
    _require_bank(bank_size)
    if log_normaliser.dim() != 0:
        raise ValueError(f"log_normaliser has shape {tuple(log_normaliser.shape)}, expected a scalar")
    if similarity.device != log_normaliser.device:
        raise ValueError(f"devices differ: similarity on {similarity.device}, its normaliser {log_normaliser.device}")
    return _CRD(similarity, log_normaliser.detach(), impl=impl, log_noise=math.log(negatives / bank_size))


def _require_bank(bank_size: int) -> None:
    if bank_size < 1:
        raise ValueError(f"bank_size must be at least 1, got {bank_size}")
