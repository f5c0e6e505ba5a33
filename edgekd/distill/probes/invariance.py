"""Whether a student has taken over what its teacher does not mind: colour, shifts, crops."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import numpy as np
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.data import Split
from edgekd.distill.probes.answers import decisions
from edgekd.distill.probes.changes import colour_jittered, cropped, shifted
from edgekd.distill.probes.pictures import chance_of, draw
from edgekd.distill.probes.probe import PROBES, Figures, Models, Probe, by_role

Change: TypeAlias = Literal["colour", "shift", "crop"]

_SHIFT_SHARE = 0.25
_CROP_SHARE = 0.5


def invariance(
    models: Models,
    split: Split,
    *,
    changes: tuple[Change, ...] = ("colour", "shift", "crop"),
    strengths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0),
    images: int = 2000,
    seed: int = 0,
) -> Figures:
    """How often a network decides the same about a picture and its changed self.

    - colour: `x` against jittered `x'`; brightness, contrast, saturation within 40 %, hue within 20 % at strength 1;
      brightness and contrast alone where pictures have no colour.
    - shift: two shifts, each of up to a quarter of the side at strength 1, rounded up to whole pixels.
    - crop: two windows, each half the side at strength 1, resized to the whole.

    Args:
        models: Roles `student`, and `teacher`, `independent` where given.
        split: Where pictures are drawn from.
        changes: Which of them.
        strengths: Each 0 (unchanged) to 1.
        images: How many pictures at most.
        seed: Decides pictures and changes, the same for every network.

    Returns:
        For each network `CHANGE@STRENGTH`: share of equal decisions.

    Raises:
        ConfigError: An option out of range.

    Reference:
        Ojha et al. 2023, arXiv 2205.16004: ranges of colour; those of shifts and crops are ours.
    """
    if not strengths or not all(0 <= strength <= 1 for strength in strengths):
        raise ConfigError(f"strengths are {list(strengths)}: give at least one, each between 0 and 1")
    pictures = draw(split, images=images, seed=seed)
    pairs = {
        f"{change}@{strength:g}": _pair(change, pictures.inputs, strength, seed)
        for change in changes
        for strength in strengths
    }

    def measure(network: nn.Module) -> Figures:
        return {
            name: (decisions(network, one) == decisions(network, other)).double().mean().item()
            for name, (one, other) in pairs.items()
        }

    return by_role(models, measure, ("student", "independent", "teacher"))


def _pair(change: Change, inputs: Tensor, strength: float, seed: int) -> tuple[Tensor, Tensor]:
    one, other = (
        _CHANGES[change](inputs, chance_of(seed, "invariance", change, f"{strength:g}", side), strength)
        for side in range(2)
    )
    return (inputs, other) if change == "colour" else (one, other)


def _colour(inputs: Tensor, rng: np.random.Generator, strength: float) -> Tensor:
    return colour_jittered(inputs, rng, strength=strength)


def _shift(inputs: Tensor, rng: np.random.Generator, strength: float) -> Tensor:
    return shifted(inputs, rng, pixels=math.ceil(_SHIFT_SHARE * strength * inputs.shape[-1]))


def _crop(inputs: Tensor, rng: np.random.Generator, strength: float) -> Tensor:
    return cropped(inputs, rng, scale=1 - _CROP_SHARE * strength)


_CHANGES: Mapping[Change, Callable[[Tensor, np.random.Generator, float], Tensor]] = {
    "colour": _colour,
    "shift": _shift,
    "crop": _crop,
}

PROBES.add(
    "invariance",
    Probe(
        invariance,
        title="Share of pictures a network decides alike before and after a change of colour, place or crop",
        reference="Ojha et al. 2023, arXiv 2205.16004; ranges of shifts and crops are ours",
        chance="the independent student's figures; where the student is the teacher, the teacher's",
        reads_labels=False,
    ),
)
