"""Networks: families that scale in depth, width and resolution, teachers from elsewhere, weights, taps, cost."""

from edgekd.models.between import spec_between
from edgekd.models.cost import count_macs, count_params
from edgekd.models.evaluation import evaluating, takes_tokens, zeros_for
from edgekd.models.family import Family, takes_reduction
from edgekd.models.inheritance import Layers, inherited_weights, leading_weights
from edgekd.models.layers import Normalize, conv_bn_relu, has_normalization, initialise
from edgekd.models.networks import build
from edgekd.models.pruning import Prunable, Ranking, find_prunable, prune, prune_like
from edgekd.models.repvgg import RepBlock, deploy
from edgekd.models.surgery import PRUNED, original_of
from edgekd.models.taps import (
    Tap,
    discover_taps,
    feature_entering,
    pair_taps,
    tap_paths,
    taps_at,
    trace_taps,
    watched_at,
)
from edgekd.models.teachers import Role, is_foreign, load_model, load_teacher, teacher_start
from edgekd.models.weights import load_tensors, load_weights, read_tensors, save_weights, starting_weights
from edgekd.models.zoo import FAMILIES, NetChoice, family_of, modalities_of, parse_net, spec_for

__all__ = [
    "FAMILIES",
    "PRUNED",
    "Family",
    "NetChoice",
    "Layers",
    "Normalize",
    "Prunable",
    "Ranking",
    "RepBlock",
    "Role",
    "Tap",
    "build",
    "conv_bn_relu",
    "count_macs",
    "count_params",
    "deploy",
    "discover_taps",
    "feature_entering",
    "evaluating",
    "family_of",
    "find_prunable",
    "has_normalization",
    "inherited_weights",
    "is_foreign",
    "initialise",
    "leading_weights",
    "load_model",
    "load_teacher",
    "load_tensors",
    "load_weights",
    "modalities_of",
    "original_of",
    "pair_taps",
    "parse_net",
    "prune",
    "prune_like",
    "read_tensors",
    "save_weights",
    "spec_between",
    "spec_for",
    "starting_weights",
    "takes_reduction",
    "takes_tokens",
    "tap_paths",
    "taps_at",
    "teacher_start",
    "trace_taps",
    "watched_at",
    "zeros_for",
]
