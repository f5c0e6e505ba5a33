"""Losses on rows of logits that know the right class: the same kernels, whose few last lines differ by the loss.

All that a loss needs of a row are, on both sides, the log-odds `u` of the label (its logit less the log-normaliser of
the rest, so that `log p` and `log(1 - p)` are `-softplus(-u)` and `-softplus(u)`) and the softmax over the rest, at the
temperature and at 1. With `^` for the softmax over the rest every gradient is `a q1^ + b q^ - c p^` on the rest and `d`
on the label. A program takes a tile of some rows or, of long rows, of a part, as in `rowwise`. Bytes: both tensors read
once in either direction, the gradient written once. A label out of range gives NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgekd_kernels._triton.launch import device_of
from edgekd_kernels._triton.parts import (
    joining_of,
    joinings,
    load_parts,
    load_softmax,
    load_statistic,
    place_of_tile,
    store_statistic,
)
from edgekd_kernels._triton.rows import FILL, load_tile, part_of, store_tile, tiling_of, tilings
from edgekd_kernels._triton.variants import DTYPE_PAIRS, Variant

DKD, NKD, KD_CE = (tl.constexpr(number) for number in range(3))


@triton.jit
def _load_rest(pointer, row, column, label, row_stride, column_stride, rows, columns):
    """Return a tile of logits, `FILL` at the label and where there is no column."""
    tile = load_tile(pointer, row, column, row_stride, column_stride, rows, columns)
    return tl.where((column < columns)[None, :] & (column[None, :] != label[:, None]), tile, FILL)


@triton.jit
def _load_label(pointer, row, label, row_stride, column_stride, rows, columns):
    """Return the logits at the labels, NaN where a label is no column."""
    is_column = (label >= 0) & (label < columns)
    own = tl.load(pointer + row * row_stride + label * column_stride, mask=(row < rows) & is_column, other=0.0)
    return tl.where((row < rows) & (is_column == 0), float("nan"), own.to(tl.float32))


@triton.jit
def _rest_of(tile, inverse_temperature):
    """Return of each row the largest value, the sums of exponentials less it, at 1 and at `T`, and the tile less it."""
    largest = tl.max(tile, axis=1)
    shifted = tile - largest[:, None]
    return largest, tl.sum(tl.exp(shifted), axis=1), tl.sum(tl.exp(shifted * inverse_temperature), axis=1), shifted


@triton.jit
def _softplus(x):
    return tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def _pair_divergence(student_odds, teacher_odds):
    """Return the divergence of (label, all the rest) between the teacher and the student, from their log-odds."""
    label = tl.exp(-_softplus(-teacher_odds)) * (_softplus(-student_odds) - _softplus(-teacher_odds))
    return label + tl.exp(-_softplus(teacher_odds)) * (_softplus(student_odds) - _softplus(teacher_odds))


@triton.jit
def _rest_term(log_q, log_p, within, LOSS: tl.constexpr):
    """Return `sum p^ (within + log p^ - log q^)` over a tile, or for NKD, a cross-entropy, `sum p^ (within - log q^)`.

    `within` is the divergence or cross-entropy inside each element of the tile, 0 where these are single classes.
    """
    if LOSS == NKD:
        return tl.sum(tl.exp(log_p) * (within - log_q), axis=1)
    return tl.sum(tl.exp(log_p) * (within + (log_p - log_q)), axis=1)


@triton.jit
def _value(
    own_s, own_t, plain_s, soft_s, plain_t, soft_t, rest, temperature, inverse_temperature, first, second,
    LOSS: tl.constexpr,
):  # fmt: skip
    """Return the values of rows; the logits of the label come less the largest of the rest."""
    odds_1s, odds_1t = own_s - plain_s, own_t - plain_t
    odds_s, odds_t = own_s * inverse_temperature - soft_s, own_t * inverse_temperature - soft_t
    softening = temperature * temperature
    if LOSS == DKD:
        return softening * (first * _pair_divergence(odds_s, odds_t) + second * rest)
    elif LOSS == NKD:
        weight = tl.exp(-_softplus(-odds_1t))
        return weight * _softplus(-odds_1s) + second * softening * rest
    else:
        divergence = _pair_divergence(odds_s, odds_t) + tl.exp(-_softplus(odds_t)) * rest
        return first * _softplus(-odds_1s) + second * softening * divergence


@triton.jit
def _store_row(statistics, side, row, rows, largest_s, plain_s, soft_s, largest_t, plain_t, soft_t):
    store_statistic(statistics, 0, side, row, rows, largest_s)
    store_statistic(statistics, 1, side, row, rows, plain_s)
    store_statistic(statistics, 2, side, row, rows, soft_s)
    store_statistic(statistics, 3, side, row, rows, largest_t)
    store_statistic(statistics, 4, side, row, rows, plain_t)
    store_statistic(statistics, 5, side, row, rows, soft_t)


@triton.jit
def _forward_kernel(
    student, teacher, labels, values, statistics,  # [rows, columns] twice, [rows] twice, [6, rows] or [7, parts, rows]
    parts, rows, columns, side, sr, sk, tr, tk, step, temperature, inverse_temperature, first, second,
    LOSS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, IS_BLOCKED: tl.constexpr,
):  # fmt: skip
    tile, _, part = place_of_tile(tl.program_id(0), 1, parts)
    row, column = tile * ROWS + tl.arange(0, ROWS), part * BLOCK + tl.arange(0, BLOCK)
    label = tl.load(labels + row * step, mask=row < rows, other=0).to(tl.int64)
    s = _load_rest(student, row, column, label, sr, sk, rows, columns)
    t = _load_rest(teacher, row, column, label, tr, tk, rows, columns)
    largest_s, plain_s, soft_s, s = _rest_of(s, inverse_temperature)
    largest_t, plain_t, soft_t, t = _rest_of(t, inverse_temperature)
    log_s, log_t = tl.log(soft_s), tl.log(soft_t)
    rest = _rest_term(s * inverse_temperature - log_s[:, None], t * inverse_temperature - log_t[:, None], 0.0, LOSS)
    if IS_BLOCKED:
        statistics += part * rows
        _store_row(statistics, side, row, rows, largest_s, plain_s, soft_s, largest_t, plain_t, soft_t)
        store_statistic(statistics, 6, side, row, rows, rest)
    else:
        own_s = _load_label(student, row, label, sr, sk, rows, columns) - largest_s
        own_t = _load_label(teacher, row, label, tr, tk, rows, columns) - largest_t
        plain_s, plain_t = tl.log(plain_s), tl.log(plain_t)
        value = _value(
            own_s, own_t, plain_s, log_s, plain_t, log_t, rest, temperature, inverse_temperature, first, second, LOSS
        )
        tl.store(values + row, value, mask=row < rows)
        _store_row(statistics, side, row, rows, largest_s, plain_s, log_s, largest_t, plain_t, log_t)


@triton.jit
def _load_parts(of_parts, index, side, row, part, rows, parts):
    """Return of each part the largest value and both sums of exponentials less it; of none what adds nothing."""
    largest, plain = load_softmax(of_parts, index, side, row, part, rows, parts)
    return largest, plain, load_parts(of_parts, index + 2, side, row, part, rows, parts, 1.0)


@triton.jit
def _widen(largest, plain, softened, part_largest, part_plain, part_soft, inverse_temperature):
    """Return the largest value of a row and both its sums of exponentials, less the largest, after some more parts."""
    larger = tl.maximum(largest, tl.max(part_largest, axis=1))
    moved, shifted = largest - larger, part_largest - larger[:, None]
    plain = plain * tl.exp(moved) + tl.sum(part_plain * tl.exp(shifted), axis=1)
    grown = tl.sum(part_soft * tl.exp(shifted * inverse_temperature), axis=1)
    return larger, plain, softened * tl.exp(moved * inverse_temperature) + grown


@triton.jit
def _join_kernel(
    student, teacher, labels, of_parts, values, statistics,  # as forward, [7, parts, rows], [rows], [6, rows]
    parts, rows, columns, side_of_parts, side, sr, sk, tr, tk, step, temperature, inverse_temperature, first, second,
    LOSS: tl.constexpr, ROWS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    largest_s, largest_t = tl.full((ROWS,), FILL, tl.float32), tl.full((ROWS,), FILL, tl.float32)
    plain_s, plain_t = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    soft_s, soft_t = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    for start in range(0, parts, PARTS):
        part = start + tl.arange(0, PARTS).to(tl.int64)
        s, s_plain, s_soft = _load_parts(of_parts, 0, side_of_parts, row, part, rows, parts)
        t, t_plain, t_soft = _load_parts(of_parts, 3, side_of_parts, row, part, rows, parts)
        largest_s, plain_s, soft_s = _widen(largest_s, plain_s, soft_s, s, s_plain, s_soft, inverse_temperature)
        largest_t, plain_t, soft_t = _widen(largest_t, plain_t, soft_t, t, t_plain, t_soft, inverse_temperature)
    plain_s, plain_t, soft_s, soft_t = tl.log(plain_s), tl.log(plain_t), tl.log(soft_s), tl.log(soft_t)
    rest = tl.zeros((ROWS,), tl.float32)
    for start in range(0, parts, PARTS):
        part = start + tl.arange(0, PARTS).to(tl.int64)
        s, _, s_soft = _load_parts(of_parts, 0, side_of_parts, row, part, rows, parts)
        t, _, t_soft = _load_parts(of_parts, 3, side_of_parts, row, part, rows, parts)
        log_q = (s - largest_s[:, None]) * inverse_temperature + (tl.log(s_soft) - soft_s[:, None])
        log_p = (t - largest_t[:, None]) * inverse_temperature + (tl.log(t_soft) - soft_t[:, None])
        within = load_parts(of_parts, 6, side_of_parts, row, part, rows, parts, 0.0)
        rest += _rest_term(log_q, log_p, within, LOSS)
    label = tl.load(labels + row * step, mask=row < rows, other=0).to(tl.int64)
    own_s = _load_label(student, row, label, sr, sk, rows, columns) - largest_s
    own_t = _load_label(teacher, row, label, tr, tk, rows, columns) - largest_t
    value = _value(
        own_s, own_t, plain_s, soft_s, plain_t, soft_t, rest, temperature, inverse_temperature, first, second, LOSS
    )
    tl.store(values + row, value, mask=row < rows)
    _store_row(statistics, side, row, rows, largest_s, plain_s, soft_s, largest_t, plain_t, soft_t)


@triton.jit
def _coefficients(
    odds_1s, odds_1t, odds_s, odds_t, temperature, first, second, LOSS: tl.constexpr
):  # fmt: skip
    """Return what multiplies `q1^`, `q^` and `p^` on the rest, and the gradient at the label."""
    q, p = tl.exp(-_softplus(-odds_s)), tl.exp(-_softplus(-odds_t))
    plain_rest = tl.exp(-_softplus(odds_1s))
    if LOSS == DKD:
        own = first * temperature * (q - p)
        rest = tl.zeros_like(own) + second * temperature
        return tl.zeros_like(own), rest - own, rest, own
    elif LOSS == NKD:
        plain = tl.exp(-_softplus(-odds_1t)) * plain_rest
        rest = tl.zeros_like(plain) + second * temperature
        return plain, rest, rest, -plain
    else:
        plain, scale = first * plain_rest, second * temperature
        softened = scale * tl.exp(-_softplus(odds_s))
        return plain, softened, scale * tl.exp(-_softplus(odds_t)), scale * (q - p) - plain


@triton.jit
def _gradient_tile(
    s, t, plain_s, soft_s, soft_t, of_plain, of_q, of_p, own, is_label, inverse_temperature, LOSS: tl.constexpr
):  # fmt: skip
    """Return the gradient on a tile; `s` and `t` less the largest."""
    q = tl.exp(s * inverse_temperature - soft_s[:, None])
    p = tl.exp(t * inverse_temperature - soft_t[:, None])
    gradient = of_q[:, None] * q - of_p[:, None] * p
    if LOSS != DKD:
        gradient += of_plain[:, None] * tl.exp(s - plain_s[:, None])
    return tl.where(is_label, own[:, None], gradient)


@triton.jit
def _backward_kernel(
    grad, student, teacher, labels, statistics, gradient,  # [rows], as forward, [rows, columns]
    parts, rows, columns, side, go, sr, sk, tr, tk, step, dr, dk, temperature, inverse_temperature, first, second,
    LOSS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # Forward's last tiles come first: they are the likeliest to be in the cache.
    tile, _, part = place_of_tile(tl.num_programs(0) - 1 - tl.program_id(0), 1, parts)
    row, column = tile * ROWS + tl.arange(0, ROWS), part * BLOCK + tl.arange(0, BLOCK)
    label = tl.load(labels + row * step, mask=row < rows, other=0).to(tl.int64)
    upstream = tl.load(grad + row * go, mask=row < rows, other=0.0).to(tl.float32)
    largest_s, plain_s = load_statistic(statistics, 0, side, row, rows), load_statistic(statistics, 1, side, row, rows)
    soft_s, largest_t = load_statistic(statistics, 2, side, row, rows), load_statistic(statistics, 3, side, row, rows)
    plain_t, soft_t = load_statistic(statistics, 4, side, row, rows), load_statistic(statistics, 5, side, row, rows)
    own_s = _load_label(student, row, label, sr, sk, rows, columns) - largest_s
    own_t = _load_label(teacher, row, label, tr, tk, rows, columns) - largest_t
    of_plain, of_q, of_p, own = _coefficients(
        own_s - plain_s, own_t - plain_t, own_s * inverse_temperature - soft_s, own_t * inverse_temperature - soft_t,
        temperature, first, second, LOSS,
    )  # fmt: skip
    of_plain, of_q, of_p, own = of_plain * upstream, of_q * upstream, of_p * upstream, own * upstream
    s = _load_rest(student, row, column, label, sr, sk, rows, columns) - largest_s[:, None]
    t = _load_rest(teacher, row, column, label, tr, tk, rows, columns) - largest_t[:, None]
    is_label = column[None, :] == label[:, None]
    tile = _gradient_tile(s, t, plain_s, soft_s, soft_t, of_plain, of_q, of_p, own, is_label, inverse_temperature, LOSS)
    store_tile(gradient, tile, row, column, dr, dk, rows, columns)


def dkd_forward(
    student: Tensor, teacher: Tensor, labels: Tensor, *, alpha: float, beta: float, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and what backward needs of each row."""
    return _values(student, teacher, labels, DKD, temperature, alpha, beta)


