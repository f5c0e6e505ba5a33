"""What trains in a stage, as one module: a network, its attachments and the terms' adapters.

One module with one forward, so that a distributed wrapper sees every parameter used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from edgekd.data import Batch
from edgekd.distill.net import TracedNet
from edgekd.distill.sources import Source
from edgekd.distill.terms.base import Step, Term
from edgekd.distill.trace import Trace
from edgekd.distill.weighers import Weigher


@dataclass(frozen=True)
class Losses:
    """Losses of one batch.

    Attributes:
        total: The scalar to minimise.
        by_term: Each term's mean before its weight, detached.
    """

    total: Tensor
    by_term: dict[str, Tensor]


class Learner(nn.Module):
    """A network and the weighted terms it learns from.

    Args:
        net: The network that learns.
        terms: Name, term and weigher, in the order of the recipe.
        source: Where targets come from; not a part of this module, so its parameters are never trained or wrapped.
    """

    def __init__(self, net: TracedNet, terms: Sequence[tuple[str, nn.Module, Weigher]], source: Source) -> None:
        super().__init__()
        self.net = net
        self.terms = nn.ModuleList(term for _, term, _ in terms)
        self._names = [name for name, _, _ in terms]
        self._weighers = [weigher for _, _, weigher in terms]
        self._source = source

    def forward(self, batch: Batch, step: Step) -> Losses:
        """Run the network and its source on a batch and add up the weighted terms."""
        own: Trace = self.net(batch.inputs)
        sources = self._source(batch, step, own)
        total = own.logits.new_zeros((), dtype=torch.float32)
        by_term: dict[str, Tensor] = {}
        for name, module, weigher in zip(self._names, self.terms, self._weighers, strict=True):
            weight = weigher(own, sources, batch, step)
            term = cast(Term, module)
            read = (own,) if term.needs.is_supervised else sources
            values = torch.stack([term(own, trace, batch, step) for trace in read], dim=1)
            by_term[name] = values.detach().mean()
            total = total + (weight * values).mean(dim=0).sum()
        return Losses(total, by_term)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, object]]:
        """Return the trainable parameters as optimiser groups; those that terms exempt take no weight decay."""
        exempt = {id(parameter) for parameter in self._exempt()}
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        groups = (
            {"params": [p for p in trainable if id(p) not in exempt], "weight_decay": weight_decay},
            {"params": [p for p in trainable if id(p) in exempt], "weight_decay": 0.0},
        )
        return [group for group in groups if group["params"]]

    def _exempt(self) -> Iterator[nn.Parameter]:
        for module in self.terms:
            prefixes = cast(Term, module).needs.undecayed
            for name, parameter in module.named_parameters():
                if name.split(".")[0] in prefixes:
                    yield parameter
