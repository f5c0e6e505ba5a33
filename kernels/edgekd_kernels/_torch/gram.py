"""Losses on the relations between samples, all through the batch Gram matrix.

Where only differences of samples count, squared distances stand for the Gram matrix: `q_ij = G_ii + G_jj - 2 G_ij`. A
gradient with respect to a `[B, B]` matrix then becomes that of the features by one product. Features are read in
pieces that stay in a processor's cache, so that widening and centring them cost no pass through memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd_kernels._op import accumulation_dtype
from edgekd_kernels._rows import ROUNDING, inner_products

PIECE_ELEMENTS = 2**17
"""Elements worked on at a time: a megabyte in float64."""


def similarity_preserving_forward(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values `[B]` and the gradient of their sum with respect to the student's Gram matrix, `[B, B]`.

    Row `i` of that gradient is of value `i` alone, so upstream weights only scale its rows.

    Args:
        student: `[B, D]`.
        teacher: `[B, E]`.
    """
    dtype = accumulation_dtype(student, teacher)
    mine, inverse = _unit_rows(_gram(student, dtype))
    theirs, _ = _unit_rows(_gram(teacher, dtype))
    difference = mine - theirs
    values = difference.square().sum(dim=1) / len(student)
    along = (mine * difference).sum(dim=1, keepdim=True)
    return values, (difference - mine * along) * (inverse * (2 / len(student)))


def similarity_preserving_backward(grad: Tensor, student: Tensor, slopes: Tensor) -> tuple[Tensor]:
    """Return `(M + M^T) X` for `M` the weighted slopes."""
    weighted = slopes * grad.unsqueeze(1)
    return (_combined(weighted + weighted.T, student),)


