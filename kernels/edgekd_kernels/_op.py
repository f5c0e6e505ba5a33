"""Turns the forward and backward functions of a loss into an operator that autograd and torch.compile know.

A loss has two functions in the module of its family in each implementation (`_torch`, `_triton`, `_cuda`):

- `NAME_forward(*inputs, **options)` returns the values `[B]` and then whatever else its backward needs;
- `NAME_backward(grad, *kept inputs, *the rest of forward's outputs, **options)` returns one gradient for each of the
  inputs that have one. `grad` is `[B]`: weights and the 1/B of a mean arrive in it, so that none needs its own pass.

Backward computes again what it needs instead of keeping it: the traffic is the same as soon as the loss is weighted,
and gradients are exact under loss scaling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from edgekd_kernels._dispatch import announce, choose, implementation

Outputs = tuple[Tensor, ...]
Gradients = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Signature:
    """What is special about one loss.

    Attributes:
        name: Of the loss; its functions are `NAME_forward` and `NAME_backward`.
        family: Module that holds them.
        inputs: Names of the tensors, in order.
        options: Names and schema types of the options, in order: `{"temperature": "float"}`.
        gradients: The inputs that have a gradient; all of them are kept.
        kept: The inputs that backward reads again.
        saved: Names of what forward returns after the values, for backward.
        fake: `fake(*inputs, **options)` returns what forward does, with shapes and dtypes only.
        offered: Implementations there are.
        overload: Tells operators of one loss apart that take different numbers of tensors.
        torch_keeps_own: Whether the torch functions hand over tensors of their own instead of `saved`, having kept all
            inputs: on a CPU, keeping a gradient costs less than computing it again. Where the operator runs in torch,
            its backward then runs forward again.
    """

    name: str
    family: str
    inputs: tuple[str, ...]
    options: Mapping[str, str]
    gradients: tuple[str, ...]
    kept: tuple[str, ...]
    saved: tuple[str, ...]
    fake: Callable[..., Outputs]
    offered: tuple[str, ...] = ("triton", "torch")
    overload: str = ""
    torch_keeps_own: bool = False

    @property
    def operator_name(self) -> str:
        """What the loss is called among torch's operators."""
        return f"edgekd_kernels::{self.name}" + (f"_{self.overload}" if self.overload else "")


class FusedLoss:
    """A loss with several implementations, callable on tensors.

    It runs as an autograd function, whose overhead is small and, in torch, which torch.compile sees through. A kernel
    that is being traced runs as the operator `edgekd_kernels::NAME`, which a tracer does not look into.

    Args:
        signature: What the loss takes and keeps.
    """

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self.operator = _operator(signature)
        self.functions: dict[str, type[torch.autograd.Function]] = {"torch": _autograd_function(signature, "torch")}
        self._announced: set[str] = set()

    def __call__(self, *tensors: Tensor, impl: str = "auto", **options: Any) -> Tensor:
        """Return the values, `[B]`.

        Args:
            tensors: The inputs, in the order of the signature, checked.
            impl: Wanted implementation.
            options: All options of the signature.

        Raises:
            RuntimeError: The wanted implementation cannot run.
        """
        values = [options[name] for name in self.signature.options]
        chosen = "torch" if impl == "torch" or (impl == "auto" and tensors[0].device.type == "cpu") else ""
        if not chosen and is_traced(tensors):
            outputs = self.operator(*tensors, *values, impl)
            return cast(Tensor, outputs[0] if self.signature.saved else outputs)
        if not chosen or (chosen not in self._announced and not torch.compiler.is_compiling()):
            chosen = self._choose(tensors, impl)
        return cast(Tensor, self.functions[chosen].apply(*tensors, *values))  # type: ignore[no-untyped-call]

    def _choose(self, tensors: Sequence[Tensor], impl: str) -> str:
        """Return which implementation runs, having said so and loaded it."""
        signature = self.signature
        choice = choose(signature.name, impl, tensors, signature.offered)
        announce(signature.name, choice)
        self._announced.add(choice.impl)
        if choice.impl not in self.functions:
            self.functions[choice.impl] = _autograd_function(signature, choice.impl)
        return choice.impl


