"""Choosing rows by class: the held-out split, `limit`, and class-balanced calibration rows.

Quotas are computed in whole numbers, so that the same labels give the same split on every machine.
"""

from __future__ import annotations

import numpy as np

from edgekd.core.errors import DataError
from edgekd.core.seeds import derive_seed
from edgekd.data.inputs import Rows


def proportional_quotas(counts: Rows, total: int) -> Rows:
    """Divide `total` over classes by their shares (largest remainder; ties go to the lower class).

    Args:
        counts: int64 `[K]`, rows of each class.
        total: Rows wanted, at most `counts.sum()`.

    Returns:
        int64 `[K]` that sums to `total` and never exceeds `counts`. Where `total` has room for every class that has
        rows, each gets at least one.
    """
    available = int(counts.sum())
    if total >= available:
        return counts.copy()
    quotas, remainders = np.divmod(counts * total, available)
    extra = np.argsort(-remainders, kind="stable")[: total - int(quotas.sum())]
    quotas[extra] += 1
    absent = np.flatnonzero((quotas == 0) & (counts > 0))
    if total >= np.count_nonzero(counts):
        for label in absent:
            quotas[np.argmax(quotas)] -= 1
            quotas[label] = 1
    return quotas


def balanced_quotas(counts: Rows, total: int) -> Rows:
    """Divide `total` over classes as equally as their sizes allow (ties go to the lower class).

    Args:
        counts: int64 `[K]`, rows of each class.
        total: Rows wanted.

    Returns:
        int64 `[K]` that sums to `min(total, counts.sum())` and never exceeds `counts`.
    """
    quotas = np.zeros_like(counts)
    left = min(total, int(counts.sum()))
    while left > 0:
        growing = np.flatnonzero(quotas < counts)
        share = left // len(growing)
        if share == 0:
            quotas[growing[:left]] += 1
            return quotas
        quotas[growing] += np.minimum(counts[growing] - quotas[growing], share)
        left = min(total, int(counts.sum())) - int(quotas.sum())
    return quotas


def rows_by_quota(labels: Rows, quotas: Rows, seed: int) -> Rows:
    """Draw `quotas[k]` rows of each class `k` at random.

    Args:
        labels: int64 `[N]` in `0..K-1`.
        quotas: int64 `[K]`, none above the class's size.
        seed: Seed of the draw; each class has its own stream.

    Returns:
        int64, the rows in ascending order.
    """
    drawn = [np.empty(0, np.int64)]
    for label, quota in enumerate(quotas):
        rng = np.random.default_rng(derive_seed(seed, "class", label))
        drawn.append(rng.permutation(np.flatnonzero(labels == label))[:quota])
    return np.sort(np.concatenate(drawn))


def held_out_rows(labels: Rows, *, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Divide rows into kept and held out, every class by the same fraction; every class keeps at least one row.

    Args:
        labels: int64 `[N]`, not negative.
        fraction: Share to hold out, between 0 and 1.
        seed: Seed of the draw.

    Returns:
        `(kept, held_out)`, both int64 in ascending order; together every row once.

    Raises:
        DataError: Too few rows to hold any out.
    """
    counts = np.bincount(labels).astype(np.int64)
    quotas = proportional_quotas(counts, round(len(labels) * fraction))
    held_out = rows_by_quota(labels, np.minimum(quotas, np.maximum(counts - 1, 0)), seed)
    if len(held_out) == 0:
        raise DataError(
            f"cannot hold {fraction:g} of {len(labels)} pictures in {np.count_nonzero(counts)} classes out: "
            "give more pictures or hold out a larger share"
        )
    return np.setdiff1d(np.arange(len(labels), dtype=np.int64), held_out), held_out


def limited_rows(labels: Rows, *, limit: int | None, seed: int) -> Rows:
    """Choose at most `limit` rows, classes in proportion.

    Args:
        labels: int64 `[N]`, not negative.
        limit: Rows wanted, or `None` for all.
        seed: Seed of the draw.

    Returns:
        int64, the rows in ascending order.
    """
    if limit is None or limit >= len(labels):
        return np.arange(len(labels), dtype=np.int64)
    counts = np.bincount(labels).astype(np.int64)
    return rows_by_quota(labels, proportional_quotas(counts, limit), seed)
