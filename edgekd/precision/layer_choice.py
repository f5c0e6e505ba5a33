"""Which layers to quantise: the fastest mixture within the allowed drop, and never one worse than all of them in int8.

Layers leave int8 one after the other, those first whose quantisation does most harm for a millisecond gained; each
mixture on that way is scored as a whole, since harms do not add up. The harm of a layer is the score lost when it alone
is quantised; where the held-out split is too small to show any, the noise in its output orders them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekd.core.errors import ConfigError
from edgekd.data import Metric, NetInputs
from edgekd.precision.int8 import Calibrated, write_int8
from edgekd.precision.sensitivity import Scorer, Sensitivity, sensitivities

_ROUNDING = 1e-9
_NOISE_WEIGHT = 1e-3
_LEAST_GAIN = 1e-3
_CLEAR_LOSS = 0.01
_CHECK_INPUTS = 64

Kind = Literal["measured", "predicted"]


@dataclass(frozen=True)
class Gains:
    """What int8 saves, layer by layer.

    Attributes:
        by_layer_ms: Milliseconds that each layer takes less in int8 than in float; a layer may take more.
        int8_ms: Median latency with every layer in int8.
        kind: Whether these are measured or predicted.
    """

    by_layer_ms: Mapping[str, float]
    int8_ms: float
    kind: Kind

    def is_slower(self, layer: str) -> bool:
        """Say whether int8 clearly slows a layer down, by more than a hundredth of the network's latency."""
        return self.by_layer_ms[layer] < -_CLEAR_LOSS * self.int8_ms

    def latency_ms(self, kept_float: Sequence[str]) -> float:
        """Return the latency with some layers in float: that in int8, and what each of them costs more."""
        return self.int8_ms + sum(self.by_layer_ms[name] for name in kept_float)


@dataclass(frozen=True)
class Mixture:
    """One choice of layers.

    Attributes:
        kept_float: Layers in float; none of them is all-int8, all of them the fp32 model.
        score: Score on the held-out split.
        latency_ms: All-int8 and the cost of each layer in float.
    """

    kept_float: tuple[str, ...]
    score: float
    latency_ms: float


@dataclass(frozen=True)
class LayerRow:
    """What is known about a layer, and what it becomes.

    Attributes:
        layer: Name of its node.
        operator: Its ONNX operator.
        snr_db: Signal over noise of its output when it alone is quantised.
        drop: Score lost then, against fp32; negative where it rose.
        gain_ms: What int8 saves in it.
        precision: What it is in the mixture chosen.
    """

    layer: str
    operator: str
    snr_db: float
    drop: float
    gain_ms: float
    precision: Literal["int8", "fp32"]


@dataclass(frozen=True)
class LayerChoice:
    """The mixture taken, and why.

    Attributes:
        chosen: It.
        rows: Every layer, in the order they run.
        mixtures: Every mixture that was scored, all-int8 first.
        front: Those that no other beats in score and latency at once, the fastest first.
        fp32_score: Score of the float model.
        kind: Whether gains are measured or predicted.
        reason: The choice in one sentence.
    """

    chosen: Mixture
    rows: tuple[LayerRow, ...]
    mixtures: tuple[Mixture, ...]
    front: tuple[Mixture, ...]
    fp32_score: float
    kind: Kind
    reason: str


def choose_layers(
    ready: Calibrated, *, inputs: NetInputs, score: Scorer, gains: Gains, max_drop: float, metric: Metric
) -> LayerChoice:
    """Find the layers to keep in float.

    Args:
        ready: A calibrated model.
        inputs: Inputs to compare layers on; a few dozen are used.
        score: Gives a model's score on the held-out split.
        gains: What int8 saves.
        max_drop: Score that may be lost against fp32.
        metric: What the scores are.

    Returns:
        The fastest mixture found within the drop, or else the best one; its score is at least that of all-int8.

    Raises:
        ConfigError: `max_drop` is not a fraction, or a layer has no gain.
        ExportError: A mixture cannot be written or run.
        PreconditionError: `onnxruntime` is not installed.
    """
    if not 0 <= max_drop < 1:
        raise ConfigError(f"max_drop is {max_drop}; give a fraction such as 0.01, one point of accuracy")
    if missing := [name for name in ready.layers if name not in gains.by_layer_ms]:
        raise ConfigError(f"no gain is known of {', '.join(missing)}")
    fp32_score = score(ready.source)
    found = sensitivities(ready, inputs[:_CHECK_INPUTS], score)
    order = departure_order(found, gains, fp32_score)
    mixtures = _mixtures(ready, order, score=score, gains=gains, goal=fp32_score - max_drop, fp32_score=fp32_score)
    chosen = choose_mixture(mixtures, goal=fp32_score - max_drop)
    rows = [_row(one, fp32_score, gains, chosen) for one in found]
    reason = _reason(chosen, mixtures[0], fp32_score, (max_drop, metric, gains.kind))
    return LayerChoice(chosen, tuple(rows), tuple(mixtures), pareto(mixtures), fp32_score, gains.kind, reason)


