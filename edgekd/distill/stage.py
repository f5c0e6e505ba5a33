"""A stage made ready: a recipe's words turned into modules for the networks at hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from torch import nn

from edgekd.core.errors import ConfigError
from edgekd.distill.attachments import ATTACHMENTS
from edgekd.distill.learner import Learner
from edgekd.distill.net import Part, TracedNet, trace_spec
from edgekd.distill.options import checked_options
from edgekd.distill.recipe import AttachmentSpec, RampSpec, Recipe, StageSpec, TermSpec
from edgekd.distill.sources import SOURCES
from edgekd.distill.terms import build_term
from edgekd.distill.terms.base import Term
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
    """

    name: str
    learner: Learner
    views: tuple[View, ...]
    train: tuple[Part, ...]
    epochs: float
    lr: float
    milestones: tuple[float, ...] | None


def add_attachments(recipe: Recipe, roles: Mapping[str, TracedNet], input_shape: tuple[int, int, int]) -> None:
    """Attach what a recipe asks for to each role's network.

    Raises:
        ConfigError: Unknown attachment, or a network without a penultimate feature.
    """
    for role, wanted in recipe.attach.items():
        spec = trace_spec(roles[role], input_shape)
        width = math.prod(spec.feats[spec.penultimate])
        roles[role].attach(
            {name: _attachment(attachment, width, spec.num_classes, name) for name, attachment in wanted.items()}
        )


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
    theirs = trace_spec(roles["teacher"], input_shape) if "teacher" in roles else mine
    counted = tuple(term for term in spec.terms if term.weight != 0)
    if not counted:
        raise ConfigError(f"stage {spec.name!r}: every term has weight 0")
    terms = [(name, *_weighted_term(term, mine, theirs)) for name, term in _named(counted)]
    _tap(roles, spec.learner, [term for _, term, _ in terms])
    source = SOURCES[spec.source.type](roles, spec.source.mean_of)
    net.train_only(spec.train)
    learner = Learner(net, terms, source)
    views = tuple(VIEWS[name] for name in spec.views)
    return Stage(spec.name, learner, views, spec.train, spec.epochs, spec.lr, spec.milestones)


def _attachment(spec: AttachmentSpec, width: int, num_classes: int, name: str) -> nn.Module:
    builder = ATTACHMENTS[spec.type]
    return builder(width, num_classes, name, **checked_options(f"attachment {name!r}", builder, spec.options))


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


def _tap(roles: Mapping[str, TracedNet], learner: str, terms: list[nn.Module]) -> None:
    needs = [cast(Term, term).needs for term in terms]
    roles[learner].tap(path for need in needs for path in need.student)
    if learner != "teacher" and "teacher" in roles:
        roles["teacher"].tap(path for need in needs for path in need.teacher)
