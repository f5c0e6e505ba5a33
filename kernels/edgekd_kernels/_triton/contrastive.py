"""Losses that tell a sample's own pair from the pairs of other samples.

`info_nce` goes over tiles of cosines and keeps of them one log-normaliser a row; its backward forms the tiles again and
writes the matrix that both gradients are products with. `bank_similarity` reads the rows of the bank where they lie and
never copies them. `crd` is one pass each way over the similarities.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgekd_kernels._dispatch import is_interpreted
from edgekd_kernels._rows import inner_products
from edgekd_kernels._torch.contrastive import SHORTEST
from edgekd_kernels._triton.launch import device_of
from edgekd_kernels._triton.rows import FILL
from edgekd_kernels._triton.variants import DTYPE_PAIRS, Variant

_SIDE = 32
_DEPTH = 64
_CHOSEN = 32
_RUN = 1024


@triton.jit
def _inverse_lengths_kernel(
    rows, inverse, count, width, stride, step, least, SIDE: tl.constexpr, DEPTH: tl.constexpr  # [B, D], [B]
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * SIDE + tl.arange(0, SIDE)
    squares = tl.zeros((SIDE,), tl.float32)
    for start in range(0, width, DEPTH):
        column = start + tl.arange(0, DEPTH)
        inside = (row < count)[:, None] & (column < width)[None, :]
        tile = tl.load(rows + row[:, None] * stride + column[None, :] * step, mask=inside, other=0.0).to(tl.float32)
        squares += tl.sum(tile * tile, axis=1)
    is_short = squares <= least  # so that NaN, which compares false, stays NaN
    tl.store(inverse + row, tl.where(is_short, 0.0, 1.0 / tl.sqrt(tl.where(is_short, 1.0, squares))), mask=row < count)


@triton.jit
def _cosines(
    student, teacher, inverse_s, inverse_t, row, column, count, width, sb, sd, tb, td,
    SIDE: tl.constexpr, DEPTH: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Return the cosines of a block of students with a block of teachers."""
    products = tl.zeros((SIDE, SIDE), tl.float32)
    for start in range(0, width, DEPTH):
        depth = start + tl.arange(0, DEPTH)
        inside = (row < count)[:, None] & (depth < width)[None, :]
        s = tl.load(student + row[:, None] * sb + depth[None, :] * sd, mask=inside, other=0.0)
        inside = (column < count)[None, :] & (depth < width)[:, None]
        t = tl.load(teacher + column[None, :] * tb + depth[:, None] * td, mask=inside, other=0.0)
        if UPCAST:
            s, t = s.to(tl.float32), t.to(tl.float32)
        products = tl.dot(s, t, products, input_precision="ieee")
    mine = tl.load(inverse_s + row, mask=row < count, other=0.0)
    theirs = tl.load(inverse_t + column, mask=column < count, other=0.0)
    return products * mine[:, None] * theirs[None, :]