def departure_order(found: Sequence[Sensitivity], gains: Gains, fp32_score: float) -> list[str]:
    """Return the layers in the order they leave int8: those slower in it, then by harm for a millisecond gained."""

    def key(one: Sensitivity) -> tuple[bool, float]:
        harm = max(fp32_score - one.score, 0.0) + _NOISE_WEIGHT * min(1.0, 10 ** (-one.snr_db / 10))
        least = _LEAST_GAIN * gains.int8_ms
        return gains.is_slower(one.layer), harm / max(gains.by_layer_ms[one.layer], least)

    return [one.layer for one in sorted(found, key=key, reverse=True)]


def choose_mixture(mixtures: Sequence[Mixture], *, goal: float) -> Mixture:
    """Choose among mixtures, the first of which has every layer in int8.

    Args:
        mixtures: At least one.
        goal: Least score wanted.

    Returns:
        The fastest that reaches the goal; where none does, the best. Never one below the first's score.
    """
    fair = [one for one in mixtures if one.score >= mixtures[0].score]
    good = [one for one in fair if one.score >= goal - _ROUNDING]
    if good:
        return min(good, key=lambda one: (one.latency_ms, -one.score, len(one.kept_float)))
    return max(fair, key=lambda one: (one.score, -one.latency_ms, -len(one.kept_float)))


def pareto(mixtures: Sequence[Mixture]) -> tuple[Mixture, ...]:
    """Return the mixtures that no other beats in score and latency at once, the fastest first."""
    front: list[Mixture] = []
    for one in sorted(mixtures, key=lambda one: (one.latency_ms, -one.score, len(one.kept_float))):
        if not front or one.score > front[-1].score:
            front.append(one)
    return tuple(front)


def _mixtures(
    ready: Calibrated, order: list[str], *, score: Scorer, gains: Gains, goal: float, fp32_score: float
) -> list[Mixture]:
    """Score all-int8, then layer after layer in float until the goal is reached and none left is slower in int8."""
    found: list[Mixture] = []
    with tempfile.TemporaryDirectory(prefix="edgekd-layers-") as folder:
        for count in range(len(order)):
            kept = tuple(name for name in ready.layers if name in order[:count])
            model = write_int8(ready, Path(folder) / "mixture.onnx", kept_float=kept)
            found.append(Mixture(kept, score(model), gains.latency_ms(kept)))
            if found[-1].score >= max(goal - _ROUNDING, found[0].score) and not gains.is_slower(order[count]):
                return found
    return [*found, Mixture(ready.layers, fp32_score, gains.latency_ms(ready.layers))]


def _row(one: Sensitivity, fp32_score: float, gains: Gains, chosen: Mixture) -> LayerRow:
    precision: Literal["int8", "fp32"] = "fp32" if one.layer in chosen.kept_float else "int8"
    drop = fp32_score - one.score
    return LayerRow(one.layer, one.operator, one.snr_db, drop, gains.by_layer_ms[one.layer], precision)


def _reason(chosen: Mixture, int8: Mixture, fp32_score: float, gate: tuple[float, Metric, Kind]) -> str:
    max_drop, metric, kind = gate
    drop = fp32_score - chosen.score
    facts = (
        f"{metric.text(chosen.score)} against fp32 {metric.text(fp32_score)} and all-int8 {metric.text(int8.score)}, "
        f"{kind} {chosen.latency_ms:.4g} ms against all-int8 {int8.latency_ms:.4g} ms"
    )
    if drop > max_drop + _ROUNDING:
        return f"no mixture keeps within {metric.gap(max_drop)}; the best keeps {_words(chosen)}: {facts}"
    return f"{_words(chosen)}, the fastest found within {metric.gap(max_drop)}: {facts}"


def _words(mixture: Mixture) -> str:
    if not mixture.kept_float:
        return "every layer in int8"
    return f"{len(mixture.kept_float)} layer(s) in fp32 ({', '.join(mixture.kept_float)})"
