"""Changes of pictures that should not change what is seen: colour, shift, crop; and made-up domains.

All take float32 `[N, C, H, W]` in 0..1 and return the same shape in 0..1.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)


def grey(inputs: Tensor) -> Tensor:
    """Return brightness `[N, 1, H, W]`: ITU-R 601 luma of three channels, the mean of any other number."""
    if inputs.shape[1] != len(_LUMA):
        return inputs.mean(dim=1, keepdim=True)
    return (inputs * inputs.new_tensor(_LUMA).view(1, -1, 1, 1)).sum(dim=1, keepdim=True)


def colour_jittered(inputs: Tensor, rng: np.random.Generator, *, strength: float) -> Tensor:
    """Change brightness, contrast and, where there is colour, saturation and hue, each picture by its own draw.

    Factors are uniform in `1 - 0.4 s .. 1 + 0.4 s`, the hue turns by up to `0.2 s` of the circle either way.

    Args:
        inputs: `[N, C, H, W]`; three channels are red, green, blue.
        rng: The only source of chance.
        strength: `s`, 0 (unchanged) to 1.
    """
    brightness, contrast, saturation = (_factors(rng, len(inputs), 0.4 * strength) for _ in range(3))
    changed = (inputs * brightness).clamp(0, 1)
    level = grey(changed).mean(dim=(2, 3), keepdim=True)
    changed = (level + contrast * (changed - level)).clamp(0, 1)
    if inputs.shape[1] != len(_LUMA):
        return changed
    plain = grey(changed)
    changed = (plain + saturation * (changed - plain)).clamp(0, 1)
    return hue_turned(changed, _factors(rng, len(inputs), 0.2 * strength) - 1) if strength > 0 else changed


def hue_turned(inputs: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of red-green-blue pictures, keeping saturation and value of the HSV model.

    Args:
        inputs: `[N, 3, H, W]`.
        turns: `[N, 1, 1, 1]`, shares of the circle.
    """
    value, brightest = inputs.max(dim=1, keepdim=True)
    spread = value - inputs.min(dim=1, keepdim=True).values
    red, green, blue = torch.split(inputs, 1, dim=1)
    sixths = torch.cat([(green - blue), (blue - red), (red - green)], dim=1).gather(1, brightest)
    sixths = sixths / spread.clamp(min=1e-12) + 2 * brightest
    hue = (sixths / 6 + turns) % 1
    offsets = inputs.new_tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1)
    position = (offsets + 6 * hue) % 6
    return value - spread * torch.minimum(position, 4 - position).clamp(0, 1)


def shifted(inputs: Tensor, rng: np.random.Generator, *, pixels: int) -> Tensor:
    """Move every picture by its own draw of up to `pixels` along each axis; what comes in is black."""
    count, _, height, width = inputs.shape
    padded = F.pad(inputs, (pixels,) * 4)
    tops, lefts = rng.integers(0, 2 * pixels + 1, (2, count))
    moved = [
        padded[row, :, top : top + height, left : left + width]
        for row, (top, left) in enumerate(zip(tops.tolist(), lefts.tolist(), strict=True))
    ]
    return torch.stack(moved)


def cropped(inputs: Tensor, rng: np.random.Generator, *, scale: float) -> Tensor:
    """Cut a square window out of every picture at its own place and resize it to the whole (bilinear).

    Args:
        inputs: `[N, C, H, W]`.
        rng: The only source of chance.
        scale: Side of the window as a share of the picture's, above 0, at most 1.
    """
    count, _, height, width = inputs.shape
    rows, columns = (max(1, round(scale * side)) for side in (height, width))
    tops = rng.integers(0, height - rows + 1, count).tolist()
    lefts = rng.integers(0, width - columns + 1, count).tolist()
    windows = torch.stack(
        [
            inputs[row, :, top : top + rows, left : left + columns]
            for row, (top, left) in enumerate(zip(tops, lefts, strict=True))
        ]
    )
    if (rows, columns) == (height, width):
        return windows
    return F.interpolate(windows, size=(height, width), mode="bilinear", align_corners=False)


def edges(inputs: Tensor) -> Tensor:
    """Return the length of the brightness gradient (Sobel, borders repeated), each picture scaled to a largest of 1."""
    kernel = inputs.new_tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
    both = torch.stack([kernel, kernel.T]).unsqueeze(1)
    gradients = F.conv2d(F.pad(grey(inputs), (1, 1, 1, 1), mode="replicate"), both)
    length = gradients.square().sum(dim=1, keepdim=True).sqrt()
    largest = length.amax(dim=(2, 3), keepdim=True)
    return (length / largest.clamp(min=1e-12)).expand_as(inputs)


def silhouettes(inputs: Tensor) -> Tensor:
    """Return white where a picture is brighter than its own mean, black elsewhere."""
    brightness = grey(inputs)
    return (brightness > brightness.mean(dim=(2, 3), keepdim=True)).float().expand_as(inputs)


def inverted(inputs: Tensor) -> Tensor:
    """Return the negative."""
    return 1 - inputs


def _factors(rng: np.random.Generator, count: int, reach: float) -> Tensor:
    drawn: NDArray[np.float32] = rng.uniform(1 - reach, 1 + reach, count).astype(np.float32)
    return torch.from_numpy(drawn).view(-1, 1, 1, 1)
