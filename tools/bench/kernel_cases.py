"""Inputs on which every fused loss is benchmarked and tested: found by the names of its arguments.

A loss is fused when it is public in `edgekd_kernels.functional` and lets its caller choose the implementation. What an
argument holds follows from the last word of its name, as everywhere in the package: `student_logits` are `[B, K]`,
`teacher_map` is `[B, C, H, W]`, and so on. A new kernel is covered as soon as it is there.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from edgekd_kernels import functional
from edgekd_kernels._op import FusedLoss
from torch import Tensor

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """Sizes of the tensors of one case; each loss uses some.

    Attributes:
        batch: `B`.
        classes: `K` of logits.
        channels: `C` of the student's map, and of the teacher's where they must agree.
        teacher_channels: `C'` elsewhere.
        height: Of a map.
        width: Of a map.
        features: `D` of the student's feature vectors, and of the teacher's where they must agree.
        teacher_features: `D'` elsewhere.
        bank: Rows of a memory bank.
        negatives: Rows drawn from it for each sample.
    """

    batch: int
    classes: int = 0
    channels: int = 0
    teacher_channels: int = 0
    height: int = 0
    width: int = 0
    features: int = 0
    teacher_features: int = 0
    bank: int = 0
    negatives: int = 0


def _logits(batch: int, classes: int) -> Size:
    return Size(batch, classes=classes)


def _map(batch: int, channels: int, side: int, teacher_channels: int = 0) -> Size:
    return Size(batch, channels=channels, teacher_channels=teacher_channels or channels, height=side, width=side)


def _features(batch: int, features: int, teacher_features: int = 0) -> Size:
    return Size(batch, features=features, teacher_features=teacher_features or features)


def _bank(batch: int, features: int, bank: int, negatives: int) -> Size:
    return Size(batch, features=features, bank=bank, negatives=negatives)


SIZES: Mapping[str, Mapping[str, tuple[Size, ...]]] = {
    "small": {  # what Triton's interpreter does in a moment
        "logits": (_logits(3, 5), _logits(4, 33)),
        "map": (_map(3, 5, 4), Size(2, channels=3, teacher_channels=6, height=7, width=5)),
        "features": (_features(5, 9, 7), _features(6, 17)),
        "bank": (_bank(3, 8, 12, 4),),
    },
    "cpu": {
        "logits": (_logits(64, 10), _logits(64, 100), _logits(64, 1000)),
        "map": (_map(64, 16, 28), _map(64, 64, 14), _map(64, 128, 7, 256)),
        "features": (_features(64, 64, 256), _features(64, 512, 2048)),
        "bank": (_bank(64, 128, 4096, 1024),),
    },
    "cuda": {
        "logits": (
            _logits(64, 100), _logits(256, 1000), _logits(4096, 1000), _logits(1024, 32000), _logits(64, 151_936),
        ),
        "map": (
            _map(64, 64, 32), _map(64, 256, 8), _map(128, 256, 28, 512), _map(128, 1024, 14), _map(256, 512, 7, 2048),
            _map(8, 256, 128),
        ),
        "features": (_features(64, 256), _features(128, 512, 2048), _features(256, 512, 2048), _features(1024, 512)),
        "bank": (_bank(64, 128, 50_000, 16_384),),
    },
}  # fmt: skip
"""Tables of sizes, by what the first tensor of a loss is."""

_STAGES = 3
_KINDS = {
    "logits": "logits", "map": "map", "maps": "map", "mean": "map", "factor": "map", "feature": "features",
    "embedding": "features", "similarity": "bank",
}  # fmt: skip
_FREE_WIDTH = {"attention_transfer", "similarity_preserving", "nst", "projected_mse"}
_FREE_FEATURES = {"rkd_distance", "rkd_angle", "cka_dissimilarity", "linear_cka", "pkt"}

_OPTIONS: Mapping[str, Arguments] = {"curriculum_kl": {"span": 1.0}}
"""Where the defaults leave no digits: at a temperature of 15 the loss hardly depends on the temperature."""


@dataclass(frozen=True)
class Case:
    """One loss on tensors of one size.

    Attributes:
        loss: Name.
        size: Of its tensors.
        student_dtype: Of the tensors that receive a gradient.
        teacher_dtype: Of the other ones.
        device: Where they lie.
        layout: `"contiguous"` or `"channels_last"`.
    """

    loss: str
    size: Size
    student_dtype: torch.dtype = torch.float32
    teacher_dtype: torch.dtype = torch.float32
    device: str = "cpu"
    layout: str = "contiguous"

    @property
    def function(self) -> Callable[..., Tensor]:
        """The public function."""
        found: Callable[..., Tensor] = getattr(functional, self.loss)
        return found

    @property
    def shape(self) -> str:
        """Sizes in a word: `64x100`, of the tensors that differ `64x512|2048`."""
        size, kind = self.size, kind_of(self.loss)
        if kind == "bank":
            return f"{size.batch}x{size.negatives + 1}x{size.features} of {size.bank}"
        if kind == "features":
            is_free = self.loss in _FREE_FEATURES and size.teacher_features != size.features
            return f"{size.batch}x{size.features}" + (f"|{size.teacher_features}" if is_free else "")
        if kind == "logits":
            return f"{size.batch}x{size.classes}"
        is_free = self.loss in _FREE_WIDTH and size.teacher_channels != size.channels
        width = f"{size.channels}|{size.teacher_channels}" if is_free else str(size.channels)
        stages = f" in {_STAGES} stages" if self.loss.endswith("_grouped") else ""
        return f"{size.batch}x{width}x{size.height}x{size.width}{stages}"

    def arguments(self, seed: int = 0) -> Arguments:
        """Return the arguments by name; tensors of the student require a gradient.

        Args:
            seed: Of the random numbers, which are drawn on the device: a GPU would wait for a CPU's.
        """
        generator = torch.Generator(self.device).manual_seed(seed)
        arguments = {name: self._argument(name, generator) for name in _required(self.loss)}
        return arguments | _OPTIONS.get(self.loss, {})

    def _argument(self, name: str, generator: torch.Generator) -> Any:
        size = self.size
        if name == "bank_size":
            return size.bank
        if name == "gradient_scale":
            return -1.0
        if name == "labels":
            return torch.randint(size.classes, (size.batch,), generator=generator, device=self.device)
        if name == "rows":
            shape = (size.batch, size.negatives + 1)
            return torch.randint(size.bank, shape, generator=generator, device=self.device)
        if name.endswith("_maps"):
            stages = (replace(self, loss="hint_mse", size=_stage(size, index)) for index in range(_STAGES))
            return [stage._argument(name.removesuffix("s"), generator) for stage in stages]
        is_taught = is_students(self.loss, name)
        dtype = self.student_dtype if is_taught else self.teacher_dtype
        small = name in ("raw_variance", "raw_temperature", "log_normaliser", "projection", "margin")
        values = torch.randn(self._shape_of(name), generator=generator, device=self.device)
        tensor = values.to(torch.float32 if small else dtype)
        if self.layout == "channels_last" and tensor.dim() == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor.requires_grad_(is_taught)

    def _shape_of(self, name: str) -> tuple[int, ...]:
        size = self.size
        is_teachers = name.startswith("teacher_")
        channels = size.teacher_channels if is_teachers and self.loss in _FREE_WIDTH else size.channels
        features = size.teacher_features if is_teachers and self.loss in _FREE_FEATURES else size.features
        shapes: dict[str, tuple[int, ...]] = {
            "logits": (size.batch, size.classes),
            **dict.fromkeys(("map", "mean", "factor"), (size.batch, channels, size.height, size.width)),
            **dict.fromkeys(("feature", "embedding"), (size.batch, features)),
            "similarity": (size.batch, size.negatives + 1),
            "bank": (size.bank, size.features),
            "projection": (size.channels, size.channels),
            "weight": (size.teacher_channels, size.channels),
            **dict.fromkeys(("variance", "margin"), (size.channels,)),
            **dict.fromkeys(("temperature", "normaliser"), ()),
        }
        return shapes[name.rpartition("_")[2]]

    def in_float64(self, arguments: Arguments) -> Arguments:
        """Return arguments as float64 copies that require what the originals do."""
        return {name: _copied(value, torch.float64) for name, value in arguments.items()}


def fused_losses() -> list[str]:
    """Return the public losses whose implementation can be chosen."""
    found = [name for name in functional.__all__ if "impl" in inspect.signature(getattr(functional, name)).parameters]
    return sorted(found)


def operators() -> list[FusedLoss]:
    """Return the losses that are operators; several of one name differ in the number of their tensors only."""
    modules = [module for name, module in sys.modules.items() if name.startswith("edgekd_kernels.")]
    values = [value for module in modules for value in vars(module).values()]
    found = [each for value in values for each in (value.values() if isinstance(value, dict) else [value])]
    distinct = {id(each): each for each in found if isinstance(each, FusedLoss)}
    return list(distinct.values())


def implementations(loss: str) -> tuple[str, ...]:
    """Return the kernels that a loss has, `"triton"` and `"cuda"`, whether or not they can run here."""
    offered = {"triton"}.union(*(each.signature.offered for each in operators() if each.signature.name == loss))
    return tuple(sorted(offered - {"torch"}))


def is_students(loss: str, name: str) -> bool:
    """Return whether an argument of a loss is a tensor that receives a gradient."""
    if loss == "info_nce":
        return True
    fixed = ("labels", "rows", "bank", "bank_size", "log_normaliser", "gradient_scale", "projection", "margin")
    return not name.startswith("teacher_") and name not in fixed


def tensors_of(arguments: Arguments) -> dict[str, Tensor]:
    """Return the tensors among arguments by name, those of a list by name and place."""
    found: dict[str, Tensor] = {}
    for name, value in arguments.items():
        if isinstance(value, list):
            found |= {f"{name}[{index}]": tensor for index, tensor in enumerate(value)}
        elif isinstance(value, Tensor):
            found[name] = value
    return found


def kind_of(loss: str) -> str:
    """Return which table of sizes a loss takes."""
    if loss == "bank_similarity":
        return "bank"
    return _KINDS[_required(loss)[0].rpartition("_")[2]]


def cases(loss: str, table: str, **options: Any) -> list[Case]:
    """Return a loss's cases.

    Args:
        loss: Name.
        table: Key of `SIZES`.
        options: Attributes of `Case` other than the loss and the size.
    """
    return [Case(loss, size, **options) for size in SIZES[table][kind_of(loss)]]


def values_and_gradients(
    function: Callable[..., Tensor], arguments: Arguments, upstream: Tensor | None = None, **options: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the values of a loss, and by name the gradients of the tensors that require one.

    Args:
        function: The loss.
        arguments: By name.
        upstream: Gradient of the values; a mean over the batch without it.
        options: Further arguments.
    """
    fresh = copied(arguments)
    values = function(**fresh, **options)
    weights = torch.full_like(values, 1 / len(values)) if upstream is None else upstream.to(values)
    values.backward(weights if weights.dim() == values.dim() else weights.unsqueeze(1).expand_as(values))
    tensors = tensors_of(fresh)
    return values.detach(), {name: each.grad for name, each in tensors.items() if each.grad is not None}


