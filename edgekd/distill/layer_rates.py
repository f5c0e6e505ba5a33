"""Learning rates that differ from layer to layer: lower ones change less, or some are held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from edgekd.core.errors import unknown_name
from edgekd.distill.net import TracedNet, modules_after
from edgekd.models import discover_taps


@dataclass(frozen=True)
class LayerRates:
    """How the rate differs within a backbone.

    Attributes:
        decay: Multiple of the rate for each stage of the network (the ends of which `discover_taps` lists) that lies
            between a layer and the output; 1 treats all alike.
        student: Multiple of all of the student's layers, beside the others.
        by_path: Multiples of the student's layers by module path; of several that apply, the longest path does.
    """

    decay: float = 1.0
    student: float = 1.0
    by_path: Mapping[str, float] = field(default_factory=dict)

    def multiples(self, role: str, net: TracedNet, input_shape: tuple[int, ...]) -> dict[int, float]:
        """Return the multiple of each parameter of a backbone by its `id`; those missing have 1.

        Args:
            role: The network's role.
            net: The network.
            input_shape: `(C, H, W)` of the data.

        Raises:
            ConfigError: The student has no module of a path given.
        """
        multiples: dict[int, float] = {}
        if self.decay != 1:
            multiples |= self._by_depth(net, input_shape)
        if role != "student":
            return multiples
        multiples |= self._by_path(net)
        return {
            id(parameter): self.student * multiples.get(id(parameter), 1.0) for parameter in net.backbone.parameters()
        }

    def _by_depth(self, net: TracedNet, input_shape: tuple[int, ...]) -> dict[int, float]:
        taps = discover_taps(net.backbone, net.shape_seen(input_shape))
        passed: dict[int, int] = {}
        for tap in taps:
            for module in modules_after(net, tap.path, input_shape):
                for parameter in module.parameters():
                    passed[id(parameter)] = passed.get(id(parameter), 0) + 1
        return {
            id(parameter): self.decay ** (len(taps) - passed.get(id(parameter), 0))
            for parameter in net.backbone.parameters()
        }

    def _by_path(self, net: TracedNet) -> dict[int, float]:
        known: dict[str, nn.Module] = dict(net.backbone.named_modules())
        multiples: dict[int, float] = {}
        for path in sorted(self.by_path, key=len):
            if path not in known:
                raise unknown_name("module of the student in train.layer_lr", path, [name for name in known if name])
            multiples |= {id(parameter): self.by_path[path] for parameter in known[path].parameters()}
        return multiples