def dkd_backward(
    grad: Tensor, student: Tensor, teacher: Tensor, labels: Tensor, statistics: Tensor, *, alpha: float, beta: float,
    temperature: float,
) -> tuple[Tensor]:  # fmt: skip
    """Return the student's gradient `[B, K]`."""
    return _gradient(grad, student, teacher, labels, statistics, DKD, temperature, alpha, beta)


def nkd_forward(
    student: Tensor, teacher: Tensor, labels: Tensor, *, gamma: float, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and what backward needs of each row."""
    return _values(student, teacher, labels, NKD, temperature, 1.0, gamma)


def nkd_backward(
    grad: Tensor, student: Tensor, teacher: Tensor, labels: Tensor, statistics: Tensor, *, gamma: float,
    temperature: float,
) -> tuple[Tensor]:  # fmt: skip
    """Return the student's gradient `[B, K]`."""
    return _gradient(grad, student, teacher, labels, statistics, NKD, temperature, 1.0, gamma)


def kd_ce_forward(
    student: Tensor, teacher: Tensor, labels: Tensor, *, label_weight: float, teacher_weight: float, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and what backward needs of each row."""
    return _values(student, teacher, labels, KD_CE, temperature, label_weight, teacher_weight)


def kd_ce_backward(
    grad: Tensor, student: Tensor, teacher: Tensor, labels: Tensor, statistics: Tensor, *, label_weight: float,
    teacher_weight: float, temperature: float,
) -> tuple[Tensor]:  # fmt: skip
    """Return the student's gradient `[B, K]`."""
    return _gradient(grad, student, teacher, labels, statistics, KD_CE, temperature, label_weight, teacher_weight)


def _values(
    student: Tensor, teacher: Tensor, labels: Tensor, loss: tl.constexpr, temperature: float, first: float,
    second: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the values `[B]` and what backward needs of each row, `[6, B]`.

    That is, of the rest, the largest value and the logs of the sums of exponentials less it, at 1 and at the
    temperature, of the student and of the teacher.
    """
    rows, columns = student.shape
    tiling = part_of(tiling_of(student.unsqueeze(0), sideways=False))
    parts = tiling.parts(columns)
    values = student.new_empty(rows, dtype=torch.float32)
    statistics = student.new_empty((6, rows), dtype=torch.float32)
    of_parts = student.new_empty((7, parts, rows), dtype=torch.float32) if tiling.is_blocked else statistics
    strides = (*student.stride(), *teacher.stride(), *labels.stride())
    numbers = (temperature, 1 / temperature, first, second)
    with device_of(student):
        _forward_kernel[(triton.cdiv(rows, tiling.rows) * parts,)](
            student, teacher, labels, values, of_parts, parts, rows, columns, parts * rows, *strides, *numbers,
            LOSS=loss.value, num_warps=tiling.num_warps, **tiling.constants,
        )  # fmt: skip
        if tiling.is_blocked:
            joining = joining_of(parts, rows)
            _join_kernel[(triton.cdiv(rows, joining.rows),)](
                student, teacher, labels, of_parts, values, statistics, parts, rows, columns, parts * rows, rows,
                *strides, *numbers, LOSS=loss.value, **joining.constants,
            )  # fmt: skip
    return values, statistics


def _gradient(
    grad: Tensor, student: Tensor, teacher: Tensor, labels: Tensor, statistics: Tensor, loss: tl.constexpr,
    temperature: float, first: float, second: float,
) -> tuple[Tensor]:  # fmt: skip
    rows, columns = student.shape
    tiling = part_of(tiling_of(student.unsqueeze(0), sideways=False))
    parts = tiling.parts(columns)
    gradient = torch.empty_like(student)
    with device_of(student):
        _backward_kernel[(triton.cdiv(rows, tiling.rows) * parts,)](
            grad, student, teacher, labels, statistics, gradient, parts, rows, columns, rows, *grad.stride(),
            *student.stride(), *teacher.stride(), *labels.stride(), *gradient.stride(), temperature, 1 / temperature,
            first, second, LOSS=loss.value, ROWS=tiling.rows, BLOCK=tiling.block, num_warps=tiling.num_warps,
        )  # fmt: skip
    return (gradient,)


def variants() -> Iterator[Variant]:
    """Yield every kernel in the configurations that launches pick."""
    unit = {"sk": 1, "tk": 1, "step": 1}
    tiles = [part_of(tiling) for tiling, _ in tilings(sideways=False)]
    for (student, teacher), loss in product(DTYPE_PAIRS, (DKD, NKD, KD_CE)):
        pointers = {"student": f"*{student}", "teacher": f"*{teacher}", "labels": "*i64"}
        constants = {"LOSS": loss.value, **unit}
        for tile in tiles:
            yield _variant(_forward_kernel, pointers, {**constants, **tile.constants}, tile.num_warps)
            arguments = {"grad": "*fp32", **pointers, "gradient": f"*{student}"}
            block = {"dk": 1, "ROWS": tile.rows, "BLOCK": tile.block}
            yield _variant(_backward_kernel, arguments, {**constants, **block}, tile.num_warps)
        for joining in joinings():
            yield _variant(_join_kernel, pointers, {**constants, **joining.constants}, num_warps=4)


def _variant(
    kernel: triton.JITFunction, pointers: dict[str, str], constants: dict[str, int | bool], num_warps: int
) -> Variant:
    floats = dict.fromkeys(("temperature", "inverse_temperature", "first", "second"), "fp32")
    known = {**floats, **dict.fromkeys(("values", "statistics", "of_parts"), "*fp32"), **pointers}
    names = [name for name in kernel.arg_names if name not in constants]
    return Variant(kernel, {name: known.get(name, "i32") for name in names}, constants, num_warps)
