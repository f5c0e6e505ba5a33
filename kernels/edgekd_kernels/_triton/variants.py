"""What the kernels are compiled for: the description that the ahead-of-time check reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DTYPE_PAIRS = (("fp32", "fp32"), ("bf16", "bf16"), ("fp16", "fp16"), ("bf16", "fp32"))
"""Student's and teacher's dtypes that kernels are checked for."""


@dataclass(frozen=True)
class Variant:
    """One kernel in one configuration that a launch can pick.

    Attributes:
        kernel: The jitted function.
        signature: Triton type by argument, without the constants: `{"student": "*bf16", "rows": "i32"}`; a tuple of
            types for a tuple of arguments.
        constants: Values of the compile-time arguments.
        num_warps: Warps of a program.
        num_stages: Stages of its software pipeline.
        is_exact: Whether float32 products must be exact, which forbids TF32.
        aligned: Tensors and sizes that every launch passes as multiples of 16, of which Triton makes wider loads.
    """

    kernel: Any
    signature: Mapping[str, str | tuple[str, ...]]
    constants: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 2
    is_exact: bool = True
    aligned: tuple[str, ...] = ()
