"""Where a stage's targets come from: named traces of other networks, or of the learner itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from edgekd.core.errors import ConfigError, unknown_name
from edgekd.core.registry import Registry
from edgekd.data import Batch
from edgekd.distill.net import TracedNet
from edgekd.distill.session import Checkpoint, Session
from edgekd.distill.step import Step
from edgekd.distill.trace import Trace, class_logits, select

OWN = "self"
"""Name of the target that is the learner itself."""


class Source(Protocol):
    """Gives the traces that terms match, by name."""

    @property
    def nets(self) -> Mapping[str, TracedNet]:
        """By name of each trace, the network it is a trace of: what terms tap, and whose shapes they are built for."""
        ...

    def __call__(self, batch: Batch, step: Step, live: Mapping[str, Trace]) -> dict[str, Trace]:
        """Return one trace for each name, cut off from the graph where gradients must not flow.

        Args:
            batch: The batch the learners saw.
            step: Where training stands.
            live: Traces of this batch by role, of every network that trains in this step.
        """
        ...


@dataclass(frozen=True)
class Asker:
    """Who asks for targets, and among whom.

    Attributes:
        role: The learner's role.
        session: Every network by role.
        live: Roles that train in the same steps, the learner's own among them.
    """

    role: str
    session: Session
    live: tuple[str, ...]

    def frozen(self, role: str) -> TracedNet:
        """Return the network of a role that does not train now, frozen.

        Raises:
            ConfigError: There is none, or it trains.
        """
        if role in self.live:
            raise ConfigError(f"{role} trains in this stage, so it is no frozen source; take {{type: live}}")
        net = self.session.net(role)
        net.freeze()
        return net


SourceBuilder = Callable[..., Source]
"""`builder(asker, **options)`; its option `roles` names the networks it reads."""

SOURCES: Registry[SourceBuilder] = Registry("source")


def default_roles(kind: str) -> tuple[str, ...]:
    """Return the roles that a source reads where a recipe names none."""
    roles = inspect.signature(SOURCES[kind]).parameters.get("roles")
    return () if roles is None or roles.default is inspect.Parameter.empty else tuple(roles.default)


@dataclass(frozen=True)
class FrozenNets:
    """Frozen networks in evaluation mode, seeing the learner's inputs.

    Attributes:
        nets: The networks by role.
        mean_of: Parts of each trace whose mean, taken before any softmax, becomes its logits.
    """

    nets: Mapping[str, TracedNet]
    mean_of: tuple[str, ...] = ("logits",)

    def __call__(self, batch: Batch, step: Step, live: Mapping[str, Trace]) -> dict[str, Trace]:
        """Run the networks without a graph."""
        return {role: self._trace(net, batch, step) for role, net in self.nets.items()}

    def _trace(self, net: TracedNet, batch: Batch, step: Step) -> Trace:
        trace = frozen_trace(net, batch, step)
        if self.mean_of == ("logits",):
            return trace
        parts = torch.stack([select(trace, part) for part in self.mean_of])
        return replace(trace, logits=parts.mean(dim=0))


@dataclass(frozen=True)
class LiveNets:
    """Networks that train in the same steps, the learner itself among them perhaps: their traces, detached.

    Attributes:
        nets: The networks by the name of their trace.
        roles: Their roles.
    """

    nets: Mapping[str, TracedNet]
    roles: Mapping[str, str]

    def __call__(self, batch: Batch, step: Step, live: Mapping[str, Trace]) -> dict[str, Trace]:
        """Return the traces of this step without their graphs."""
        return {name: live[role].detached() for name, role in self.roles.items()}


@dataclass(frozen=True)
class Ensemble:
    """Several frozen networks as one teacher: their probabilities are averaged, never their logits.

    Attributes:
        nets: The first network, whose features stand for the ensemble's.
        members: All of them.

    Reference:
        Stanton et al. 2021, arXiv 2106.05945.
    """

    nets: Mapping[str, TracedNet]
    members: Sequence[TracedNet]

    def __call__(self, batch: Batch, step: Step, live: Mapping[str, Trace]) -> dict[str, Trace]:
        """Return one trace whose logits are the log of the mean probability."""
        traces = [frozen_trace(net, batch, step) for net in self.members]
        return {name: replace(traces[0], logits=mean_probability_logits(traces)) for name in self.nets}


class Trajectory:
    """A network as it was at the same share of its own training: targets grow as hard as they once did.

    Args:
        role: The network's role.
        net: The network; its state is overwritten.
        checkpoints: Its states, in order.

    Reference:
        Harutyunyan et al. 2023, arXiv 2301.12245.
    """

    def __init__(self, role: str, net: TracedNet, checkpoints: Sequence[Checkpoint]) -> None:
        self.nets = {role: net}
        self._role, self._checkpoints = role, checkpoints
        self._loaded: Checkpoint | None = None

    def __call__(self, batch: Batch, step: Step, live: Mapping[str, Trace]) -> dict[str, Trace]:
        """Run the network as it was."""
        net, wanted = self.nets[self._role], checkpoint_at(self._checkpoints, step.progress)
        if wanted is not self._loaded:
            net.load_state_dict(dict(wanted.state))
            self._loaded = wanted
        return {self._role: frozen_trace(net, batch, step)}


def checkpoint_at(checkpoints: Sequence[Checkpoint], progress: float) -> Checkpoint:
    """Return the first checkpoint of at least this progress; the last one when there is none."""
    return next((checkpoint for checkpoint in checkpoints if checkpoint.progress >= progress), checkpoints[-1])


def frozen_trace(net: TracedNet, batch: Batch, step: Step) -> Trace:
    """Run a network on a batch, or let it recall what it gave before, and cut its trace off from the graph."""
    if net.recall is not None:
        return net.recall(batch, step)
    with torch.no_grad():
        trace: Trace = net(batch.inputs)
    return trace.detached()


def mean_probability_logits(traces: Sequence[Trace]) -> Tensor:
    """Return the logarithm of the mean of the networks' probabilities, `[B, K]`."""
    logs = torch.stack([class_logits(trace, "source ensemble").log_softmax(dim=1) for trace in traces])
    return logs.logsumexp(dim=0) - torch.log(torch.tensor(float(len(traces))))