def is_traced(tensors: Sequence[Tensor]) -> bool:
    """Return whether what runs is recorded or imitated: by torch.compile, a dispatch mode or a tensor subclass."""
    return (
        torch.compiler.is_compiling()
        or is_in_torch_dispatch_mode()
        or any(type(tensor) not in (Tensor, Parameter) for tensor in tensors)
    )


def accumulation_dtype(*tensors: Tensor) -> torch.dtype:
    """Return the dtype that sums are held in: float32, or float64 if any tensor is."""
    return torch.float64 if torch.float64 in [tensor.dtype for tensor in tensors] else torch.float32


def _run_forward(signature: Signature, module: ModuleType, arguments: Sequence[Any]) -> Outputs:
    inputs, options = _split(signature, arguments)
    return cast(Outputs, getattr(module, f"{signature.name}_forward")(*inputs, **options))


def _run_backward(signature: Signature, module: ModuleType, arguments: Sequence[Any]) -> Outputs:
    """Call a backward function on the gradient, what was kept and saved, and the options."""
    count = len(arguments) - len(signature.options)
    options = dict(zip(signature.options, arguments[count:], strict=True))
    gradients = getattr(module, f"{signature.name}_backward")(*arguments[:count], **options)
    kept = dict(zip(signature.kept, arguments[1:], strict=False))
    return tuple(_like(gradient, kept[name]) for name, gradient in zip(signature.gradients, gradients, strict=True))


def _split(signature: Signature, arguments: Sequence[Any]) -> tuple[Sequence[Tensor], dict[str, Any]]:
    count = len(signature.inputs)
    return arguments[:count], dict(zip(signature.options, arguments[count:], strict=True))


def _kept(signature: Signature, arguments: Sequence[Any]) -> list[Tensor]:
    return [arguments[signature.inputs.index(name)] for name in signature.kept]


def _placed(signature: Signature, gradients: Sequence[Tensor], others: int) -> Gradients:
    """Return a gradient or None for every argument of forward."""
    found = dict(zip(signature.gradients, gradients, strict=True))
    return (*(found.get(name) for name in signature.inputs), *[None] * others)


def _like(gradient: Tensor, tensor: Tensor) -> Tensor:
    """Return a gradient in the dtype and memory layout that autograd expects of the tensor's."""
    if gradient.dtype == tensor.dtype and gradient.stride() == tensor.stride():
        return gradient
    layout = torch.empty_like(tensor)
    if gradient.dtype == layout.dtype and gradient.stride() == layout.stride():
        return gradient
    return layout.copy_(gradient)


class _Final(torch.autograd.Function):
    """A gradient that knows what it depends on, so that to differentiate it again is an error and not a quiet zero.

    `once_differentiable` does not do: it asks only whether the upstream gradient needs a gradient, which that of a
    plain sum does not.
    """

    @staticmethod
    def forward(ctx: Any, name: str, gradient: Tensor, *_: Tensor) -> Tensor:
        ctx.name = name
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(
            f"{ctx.name} has first derivatives only; to differentiate its gradient, write the loss in torch operations"
        )