def linear_cka_forward(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values `[B]` and both centred Gram matrices in float64, `[B, B]`.

    Args:
        student: `[B, D]`.
        teacher: `[B, E]`.
    """
    dtype = accumulation_dtype(student, teacher)
    mine, theirs = _centred_gram(student, dtype), _centred_gram(teacher, dtype)
    values, _ = _alignment(mine, theirs)
    return values.to(dtype), mine, theirs


def linear_cka_backward(grad: Tensor, student: Tensor, mine: Tensor, theirs: Tensor) -> tuple[Tensor]:
    """Return `(M + M^T) X` for `M_ij = g_i B L_ij / (|K| |L|) - <g, v> K_ij / |K|^2`, centred on both sides."""
    grad = grad.double()
    values, scale = _alignment(mine, theirs)
    square = mine.square().sum()
    square += square == 0
    means = (theirs @ grad) / len(grad)
    weights = grad.unsqueeze(0) + grad.unsqueeze(1)
    first = (weights * theirs - means.unsqueeze(0) - means.unsqueeze(1) + means.mean()) * scale
    return (_combined(first - mine * (2 * (grad * values).sum() / square), student),)


def rkd_distance_forward(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values `[B]` and both sides' squared distances in float64, `[B, B]`, 0 between coincident samples.

    Args:
        student: `[B, D]`.
        teacher: `[B, E]`.
    """
    mine, theirs = _squared_distances(student), _squared_distances(teacher)
    (relative, *_), (target, *_) = _relative(mine), _relative(theirs)
    values = F.smooth_l1_loss(relative, target, reduction="none").mean(dim=1)
    return values.to(accumulation_dtype(student, teacher)), mine, theirs


def rkd_distance_backward(grad: Tensor, student: Tensor, mine: Tensor, theirs: Tensor) -> tuple[Tensor]:
    """Return `dL/dX` from `dL/dq_ij = (h_ij / mu - sum(h d) / (mu^2 n)) / (2 d_ij)`, `h` the slope of the loss."""
    (relative, mean, count), (target, *_) = _relative(mine), _relative(theirs)
    slopes = (relative - target).clamp(-1, 1) * (grad.double().unsqueeze(1) / (len(grad) * mean))
    slopes = slopes - (slopes * relative).sum() / count
    return (_combined(_laplacian(slopes * _inverse_roots(mine) / 2), student),)


def rkd_angle_forward(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values `[B]` and both sides' squared distances in float64, `[B, B]`, 0 between coincident samples.

    Args:
        student: `[B, D]`.
        teacher: `[B, E]`.
    """
    mine, theirs = _squared_distances(student), _squared_distances(teacher)
    inverse, target_inverse = _inverse_roots(mine), _inverse_roots(theirs)
    values = torch.empty_like(mine[0])
    for anchors in _anchors(len(mine)):
        cosines = _cosines(mine, inverse, anchors)
        target = _cosines(theirs, target_inverse, anchors)
        values[anchors] = F.smooth_l1_loss(cosines, target, reduction="none").mean(dim=(1, 2))
    return values.to(accumulation_dtype(student, teacher)), mine, theirs


def rkd_angle_backward(grad: Tensor, student: Tensor, mine: Tensor, theirs: Tensor) -> tuple[Tensor]:
    """Return `dL/dX` from `dL/dq`, to which every anchor adds; the `[B, B, B]` cosines are computed again in pieces.

    At anchor `i`, with `e_jk` the slope of the loss and `r = 1/d`: `dL/dq_jk -= e_jk r_ij r_ik / 2` and
    `dL/dq_ij += r_ij sum_k e_jk r_ik - r_ij^2 sum_k e_jk c_jk`.
    """
    inverse, target_inverse = _inverse_roots(mine), _inverse_roots(theirs)
    slopes = torch.zeros_like(mine)
    for anchors in _anchors(len(mine)):
        cosines = _cosines(mine, inverse, anchors)
        errors = cosines.sub(_cosines(theirs, target_inverse, anchors)).clamp_(-1, 1)
        near = inverse[anchors]
        weighted = near * (grad[anchors].double() / len(grad) ** 2).unsqueeze(1)
        along = cosines.mul_(errors).sum(dim=2)
        errors.mul_(near.unsqueeze(1))
        slopes[anchors] += weighted * (errors.sum(dim=2) - near * along)
        slopes -= errors.mul_(weighted.unsqueeze(2)).sum(dim=0) / 2
    return (_combined(_laplacian(slopes), student),)


def _pieces(rows: Tensor) -> Iterator[slice]:
    """Yield ranges of columns, each a piece of the features."""
    step = max(64, PIECE_ELEMENTS // len(rows))
    return (slice(start, start + step) for start in range(0, max(1, rows.shape[1]), step))


def _anchors(batch: int) -> Iterator[slice]:
    """Yield ranges of samples, each with a piece of the angles."""
    step = max(1, PIECE_ELEMENTS // batch**2)
    return (slice(start, start + step) for start in range(0, batch, step))


def _gram(rows: Tensor, dtype: torch.dtype) -> Tensor:
    if rows.dtype == dtype:
        return inner_products(rows, rows)
    return _sum(inner_products(wide, wide) for wide in (rows[:, piece].to(dtype) for piece in _pieces(rows)))


def _centred_gram(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the Gram matrix of samples about their mean in float64; zeros where they differ by no more than rounding.

    The first sample is subtracted before the mean is taken: that of equal samples is then exact.
    """
    grams, moments = [], []
    for piece in _pieces(rows):
        wide = rows[:, piece].to(dtype)
        first = wide[0]
        shifted = wide - first
        mean = shifted.sum(dim=0) / len(rows)
        shifted -= mean
        mean += first
        grams.append(inner_products(shifted, shifted))
        moments.append(mean.dot(mean))
    gram, moment = _sum(grams).double(), _sum(moments)
    spread = gram.trace()
    return gram * (spread > ROUNDING * (spread + len(rows) * moment))


def _squared_distances(rows: Tensor) -> Tensor:
    """Return `[B, B]`, from products in float64: they cancel for rows close to each other.

    For float32 features float64 keeps what taking the differences of the rows themselves would.
    """
    gram = _centred_gram(rows, torch.float64)
    norms = gram.diagonal()
    sums = norms.unsqueeze(1) + norms
    squares = torch.add(sums, gram, alpha=-2)
    return squares.mul_(squares > ROUNDING * sums)


def _combined(matrix: Tensor, rows: Tensor) -> Tensor:
    """Return `matrix @ rows` in the rows' dtype and layout, summed in the matrix's dtype."""
    combined = torch.empty_like(rows)
    for piece in _pieces(rows):
        combined[:, piece] = inner_products(matrix, rows[:, piece].T.to(matrix.dtype))
    return combined


def _laplacian(slopes: Tensor) -> Tensor:
    """Return `S` such that `S X` is the gradient, given that with respect to the squared distances between rows."""
    pairs = slopes + slopes.T
    pairs *= -2
    pairs.diagonal().sub_(pairs.sum(dim=1))
    return pairs


def _sum(parts: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, parts)


def _unit_rows(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows of length 1 and the inverse lengths `[B, 1]`, both 0 where the length is."""
    lengths = gram.square().sum(dim=1, keepdim=True).sqrt()
    inverse = torch.where(lengths <= 1e-12, 0.0, lengths.reciprocal())
    return gram * inverse, inverse


def _alignment(mine: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Return each sample's share of the alignment `[B]` and `B / (|K| |L|)`, zeros where a side does not vary."""
    norms = torch.linalg.vector_norm(mine) * torch.linalg.vector_norm(theirs)
    is_flat = norms == 0
    scale = (len(mine) / (norms + is_flat)) * ~is_flat
    return (mine * theirs).sum(dim=1) * scale, scale


def _relative(squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return distances over their mean, that mean (1 where no two samples differ) and the number of pairs apart."""
    distances = squares.sqrt()
    count = squares.count_nonzero().clamp(min=1)
    mean = distances.sum() / count
    mean += mean == 0
    return distances.div_(mean), mean, count


def _inverse_roots(squares: Tensor) -> Tensor:
    return torch.where(squares == 0, 0.0, squares.rsqrt())


def _cosines(squares: Tensor, inverse: Tensor, anchors: slice) -> Tensor:
    """Return the cosines at some samples `i` between the directions to `j` and `k`, `[I, B, B]`, by the law of cosines.

    A direction to a coincident sample has cosine 0 with all.
    """
    near, scale = squares[anchors], inverse[anchors]
    cosines = near.unsqueeze(2) + near.unsqueeze(1)
    return cosines.sub_(squares).mul_((scale / 2).unsqueeze(2)).mul_(scale.unsqueeze(1))
