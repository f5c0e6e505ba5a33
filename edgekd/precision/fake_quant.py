"""A network that computes as its int8 model will, and can be trained: quantisation-aware training for TensorRT's form.

While a fake-quantised network runs, its convolutions, linear layers and residual additions are caught as they are
called, whatever modules they are in: inputs are rounded to one symmetric int8 scale a tensor, weights to one for each
output channel. Gradients pass straight through the rounding inside the range and not outside it. Activation scales are
trained with the weights (Esser et al. 2020, arXiv 1902.08153, their gradient and its scale; here the logarithm of a
scale is trained, so that it stays positive, at twenty times the rate of weights, or it would hardly move); weight
scales follow the largest magnitude of their channel. Division, rounding half to even and saturation are those of ONNX's
QuantizeLinear, so the exported model has the same integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from edgekd.core.errors import ExportError
from edgekd.precision.bn_folding import without_batch_norms

LARGEST = 127
SMALLEST = -128
_SPEED = 20.0
_SCALES = "activation_log_scales"
_BASES = "activation_base_scales"
_WEIGHTED = frozenset({torch.conv1d, torch.conv2d, torch.conv3d, F.linear})
_ADDS = frozenset(
    {torch.add, torch.Tensor.add, torch.Tensor.add_, torch.Tensor.__add__, torch.Tensor.__radd__, torch.Tensor.__iadd__}
)


@dataclass(frozen=True)
class Site:
    """One call whose inputs are quantised.

    Attributes:
        scales: Which activation scale each input has.
        weight: Name of the parameter that holds its weights; empty for an addition.
    """

    scales: tuple[int, ...]
    weight: str = ""


@dataclass(frozen=True)
class FakeQuantized:
    """A fake-quantised network.

    Attributes:
        module: It; its parameters include the logarithms of its activation scales.
        sites: Its quantised calls, in the order they run.
        handles: What makes it fake-quantised.
    """

    module: nn.Module
    sites: tuple[Site, ...]
    handles: tuple[RemovableHandle, ...]

    @property
    def scales(self) -> Tensor:
        """Activation scales `[S]`, float32, as they are now."""
        return activation_scales(self.module).detach()

    def release(self) -> nn.Module:
        """Make it a float network again, with the weights as they are now and no scales."""
        for handle in self.handles:
            handle.remove()
        del self.module._parameters[_SCALES], self.module._buffers[_BASES]
        return self.module


def fake_quantized(module: nn.Module, calibration: Iterable[Tensor]) -> FakeQuantized:
    """Make a trained network compute in fake int8, in place: batch norms are folded, ranges begin at the largest value.

    Args:
        module: A trained network in evaluation mode, without training-time branches.
        calibration: Batches of inputs as it takes them.

    Returns:
        The fake-quantised network.

    Raises:
        ExportError: A batch norm cannot be folded, the network runs differently from batch to batch, or it has nothing
            to quantise.
    """
    batches = list(calibration)
    without_batch_norms(module, batches[0])
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    sites: tuple[Site, ...] = ()
    largest: Tensor | None = None
    for batch in batches:
        with torch.no_grad(), _Watch(names) as watch:
            module(batch)
        found, maxima = tuple(watch.sites), torch.stack(watch.maxima) if watch.maxima else torch.zeros(0)
        if largest is not None and found != sites:
            raise ExportError("the network runs differently from batch to batch, so int8 scales cannot be trained")
        sites, largest = found, maxima if largest is None else torch.maximum(largest, maxima)
    if largest is None or not any(site.weight for site in sites):
        raise ExportError("the network has no convolution or linear layer whose weights can be quantised")
    base = torch.where(largest > 0, largest / LARGEST, torch.ones_like(largest))
    module.register_buffer(_BASES, base)
    module.register_parameter(_SCALES, nn.Parameter(torch.zeros_like(base)))
    return FakeQuantized(module, sites, _entering(module, sites))


def activation_scales(module: nn.Module) -> Tensor:
    """Return the activation scales `[S]` of a fake-quantised network."""
    return module.get_buffer(_BASES) * (_SPEED * module.get_parameter(_SCALES)).exp()


def weight_scales(weight: Tensor) -> Tensor:
    """Return the scale of each output channel `[C, 1, ...]` of weights `[C, ...]`: its largest magnitude over 127."""
    largest = weight.detach().abs().amax(dim=tuple(range(1, weight.dim())), keepdim=True)
    return torch.where(largest > 0, largest / LARGEST, torch.ones_like(largest))


def fake_quantise(values: Tensor, scale: Tensor) -> Tensor:
    """Round values to multiples of a scale, -128 to 127 of them.

    Args:
        values: Any shape.
        scale: One, or of a shape that broadcasts.

    Returns:
        Values of the same shape. Their gradient passes inside the range; that of a single scale is Esser's.
    """
    result: Tensor = _Rounding.apply(values, scale)  # type: ignore[no-untyped-call]
    return result


class _Rounding(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor, scale: Tensor) -> Tensor:
        ratio = values / scale
        steps = ratio.round().clamp(SMALLEST, LARGEST)
        context.save_for_backward(ratio, steps)
        context.learns_scale = scale.numel() == 1 and context.needs_input_grad[1]
        return steps * scale

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        ratio, steps = context.saved_tensors
        is_inside = (ratio >= SMALLEST) & (ratio <= LARGEST)
        of_scale = None
        if context.learns_scale:
            slope = torch.where(is_inside, steps - ratio, steps)
            of_scale = (gradient * slope).sum() / (LARGEST * ratio.numel()) ** 0.5
        return gradient * is_inside, of_scale


def _entering(module: nn.Module, sites: tuple[Site, ...]) -> tuple[RemovableHandle, ...]:
    """Let every run of a network be fake-quantised, until the handles are removed."""
    running: list[_Quantise] = []

    def enter(one: nn.Module, arguments: object) -> None:
        running.append(_Quantise(sites, activation_scales(one)))
        running[-1].__enter__()  # type: ignore[no-untyped-call]

    def leave(one: nn.Module, arguments: object, output: object) -> None:
        mode = running.pop()
        mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        if output is not None:  # none came where the network failed
            mode.require_finished()

    return module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)


class _Watch(TorchFunctionMode):
    """Finds the calls to quantise; inputs that are one tensor share a scale."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.sites: list[Site] = []
        self.maxima: list[Tensor] = []
        self._names = names
        self._held: list[Tensor] = []
        self._scale_of: dict[int, int] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _WEIGHTED and id(args[1]) in self._names:
            self.sites.append(Site((self._scale(args[0]),), self._names[id(args[1])]))
        elif is_residual_add(func, args):
            self.sites.append(Site((self._scale(args[0]), self._scale(args[1]))))
        return func(*args, **(kwargs or {}))

    def _scale(self, values: Tensor) -> int:
        if id(values) not in self._scale_of:
            self._scale_of[id(values)] = len(self.maxima)
            self.maxima.append(values.detach().abs().amax())
            self._held.append(values)
        return self._scale_of[id(values)]


