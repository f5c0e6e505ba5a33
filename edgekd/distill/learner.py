"""What trains in a stage, as one module: networks, their attachments and the terms' adapters.

One module with one forward, so that a distributed wrapper sees every parameter used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from edgekd.data import Batch
from edgekd.distill.net import TracedNet
from edgekd.distill.ranks import ALONE
from edgekd.distill.sources import Source
from edgekd.distill.step import Step
from edgekd.distill.terms.base import Term
from edgekd.distill.trace import Trace
from edgekd.distill.weighers import Moment, Weigher
from edgekd.distill.wide_view import WideView


@dataclass(frozen=True)
class Losses:
    """Losses of one batch.

    Attributes:
        total: The scalar to minimise.
        by_term: Each term's mean before its weight, detached; under `NAME weight`, that of a weight that is a tensor.
    """

    total: Tensor
    by_term: dict[str, Tensor]


@dataclass(frozen=True)
class WeightedTerm:
    """A term in a stage.

    Attributes:
        name: What it is called in records.
        terms: It by name of the target that it compares with; one under the learner's own name if it needs no target.
        weigher: How much it counts.
    """

    name: str
    terms: Mapping[str, nn.Module]
    weigher: Weigher


class Learner(nn.Module):
    """A network and the weighted terms it learns from.

    Args:
        role: The network's role.
        net: The network that learns.
        terms: In the order of the recipe.
        sources: Where targets come from; not a part of this module, so their parameters are never trained or wrapped.
    """

    def __init__(self, role: str, net: TracedNet, terms: Sequence[WeightedTerm], sources: Sequence[Source]) -> None:
        super().__init__()
        self.role, self.net = role, net
        self.terms = nn.ModuleList(term for weighted in terms for term in weighted.terms.values())
        self._weighted = tuple(terms)
        self._sources = tuple(sources)
        self.ranks = ALONE

    def losses(self, batch: Batch, step: Step, live: Mapping[str, Trace]) -> Losses:
        """Add up the weighted terms.

        Args:
            batch: The batch.
            step: Where training stands.
            live: Traces of this batch by role, the own one among them.
        """
        own = live[self.role]
        targets = {name: trace for source in self._sources for name, trace in source(batch, step, live).items()}
        total = own.logits.new_zeros((), dtype=torch.float32)
        wide = WideView(batch, self.ranks)
        by_term: dict[str, Tensor] = {}
        for weighted in self._weighted:
            read = tuple(targets.get(name, own) for name in weighted.terms)
            terms = [cast(Term, term) for term in weighted.terms.values()]
            pairs = zip(terms, read, strict=True)
            values = torch.stack([wide.values(term, own, trace, step) for term, trace in pairs], dim=1)
            weight = weighted.weigher(Moment(values.detach(), own, read, batch, step, targets, self.ranks))
            by_term[weighted.name] = values.detach().mean()
            if isinstance(weight, Tensor):
                by_term[f"{weighted.name} weight"] = weight.detach().mean()
            total = total + (weight * values).mean(dim=0).sum()
        return Losses(total, by_term)

    def named_terms(self) -> Iterator[tuple[str, str, nn.Module]]:
        """Yield name, target and module of each term."""
        for weighted in self._weighted:
            for target, term in weighted.terms.items():
                yield weighted.name, target, term

    def weighers(self) -> Iterator[Weigher]:
        """Yield the terms' weighers, in the order of the recipe."""
        return (weighted.weigher for weighted in self._weighted)

    def target_nets(self) -> dict[str, TracedNet]:
        """Return the networks behind the targets, by name."""
        return {name: net for source in self._sources for name, net in source.nets.items()}

    @property
    def sources(self) -> tuple[Source, ...]:
        """Where its targets come from."""
        return self._sources

    def undecayed(self) -> Iterator[nn.Parameter]:
        """Yield the parameters that terms exempt from weight decay."""
        for module in self.terms:
            prefixes = cast(Term, module).needs.undecayed
            for name, parameter in module.named_parameters():
                if name.split(".")[0] in prefixes:
                    yield parameter


class Learners(nn.Module):
    """Every network that trains in a stage; all see a batch before any changes, and none reaches into another's graph.

    Args:
        learners: The stage's own learner first.
    """

    def __init__(self, learners: Sequence[Learner]) -> None:
        super().__init__()
        self.learners = nn.ModuleList(learners)

    @property
    def first(self) -> Learner:
        """The stage's own learner."""
        return cast(Learner, self.learners[0])

    def __iter__(self) -> Iterator[Learner]:
        return (cast(Learner, learner) for learner in self.learners)

    def forward(self, batch: Batch, step: Step) -> Losses:
        """Run every network and its sources on a batch and add up all losses."""
        live = {learner.role: learner.net(batch.inputs) for learner in self}
        each = [learner.losses(batch, step, live) for learner in self]
        by_term = dict(each[0].by_term)
        for learner, losses in zip(list(self)[1:], each[1:], strict=True):
            by_term.update({f"{learner.role} {name}": value for name, value in losses.by_term.items()})
        return Losses(torch.stack([losses.total for losses in each]).sum(), by_term)
