"""Losses that tell a sample's own pair from the pairs of other samples."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd_kernels._op import accumulation_dtype
from edgekd_kernels._rows import inner_products

SHORTEST = 1e-6
"""Length up to which an embedding has no direction."""


def info_nce_forward(student: Tensor, teacher: Tensor, *, temperature: float) -> tuple[Tensor, ...]:
    """Return the values `[B]`, then the softmax less the identity, unit rows and inverse lengths for backward.

    Args:
        student: `[B, D]`.
        teacher: `[B, D]`.
        temperature: Divides the cosines.
    """
    dtype = accumulation_dtype(student, teacher)
    (mine, inverse), (theirs, its_inverse) = (_unit(rows.to(dtype)) for rows in (student, teacher))
    log_shares = torch.log_softmax(inner_products(mine, theirs).div_(temperature), 1)
    values = log_shares.diagonal().neg()
    excess = log_shares.exp_()
    excess.diagonal().sub_(1)
    return values, excess, mine, theirs, inverse, its_inverse


def info_nce_backward(grad: Tensor, _: Tensor, __: Tensor, *own: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the gradients of both sides, `[B, D]`, from what forward handed over."""
    excess, mine, theirs, inverse, its_inverse = own
    weights = excess * (grad / temperature).unsqueeze(1)
    return (
        _through_unit(inner_products(weights, theirs.t()), mine, inverse),
        _through_unit(inner_products(weights.t(), mine.t()), theirs, its_inverse),
    )


def bank_similarity_forward(embedding: Tensor, bank: Tensor, rows: Tensor, *, temperature: float) -> tuple[Tensor]:
    """Return `[B, 1 + m]`; all products are formed, which costs less than copying `B (1 + m)` rows of the bank.

    Args:
        embedding: `[B, D]`.
        bank: `[N, D]`.
        rows: int64 `[B, 1 + m]`.
        temperature: Divides the products.
    """
    dtype = accumulation_dtype(embedding, bank)
    products = inner_products(embedding.to(dtype), bank.to(dtype))
    try:
        return (products.gather(1, rows).div_(temperature),)
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"rows must be in 0..{len(bank) - 1}, got {rows.min()} to {rows.max()}") from error


def bank_similarity_backward(
    grad: Tensor, embedding: Tensor, bank: Tensor, rows: Tensor, *, temperature: float
) -> tuple[Tensor]:
    """Return the gradient of the embedding, `[B, D]`."""
    weights = grad.new_zeros(len(embedding), len(bank)).scatter_add_(1, rows, grad)
    return (inner_products(weights, bank.to(grad.dtype).t()).div_(temperature),)


def crd_forward(similarity: Tensor, log_normaliser: Tensor, *, log_noise: float) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and their gradients `[B, 1 + m]`.

    Args:
        similarity: `[B, 1 + m]`, own row first.
        log_normaliser: A scalar.
        log_noise: Log of the negatives by the rows of the bank.
    """
    odds = similarity.to(accumulation_dtype(similarity)) - log_normaliser
    odds.sub_(log_noise)
    odds[:, 0].neg_()
    values = F.logsigmoid(-odds).sum(1).neg_()
    slope = odds.sigmoid_()
    slope[:, 0].neg_()
    return values, slope


def crd_backward(grad: Tensor, _: Tensor, __: Tensor, slope: Tensor, *, log_noise: float) -> tuple[Tensor]:
    """Return the gradient of the similarities, `[B, 1 + m]`."""
    return (slope * grad.unsqueeze(1),)


def _unit(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows of unit length and what they were multiplied by, `[B, 1]`; a short row becomes 0."""
    squares = rows.square().sum(1, keepdim=True)
    inverse = squares.rsqrt().masked_fill_(squares <= SHORTEST**2, 0.0)
    return rows * inverse, inverse


def _through_unit(gradient: Tensor, unit: Tensor, inverse: Tensor) -> Tensor:
    """Return the gradient of rows from that of the rows of unit length."""
    along = (gradient * unit).sum(1, keepdim=True)
    return torch.addcmul(gradient, unit, along, value=-1).mul_(inverse)