@triton.jit
def _info_nce_forward_kernel(
    student, teacher, inverse_s, inverse_t, values, log_total,  # [B, D] twice, [B] four times
    count, width, sb, sd, tb, td, inverse_temperature,
    SIDE: tl.constexpr, DEPTH: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * SIDE + tl.arange(0, SIDE)
    largest, total = tl.full((SIDE,), FILL, tl.float32), tl.zeros((SIDE,), tl.float32)
    own = tl.zeros((SIDE,), tl.float32)
    for start in range(0, count, SIDE):
        column = start + tl.arange(0, SIDE).to(tl.int64)
        scores = inverse_temperature * _cosines(
            student, teacher, inverse_s, inverse_t, row, column, count, width, sb, sd, tb, td, SIDE, DEPTH, UPCAST
        )
        scores = tl.where((column < count)[None, :], scores, FILL)
        own += tl.sum(tl.where(column[None, :] == row[:, None], scores, 0.0), axis=1)
        larger = tl.maximum(largest, tl.max(scores, axis=1))
        total = total * tl.exp(largest - larger) + tl.sum(tl.exp(scores - larger[:, None]), axis=1)
        largest = larger
    log_sum = tl.log(total)
    tl.store(values + row, log_sum + (largest - own), mask=row < count)
    tl.store(log_total + row, log_sum + largest, mask=row < count)


@triton.jit
def _info_nce_weights_kernel(
    grad, student, teacher, inverse_s, inverse_t, log_total, weights,  # [B], [B, D] twice, [B] thrice, [B, B]
    count, width, go, sb, sd, tb, td, inverse_temperature,
    SIDE: tl.constexpr, DEPTH: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * SIDE + tl.arange(0, SIDE)
    column = tl.program_id(1).to(tl.int64) * SIDE + tl.arange(0, SIDE)
    scores = inverse_temperature * _cosines(
        student, teacher, inverse_s, inverse_t, row, column, count, width, sb, sd, tb, td, SIDE, DEPTH, UPCAST
    )
    shares = tl.exp(scores - tl.load(log_total + row, mask=row < count, other=0.0)[:, None])
    upstream = inverse_temperature * tl.load(grad + row * go, mask=row < count, other=0.0).to(tl.float32)
    result = (shares - tl.where(column[None, :] == row[:, None], 1.0, 0.0)) * upstream[:, None]
    inside = (row < count)[:, None] & (column < count)[None, :]
    tl.store(weights + row[:, None] * count + column[None, :], result, mask=inside)


@triton.jit
def _through_unit_kernel(
    rows, of_unit, inverse, gradient, width, rb, rd, gb, gd, BLOCK: tl.constexpr  # [B, D] twice, [B], [B, D]
):  # fmt: skip
    # ds = (e - x <x, e>) / length for the gradient e of the unit row x.
    row = tl.program_id(0).to(tl.int64)
    scale = tl.load(inverse + row)
    along = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        x = tl.load(rows + row * rb + column * rd, mask=column < width, other=0.0).to(tl.float32)
        along += x * tl.load(of_unit + row * width + column, mask=column < width, other=0.0)
    share = tl.sum(along, axis=0) * scale * scale
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        x = tl.load(rows + row * rb + column * rd, mask=column < width, other=0.0).to(tl.float32)
        e = tl.load(of_unit + row * width + column, mask=column < width, other=0.0)
        result = ((e - x * share) * scale).to(gradient.dtype.element_ty)
        tl.store(gradient + row * gb + column * gd, result, mask=column < width)


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


def info_nce_forward(student: Tensor, teacher: Tensor, *, temperature: float) -> tuple[Tensor, ...]:
    """Return the values `[B]`, then the log-normalisers and both sides' inverse lengths, `[B]`.

    Args:
        student: `[B, D]`.
        teacher: `[B, D]`.
        temperature: Divides the cosines.
    """
    count, width = student.shape
    values, log_total, inverse, its_inverse = (student.new_empty(count, dtype=torch.float32) for _ in range(4))
    blocks = triton.cdiv(count, _SIDE)
    with device_of(student):
        for rows, lengths in ((student, inverse), (teacher, its_inverse)):
            _inverse_lengths_kernel[(blocks,)](
                rows, lengths, count, width, *rows.stride(), SHORTEST**2, SIDE=_SIDE, DEPTH=_DEPTH
            )
        _info_nce_forward_kernel[(blocks,)](
            student, teacher, inverse, its_inverse, values, log_total, count, width, *student.stride(),
            *teacher.stride(), 1 / temperature, SIDE=_SIDE, DEPTH=_DEPTH, UPCAST=_must_upcast(student, teacher),
        )  # fmt: skip
    return values, log_total, inverse, its_inverse


def info_nce_backward(
    grad: Tensor, student: Tensor, teacher: Tensor, log_total: Tensor, inverse: Tensor, its_inverse: Tensor, *,
    temperature: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the gradients of both sides, `[B, D]`: the kernel's `[B, B]` times the other side's unit rows."""
    count, width = student.shape
    weights = student.new_empty(count, count, dtype=torch.float32)
    blocks = triton.cdiv(count, _SIDE)
    with device_of(student):
        _info_nce_weights_kernel[(blocks, blocks)](
            grad, student, teacher, inverse, its_inverse, log_total, weights, count, width, *grad.stride(),
            *student.stride(), *teacher.stride(), 1 / temperature, SIDE=_SIDE, DEPTH=_DEPTH,
            UPCAST=_must_upcast(student, teacher),
        )  # fmt: skip
    mine, theirs = (
        rows.float() * lengths.unsqueeze(1) for rows, lengths in ((student, inverse), (teacher, its_inverse))
    )
    return (
        _through_unit(student, inner_products(weights, theirs.t()), inverse),
        _through_unit(teacher, inner_products(weights.t(), mine.t()), its_inverse),
    )


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


def _must_upcast(student: Tensor, teacher: Tensor) -> bool:
    """Return whether products must be formed in float32: of mixed dtypes, and of bfloat16 in the interpreter."""
    return student.dtype != teacher.dtype or (student.dtype == torch.bfloat16 and is_interpreted())


def _through_unit(rows: Tensor, of_unit: Tensor, inverse: Tensor) -> Tensor:
    count, width = rows.shape
    gradient = torch.empty_like(rows)
    with device_of(rows):
        _through_unit_kernel[(count,)](
            rows, of_unit, inverse, gradient, width, *rows.stride(), *gradient.stride(), BLOCK=_block(width)
        )
    return gradient


def _block(width: int) -> int:
    return 128 if width <= 128 else 512


def variants() -> Iterator[Variant]:
    """Yield every kernel in the configurations that launches pick."""
    side = {"SIDE": _SIDE, "DEPTH": _DEPTH}
    for student, teacher in DTYPE_PAIRS:
        pair = {"student": f"*{student}", "teacher": f"*{teacher}", "inverse_s": "*fp32", "inverse_t": "*fp32"}
        numbers = {**_integers("count", "width", "sb", "tb"), "inverse_temperature": "fp32"}
        constants = {**side, "UPCAST": student != teacher, "sd": 1, "td": 1}
        yield Variant(_info_nce_forward_kernel, {**pair, "values": "*fp32", "log_total": "*fp32", **numbers}, constants)
        matrices = {"grad": "*fp32", **pair, "log_total": "*fp32", "weights": "*fp32"}
        yield Variant(_info_nce_weights_kernel, {**matrices, **numbers, "go": "i32"}, constants)
        yield Variant(
            _bank_forward_kernel,
            {
                "embedding": f"*{student}", "bank": f"*{teacher}", "rows": "*i64", "similarity": "*fp32",
                **_integers("size", "chosen", "width", "runs", "eb", "nb", "mb"), "inverse_temperature": "fp32",
            },
            {"CHOSEN": _CHOSEN, "DEPTH": _DEPTH, "ed": 1, "nd": 1, "mm": 1},
        )  # fmt: skip
    for dtype in ("fp32", "bf16", "fp16"):
        yield from _variants_of_one_tensor(dtype, side)


def _variants_of_one_tensor(dtype: str, side: dict[str, int]) -> Iterator[Variant]:
    yield Variant(
        _inverse_lengths_kernel,
        {"rows": f"*{dtype}", "inverse": "*fp32", **_integers("count", "width", "stride"), "least": "fp32"},
        {**side, "step": 1},
    )
    for block in (128, 512):
        pointers = {"rows": f"*{dtype}", "of_unit": "*fp32", "inverse": "*fp32", "gradient": f"*{dtype}"}
        signature = {**pointers, **_integers("width", "rb", "gb")}
        yield Variant(_through_unit_kernel, signature, {"BLOCK": block, "rd": 1, "gd": 1})
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