@SOURCES.register("frozen")
def frozen(asker: Asker, *, roles: tuple[str, ...] = ("teacher",), mean_of: tuple[str, ...] = ("logits",)) -> Source:
    """Build the source that reads networks which do not train, the teacher by default."""
    return FrozenNets({role: asker.frozen(role) for role in roles}, mean_of)


@SOURCES.register("self")
def own_outputs(asker: Asker) -> Source:
    """Build the source that reads the learner itself."""
    return LiveNets({OWN: asker.session.net(asker.role)}, {OWN: asker.role})


@SOURCES.register("live")
def live_nets(asker: Asker, *, roles: tuple[str, ...]) -> Source:
    """Build the source that reads networks which train in the same steps.

    Raises:
        ConfigError: One of them does not.
    """
    for role in roles:
        if role not in asker.live:
            raise unknown_name("network that trains in this stage", role, asker.live)
    return LiveNets({role: asker.session.net(role) for role in roles}, {role: role for role in roles})


@SOURCES.register("ensemble")
def ensemble(asker: Asker, *, roles: tuple[str, ...]) -> Source:
    """Build the source that reads several networks as one, called `ensemble`."""
    members = [asker.frozen(role) for role in roles]
    return Ensemble({"ensemble": members[0]}, members)


@SOURCES.register("trajectory")
def trajectory(asker: Asker, *, roles: tuple[str, ...] = ("teacher",)) -> Source:
    """Build the source that reads a network's recorded checkpoints.

    Raises:
        ConfigError: None were recorded, or several networks are named.
    """
    if len(roles) != 1:
        raise ConfigError(f"a trajectory is that of one network, got {', '.join(roles)}")
    (role,) = roles
    checkpoints = asker.session.trajectories.get(role)
    if not checkpoints:
        raise ConfigError(f"no checkpoints of {role}: an earlier stage must train it with record: 8 or so")
    return Trajectory(role, asker.frozen(role), checkpoints)
