"""Candidate students: built, weighed on the target and trained for a short while."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from edgekd.core.artifacts import LatencyReport, NetSpec, Precision
from edgekd.core.errors import ConfigError, DataError
from edgekd.core.events import Event
from edgekd.data import Dataset
from edgekd.distill import Recipe, RunOptions, TrainSettings, run_recipe
from edgekd.export import export_onnx
from edgekd.latency import LayerGraph, graph_from_onnx
from edgekd.latency.torch_ops import graph_from_module
from edgekd.models import (
    PRUNED,
    Prunable,
    build,
    deploy,
    find_prunable,
    leading_weights,
    prune,
    read_tensors,
    save_weights,
    spec_for,
)
from edgekd.pipeline.starting import settings_of
from edgekd.search import Cost, Point, memory_bytes, values_of

_STUDENT = "search"


class _Stopped(Exception):
    """A short training that does not go on."""


@dataclass(frozen=True)
class Candidate:
    """A student.

    Attributes:
        spec: Its architecture.
        start: Weights of the teacher that it starts from, by name.
    """

    spec: NetSpec
    start: Mapping[str, Tensor]


@dataclass
class Candidates:
    """The students of a search, as `edgekd.search` wants to know about them.

    Attributes:
        dataset: The data.
        teacher: The teacher's architecture and network.
        mean: Mean that the students subtract.
        std: Deviation that they divide by.
        recipe: Method of the short trainings.
        settings: Their settings; `epochs` is the last rung.
        seed: Decides weights and batches of all of them.
        precision: What the target runs.
        predict: Kernels to latency on the target.
        is_measured_later: Whether a student is measured before it is returned.
        inherit: Whether students start from the teacher's first layers as far as these fit.
        kept: Folder for the weights of students that were trained to the last rung; None keeps none.
        multiple: Channels are pruned in multiples of this.
    """

    dataset: Dataset
    teacher: tuple[NetSpec, nn.Module]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    recipe: Recipe
    settings: TrainSettings
    seed: int
    precision: Precision
    predict: Callable[[LayerGraph], LatencyReport]
    is_measured_later: bool = False
    inherit: bool = True
    kept: Path | None = None
    multiple: int = 4
    _made: dict[str, Candidate] = field(default_factory=dict)
    _costs: dict[str, Cost] = field(default_factory=dict)
    _prunable: list[Prunable] = field(default_factory=list)

    def at(self, point: Point) -> Candidate:
        """Make a student.

        Raises:
            ConfigError: The family cannot build it, or the teacher cannot be pruned.
            PreconditionError: torch-pruning is needed and missing.
        """
        key = repr(sorted(point.items()))
        if key not in self._made:
            self._made[key] = self._pruned(point) if point["family"] == PRUNED else self._member(point)
        return self._made[key]

    def cost(self, point: Point) -> Cost:
        """Return what a student costs on the target, see `Students.cost`."""
        spec = self.at(point).spec
        if spec.digest not in self._costs:
            graph = kernels_of(spec)
            self._costs[spec.digest] = Cost(
                name=spec.name,
                macs=graph.macs,
                params=int(graph.columns.weight_elems.sum()),
                memory_bytes=memory_bytes(graph, self.precision),
                latency=self.predict(graph),
                is_measured_later=self.is_measured_later,
            )
        return self._costs[spec.digest]

    def train(self, point: Point, goes_on: Callable[[int, float], bool]) -> tuple[float, int]:
        """Train a student for a while, see `Students.train`; the score is that of its last epoch."""
        candidate, trained = self.at(point), None
        done: list[tuple[float, int]] = []

        def watch(event: Event) -> None:
            if event.kind != "progress" or "val_score" not in event.values or not event.stage.startswith(_STUDENT):
                return
            done.append((float(event.values["val_score"]), len(done) + 1))
            if not goes_on(len(done), done[-1][0]) and len(done) < self.settings.epochs:
                raise _Stopped

        options = RunOptions(self.seed, _STUDENT, None, watch, candidate.start)
        with suppress(_Stopped):
            trained = run_recipe(
                self.recipe,
                student=candidate.spec,
                teacher=self.teacher if self.recipe.needs_teacher else None,
                dataset=self.dataset,
                settings=settings_of(self.settings, candidate.spec),
                options=options,
            ).student
        if trained is not None and self.kept is not None:
            save_weights(trained, self.kept / f"{candidate.spec.digest}.safetensors", {"net": candidate.spec.name})
        if not done:
            raise ConfigError(f"recipe {self.recipe.name!r} gave no score of {candidate.spec.name} to search by")
        return done[-1]

    def start_of(self, point: Point) -> Mapping[str, Tensor]:
        """Return the weights that a student begins its final training with: those of its short training, if kept."""
        candidate = self.at(point)
        file = None if self.kept is None else self.kept / f"{candidate.spec.digest}.safetensors"
        return read_tensors(file) if file is not None and file.is_file() else candidate.start

    def _member(self, point: Point) -> Candidate:
        values, dataset = values_of(point), self.dataset
        options = {name: str(value) for name, value in values.items() if name not in ("depth", "width")}
        if options.get("reduce") == "1":
            del options["reduce"]
        spec = spec_for(
            point["family"],
            depth=values["depth"],
            width=values["width"],
            in_channels=dataset.in_channels,
            num_classes=dataset.task.num_outputs,
            resolution=dataset.resolution,
            mean=self.mean,
            std=self.std,
            options=options,
            vocabulary=dataset.vocabulary,
        )
        if not self.inherit:
            return Candidate(spec, {})
        return Candidate(spec, leading_weights(_built(spec).state_dict(), self.teacher[1].state_dict()))

    def _pruned(self, point: Point) -> Candidate:
        values, (spec, net) = values_of(point), self.teacher
        if not self._prunable:
            self._prunable.append(find_prunable(net, spec.input_shape, name=f"teacher {spec.name}"))
        found, state = prune(
            net,
            spec,
            self._prunable[0],
            keep=float(values["keep"]),
            ranking=values["ranking"],
            multiple=self.multiple,
        )
        return Candidate(found, state)


def kernels_of(spec: NetSpec) -> LayerGraph:
    """Return the kernels of a network as it is deployed: read off the module, or off its export where that fails.

    Raises:
        DataError: It does something whose cost cannot be predicted.
        ExportError: It cannot be exported.
    """
    module = deploy(_built(spec)).eval()
    try:
        return graph_from_module(module, spec.input_shape, name=spec.name)
    except DataError:
        with tempfile.TemporaryDirectory(prefix="edgekd-") as scratch:
            path = Path(scratch) / "student.onnx"
            export_onnx(module, path, input_shape=spec.input_shape)
            return graph_from_onnx(path)


def _built(spec: NetSpec) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return build(spec)
