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
from edgekd.data import ImageDataset, augmentation, default_augmentation
from edgekd.distill.loop import Epoch, LoopContext, make_accelerator, run_stage
from edgekd.distill.net import TracedNet
from edgekd.distill.recipe import Recipe
from edgekd.distill.settings import TrainSettings
from edgekd.distill.stage import add_attachments, build_stage
from edgekd.models import FAMILIES, build, discover_taps


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
    input_shape = (dataset.in_channels, dataset.resolution, dataset.resolution)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(options.seed, "student"))
        roles = {"student": _traced(student, build(student), dataset.resolution)}
        if teacher is not None and recipe.needs_teacher:
            roles["teacher"] = _traced(teacher[0], copy.deepcopy(teacher[1]), dataset.resolution)
        torch.manual_seed(derive_seed(options.seed, "auxiliaries"))
        add_attachments(recipe, roles, input_shape)
        for net in roles.values():
            net.to(accelerator.device)
        name = default_augmentation(dataset.name) if settings.augment == "auto" else settings.augment
        context = LoopContext(
            dataset,
            settings,
            augmentation(name),
            options.seed,
            accelerator,
            options.label,
            options.folder,
            options.listener,
        )
        history: list[Epoch] = []
        for spec in recipe.stages:
            stage = build_stage(spec, roles, input_shape)
            stage.learner.to(accelerator.device)
            history += run_stage(stage, context)
    return Outcome(roles["student"].backbone.cpu().eval().requires_grad_(False), tuple(history))


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
    if len(vectors) < 2:
        raise ConfigError(f"{spec.name} exposes no feature vector before its logits; found {vectors}")
    return vectors[-2]


def _traced(spec: NetSpec, module: nn.Module, resolution: int) -> TracedNet:
    return TracedNet(
        module,
        penultimate=penultimate_of(spec, module),
        resolution=0 if spec.resolution == resolution else spec.resolution,
    )