class _Quantise(TorchFunctionMode):
    """Quantises the inputs of the calls that were found, in their order."""

    def __init__(self, sites: tuple[Site, ...], scales: Tensor) -> None:
        super().__init__()
        self._sites, self._scales = sites, scales
        self._next = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        options = kwargs or {}
        if func in _WEIGHTED and isinstance(args[1], nn.Parameter):
            (scale,) = self._taken(1).scales
            weight = fake_quantise(args[1], weight_scales(args[1]))
            return func(fake_quantise(args[0], self._scales[scale]), weight, *args[2:], **options)
        if is_residual_add(func, args):
            values = [
                fake_quantise(one, self._scales[scale]) for one, scale in zip(args, self._taken(2).scales, strict=True)
            ]
            return torch.add(*values, **options)
        return func(*args, **options)

    def require_finished(self) -> None:
        if self._next not in (0, len(self._sites)):
            raise self._changed()

    def _taken(self, inputs: int) -> Site:
        if self._next == len(self._sites) or len(self._sites[self._next].scales) != inputs:
            raise self._changed()
        self._next += 1
        return self._sites[self._next - 1]

    def _changed(self) -> ExportError:
        return ExportError(
            f"the network does not make the {len(self._sites)} quantised calls that it made before, in their order: "
            f"another came after {self._next}"
        )


def is_residual_add(func: Callable[..., Any], arguments: tuple[Any, ...]) -> bool:
    """Say whether a call adds two activations of one shape."""
    return (
        func in _ADDS
        and len(arguments) == 2
        and all(isinstance(one, Tensor) and one.is_floating_point() and one.dim() > 1 for one in arguments)
        and arguments[0].shape == arguments[1].shape
        and not any(isinstance(one, nn.Parameter) for one in arguments)
    )
