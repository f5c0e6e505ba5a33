"""Losses that tell a sample's own pair from the pairs of other samples."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from edgekd_kernels._checks import require_same_shape, widened
from edgekd_kernels._rows import inner_products, unit_rows


def info_nce(student_embedding: Tensor, teacher_embedding: Tensor, *, temperature: float = 0.07) -> Tensor:
    """In-batch contrast, `-log softmax_j(cos(s_i, t_j) / T)` at `j = i`: each student row finds its teacher row.

    Args:
        student_embedding: `[B, D]`.
        teacher_embedding: `[B, D]`, a learned head's output; it receives a gradient too, the feature below the head
            should be detached.
        temperature: `T > 0`.

    Returns:
        `[B]`; zeros without gradient for a batch of one.

    Raises:
        ValueError: Shapes differ or the temperature is not positive.

    Reference:
        arXiv 1807.03748.
    """
    require_same_shape(student_embedding, teacher_embedding)
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    student, teacher = unit_rows(widened(student_embedding)), unit_rows(widened(teacher_embedding))
    return -F.log_softmax(inner_products(student, teacher) / temperature, dim=1).diagonal()


def bank_similarity(embedding: Tensor, bank: Tensor, rows: Tensor, *, temperature: float = 0.07) -> Tensor:
    """Inner products of each embedding with chosen rows of a memory bank, divided by the temperature.

    All products are formed and the wanted ones picked, which costs less than copying `B (1 + m)` rows of the bank.

    Args:
        embedding: `[B, D]`, of unit length; it receives a gradient.
        bank: `[N, D]`, earlier embeddings; no gradient reaches it.
        rows: int64 `[B, 1 + m]`, each sample's own row first, then those of its negatives.
        temperature: Divides the products.

    Returns:
        `[B, 1 + m]`.

    Raises:
        ValueError: Widths or batch sizes differ, or the temperature is not positive.

    Reference:
        CRD, arXiv 1910.10699.
    """
    if embedding.shape[1:] != bank.shape[1:] or len(embedding) != len(rows):
        raise ValueError(
            f"shapes do not go together: embedding {tuple(embedding.shape)}, bank {tuple(bank.shape)}, "
            f"rows {tuple(rows.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    return inner_products(widened(embedding), widened(bank.detach())).gather(1, rows) / temperature


def crd_log_normaliser(similarity: Tensor, bank_size: int) -> Tensor:
    """Estimate `log Z` of CRD's critic, `Z = N * mean exp(similarity)`, from one batch.

    Args:
        similarity: `[B, 1 + m]`, see `bank_similarity`.
        bank_size: `N`, rows of the bank.

    Returns:
        A scalar without a gradient.
    """
    flat = similarity.detach().flatten()
    return flat.logsumexp(dim=0) + math.log(bank_size / len(flat))


def crd(similarity: Tensor, log_normaliser: Tensor, bank_size: int) -> Tensor:
    """Noise-contrastive loss of CRD, one side: is a row the sample's own, or one of `m` drawn from noise?

    With `h = exp(similarity) / Z` and `c = m / N`, `N` being the size of the bank:
    `-log(h_own / (h_own + c)) - sum over negatives of log(c / (h + c))`.

    Args:
        similarity: `[B, 1 + m]`, own row first, see `bank_similarity`.
        log_normaliser: `log Z`, see `crd_log_normaliser`; no gradient reaches it.
        bank_size: `N`.

    Returns:
        `[B]`.

    Raises:
        ValueError: There is no negative.

    Reference:
        arXiv 1910.10699. Computed as log-sigmoids, so that the 1e-7 of the authors' code in both denominators is not
        needed.
    """
    negatives = similarity.shape[1] - 1
    if negatives < 1:
        raise ValueError(f"similarity {tuple(similarity.shape)} holds no negative")
    log_odds = widened(similarity) - log_normaliser.detach() - math.log(negatives / bank_size)
    return -F.logsigmoid(log_odds[:, 0]) - F.logsigmoid(-log_odds[:, 1:]).sum(dim=1)
