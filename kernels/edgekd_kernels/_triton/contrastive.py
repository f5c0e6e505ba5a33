"""Losses that tell a sample's own pair from the pairs of other samples.

`bank_similarity` reads the rows of the bank where they lie and never copies them. `crd` is one pass each way over the
similarities. `info_nce` has a module of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgekd_kernels._triton.launch import device_of
from edgekd_kernels._triton.pairs import info_nce_backward, info_nce_forward, pair_variants
from edgekd_kernels._triton.variants import DTYPE_PAIRS, Variant

__all__ = [
    "bank_similarity_backward",
    "bank_similarity_forward",
    "crd_backward",
    "crd_forward",
    "info_nce_backward",
    "info_nce_forward",
    "variants",
]

_DEPTH = 64
_CHOSEN = 32
_RUN = 1024


@triton.jit
def _bank_forward_kernel(
    embedding, bank, rows, similarity,  # [B, D], [N, D], [B, M], [B, M]
    size, chosen, width, runs, eb, ed, nb, nd, mb, mm, inverse_temperature,
    CHOSEN: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64) // runs
    place = tl.program_id(0).to(tl.int64) % runs * CHOSEN + tl.arange(0, CHOSEN)
    row = tl.load(rows + sample * mb + place * mm, mask=place < chosen, other=0)
    is_row = (row >= 0) & (row < size)
    products = tl.zeros((CHOSEN,), tl.float32)
    for start in range(0, width, DEPTH):
        column = start + tl.arange(0, DEPTH)
        e = tl.load(embedding + sample * eb + column * ed, mask=column < width, other=0.0).to(tl.float32)
        inside = is_row[:, None] & (column < width)[None, :]
        tile = tl.load(bank + row[:, None] * nb + column[None, :] * nd, mask=inside, other=0.0).to(tl.float32)
        products += tl.sum(tile * e[None, :], axis=1)
    products = tl.where(is_row, products * inverse_temperature, float("nan"))
    tl.store(similarity + sample * chosen + place, products, mask=place < chosen)


@triton.jit
def _bank_backward_kernel(
    grad, bank, rows, partial,  # [B, M], [N, D], [B, M], [B, runs, D]
    size, chosen, width, runs, gb, gm, nb, nd, mb, mm, inverse_temperature,
    CHOSEN: tl.constexpr, DEPTH: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    sample, run = tl.program_id(0).to(tl.int64) // runs, tl.program_id(0).to(tl.int64) % runs
    column = tl.program_id(1) * DEPTH + tl.arange(0, DEPTH)
    total = tl.zeros((DEPTH,), tl.float32)
    for start in range(0, tl.minimum(RUN, chosen - run * RUN), CHOSEN):
        place = run * RUN + start + tl.arange(0, CHOSEN)
        row = tl.load(rows + sample * mb + place * mm, mask=place < chosen, other=0)
        is_row = (row >= 0) & (row < size)
        upstream = tl.load(grad + sample * gb + place * gm, mask=place < chosen, other=0.0).to(tl.float32)
        upstream = tl.where(is_row, upstream, float("nan"))
        inside = is_row[:, None] & (column < width)[None, :]
        tile = tl.load(bank + row[:, None] * nb + column[None, :] * nd, mask=inside, other=0.0).to(tl.float32)
        total += tl.sum(tile * upstream[:, None], axis=0)
    offsets = tl.program_id(0).to(tl.int64) * width + column
    tl.store(partial + offsets, total * inverse_temperature, mask=column < width)


@triton.jit
def _load_odds(similarity, shift, row, column, chosen, sb, sm):
    """Return log-odds that a row is not what it is: of the own row with the sign turned."""
    odds = tl.load(similarity + row * sb + column * sm, mask=column < chosen, other=0.0).to(tl.float32) - shift
    return tl.where(column == 0, -odds, odds)


@triton.jit
def _crd_forward_kernel(
    similarity, log_normaliser, values, chosen, sb, sm, log_noise, BLOCK: tl.constexpr  # [B, M], [], [B]
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    shift = tl.load(log_normaliser).to(tl.float32) + log_noise
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, chosen, BLOCK):
        column = start + tl.arange(0, BLOCK)
        odds = _load_odds(similarity, shift, row, column, chosen, sb, sm)
        softplus = tl.maximum(odds, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(odds)))
        total += tl.where(column < chosen, softplus, 0.0)
    tl.store(values + row, tl.sum(total, axis=0))


@triton.jit
def _crd_backward_kernel(
    grad, similarity, log_normaliser, gradient,  # [B], [B, M], [], [B, M]
    chosen, go, sb, sm, db, dm, log_noise, BLOCK: tl.constexpr,
):  # fmt: skip
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    shift = tl.load(log_normaliser).to(tl.float32) + log_noise
    odds = _load_odds(similarity, shift, row, column, chosen, sb, sm)
    upstream = tl.load(grad + row * go).to(tl.float32)
    result = tl.sigmoid(odds) * tl.where(column == 0, -upstream, upstream)
    tl.store(gradient + row * db + column * dm, result.to(gradient.dtype.element_ty), mask=column < chosen)


def bank_similarity_forward(embedding: Tensor, bank: Tensor, rows: Tensor, *, temperature: float) -> tuple[Tensor]:
    """Return `[B, 1 + m]`; each chosen row is read once, from where it lies.

    Args:
        embedding: `[B, D]`.
        bank: `[N, D]`.
        rows: int64 `[B, 1 + m]`.
        temperature: Divides the products.
    """
    (batch, chosen), width = rows.shape, embedding.shape[1]
    similarity = embedding.new_empty(batch, chosen, dtype=torch.float32)
    runs = triton.cdiv(chosen, _CHOSEN)
    with device_of(embedding):
        _bank_forward_kernel[(batch * runs,)](
            embedding, bank, rows, similarity, len(bank), chosen, width, runs, *embedding.stride(), *bank.stride(),
            *rows.stride(), 1 / temperature, CHOSEN=_CHOSEN, DEPTH=_DEPTH,
        )  # fmt: skip
    return (similarity,)


def bank_similarity_backward(
    grad: Tensor, embedding: Tensor, bank: Tensor, rows: Tensor, *, temperature: float
) -> tuple[Tensor]:
    """Return the gradient of the embedding, `[B, D]`, summed over runs of chosen rows and then over the runs."""
    (batch, chosen), width = rows.shape, embedding.shape[1]
    runs = triton.cdiv(chosen, _RUN)
    partial = embedding.new_empty(batch, runs, width, dtype=torch.float32)
    with device_of(embedding):
        _bank_backward_kernel[(batch * runs, triton.cdiv(width, _DEPTH))](
            grad, bank, rows, partial, len(bank), chosen, width, runs, *grad.stride(), *bank.stride(), *rows.stride(),
            1 / temperature, CHOSEN=_CHOSEN, DEPTH=_DEPTH, RUN=_RUN,
        )  # fmt: skip
    return (partial.sum(dim=1),)


def crd_forward(similarity: Tensor, log_normaliser: Tensor, *, log_noise: float) -> tuple[Tensor]:
    """Return the values `[B]`.

    Args:
        similarity: `[B, 1 + m]`, own row first.
        log_normaliser: A scalar.
        log_noise: Log of the negatives by the rows of the bank.
    """
    batch, chosen = similarity.shape
    values = similarity.new_empty(batch, dtype=torch.float32)
    with device_of(similarity):
        _crd_forward_kernel[(batch,)](
            similarity, log_normaliser, values, chosen, *similarity.stride(), log_noise, BLOCK=_RUN
        )
    return (values,)


def crd_backward(grad: Tensor, similarity: Tensor, log_normaliser: Tensor, *, log_noise: float) -> tuple[Tensor]:
    """Return the gradient of the similarities, `[B, 1 + m]`."""
    batch, chosen = similarity.shape
    gradient = torch.empty_like(similarity)
    with device_of(similarity):
        _crd_backward_kernel[(batch, triton.cdiv(chosen, _RUN))](
            grad, similarity, log_normaliser, gradient, chosen, *grad.stride(), *similarity.stride(),
            *gradient.stride(), log_noise, BLOCK=_RUN,
        )  # fmt: skip
    return (gradient,)


def variants() -> Iterator[Variant]:
    """Yield every kernel in the configurations that launches pick."""
    yield from pair_variants()
    for student, teacher in DTYPE_PAIRS:
        yield Variant(
            _bank_forward_kernel,
            {
                "embedding": f"*{student}", "bank": f"*{teacher}", "rows": "*i64", "similarity": "*fp32",
                **_integers("size", "chosen", "width", "runs", "eb", "nb", "mb"), "inverse_temperature": "fp32",
            },
            {"CHOSEN": _CHOSEN, "DEPTH": _DEPTH, "ed": 1, "nd": 1, "mm": 1},
        )  # fmt: skip
    for dtype in ("fp32", "bf16", "fp16"):
        yield from _variants_of_one_tensor(dtype)


def _variants_of_one_tensor(dtype: str) -> Iterator[Variant]:
    yield Variant(
        _bank_backward_kernel,
        {
            "grad": "*fp32", "bank": f"*{dtype}", "rows": "*i64", "partial": "*fp32",
            **_integers("size", "chosen", "width", "runs", "gb", "nb", "mb"), "inverse_temperature": "fp32",
        },
        {"CHOSEN": _CHOSEN, "DEPTH": _DEPTH, "RUN": _RUN, "gm": 1, "nd": 1, "mm": 1},
    )  # fmt: skip
    similarity = {"similarity": f"*{dtype}", "log_normaliser": "*fp32"}
    yield Variant(
        _crd_forward_kernel,
        {**similarity, "values": "*fp32", **_integers("chosen", "sb"), "log_noise": "fp32"},
        {"BLOCK": _RUN, "sm": 1},
    )
    yield Variant(
        _crd_backward_kernel,
        {
            "grad": "*fp32", **similarity, "gradient": f"*{dtype}",
            **_integers("chosen", "go", "sb", "db"), "log_noise": "fp32",
        },
        {"BLOCK": _RUN, "sm": 1, "dm": 1},
    )  # fmt: skip


def _integers(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "i32")
