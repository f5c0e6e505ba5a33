"""Losses on rows of logits that know the right class: one kernel each way, whose few last lines differ by the loss.

All that a loss needs of a row are, on both sides, the log-odds `u` of the label (its logit less the log-normaliser of
the rest, so that `log p` and `log(1 - p)` are `-softplus(-u)` and `-softplus(u)`) and the softmax over the rest, at the
temperature and at 1. With `^` for the softmax over the rest every gradient is `a q1^ + b q^ - c p^` on the rest and `d`
on the label. Bytes: both tensors read in either direction, the gradient written once. A label out of range gives NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgekd_kernels._triton.launch import device_of
from edgekd_kernels._triton.rows import FILL, load_tile, store_tile, tiling_of, tilings
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
def _widen(largest, plain, softened, tile, inverse_temperature):
    """Return the largest value of a row and its two sums of exponentials, at 1 and at the temperature, after a tile."""
    larger = tl.maximum(largest, tl.max(tile, axis=1))
    shifted, moved = tile - larger[:, None], largest - larger
    plain = plain * tl.exp(moved) + tl.sum(tl.exp(shifted), axis=1)
    softened = softened * tl.exp(moved * inverse_temperature) + tl.sum(tl.exp(shifted * inverse_temperature), axis=1)
    return larger, plain, softened


@triton.jit
def _rests(
    student, teacher, row, label, rows, columns, sr, sk, tr, tk, inverse_temperature,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Return both sides' largest value of the rest and log-normalisers less it, at 1 and at the temperature."""
    largest_s, largest_t = tl.full((ROWS,), FILL, tl.float32), tl.full((ROWS,), FILL, tl.float32)
    plain_s, plain_t = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    soft_s, soft_t = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    for start in range(0, columns, BLOCK):
        column = start + tl.arange(0, BLOCK).to(tl.int64)
        s = _load_rest(student, row, column, label, sr, sk, rows, columns)
        t = _load_rest(teacher, row, column, label, tr, tk, rows, columns)
        largest_s, plain_s, soft_s = _widen(largest_s, plain_s, soft_s, s, inverse_temperature)
        largest_t, plain_t, soft_t = _widen(largest_t, plain_t, soft_t, t, inverse_temperature)
    return largest_s, tl.log(plain_s), tl.log(soft_s), largest_t, tl.log(plain_t), tl.log(soft_t)


@triton.jit
def _softplus(x):
    return tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def _pair_divergence(student_odds, teacher_odds):
    """Return the divergence of (label, all the rest) between the teacher and the student, from their log-odds."""
    label = tl.exp(-_softplus(-teacher_odds)) * (_softplus(-student_odds) - _softplus(-teacher_odds))
    return label + tl.exp(-_softplus(teacher_odds)) * (_softplus(student_odds) - _softplus(teacher_odds))


@triton.jit
def _rest_term(s, t, soft_s, soft_t, inverse_temperature, LOSS: tl.constexpr):
    """Return `sum p^ (log p^ - log q^)` over a tile, or the cross-entropy for NKD; `s` and `t` less the largest."""
    log_q, log_p = s * inverse_temperature - soft_s[:, None], t * inverse_temperature - soft_t[:, None]
    if LOSS == NKD:
        return tl.sum(tl.exp(log_p) * -log_q, axis=1)
    return tl.sum(tl.exp(log_p) * (log_p - log_q), axis=1)


