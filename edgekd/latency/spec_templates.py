"""Latencies of zoo networks by their specs, thousands a second: one template for every family, depth and choice."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from edgekd.core.artifacts import NetSpec, Precision
from edgekd.latency.layers import Columns, Ints, LayerGraph, concatenated
from edgekd.latency.many import CandidateTimes, predict_columns
from edgekd.latency.template import GraphTemplate
from edgekd.latency.torch_ops import graph_of_spec
from edgekd.targets import Target


class SpecTemplates:
    """Templates made as specs come; keep one for the length of a search.

    Args:
        analyse: Gives the kernels of one network at batch 1; called about once for each width and each resolution of a
            family and depth.
    """

    def __init__(self, analyse: Callable[[NetSpec], LayerGraph] = graph_of_spec) -> None:
        self._analyse = analyse
        self._templates: dict[str, GraphTemplate] = {}

    def graph_of(self, spec: NetSpec) -> LayerGraph:
        """Return the kernels of one network, equal in every number to an analysis of its export."""
        graph = self._template(spec).graph_at(spec.width, spec.resolution)
        return dataclasses.replace(graph, name=spec.name, parents=(spec.digest,))

    def columns_of(self, specs: Sequence[NetSpec]) -> tuple[Columns, Ints]:
        """Return the kernels of many networks.

        Args:
            specs: The networks `[N]`, of any families.

        Returns:
            All kernels `[L]`, and `[L]` the index of the network that each one belongs to; networks are not in order.
        """
        alike: dict[str, list[int]] = {}
        for index, spec in enumerate(specs):
            alike.setdefault(_key(spec), []).append(index)
        parts, owners = list[Columns](), list[Ints]()
        for indices in alike.values():
            members = [(specs[index].width, specs[index].resolution) for index in indices]
            columns, owner = self._template(specs[indices[0]]).columns_at(members)
            parts.append(columns)
            owners.append(np.array(indices)[owner])
        return concatenated(parts)[0], np.concatenate(owners)

    def predict(self, specs: Sequence[NetSpec], target: Target, precision: Precision) -> CandidateTimes:
        """Predict many networks.

        Args:
            specs: The networks `[N]`, at least one.
            target: The device; `cpu` is measured instead.
            precision: Precision predicted.

        Returns:
            Medians, intervals and upper estimates of the 99th percentile `[N]`, in the order of `specs`.

        Raises:
            ConfigError: A family cannot build one of the specs.
            TargetError: The target cannot be predicted at this precision.
        """
        return predict_columns(*self.columns_of(specs), target, precision)

    def _template(self, spec: NetSpec) -> GraphTemplate:
        key = _key(spec)
        if key not in self._templates:
            self._templates[key] = GraphTemplate(
                lambda width, resolution: self._analyse(dataclasses.replace(spec, width=width, resolution=resolution))
            )
        return self._templates[key]


def _key(spec: NetSpec) -> str:
    """Everything but width and resolution."""
    return repr(dataclasses.replace(spec, width=1, resolution=1))
