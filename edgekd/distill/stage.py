"""A stage made ready: a recipe's words turned into modules for the networks at hand."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from torch import nn

from edgekd.core.errors import ConfigError, unknown_name
from edgekd.distill.attachments import ATTACHMENTS
from edgekd.distill.layer_rates import LayerRates
from edgekd.distill.learner import Learner, Learners, WeightedTerm
from edgekd.distill.net import TracedNet, trace_spec
from edgekd.distill.options import checked_options
from edgekd.distill.parameters import ALIKE, Group, choose_trained, parameter_groups
from edgekd.distill.policies import PolicyWeight
from edgekd.distill.recipe import Recipe
from edgekd.distill.session import Session
from edgekd.distill.sources import OWN, SOURCES, Asker, Source
from edgekd.distill.specs import ActionSpec, AttachmentSpec, LearnerSpec, RampSpec, StageSpec, TermSpec
from edgekd.distill.terms import build_term
from edgekd.distill.terms.base import Needs, Term
from edgekd.distill.trace import TraceSpec
from edgekd.distill.views import VIEWS, View
from edgekd.distill.weighers import WEIGHERS, Constant, LinearRamp, Weigher


@dataclass(frozen=True)
class Stage:
    """One phase of training, ready to run.

    Attributes:
        spec: What the recipe says.
        learners: What trains.
        views: Applied to each batch in order.
        groups: What the optimiser moves.
    """

    spec: StageSpec
    learners: Learners
    views: tuple[View, ...]
    groups: tuple[Group, ...]

    @property
    def name(self) -> str:
        """Its name in the recipe."""
        return self.spec.name

    @property
    def nets(self) -> tuple[TracedNet, ...]:
        """Every network that takes part, each once."""
        nets = [net for learner in self.learners for net in (learner.net, *learner.target_nets().values())]
        return tuple({id(net): net for net in nets}.values())

    @property
    def changes_answers(self) -> bool:
        """Whether the logits of its own learner change."""
        return "backbone" in self.spec.train or "head" in self.spec.train


def add_attachments(recipe: Recipe, session: Session) -> None:
    """Attach what a recipe asks for to each role's network.

    Raises:
        ConfigError: Unknown attachment, or a network without a penultimate feature.
    """
    for role, wanted in recipe.attach.items():
        net = session.net(role)
        spec = trace_spec(net, session.input_shape)
        net.attach({name: _attachment(attachment, spec, name, session) for name, attachment in wanted.items()})


def build_stage(spec: StageSpec, session: Session, rates: LayerRates = ALIKE) -> Stage:
    """Build one stage of a recipe for the networks at hand, restart those that start fresh, tap them where terms read.

    A term of constant weight 0 is left out, adapters and all.

    Args:
        spec: The recipe's stage.
        session: Networks by role, attachments in place.
        rates: How the learning rate differs from layer to layer.

    Returns:
        The stage, its learners in training mode for the parts named and everything else frozen.

    Raises:
        ConfigError: The stage does not fit the networks.
    """
    live = tuple(learner.learner for learner in spec.learners)
    if len(set(live)) < len(live):
        raise ConfigError(f"stage {spec.name!r}: a network learns once in a stage, got {', '.join(live)}")
    for one in spec.learners:
        if one.start == "fresh":
            session.restart(one.learner)
    learners = [_learner(one, spec, live, session) for one in spec.learners]
    _tap(learners)
    for one, learner in zip(spec.learners, learners, strict=True):
        choose_trained(one, learner.net, session.input_shape)
    views = tuple(VIEWS[view.type](**checked_options(view.type, VIEWS[view.type], view.options)) for view in spec.views)
    pairs = zip(spec.learners, learners, strict=True)
    shape = session.input_shape
    groups = tuple(group for one, learner in pairs for group in parameter_groups(one, learner, shape, rates))
    return Stage(spec, Learners(learners), views, groups)


def _attachment(spec: AttachmentSpec, shapes: TraceSpec, name: str, session: Session) -> nn.Module:
    builder = ATTACHMENTS[spec.type]
    asked = inspect.signature(builder).parameters
    others: dict[str, object] = {"nets": session.nets} if "nets" in asked else {}
    if "specs" in asked:
        others["specs"] = {role: trace_spec(net, session.input_shape) for role, net in session.nets.items()}
    return builder(shapes, name, **others, **checked_options(f"attachment {name!r}", builder, spec.options))


def _learner(spec: LearnerSpec, stage: StageSpec, live: tuple[str, ...], session: Session) -> Learner:
    net = session.net(spec.learner)
    asker = Asker(spec.learner, session, live)
    sources = [_source(source.type, source.options, asker) for source in spec.source]
    nets = {name: net for source in sources for name, net in source.nets.items()}
    counted = tuple(term for term in spec.terms if term.weight != 0)
    if not counted:
        raise ConfigError(f"stage {stage.name!r}: every term has weight 0")
    mine = trace_spec(net, session.input_shape)
    theirs = {name: trace_spec(net, session.input_shape) for name, net in nets.items()}
    terms = [
        WeightedTerm(name, _by_target(name, term, mine, theirs), _weigher(term, stage, session))
        for name, term in _named(counted)
    ]
    return Learner(spec.learner, net, terms, sources)


def _source(kind: str, options: Mapping[str, object], asker: Asker) -> Source:
    return SOURCES[kind](asker, **checked_options(f"source {kind!r}", SOURCES[kind], options))


def _by_target(name: str, spec: TermSpec, mine: TraceSpec, theirs: Mapping[str, TraceSpec]) -> dict[str, nn.Module]:
    for target in spec.of:
        if target not in theirs:
            raise unknown_name(f"target of term {name!r}", target, theirs)
    terms: dict[str, nn.Module] = {}
    for target in spec.of or theirs:
        terms[target] = build_term(spec.type, mine, theirs[target], spec.options)
        if cast(Term, terms[target]).needs.is_supervised:
            return {OWN: terms[target]}
    return terms


def _weigher(spec: TermSpec, stage: StageSpec, session: Session) -> Weigher:
    weight = spec.weight
    if isinstance(weight, int | float):
        return Constant(float(weight))
    if isinstance(weight, RampSpec):
        return LinearRamp(weight.start, weight.end, weight.over)
    if isinstance(weight, ActionSpec):
        policy = session.policies[weight.policy]
        if weight.action >= policy.actions:
            raise ConfigError(
                f"policy {weight.policy!r} has {policy.actions} action(s), term {spec.type!r} asks for {weight.action}"
            )
        return PolicyWeight(policy, weight.action, weight.policy in stage.learns)
    builder = WEIGHERS[weight.type]
    return builder(**checked_options(f"weigher {weight.type!r}", builder, weight.options))


def _named(terms: tuple[TermSpec, ...]) -> list[tuple[str, TermSpec]]:
    named: dict[str, TermSpec] = {}
    for term in terms:
        part = str(term.options.get("part", "logits"))
        name = " ".join([term.type, *(() if part == "logits" else (part.removeprefix("aux:"),)), *term.of])
        while name in named:
            name += "'"
        named[name] = term
    return list(named.items())


def _tap(learners: Iterable[Learner]) -> None:
    nets: dict[int, TracedNet] = {}
    paths: dict[int, list[str]] = {}
    gradients: dict[int, list[str]] = {}

    def ask(net: TracedNet, wanted: tuple[str, ...], needs: Needs, gradients_at: tuple[str, ...] = ()) -> None:
        nets[id(net)] = net
        paths.setdefault(id(net), []).extend(wanted)
        if needs.input_gradient:
            gradients.setdefault(id(net), []).extend(gradients_at)

    for learner in learners:
        targets = {OWN: learner.net, **learner.target_nets()}
        for net in targets.values():
            ask(net, (), Needs())
        for _, target, term in learner.named_terms():
            needs = cast(Term, term).needs
            ask(learner.net, needs.student, needs, needs.student_gradients)
            ask(targets[target], needs.teacher, needs, needs.teacher_gradients)
    for key, net in nets.items():
        net.tap(paths[key], input_gradient=key in gradients, gradients=gradients.get(key, ()))
