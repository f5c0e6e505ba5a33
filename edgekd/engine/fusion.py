"""What a builder made of a network: the fused layers, the types they compute in, the memory they need.

Asking for a precision proves nothing; the types of the layers that were built do. A build whose layers do not keep the
precision asked for is refused here.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekd.core.errors import BuildError

_BITS = {"fp32": 32, "tf32": 32, "int32": 32, "int64": 64, "fp16": 16, "bf16": 16, "int8": 8, "fp8": 8, "int4": 4}
_COMPUTE_TYPES = ("correlation", "gemm", "deconv", "conv", "matrixmultiply", "matrix_multiply", "fullyconnected", "mha")
_NAMES_SHOWN = 5
DLA = "dla"
"""Kind of a subgraph that a deep-learning accelerator runs."""


@dataclass(frozen=True)
class FusedTensor:
    """An activation or a constant of a fused layer.

    Attributes:
        name: The builder's name of it.
        shape: Its sizes; -1 where dynamic.
        dtype: `fp32`, `fp16`, `bf16`, `int8`, `fp8`, ..., or the builder's own word for another type.
        layout: Memory layout in the builder's words.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: str = ""


@dataclass(frozen=True)
class FusedLayer:
    """One kernel (or host step) of the plan.

    Attributes:
        name: The builder's name of it.
        kind: The builder's layer type (`correlation`, `kgen`, `gemm`, ...).
        inputs: Activations it reads.
        constants: Weights and other constants it holds.
        outputs: Activations it writes.
        onnx_nodes: Names of ONNX nodes merged into it, as far as the builder tells.
    """

    name: str
    kind: str
    inputs: tuple[FusedTensor, ...]
    constants: tuple[FusedTensor, ...]
    outputs: tuple[FusedTensor, ...]
    onnx_nodes: tuple[str, ...] = ()

    @property
    def is_compute(self) -> bool:
        """Say whether it is a convolution or matrix product, whose type decides speed and accuracy."""
        kind = self.kind.lower()
        if kind in ("runtime_fusion", DLA) or any(word in kind for word in _COMPUTE_TYPES):
            return True
        return kind == "kgen" and "MulSum" in self.name and any(_is_matrix(item.shape) for item in self.constants)

    @property
    def precision(self) -> str:
        """Type of the first activation it reads; `"none"` when it reads none."""
        return self.inputs[0].dtype if self.inputs else "none"


@dataclass(frozen=True)
class FusionReport:
    """All fused layers of a plan.

    Attributes:
        layers: In execution order.
        activation_bytes: Total activation memory; None when the builder did not tell.
        weight_bytes: Total weight memory; None when the builder did not tell.
    """

    layers: tuple[FusedLayer, ...]
    activation_bytes: int | None = None
    weight_bytes: int | None = None

    @property
    def layers_by_kind(self) -> dict[str, int]:
        """Number of layers of each type."""
        return dict(sorted(Counter(layer.kind for layer in self.layers).items()))

    @property
    def layers_by_precision(self) -> dict[str, int]:
        """Number of layers that read activations of each type; layers that read none are left out."""
        return dict(sorted(Counter(layer.precision for layer in self.layers if layer.inputs).items()))

    @property
    def compute_precisions(self) -> dict[str, int]:
        """Number of convolutions and matrix products of each type."""
        return dict(sorted(Counter(layer.precision for layer in self.layers if layer.is_compute).items()))

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data, counts included."""
        return {
            "num_layers": len(self.layers),
            "layers_by_kind": self.layers_by_kind,
            "layers_by_precision": self.layers_by_precision,
            "compute_precisions": self.compute_precisions,
            "activation_bytes": self.activation_bytes,
            "weight_bytes": self.weight_bytes,
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
        }


def report_from_json(document: Mapping[str, Any]) -> FusionReport:
    """Read a report back from the plain data of `FusionReport.to_json`."""
    return FusionReport(
        tuple(_layer_from_json(layer) for layer in document["layers"]),
        document["activation_bytes"],
        document["weight_bytes"],
    )


def require_precision(report: FusionReport, precision: str) -> None:
    """Refuse a plan that does not compute in the precision asked for.

    Kept when no convolution or matrix product is narrower than asked for, and at least half of them are exactly in it:
    wider ones are legal (first and last layers, normalisation kept in fp32), a majority of them is not. A subgraph of a
    DLA whose tensors the builder does not list is in fp16 where that was asked for: between fp16 and int8 a DLA has
    nothing.

    Args:
        report: What was built.
        precision: `fp32`, `fp16` or `int8`.

    Raises:
        BuildError: With the counts and the first layers that differ.
    """
    compute = [layer for layer in report.layers if layer.is_compute]
    if not compute:
        raise BuildError(
            f"{precision} was asked for, but the builder listed no convolution or matrix product among its "
            f"{len(report.layers)} layers, so the precision cannot be confirmed"
        )
    narrower = [layer for layer in compute if _bits(layer.precision) < _bits(precision)]
    wider = [layer for layer in compute if layer.precision != precision and not _is_untold_fp16(layer, precision)]
    if not narrower and 2 * len(wider) <= len(compute):
        return
    wrong = narrower or wider
    counts = ", ".join(f"{count} in {name}" for name, count in report.compute_precisions.items())
    shown = ", ".join(f"{layer.name} ({layer.precision})" for layer in wrong[:_NAMES_SHOWN])
    raise BuildError(
        f"{precision} was asked for, but of {len(compute)} convolutions and matrix products the builder made {counts}; "
        f"first that differ: {shown}. Check the types in the ONNX: precision comes only from there"
    )


def _is_untold_fp16(layer: FusedLayer, precision: str) -> bool:
    return precision == "fp16" and layer.kind == DLA and not layer.inputs


def _bits(precision: str) -> int:
    return _BITS.get(precision, 32)


def _is_matrix(shape: tuple[int, ...]) -> bool:
    return sum(size > 1 for size in shape) >= 2


def _layer_from_json(layer: Mapping[str, Any]) -> FusedLayer:
    return FusedLayer(
        layer["name"],
        layer["kind"],
        inputs=tuple(map(_tensor_from_json, layer["inputs"])),
        constants=tuple(map(_tensor_from_json, layer["constants"])),
        outputs=tuple(map(_tensor_from_json, layer["outputs"])),
        onnx_nodes=tuple(layer["onnx_nodes"]),
    )


def _tensor_from_json(tensor: Mapping[str, Any]) -> FusedTensor:
    return FusedTensor(tensor["name"], tuple(tensor["shape"]), tensor["dtype"], tensor["layout"])
