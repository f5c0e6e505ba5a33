"""What the TensorRT at hand can do, asked of its enums: versions are printed, never compared.

TensorRT 8.5 and 8.6 know weak typing only, 10.x both, 11.x strong typing only; 11 has neither the EXPLICIT_BATCH
network flag nor precision flags. A strongly typed network takes its precision from the ONNX alone and must not be given
precision flags; a weakly typed one needs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from edgekd.core.artifacts import Precision
from edgekd.engine.plan_network import BuildRefused

_PRECISION_FLAGS: dict[str, tuple[str, ...]] = {
    "fp32": (),
    "fp16": ("FP16",),
    "int8": ("INT8",),
    "bf16": ("BF16",),
    "fp8": ("FP8",),
}


@dataclass(frozen=True)
class Typing:
    """How a network is created and configured.

    Attributes:
        kind: `"strong"` or `"weak"`.
        network_flags: Bits for `create_network`.
        builder_flags: Names of builder flags to set.
    """

    kind: str
    network_flags: int
    builder_flags: tuple[str, ...]


def typing_of(trt: ModuleType, precision: Precision) -> Typing:
    """Choose network and builder flags that this TensorRT has.

    Args:
        trt: The `tensorrt` module.
        precision: Precision of the ONNX.

    Returns:
        Strong typing wherever it exists, else weak typing with the flags of the precision.

    Raises:
        BuildRefused: Weak typing is all there is, and a flag it needs does not exist.
    """
    creation = trt.NetworkDefinitionCreationFlag
    bits = 1 << int(creation.EXPLICIT_BATCH) if hasattr(creation, "EXPLICIT_BATCH") else 0
    if hasattr(creation, "STRONGLY_TYPED"):
        return Typing("strong", bits | 1 << int(creation.STRONGLY_TYPED), ())
    flags = _PRECISION_FLAGS[precision]
    missing = [flag for flag in flags if not hasattr(trt.BuilderFlag, flag)]
    if missing:
        raise BuildRefused([f"TensorRT {trt.__version__} has neither strong typing nor the flag {', '.join(missing)}"])
    return Typing("weak", bits, flags)