@triton.jit
def _forward_kernel(
    student, teacher, labels, values,  # [rows, columns] twice, [rows] twice
    rows, columns, sr, sk, tr, tk, step, temperature, inverse_temperature, first, second,
    LOSS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, IS_BLOCKED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    label = tl.load(labels + row * step, mask=row < rows, other=0).to(tl.int64)
    own_s = _load_label(student, row, label, sr, sk, rows, columns)
    own_t = _load_label(teacher, row, label, tr, tk, rows, columns)
    column = tl.arange(0, BLOCK).to(tl.int64)
    if IS_BLOCKED:
        largest_s, plain_s, soft_s, largest_t, plain_t, soft_t = _rests(
            student, teacher, row, label, rows, columns, sr, sk, tr, tk, inverse_temperature, ROWS, BLOCK
        )
        rest = tl.zeros((ROWS,), tl.float32)
        for start in range(0, columns, BLOCK):
            s = _load_rest(student, row, start + column, label, sr, sk, rows, columns) - largest_s[:, None]
            t = _load_rest(teacher, row, start + column, label, tr, tk, rows, columns) - largest_t[:, None]
            rest += _rest_term(s, t, soft_s, soft_t, inverse_temperature, LOSS)
    else:
        s = _load_rest(student, row, column, label, sr, sk, rows, columns)
        t = _load_rest(teacher, row, column, label, tr, tk, rows, columns)
        largest_s, largest_t = tl.max(s, axis=1), tl.max(t, axis=1)
        s, t = s - largest_s[:, None], t - largest_t[:, None]
        plain_s, plain_t = tl.log(tl.sum(tl.exp(s), axis=1)), tl.log(tl.sum(tl.exp(t), axis=1))
        soft_s = tl.log(tl.sum(tl.exp(s * inverse_temperature), axis=1))
        soft_t = tl.log(tl.sum(tl.exp(t * inverse_temperature), axis=1))
        rest = _rest_term(s, t, soft_s, soft_t, inverse_temperature, LOSS)
    plain_odds = own_s - largest_s - plain_s
    odds_s = (own_s - largest_s) * inverse_temperature - soft_s
    odds_t = (own_t - largest_t) * inverse_temperature - soft_t
    softening = temperature * temperature
    if LOSS == DKD:
        value = softening * (first * _pair_divergence(odds_s, odds_t) + second * rest)
    elif LOSS == NKD:
        weight = tl.exp(-_softplus(-(own_t - largest_t - plain_t)))
        value = weight * _softplus(-plain_odds) + second * softening * rest
    else:
        divergence = _pair_divergence(odds_s, odds_t) + tl.exp(-_softplus(odds_t)) * rest
        value = first * _softplus(-plain_odds) + second * softening * divergence
    tl.store(values + row, value, mask=row < rows)


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
    grad, student, teacher, labels, gradient,  # [rows], [rows, columns] twice, [rows], [rows, columns]
    rows, columns, go, sr, sk, tr, tk, step, dr, dk, temperature, inverse_temperature, first, second,
    LOSS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, IS_BLOCKED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    label = tl.load(labels + row * step, mask=row < rows, other=0).to(tl.int64)
    own_s = _load_label(student, row, label, sr, sk, rows, columns)
    own_t = _load_label(teacher, row, label, tr, tk, rows, columns)
    upstream = tl.load(grad + row * go, mask=row < rows, other=0.0).to(tl.float32)
    column = tl.arange(0, BLOCK).to(tl.int64)
    if IS_BLOCKED:
        largest_s, plain_s, soft_s, largest_t, plain_t, soft_t = _rests(
            student, teacher, row, label, rows, columns, sr, sk, tr, tk, inverse_temperature, ROWS, BLOCK
        )
    else:
        s = _load_rest(student, row, column, label, sr, sk, rows, columns)
        t = _load_rest(teacher, row, column, label, tr, tk, rows, columns)
        largest_s, largest_t = tl.max(s, axis=1), tl.max(t, axis=1)
        s, t = s - largest_s[:, None], t - largest_t[:, None]
        plain_s, plain_t = tl.log(tl.sum(tl.exp(s), axis=1)), tl.log(tl.sum(tl.exp(t), axis=1))
        soft_s = tl.log(tl.sum(tl.exp(s * inverse_temperature), axis=1))
        soft_t = tl.log(tl.sum(tl.exp(t * inverse_temperature), axis=1))
    own_s, own_t = own_s - largest_s, own_t - largest_t
    of_plain, of_q, of_p, own = _coefficients(
        own_s - plain_s, own_t - plain_t, own_s * inverse_temperature - soft_s, own_t * inverse_temperature - soft_t,
        temperature, first, second, LOSS,
    )  # fmt: skip
    of_plain, of_q, of_p, own = of_plain * upstream, of_q * upstream, of_p * upstream, own * upstream
    if IS_BLOCKED:
        for start in range(0, columns, BLOCK):
            s = _load_rest(student, row, start + column, label, sr, sk, rows, columns) - largest_s[:, None]
            t = _load_rest(teacher, row, start + column, label, tr, tk, rows, columns) - largest_t[:, None]
            is_label = (start + column)[None, :] == label[:, None]
            tile = _gradient_tile(
                s, t, plain_s, soft_s, soft_t, of_plain, of_q, of_p, own, is_label, inverse_temperature, LOSS
            )
            store_tile(gradient, tile, row, start + column, dr, dk, rows, columns)
    else:
        is_label = column[None, :] == label[:, None]
        tile = _gradient_tile(
            s, t, plain_s, soft_s, soft_t, of_plain, of_q, of_p, own, is_label, inverse_temperature, LOSS
        )
        store_tile(gradient, tile, row, column, dr, dk, rows, columns)


def dkd_forward(
    student: Tensor, teacher: Tensor, labels: Tensor, *, alpha: float, beta: float, temperature: float
) -> tuple[Tensor]:
    """Return the values `[B]`."""
    return _values(student, teacher, labels, DKD, temperature, alpha, beta)


def dkd_backward(
    grad: Tensor, student: Tensor, teacher: Tensor, labels: Tensor, *, alpha: float, beta: float, temperature: float
) -> tuple[Tensor]:
    """Return the student's gradient `[B, K]`."""
    return _gradient(grad, student, teacher, labels, DKD, temperature, alpha, beta)


def nkd_forward(student: Tensor, teacher: Tensor, labels: Tensor, *, gamma: float, temperature: float) -> tuple[Tensor]:
    """Return the values `[B]`."""
    return _values(student, teacher, labels, NKD, temperature, 1.0, gamma)


def nkd_backward(
    grad: Tensor, student: Tensor, teacher: Tensor, labels: Tensor, *, gamma: float, temperature: float
) -> tuple[Tensor]:
    """Return the student's gradient `[B, K]`."""
    return _gradient(grad, student, teacher, labels, NKD, temperature, 1.0, gamma)


def kd_ce_forward(
    student: Tensor, teacher: Tensor, labels: Tensor, *, label_weight: float, teacher_weight: float, temperature: float
) -> tuple[Tensor]:
    """Return the values `[B]`."""
    return _values(student, teacher, labels, KD_CE, temperature, label_weight, teacher_weight)


def kd_ce_backward(
    grad: Tensor, student: Tensor, teacher: Tensor, labels: Tensor, *, label_weight: float, teacher_weight: float,
    temperature: float,
) -> tuple[Tensor]:  # fmt: skip
    """Return the student's gradient `[B, K]`."""
    return _gradient(grad, student, teacher, labels, KD_CE, temperature, label_weight, teacher_weight)


def _values(
    student: Tensor, teacher: Tensor, labels: Tensor, loss: tl.constexpr, temperature: float, first: float,
    second: float,
) -> tuple[Tensor]:  # fmt: skip
    rows, columns = student.shape
    tiling = tiling_of(student.unsqueeze(0), sideways=False)
    values = student.new_empty(rows, dtype=torch.float32)
    with device_of(student):
        _forward_kernel[(triton.cdiv(rows, tiling.rows),)](
            student, teacher, labels, values, rows, columns, *student.stride(), *teacher.stride(), *labels.stride(),
            temperature, 1 / temperature, first, second, LOSS=loss.value, num_warps=tiling.num_warps,
            **tiling.constants,
        )  # fmt: skip
    return (values,)


def _gradient(
    grad: Tensor, student: Tensor, teacher: Tensor, labels: Tensor, loss: tl.constexpr, temperature: float,
    first: float, second: float,
) -> tuple[Tensor]:  # fmt: skip
    rows, columns = student.shape
    tiling = tiling_of(student.unsqueeze(0), sideways=False)
    gradient = torch.empty_like(student)
    with device_of(student):
        _backward_kernel[(triton.cdiv(rows, tiling.rows),)](
            grad, student, teacher, labels, gradient, rows, columns, *grad.stride(), *student.stride(),
            *teacher.stride(), *labels.stride(), *gradient.stride(), temperature, 1 / temperature, first, second,
            LOSS=loss.value, num_warps=tiling.num_warps, **tiling.constants,
        )  # fmt: skip
    return (gradient,)


def variants() -> Iterator[Variant]:
    """Yield every kernel in the configurations that launches pick."""
    numbers = dict.fromkeys(("temperature", "inverse_temperature", "first", "second"), "fp32")
    for (student, teacher), (tiling, _), loss in product(DTYPE_PAIRS, tilings(sideways=False), (DKD, NKD, KD_CE)):
        pointers = {"student": f"*{student}", "teacher": f"*{teacher}", "labels": "*i64"}
        strides = dict.fromkeys(("rows", "columns", "sr", "tr"), "i32")
        constants = {"LOSS": loss.value, "sk": 1, "tk": 1, "step": 1, **tiling.constants}
        yield Variant(
            _forward_kernel,
            {**pointers, "values": "*fp32", **strides, **numbers},
            constants,
            num_warps=tiling.num_warps,
        )
        yield Variant(
            _backward_kernel,
            {"grad": "*fp32", **pointers, "gradient": f"*{student}", **strides, "go": "i32", "dr": "i32", **numbers},
            {**constants, "dk": 1},
            num_warps=tiling.num_warps,
        )