def _autograd_function(signature: Signature, impl: str) -> type[torch.autograd.Function]:
    """Return the loss in one implementation; small losses take as long as what is done here, so this does little."""
    module = implementation(impl, signature.family)
    run_forward, run_backward = (getattr(module, f"{signature.name}_{way}") for way in ("forward", "backward"))
    count = len(signature.inputs)
    kept = [signature.inputs.index(name) for name in signature.kept]
    taught = [(signature.inputs.index(name), signature.kept.index(name)) for name in signature.gradients]
    nothing: list[Tensor | None] = [None] * (count + len(signature.options))

    class Loss(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Tensor:
            options = dict(zip(signature.options, arguments[count:], strict=True))
            values, *own = run_forward(*arguments[:count], **options)
            ctx.save_for_backward(*[arguments[index] for index in kept], *own)
            ctx.options = options
            return cast(Tensor, values)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Gradients:
            if not torch.is_grad_enabled() or torch.compiler.is_compiling():
                return differentiate(ctx, grad)
            with torch.no_grad():
                gradients = differentiate(ctx, grad)
            return tuple(each if each is None else final(each, grad, *ctx.saved_tensors) for each in gradients)

    def final(gradient: Tensor, *sources: Tensor) -> Tensor:
        return cast(Tensor, _Final.apply(signature.name, gradient, *sources))  # type: ignore[no-untyped-call]

    def differentiate(ctx: Any, grad: Tensor) -> Gradients:
        tensors = ctx.saved_tensors
        gradients = nothing.copy()
        for (index, at), gradient in zip(taught, run_backward(grad, *tensors, **ctx.options), strict=True):
            gradients[index] = _like(gradient, tensors[at])
        return tuple(gradients)

    Loss.__name__ = Loss.__qualname__ = f"{signature.name}_{impl}"
    return Loss


def _operator(signature: Signature) -> Any:
    def forward(*arguments: Any) -> Any:
        *rest, impl = arguments
        choice = choose(signature.name, impl, rest[: len(signature.inputs)], signature.offered)
        announce(signature.name, choice)
        outputs = _run_forward(signature, implementation(choice.impl, signature.family), rest)
        if choice.impl == "torch" and signature.torch_keeps_own:
            inputs, options = _split(signature, rest)
            outputs = (outputs[0], *(each.zero_() for each in signature.fake(*inputs, **options)[1:]))
        return _returned(outputs)

    def fake(*arguments: Any) -> Any:
        inputs, options = _split(signature, arguments[:-1])
        return _returned(signature.fake(*inputs, **options))

    def setup_context(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
        saved = output[1:] if signature.saved else ()
        ctx.save_for_backward(*_kept(signature, inputs), *saved)
        ctx.set_materialize_grads(False)
        ctx.options = inputs[len(signature.inputs) :]

    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> Gradients:
        if grad is None:
            return (None,) * (len(signature.inputs) + len(ctx.options))
        found = gradient_operator(grad, *ctx.saved_tensors, *ctx.options)
        gradients = found if isinstance(found, tuple) else (found,)
        return _placed(signature, gradients, len(ctx.options))

    gradient_operator = _gradient_operator(signature)
    schema = _schema(signature, signature.inputs, 1 + len(signature.saved))
    operator = torch.library.custom_op(signature.operator_name, forward, mutates_args=(), schema=schema)
    operator.register_fake(fake)
    operator.register_autograd(backward, setup_context=setup_context)
    return operator


def _gradient_operator(signature: Signature) -> Any:
    def backward(*arguments: Any) -> Any:
        *rest, impl = arguments
        kept = rest[1 : 1 + len(signature.kept)]
        choice = choose(signature.name, impl, kept, signature.offered)
        module = implementation(choice.impl, signature.family)
        if choice.impl == "torch" and signature.torch_keeps_own:
            options = rest[len(rest) - len(signature.options) :]
            rest = [rest[0], *kept, *_run_forward(signature, module, [*kept, *options])[1:], *options]
        return _returned(_run_backward(signature, module, rest))

    def fake(grad: Tensor, *arguments: Any) -> Any:
        kept = dict(zip(signature.kept, arguments, strict=False))
        return _returned(tuple(torch.empty_like(kept[name]) for name in signature.gradients))

    schema = _schema(signature, ("grad", *signature.kept, *signature.saved), len(signature.gradients))
    name = f"{signature.operator_name}_backward"
    operator = torch.library.custom_op(name, backward, mutates_args=(), schema=schema)
    operator.register_fake(fake)
    return operator


def _returned(outputs: Outputs) -> Any:
    """Return outputs as an operator's schema has them: one alone is no tuple."""
    return outputs if len(outputs) > 1 else outputs[0]


def _schema(signature: Signature, tensors: Sequence[str], outputs: int) -> str:
    arguments = [f"Tensor {name}" for name in tensors]
    arguments += [f"{kind} {name}" for name, kind in signature.options.items()]
    return f"({', '.join([*arguments, 'str impl'])}) -> ({', '.join(['Tensor'] * outputs)})"
