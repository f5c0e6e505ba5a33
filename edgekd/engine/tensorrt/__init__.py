"""TensorRT backend: engines built and run on the GPU they are for. Not run on hardware yet."""

from edgekd.engine.tensorrt.backend import TensorRt
from edgekd.engine.tensorrt.features import Typing, typing_of
from edgekd.engine.tensorrt.inspector import fusion_from_inspector

__all__ = ["TensorRt", "Typing", "fusion_from_inspector", "typing_of"]
