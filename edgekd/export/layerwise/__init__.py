"""Layer-wise comparison of a network's representations: torch, ONNX, engine; in full or by bisection."""

from edgekd.export.layerwise.comparison import LayerError, Layerwise, Sides, bisect_layers, compare_layers
from edgekd.export.layerwise.errors import TOLERANCES, TensorError, Tolerance
from edgekd.export.layerwise.graph import TensorGraph
from edgekd.export.layerwise.matching import Pair, onnx_pairs, torch_pairs
from edgekd.export.layerwise.reasons import reasons
from edgekd.export.layerwise.sides import Feeds, OnnxSide, Side, TorchSide, Values, checked_feeds

__all__ = [
    "TOLERANCES",
    "Feeds",
    "LayerError",
    "Layerwise",
    "OnnxSide",
    "Pair",
    "Side",
    "Sides",
    "TensorError",
    "TensorGraph",
    "Tolerance",
    "TorchSide",
    "Values",
    "bisect_layers",
    "checked_feeds",
    "compare_layers",
    "onnx_pairs",
    "reasons",
    "torch_pairs",
]
