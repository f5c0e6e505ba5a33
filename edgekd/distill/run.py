"""A whole recipe: roles made ready, stages run in order, the student returned without its auxiliaries."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from edgekd.core.artifacts import NetSpec
from edgekd.core.errors import ConfigError
from edgekd.core.events import Listener, silent
from edgekd.core.seeds import derive_seed
from edgekd.data import Augment, ImageDataset, augmentation, default_augmentation
from edgekd.distill.loop import Epoch, LoopContext, make_accelerator, run_stage
from edgekd.distill.net import TracedNet
from edgekd.distill.recipe import Recipe
from edgekd.distill.settings import TrainSettings
from edgekd.distill.stage import add_attachments, build_stage
from edgekd.distill.threads import cpu_threads, threads_for
from edgekd.models import FAMILIES, build, count_macs, discover_taps


@dataclass(frozen=True)
class Outcome:
    """What a recipe produced.

    Attributes:
        student: The student's backbone, in evaluation mode on the CPU: `[B, C, H, W]` in 0..1 to logits.
        history: Every epoch of every stage.
    """

    student: nn.Module
    history: tuple[Epoch, ...]


@dataclass(frozen=True)
class RunOptions:
    """What varies between runs of one recipe.

    Attributes:
        seed: Decides initial weights, order and augmentation.
        label: Prefix of stage names in events.
        folder: Where last good checkpoints are kept, or None.
        listener: Told of progress.
    """

    seed: int = 0
    label: str = ""
    folder: Path | None = None
    listener: Listener = field(default=silent)


def run_recipe(
    recipe: Recipe,
    *,
    student: NetSpec,
    teacher: tuple[NetSpec, nn.Module] | None,
    dataset: ImageDataset,
    settings: TrainSettings,
    options: RunOptions,
) -> Outcome:
    """Train a student by a recipe.

    Two recipes with one seed start from the same student weights and see the same batches.

    Args:
        recipe: The method.
        student: The student's architecture.
        teacher: The teacher's architecture and trained network, or None for recipes that need none. It is not changed.
        dataset: The data; its test split is not touched.
        settings: Optimisation settings.
        options: Seed, label, folder, listener.

    Returns:
        The trained student and its history.

    Raises:
        ConfigError: The recipe does not fit the networks, or needs a teacher and none was given.
        TrainingDiverged: A loss became NaN or infinite.
    """
    if recipe.needs_teacher and teacher is None:
        raise ConfigError(f"recipe {recipe.name!r} needs a teacher and none was given")
    accelerator = make_accelerator(settings)
    with torch.random.fork_rng(devices=[]):
        roles = _roles(recipe, student, teacher, dataset, options.seed)
        for net in roles.values():
            net.to(accelerator.device)
        with cpu_threads(settings.threads or threads_for(_macs_per_step(roles, dataset, settings))):
            history = _run_stages(
                recipe,
                roles,
                LoopContext(
                    dataset,
                    settings,
                    _augment(dataset, settings),
                    options.seed,
                    accelerator,
                    options.label,
                    options.folder,
                    options.listener,
                ),
            )
    return Outcome(roles["student"].backbone.cpu().eval().requires_grad_(False), history)


def _roles(
    recipe: Recipe, student: NetSpec, teacher: tuple[NetSpec, nn.Module] | None, dataset: ImageDataset, seed: int
) -> dict[str, TracedNet]:
    torch.manual_seed(derive_seed(seed, "student"))
    roles = {"student": _traced(student, build(student), dataset.resolution)}
    if teacher is not None and recipe.needs_teacher:
        roles["teacher"] = _traced(teacher[0], copy.deepcopy(teacher[1]), dataset.resolution)
    torch.manual_seed(derive_seed(seed, "auxiliaries"))
    add_attachments(recipe, roles, _input_shape(dataset))
    return roles


def _run_stages(recipe: Recipe, roles: dict[str, TracedNet], context: LoopContext) -> tuple[Epoch, ...]:
    history: list[Epoch] = []
    for spec in recipe.stages:
        stage = build_stage(spec, roles, _input_shape(context.dataset))
        stage.learner.to(context.accelerator.device)
        history += run_stage(stage, context)
    return tuple(history)


def _macs_per_step(roles: dict[str, TracedNet], dataset: ImageDataset, settings: TrainSettings) -> int:
    channels, height, width = _input_shape(dataset)
    sizes = [(channels, net.resolution or height, net.resolution or width) for net in roles.values()]
    macs = sum(count_macs(net.backbone, size) for net, size in zip(roles.values(), sizes, strict=True))
    return macs * settings.batch_size


def _augment(dataset: ImageDataset, settings: TrainSettings) -> Augment:
    return augmentation(default_augmentation(dataset.name) if settings.augment == "auto" else settings.augment)


def _input_shape(dataset: ImageDataset) -> tuple[int, int, int]:
    return (dataset.in_channels, dataset.resolution, dataset.resolution)


def penultimate_of(spec: NetSpec, module: nn.Module) -> str:
    """Return the path of the module whose output `[B, D]` feeds the classifier.

    Args:
        spec: The network's architecture.
        module: The network.

    Raises:
        ConfigError: A network from elsewhere exposes no such feature.
    """
    if spec.family in FAMILIES:
        return FAMILIES[spec.family].penultimate
    vectors = [tap.path for tap in discover_taps(module, spec.input_shape) if len(tap.shape) == 1]
    if not vectors:
        raise ConfigError(f"{spec.name} exposes no feature vector [B, D] before its logits")
    return vectors[-1]


def _traced(spec: NetSpec, module: nn.Module, resolution: int) -> TracedNet:
    return TracedNet(
        module,
        penultimate=penultimate_of(spec, module),
        resolution=0 if spec.resolution == resolution else spec.resolution,
    )
