"""Which measurements make which parameter set: the recipe of the fit, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from points import (
    DEVKIT,
    GPU_OTHER,
    JETSON_OTHER,
    PADDLECLAS,
    TRTUTILS,
    ULTRALYTICS,
    Point,
    read_graphs,
    read_points,
)

from edgekd.latency.layers import LayerGraph
from edgekd.latency.map_fit import NOISE_LOG

CLASSIFIER_NOISE_LOG = 0.3
"""Classifiers of many families scatter this much around any model of kernels: a layer list does not say everything."""


@dataclass(frozen=True)
class Recipe:
    """One set to fit.

    Attributes:
        applies_to: Devices or generations it serves.
        table: Where its fp16 points come from.
        boards: Boards of that table.
        measured: What was timed, in words.
        prior: `"generic"`, or the set whose result is the prior's centre.
        prior_scale: Factor on the prior's spreads.
        runtime: How the runtime must begin.
        noise_log: How far a right model would be off.
        in_turn: The runtime launches groups one after another and runs gates apart, and the network's input is copied
            within the time measured.
        tail_from: Set whose tail factor is used where the source gives no slowest run.
    """

    applies_to: tuple[str, ...]
    table: str
    boards: tuple[str, ...]
    measured: str
    prior: str = "generic"
    prior_scale: float = 1.0
    runtime: str = ""
    noise_log: float = NOISE_LOG
    in_turn: bool = False
    tail_from: str | None = None


@dataclass(frozen=True)
class Tables:
    """Everything read from disk."""

    graphs: Mapping[tuple[str, int], LayerGraph]
    points: Mapping[str, list[Point]]


_ENGINE_ONLY = "engine execution alone, inputs on the device, synchronised, host clock, power mode not stated"
_PER_IMAGE = "engine inference a picture, host clock, power mode not stated"

RECIPES: Mapping[str, Recipe] = {
    "orin": Recipe(
        applies_to=("orin",),
        table=TRTUTILS,
        boards=("jetson-agx-orin-64gb", DEVKIT, "jetson-orin-nano-8gb"),
        measured=_ENGINE_ONLY,
    ),
    "xavier": Recipe(
        applies_to=("xavier",),
        table=TRTUTILS,
        boards=("jetson-xavier-nx",),
        measured=_ENGINE_ONLY,
        prior="orin",
        prior_scale=0.5,
    ),
    "turing": Recipe(applies_to=("turing",), table=TRTUTILS, boards=("titan-rtx",), measured=_ENGINE_ONLY),
    "ampere-desktop": Recipe(
        applies_to=("ampere-desktop",), table=TRTUTILS, boards=("rtx-3080-ti", "rtx-3090"), measured=_ENGINE_ONLY
    ),
    "thor": Recipe(
        applies_to=("thor",),
        table=ULTRALYTICS,
        boards=("jetson-agx-thor",),
        measured=_PER_IMAGE,
        prior="orin",
        tail_from="orin",
    ),
    "t4": Recipe(
        applies_to=("t4",),
        table=PADDLECLAS,
        boards=("t4",),
        measured="Paddle Inference with TensorRT 8.0, mean of 2000 runs, batch 1, 4 and 8",
        noise_log=CLASSIFIER_NOISE_LOG,
        in_turn=True,
        tail_from="ampere-desktop",
    ),
    "dgx-spark": Recipe(
        applies_to=("dgx-spark",),
        table=GPU_OTHER,
        boards=("dgx-spark",),
        measured=_PER_IMAGE,
        tail_from="ampere-desktop",
    ),
    "maxwell": Recipe(
        applies_to=("maxwell",),
        table=JETSON_OTHER,
        boards=("jetson-nano",),
        measured="torch2trt, TensorRT 5 to 6, one call with synchronisation",
        runtime="TensorRT via torch2trt",
        noise_log=CLASSIFIER_NOISE_LOG,
        tail_from="orin",
    ),
}

TRANSFERS: Mapping[str, str] = {
    "ada": "ampere-desktop",
    "ampere-datacentre": "ampere-desktop",
    "blackwell": "ampere-desktop",
    "hopper": "ampere-desktop",
    "pascal": "maxwell",
    "volta": "turing",
}
"""Generations without measurements, and whose parameters stand in."""


def read_tables(data: Path) -> Tables:
    """Read every table of the data folder that has points with graphs."""
    graphs = read_graphs(data)
    names = (TRTUTILS, ULTRALYTICS, JETSON_OTHER, GPU_OTHER, PADDLECLAS)
    return Tables(graphs, {name: read_points(data, name, graphs) for name in names})


def fitted_points(recipe: Recipe, tables: Tables) -> list[Point]:
    """Return the fp16 points a recipe is fitted on."""
    return [
        p
        for p in tables.points[recipe.table]
        if p.board in recipe.boards and p.precision == "fp16" and p.runtime.startswith(recipe.runtime)
    ]
