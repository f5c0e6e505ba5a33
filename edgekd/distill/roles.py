"""The networks that a recipe names, made and traced."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from edgekd.core.artifacts import NetSpec
from edgekd.core.errors import ConfigError
from edgekd.core.seeds import derive_seed
from edgekd.data import Dataset, Kind
from edgekd.distill.net import TracedNet, modules_after
from edgekd.distill.options import checked_options
from edgekd.distill.policies import POLICIES, Policy
from edgekd.distill.recipe import Recipe
from edgekd.distill.session import Session
from edgekd.distill.specs import RoleSpec
from edgekd.distill.stage import add_attachments
from edgekd.models import FAMILIES, PRUNED, build, discover_taps, family_of, modalities_of, spec_between

Given = tuple[NetSpec, nn.Module]


def open_session(
    recipe: Recipe,
    *,
    student: NetSpec,
    teacher: Given | None,
    input_shape: tuple[int, ...],
    seed: int,
    kind: Kind = "classification",
) -> Session:
    """Make every network of a recipe, with its attachments.

    Args:
        recipe: The method.
        student: The student's architecture.
        teacher: The teacher's architecture and network; it is copied. None for recipes that need none.
        input_shape: `(C, H, W)` of the data.
        seed: Decides all initial weights.
        kind: What the networks' outputs are for.

    Raises:
        ConfigError: The recipe needs a teacher and none was given, or a network that cannot be made.
    """
    if recipe.needs_teacher and teacher is None:
        raise ConfigError(f"recipe {recipe.name!r} needs a teacher and none was given")
    traced = partial(_traced, resolution=input_shape[-1], kind=kind)
    nets = {"student": traced(student, _built(student, seed, "student"))}
    specs = {"student": student}
    if teacher is not None and recipe.needs_teacher:
        specs["teacher"] = teacher[0]
        nets["teacher"] = traced(teacher[0], copy.deepcopy(teacher[1]))
    for role, wanted in recipe.roles.items():
        specs[role] = _spec_of(wanted, specs)
        nets[role] = traced(specs[role], _built(specs[role], seed, "role", role))
    fresh = {role: _fresh(spec, seed, role) for role, spec in specs.items() if role == "student" or _is_ours(spec)}
    policies = {name: _policy(recipe, name, seed) for name in recipe.policies}
    session = Session(nets, input_shape, seed, fresh, policies)
    torch.manual_seed(derive_seed(seed, "auxiliaries"))
    add_attachments(recipe, session)
    return session


def classifier_of(spec: NetSpec, module: nn.Module, dataset: Dataset) -> tuple[str, ...]:
    """Return the paths of the modules that turn a network's penultimate feature into its output.

    Args:
        spec: The network's architecture.
        module: The network; it runs once on zeros in evaluation mode.
        dataset: What it is for.
    """
    shape = dataset.input_shape
    net = _traced(spec, module, resolution=shape[-1], kind=dataset.task.kind)
    after = {id(one) for one in modules_after(net, net.penultimate, shape)}
    return tuple(path for path, one in module.named_modules() if id(one) in after)


def penultimate_of(spec: NetSpec, module: nn.Module, kind: Kind = "classification") -> str:
    """Return the path of the module whose output, `[B, D]` or `[B, C, H, W]`, feeds the classifier.

    Args:
        spec: The network's architecture.
        module: The network.
        kind: What its output is for; logits of pixels come from a map, all else from a vector where there is one.

    Raises:
        ConfigError: A network from elsewhere exposes no such feature.
    """
    family = family_of(spec)
    if family is not None:
        return family.penultimate
    axes, words = (3, "map [B, C, H, W]") if kind == "segmentation" else (1, "vector [B, D]")
    taps = discover_taps(module, spec.input_shape)
    fitting = [tap.path for tap in taps if len(tap.shape) == axes] or [tap.path for tap in taps]
    if not fitting:
        raise ConfigError(f"{spec.name} exposes no feature {words} before its logits")
    return fitting[-1]


def _spec_of(wanted: RoleSpec, specs: Mapping[str, NetSpec]) -> NetSpec:
    if wanted.between is not None:
        return spec_between(specs["student"], specs["teacher"], share=wanted.between)
    spec = specs[str(wanted.like)]
    if wanted.like != "student" and not _is_ours(spec):
        raise ConfigError(f"this recipe trains another {spec.name}, which is not one of edgekd's families")
    return spec


def _is_ours(spec: NetSpec) -> bool:
    return spec.family in FAMILIES or spec.family == PRUNED


def _built(spec: NetSpec, seed: int, *names: str) -> nn.Module:
    torch.manual_seed(derive_seed(seed, *names))
    return build(spec)


def _fresh(spec: NetSpec, seed: int, role: str) -> Callable[[], Mapping[str, Tensor]]:
    names = ("student",) if role == "student" else ("role", role)

    def state() -> Mapping[str, Tensor]:
        with torch.random.fork_rng(devices=[]):
            return _built(spec, seed, *names).state_dict()

    return state


def _policy(recipe: Recipe, name: str, seed: int) -> Policy:
    spec = recipe.policies[name]
    builder = POLICIES[spec.type]
    return builder(derive_seed(seed, "policy", name), **checked_options(f"policy {name!r}", builder, spec.options))


def _traced(spec: NetSpec, module: nn.Module, *, resolution: int, kind: Kind) -> TracedNet:
    family = family_of(spec)
    return TracedNet(
        module,
        penultimate=penultimate_of(spec, module, kind),
        resolution=0 if spec.resolution == resolution else spec.resolution,
        embedded="" if family is None else family.embedded,
        kind=kind,
        modalities=modalities_of(spec),
    )