def copied(arguments: Arguments) -> Arguments:
    """Return arguments as copies that are leaves of their own and require what the originals do."""
    return {name: _copied(value) for name, value in arguments.items()}


def relative_error(found: Tensor, reference: Tensor) -> float:
    """Return the largest difference over the largest magnitude of the reference, NaN where either has one."""
    wide = reference.double()
    scale = wide.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    return float(((found.double() - wide).abs().max() / scale).item())


def _stage(size: Size, index: int) -> Size:
    """Return a later stage of a network: half the side, twice the channels."""
    sides = {name: max(1, getattr(size, name) >> index) for name in ("height", "width")}
    return replace(size, channels=size.channels << index, **sides)


def _required(loss: str) -> list[str]:
    parameters = inspect.signature(getattr(functional, loss)).parameters.values()
    return [each.name for each in parameters if each.default is inspect.Parameter.empty]


def _copied(value: Any, dtype: torch.dtype | None = None) -> Any:
    """Return a copy of a tensor that is a leaf and keeps its strides; other values as they are."""
    if isinstance(value, list):
        return [_copied(each, dtype) for each in value]
    if not isinstance(value, Tensor):
        return value
    copy = value.detach().clone(memory_format=torch.preserve_format)
    copy = copy.to(dtype) if dtype is not None and copy.is_floating_point() else copy
    return copy.requires_grad_(value.requires_grad)
