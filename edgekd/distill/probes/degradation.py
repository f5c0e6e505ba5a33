"""How networks lose accuracy as pictures get worse: noise, blur, JPEG, down-sampling, occlusion."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import nn

from edgekd.core.errors import ConfigError
from edgekd.data import Split, network_inputs
from edgekd.data.images import Pixels
from edgekd.distill.probes.answers import decisions
from edgekd.distill.probes.pictures import chance_of, draw
from edgekd.distill.probes.probe import PROBES, Figures, Models, Probe, by_role

Kind: TypeAlias = Literal["noise", "blur", "jpeg", "downsampling", "occlusion"]

MAX_SEVERITY = 5
_NOISE_STEP = 0.08
_BLUR_STEP = 0.02
_JPEG_QUALITY = (100, 60, 40, 25, 15, 7)
_DOWNSAMPLING_STEP = 0.15
_OCCLUDED_STEP = 0.08


def degraded(pixels: Pixels, kind: Kind, severity: int, rng: np.random.Generator) -> Pixels:
    """Make pictures worse.

    - noise: Gaussian, standard deviation `0.08 * severity` of the range.
    - blur: Gaussian, radius `0.02 * severity` of the side.
    - jpeg: quality 60, 40, 25, 15, 7.
    - downsampling: to `1 - 0.15 * severity` of the side, bilinear with antialiasing, and back.
    - occlusion: a grey square of `0.08 * severity` of the area, at a random place.

    Args:
        pixels: uint8 `[N, H, W, C]`, one channel or three.
        kind: Which.
        severity: 0 (the pictures as they are) to 5.
        rng: The only source of chance.

    Returns:
        uint8 `[N, H, W, C]`.

    Raises:
        ConfigError: A severity out of range, or pictures of another number of channels.
    """
    if not 0 <= severity <= MAX_SEVERITY:
        raise ConfigError(f"severity is {severity}, it must be between 0 and {MAX_SEVERITY}")
    if pixels.shape[3] not in (1, 3):
        raise ConfigError(f"pictures have {pixels.shape[3]} channels; grey and red-green-blue ones can be degraded")
    return pixels if severity == 0 else _DEGRADATIONS[kind](pixels, severity, rng)


def degradation(
    models: Models,
    split: Split,
    *,
    kinds: tuple[Kind, ...] = ("noise", "blur", "jpeg", "downsampling", "occlusion"),
    severities: tuple[int, ...] = (0, 1, 2, 3, 4, 5),
    images: int = 1000,
    seed: int = 0,
) -> Figures:
    """Accuracy of each network over kinds and severities of degradation.

    Args:
        models: Roles `student`, and `teacher`, `independent` where given.
        split: Where pictures are drawn from.
        kinds: What is done to them.
        severities: How badly; 0 is the clean value.
        images: How many pictures at most.
        seed: Decides pictures and degradations, the same for every network.

    Returns:
        For each network accuracy as `KIND@SEVERITY`.

    Raises:
        ConfigError: An option out of range, or pictures that are neither grey nor red-green-blue.

    Reference:
        Thapa 2022, arXiv 2210.09668, names the kinds; their strengths are ours.
    """
    pictures = draw(split, images=images, seed=seed)
    worse = {
        f"{kind}@{severity}": degraded(pictures.pixels, kind, severity, chance_of(seed, "degradation", kind, severity))
        for kind in kinds
        for severity in severities
    }

    def measure(network: nn.Module) -> Figures:
        return {name: _accuracy(network, pixels, pictures.labels) for name, pixels in worse.items()}

    return by_role(models, measure, ("student", "independent", "teacher"))


def _accuracy(network: nn.Module, pixels: Pixels, labels: torch.Tensor) -> float:
    return (decisions(network, torch.from_numpy(network_inputs(pixels))) == labels).double().mean().item()


def _noise(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    noisy = pixels + rng.normal(0, 255 * _NOISE_STEP * severity, pixels.shape)
    rounded: Pixels = np.rint(noisy.clip(0, 255)).astype(np.uint8)
    return rounded


def _blur(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    blur = ImageFilter.GaussianBlur(_BLUR_STEP * severity * pixels.shape[1])
    return _each(pixels, lambda picture: picture.filter(blur))


def _jpeg(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    def recoded(picture: Image.Image) -> Image.Image:
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=_JPEG_QUALITY[severity])
        return Image.open(stream)

    return _each(pixels, recoded)


def _downsampling(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    _, height, width, _ = pixels.shape
    share = 1 - _DOWNSAMPLING_STEP * severity
    small = (max(1, round(share * width)), max(1, round(share * height)))
    bilinear = Image.Resampling.BILINEAR
    return _each(pixels, lambda picture: picture.resize(small, bilinear).resize((width, height), bilinear))


def _occlusion(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    count, height, width, _ = pixels.shape
    share = np.sqrt(_OCCLUDED_STEP * severity)
    rows, columns = max(1, round(share * height)), max(1, round(share * width))
    tops, lefts = rng.integers(0, height - rows + 1, count), rng.integers(0, width - columns + 1, count)
    covered = pixels.copy()
    for row in range(count):
        covered[row, tops[row] : tops[row] + rows, lefts[row] : lefts[row] + columns] = 128
    return covered


def _each(pixels: Pixels, change: Callable[[Image.Image], Image.Image]) -> Pixels:
    changed = np.empty_like(pixels)
    for row, picture in enumerate(pixels):
        plain = Image.fromarray(picture[:, :, 0] if pixels.shape[3] == 1 else picture)
        changed[row] = np.asarray(change(plain)).reshape(picture.shape)
    return changed


_DEGRADATIONS: Mapping[Kind, Callable[[Pixels, int, np.random.Generator], Pixels]] = {
    "noise": _noise,
    "blur": _blur,
    "jpeg": _jpeg,
    "downsampling": _downsampling,
    "occlusion": _occlusion,
}

PROBES.add(
    "degradation",
    Probe(
        degradation,
        title="Accuracy under noise, blur, JPEG, down-sampling and occlusion of growing severity",
        reference="Thapa 2022, arXiv 2210.09668 (kinds; strengths are ours)",
        chance="the independent student's curves; where the student is the teacher, the teacher's",
    ),
)
