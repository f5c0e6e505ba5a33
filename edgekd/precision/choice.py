"""Takes a lower precision only where it pays: score within the gate and really faster, each verdict in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgekd.core.artifacts import OnnxModel
from edgekd.core.errors import ConfigError, DataError
from edgekd.data import Metric

_ROUNDING = 1e-9
_WORTHWHILE_GAIN = 0.02
_WIDTH = {"fp32": 0, "bf16": 1, "fp16": 1, "int8": 2, "fp8": 2}


@dataclass(frozen=True)
class Candidate:
    """A model with what is known about it.

    Attributes:
        model: The model.
        score: Score on held-out inputs in the metric of the task, at most 1.
        p50_ms: Median latency in milliseconds, or None when unknown.
        ms_kind: `"measured"` or `"predicted"`; None exactly when `p50_ms` is.
        variant: How it was made, where one precision is there in several ways (`"layer by layer"`).
    """

    model: OnnxModel
    score: float
    p50_ms: float | None
    ms_kind: Literal["measured", "predicted"] | None
    variant: str = ""


@dataclass(frozen=True)
class Verdict:
    """What became of one candidate.

    Attributes:
        precision: Its precision.
        flavour: Its flavour.
        accepted: Whether it passes every gate; the reference fp32 always does.
        reason: Why, with the numbers.
        variant: How it was made, where one precision is there in several ways.
    """

    precision: str
    flavour: str
    accepted: bool
    reason: str
    variant: str = ""


@dataclass(frozen=True)
class Decision:
    """The candidate to ship, and a verdict for each candidate in the order given."""

    chosen: Candidate
    verdicts: tuple[Verdict, ...]


def choose_precision(candidates: Sequence[Candidate], *, max_drop: float, metric: Metric) -> Decision:
    """Choose the fastest candidate that keeps fp32's score; fp32 where nothing is shown to be better.

    Latencies are compared only with a latency of the same kind: measured with measured, predicted with predicted. Two
    within 2 % of each other count as equal: neither a repeated measurement nor a model tells them apart.

    Args:
        candidates: One fp32 reference and any number of other precisions.
        max_drop: Score that may be lost against fp32; 0.01 is one point of accuracy.
        metric: What the scores are.

    Returns:
        The choice with a reason for each candidate. Ties go to fp32, then to the better score, then to the wider.

    Raises:
        ConfigError: There is not exactly one fp32 candidate, or `max_drop` is not a fraction.
        DataError: A score or latency is impossible, or a latency has no kind.
    """
    if not 0 <= max_drop < 1:
        raise ConfigError(f"max_drop is {max_drop}; give a fraction such as 0.01, one point of accuracy")
    for candidate in candidates:
        _check(candidate)
    references = [candidate for candidate in candidates if candidate.model.precision == "fp32"]
    if len(references) != 1:
        raise ConfigError(f"choosing a precision needs exactly one fp32 model to compare with, got {len(references)}")
    reference = references[0]
    rejections = [
        "" if candidate is reference else _rejection(candidate, reference, max_drop, metric) for candidate in candidates
    ]
    faster = [c for c, problem in zip(candidates, rejections, strict=True) if c is not reference and not problem]
    chosen = _preferred(faster) if faster else reference
    verdicts = [
        Verdict(
            candidate.model.precision,
            candidate.model.flavour,
            not problem,
            problem or _acceptance(candidate, reference, chosen, metric),
            candidate.variant,
        )
        for candidate, problem in zip(candidates, rejections, strict=True)
    ]
    return Decision(chosen, tuple(verdicts))


def _check(candidate: Candidate) -> None:
    name = _name(candidate)
    if not -math.inf < candidate.score <= 1:
        raise DataError(f"{name}: score is {candidate.score}; it must be finite and at most 1")
    if (candidate.p50_ms is None) != (candidate.ms_kind is None):
        raise DataError(
            f"{name}: p50 {candidate.p50_ms} ms is {candidate.ms_kind}; say both figure and kind, or neither"
        )
    if candidate.p50_ms is not None and not 0 < candidate.p50_ms < math.inf:
        raise DataError(f"{name}: p50 is {candidate.p50_ms} ms; it must be positive and finite")


def _preferred(faster: Sequence[Candidate]) -> Candidate:
    fastest_ms = min(candidate.p50_ms or math.inf for candidate in faster)
    equal = [c for c in faster if c.p50_ms is not None and c.p50_ms * (1 - _WORTHWHILE_GAIN) <= fastest_ms]
    return min(equal, key=lambda c: (-c.score, _WIDTH[c.model.precision], c.p50_ms))


def _rejection(candidate: Candidate, reference: Candidate, max_drop: float, metric: Metric) -> str:
    drop = reference.score - candidate.score
    if drop > max_drop + _ROUNDING:
        return (
            f"{_name(candidate)}: {metric.text(candidate.score)} is {metric.gap(drop)} below fp32 "
            f"{metric.text(reference.score)}, the gate is {metric.gap(max_drop)}"
        )
    return _speed_rejection(candidate, reference, _score_words(candidate, reference, metric))


def _speed_rejection(candidate: Candidate, reference: Candidate, score_words: str) -> str:
    name = _name(candidate)
    if candidate.p50_ms is None or reference.p50_ms is None:
        missing = name if candidate.p50_ms is None else "fp32"
        return f"{name}: {score_words}, but {missing} has no latency: no speed-up is shown"
    if candidate.ms_kind != reference.ms_kind:
        return (
            f"{name}: p50 {candidate.p50_ms:.4g} ms is {candidate.ms_kind} and fp32 {reference.p50_ms:.4g} ms is "
            f"{reference.ms_kind}; the two cannot be compared"
        )
    if candidate.p50_ms > reference.p50_ms:
        return f"{name}: {_latency_words(candidate)} is slower than fp32 {reference.p50_ms:.4g} ms"
    gain = 1 - candidate.p50_ms / reference.p50_ms
    if gain < _WORTHWHILE_GAIN:
        return (
            f"{name}: {_latency_words(candidate)} gains {gain:.1%} on fp32 {reference.p50_ms:.4g} ms; "
            f"under {_WORTHWHILE_GAIN:.0%} is a tie, and ties go to fp32"
        )
    return ""


def _acceptance(candidate: Candidate, reference: Candidate, chosen: Candidate, metric: Metric) -> str:
    name = _name(candidate)
    if candidate is reference:
        return f"{name}: the reference, {'chosen' if chosen is reference else f'{_name(chosen)} is chosen instead'}"
    facts = (
        f"{_score_words(candidate, reference, metric)}; {_latency_words(candidate)} against {reference.p50_ms:.4g} ms"
    )
    outcome = "chosen" if candidate is chosen else f"{_name(chosen)} is preferred at {chosen.p50_ms:.4g} ms"
    return f"{name}: {facts}; {outcome}"


def _score_words(candidate: Candidate, reference: Candidate, metric: Metric) -> str:
    return f"{metric.text(candidate.score)} is within the gate of fp32 {metric.text(reference.score)}"


def _latency_words(candidate: Candidate) -> str:
    prefix = "predicted " if candidate.ms_kind == "predicted" else ""
    return f"{prefix}p50 {candidate.p50_ms:.4g} ms"


def _name(candidate: Candidate) -> str:
    model = candidate.model
    facts = [fact for fact in (model.flavour, candidate.variant) if fact not in ("", "any")]
    return f"{model.precision} ({', '.join(facts)})" if facts else model.precision
