"""Which implementation of a loss runs: plain torch operations, a Triton kernel or a CUDA one."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import import_module, resources
from types import ModuleType
from typing import Literal, get_args

import torch
from torch import Tensor

Impl = Literal["auto", "triton", "cuda", "torch"]

Places = tuple[tuple[torch.device, torch.dtype], ...]
"""Of each tensor of a loss."""
FUSED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_LOG = logging.getLogger("edgekd_kernels")
_IS_INSTALLED = {name: importlib.util.find_spec(name) is not None for name in ("triton", "cuda")}
_NEEDS = {"triton": "triton", "cuda": "cuda-bindings"}
_MEASURED: Mapping[str, Mapping[str, Mapping[str, Sequence[tuple[float | None, str]]]]] = json.loads(
    resources.files("edgekd_kernels").joinpath("choices.json").read_text(encoding="utf-8")
)


@dataclass(frozen=True)
class Choice:
    """An implementation and the reason it was taken."""

    impl: str
    why: str


def choose(loss: str, impl: str, tensors: Sequence[Tensor], offered: Sequence[str]) -> Choice:
    """Return the implementation that runs.

    On a GPU, `auto` follows what was measured on its compute capability (`choices.json`, written by the benchmark); on
    one that was not measured, Triton comes before CUDA and CUDA before torch.

    Args:
        loss: Name of the loss.
        impl: What the caller wishes.
        tensors: The loss's tensors.
        offered: The implementations that the loss has.

    Returns:
        Never `"auto"`.

    Raises:
        ValueError: There is no such implementation.
        RuntimeError: The one that was asked for cannot run on these tensors.
    """
    size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    places = tuple((tensor.device, tensor.dtype) for tensor in tensors)
    return _chosen(loss, impl, places, size_bytes, tuple(offered))


@lru_cache(maxsize=4096)
def _chosen(loss: str, impl: str, places: Places, size_bytes: int, offered: tuple[str, ...]) -> Choice:
    if impl not in get_args(Impl):
        raise ValueError(f"impl must be one of {', '.join(get_args(Impl))}, got {impl!r}")
    if impl == "auto":
        return _best(loss, places, size_bytes, offered)
    if obstacle := _obstacle(impl, places, offered):
        raise RuntimeError(f'{loss}: impl="{impl}" cannot run, {obstacle}')
    return Choice(impl, "as asked")


@cache
def announce(loss: str, choice: Choice) -> None:
    """Say once which implementation of a loss runs and why."""
    _LOG.info("%s runs in %s: %s", loss, choice.impl, choice.why)


@cache
def implementation(impl: str, family: str) -> ModuleType:
    """Return the module that holds an implementation of a family of losses."""
    return import_module(f"edgekd_kernels._{impl}.{family}")


def is_interpreted() -> bool:
    """Return whether Triton kernels run in Triton's interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def _best(loss: str, places: Places, size_bytes: int, offered: tuple[str, ...]) -> Choice:
    device = places[0][0]
    if device.type != "cuda":
        return Choice("torch", f"tensors are on {device.type}")
    obstacles = {impl: _obstacle(impl, places, offered) for impl in ("triton", "cuda", "torch")}
    capability = "sm_{}{}".format(*torch.cuda.get_device_capability(device))
    dtype = str(places[0][1]).removeprefix("torch.")
    for limit, impl in _MEASURED.get(capability, {}).get(loss, {}).get(dtype, ()):
        if (limit is None or size_bytes <= limit) and not obstacles[impl]:
            return Choice(impl, f"the fastest measured on {capability} at this size")
    chosen = next(impl for impl, obstacle in obstacles.items() if not obstacle)
    skipped = "; ".join(f"not {impl}, {obstacle}" for impl, obstacle in obstacles.items() if obstacle)
    return Choice(
        chosen, f"not measured on {capability}, the first that can run" + (f" ({skipped})" if skipped else "")
    )


def _obstacle(impl: str, places: Places, offered: tuple[str, ...]) -> str:
    if impl == "torch":
        return ""
    if impl not in offered:
        return f"this loss has no {impl} kernel"
    if not _IS_INSTALLED[impl]:
        return f"{_NEEDS[impl]} is not installed"
    device = places[0][0]
    if device.type != "cuda" and not (impl == "triton" and is_interpreted()):
        return f"tensors are on {device.type}"
    for _, dtype in places:
        if dtype.is_floating_point and dtype not in FUSED_DTYPES:
            return f"{dtype} is not among {', '.join(map(str, FUSED_DTYPES))}"
    return _cuda_obstacle(device) if impl == "cuda" else ""


@cache
def _cuda_obstacle(device: torch.device) -> str:
    compiler = import_module("edgekd_kernels._cuda.compiler")
    major, minor = torch.cuda.get_device_capability(device)
    if 10 * major + minor < compiler.LEAST_CAPABILITY:
        return f"the GPU has compute capability {major}.{minor}, 8.0 is the least"
    return str(compiler.obstacle())
