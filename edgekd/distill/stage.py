"""A stage made ready: a recipe's words turned into modules for the networks at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from torch import nn

from edgekd.core.errors import ConfigError
from edgekd.distill.attachments import ATTACHMENTS
from edgekd.distill.learner import Learner
from edgekd.distill.net import Part, TracedNet, trace_spec
from edgekd.distill.options import checked_options
from edgekd.distill.recipe import AttachmentSpec, RampSpec, Recipe, StageSpec, TermSpec
from edgekd.distill.sources import SOURCES
from edgekd.distill.terms import build_term
from edgekd.distill.terms.base import Needs, Term
from edgekd.distill.trace import TraceSpec
from edgekd.distill.views import VIEWS, View
from edgekd.distill.weighers import Constant, LinearRamp, Weigher


@dataclass(frozen=True)
class Stage:
    """One phase of training, ready to run.

    Attributes:
        name: Its name in the recipe.
        learner: What trains.
        views: Applied to each batch in order.
        train: Which parts of the learner's network are trained.
        epochs: Multiple of the run's epochs.
        lr: Multiple of the run's learning rate.
        milestones: Shares of the stage where `multistep` decays, or None for the run's.
        keep: Which epoch to go on with, or None for the run's choice.
    """

    name: str
    learner: Learner
    views: tuple[View, ...]
    train: tuple[Part, ...]
    epochs: float
    lr: float
    milestones: tuple[float, ...] | None
    keep: Literal["best", "last"] | None


def add_attachments(recipe: Recipe, roles: Mapping[str, TracedNet], input_shape: tuple[int, int, int]) -> None:
    """Attach what a recipe asks for to each role's network.

    Raises:
        ConfigError: Unknown attachment, or a network without a penultimate feature.
    """
    for role, wanted in recipe.attach.items():
        spec = trace_spec(roles[role], input_shape)
        roles[role].attach({name: _attachment(attachment, spec, name) for name, attachment in wanted.items()})


def build_stage(spec: StageSpec, roles: Mapping[str, TracedNet], input_shape: tuple[int, int, int]) -> Stage:
    """Build one stage of a recipe for the networks at hand, and tap them where its terms read.

    A term of constant weight 0 is left out, adapters and all.

    Args:
        spec: The recipe's stage.
        roles: Networks by role, attachments in place.
        input_shape: `(C, H, W)` of the data.

    Returns:
        The stage, its learner in training mode for the parts named and everything else frozen.

    Raises:
        ConfigError: The stage does not fit the networks.
    """
    net = roles[spec.learner]
    mine = trace_spec(net, input_shape)
    is_own = spec.source.type == "self" or "teacher" not in roles
    theirs = mine if is_own else trace_spec(roles["teacher"], input_shape)
    counted = tuple(term for term in spec.terms if term.weight != 0)
    if not counted:
        raise ConfigError(f"stage {spec.name!r}: every term has weight 0")
    terms = [(name, *_weighted_term(term, mine, theirs)) for name, term in _named(counted)]
    _tap(net, net if is_own else roles["teacher"], [cast(Term, term).needs for _, term, _ in terms])
    source = SOURCES[spec.source.type](roles, spec.source.mean_of)
    net.train_only(spec.train)
    learner = Learner(net, terms, source)
    views = tuple(VIEWS[name] for name in spec.views)
    return Stage(spec.name, learner, views, spec.train, spec.epochs, spec.lr, spec.milestones, spec.keep)


def _attachment(spec: AttachmentSpec, shapes: TraceSpec, name: str) -> nn.Module:
    builder = ATTACHMENTS[spec.type]
    return builder(shapes, name, **checked_options(f"attachment {name!r}", builder, spec.options))


def _weighted_term(spec: TermSpec, student: TraceSpec, teacher: TraceSpec) -> tuple[nn.Module, Weigher]:
    weight = spec.weight
    weigher: Weigher = (
        LinearRamp(weight.start, weight.end, weight.over) if isinstance(weight, RampSpec) else Constant(weight)
    )
    return build_term(spec.type, student, teacher, spec.options), weigher


def _named(terms: tuple[TermSpec, ...]) -> list[tuple[str, TermSpec]]:
    named: dict[str, TermSpec] = {}
    for term in terms:
        part = str(term.options.get("part", "logits"))
        name = term.type if part == "logits" else f"{term.type} {part.removeprefix('aux:')}"
        while name in named:
            name += "'"
        named[name] = term
    return list(named.items())


def _tap(learner: TracedNet, target: TracedNet, needs: list[Needs]) -> None:
    theirs = [path for need in needs for path in need.teacher]
    learner.tap([path for need in needs for path in need.student] + (theirs if target is learner else []))
    if target is not learner:
        target.tap(theirs)
