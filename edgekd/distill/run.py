"""A whole recipe: roles made ready, stages run in order, the student returned without its auxiliaries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from edgekd.core.artifacts import NetSpec
from edgekd.core.digest import sha256_of_arrays, sha256_of_json
from edgekd.core.errors import ConfigError
from edgekd.core.events import Event, Listener, silent
from edgekd.data import Augment, Dataset, ResidentSplit, augmentation, default_augmentation
from edgekd.distill.adapting import recipe_for
from edgekd.distill.blending import require_blendable
from edgekd.distill.claims import require_claims
from edgekd.distill.compiled import compiled, require_compilable
from edgekd.distill.epochs import LoopContext
from edgekd.distill.graphs import graphed
from edgekd.distill.layer_rates import LayerRates
from edgekd.distill.layout import lay_out
from edgekd.distill.loop import Epoch, make_accelerator, run_stage
from edgekd.distill.preparation import prepare
from edgekd.distill.ranks import Ranks
from edgekd.distill.recipe import Recipe
from edgekd.distill.rehearsal import rehearse, scheduled
from edgekd.distill.resume import Bookmark, Resumption
from edgekd.distill.roles import Given, open_session
from edgekd.distill.session import Session
from edgekd.distill.settings import TrainSettings
from edgekd.distill.sharding import never_trained, share_out
from edgekd.distill.stage import Stage, build_stage
from edgekd.distill.teacher_cache import recalled, require_cacheable, require_within_limit, views_for
from edgekd.distill.threads import cpu_threads, threads_for
from edgekd.distill.unlabelled import count_together, require_labels
from edgekd.models import count_macs


@dataclass(frozen=True)
class Outcome:
    """What a recipe produced.

    Attributes:
        student: The student's backbone, in evaluation mode on the CPU.
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
        start: Weights of the student's backbone, by name, that are not drawn.
        resume: How the run can be interrupted, or None.
        remodel: Makes the network to train of the student that starts; its module paths stay. None trains it as it is.
    """

    seed: int = 0
    label: str = ""
    folder: Path | None = None
    listener: Listener = field(default=silent)
    start: Mapping[str, Tensor] = field(default_factory=dict)
    resume: Resumption | None = None
    remodel: Callable[[nn.Module], nn.Module] | None = None


def run_recipe(
    recipe: Recipe,
    *,
    student: NetSpec,
    teacher: Given | None,
    dataset: Dataset,
    settings: TrainSettings,
    options: RunOptions,
) -> Outcome:
    """Train a student by a recipe.

    Two recipes with one seed start from the same student weights and see the same batches.

    Args:
        recipe: The method; see `edgekd.distill.adapting` for what it is where labels are no classes.
        student: The student's architecture.
        teacher: The teacher's architecture and trained network, or None for recipes that need none. It is not changed.
        dataset: The data; its test split is not touched.
        settings: Optimisation settings.
        options: Seed, label, folder, listener, how to be interrupted.

    Returns:
        The trained student and its history.

    Raises:
        ConfigError: The recipe does not fit the networks, or needs a teacher, or a student that was trained before, and
            none was given.
        TrainingDiverged: A loss became NaN or infinite.
        Paused: The deadline of `options.resume` is over; the same call goes on.
    """
    recipe = recipe_for(recipe, dataset.task)
    with torch.random.fork_rng(devices=[]):
        session = open_session(
            recipe,
            student=student,
            teacher=teacher,
            input_shape=dataset.input_shape,
            kind=dataset.task.kind,
            seed=options.seed,
        )
        _begin(recipe, session, options.start)
        if options.remodel is not None:
            net = session.net("student")
            net.backbone = options.remodel(net.backbone)
        history = run_stages(recipe, session, dataset=dataset, settings=settings, options=options)
        trained = session.net("student").backbone.cpu().eval().requires_grad_(False)
    return Outcome(trained.to(memory_format=torch.contiguous_format), history)  # type: ignore[call-overload]


def run_stages(
    recipe: Recipe, session: Session, *, dataset: Dataset, settings: TrainSettings, options: RunOptions
) -> tuple[Epoch, ...]:
    """Train every network of a session by a recipe's stages.

    Args:
        recipe: The method.
        session: Its networks, as `open_session` made them; they are changed.
        dataset: The data; its test split is not touched.
        settings: Optimisation settings.
        options: Seed, label, folder, listener.

    Returns:
        Every epoch of every stage.

    Raises:
        ConfigError: The recipe does not fit the networks.
        TrainingDiverged: A loss became NaN or infinite.
        Paused: The deadline of `options.resume` is over.
    """
    context = _context(recipe, session, dataset, settings, options)
    bookmark, device = context.bookmark, context.accelerator.device
    if settings.shard_frozen and not context.ranks.is_alone:
        fixed = [session.nets[role] for role in never_trained(recipe, session)]
        share_out(fixed, session.input_shape, context.ranks, device.type)
    history = [] if bookmark is None else [Epoch(**record) for record in bookmark.history]
    with cpu_threads(threads_of(session, settings)):
        for index, spec in enumerate(scheduled(recipe)):
            if bookmark is not None:
                if bookmark.is_past(index):
                    continue
                bookmark.enter(index, session)
            rates = LayerRates(settings.layer_decay, settings.student_lr or 1.0, settings.layer_lr)
            stage = build_stage(spec, session, rates)
            stage.learners.to(device)
            count_together(stage, dataset.train)
            prepare(stage, session, dataset.train, device, listener=context.listener, label=context.label)
            with (
                recalled(stage, session, context) as recalls,
                compiled(stage.nets, settings.compile),
                graphed(stage.nets, settings, device),
            ):
                run_stage(stage, session, replace(context, recalls=recalls), history)
    if bookmark is not None:
        bookmark.close()
    return tuple(history)


def _context(
    recipe: Recipe, session: Session, dataset: Dataset, settings: TrainSettings, options: RunOptions
) -> LoopContext:
    accelerator, augment = make_accelerator(settings), augment_for(dataset, settings)
    ranks = Ranks(accelerator.process_index, accelerator.num_processes)
    require_fitting(recipe, dataset, settings, ranks)
    listener = options.listener if ranks.is_main else silent
    settings = lay_out(session, settings, accelerator.device)
    bookmark = None
    if options.resume is not None:
        key = _key(recipe, session, dataset, settings)
        bookmark = Bookmark.open(
            options.resume,
            session,
            key=key,
            device=accelerator.device,
            fixed=never_trained(recipe, session),
            note=lambda message: listener(Event("note", options.label or recipe.name, message)),
            is_writing=ranks.is_main,
        )
    resident = ResidentSplit(dataset.train, augment, accelerator.device) if settings.resident else None
    return LoopContext(
        dataset,
        settings,
        augment,
        options.seed,
        accelerator,
        options.label,
        options.folder,
        listener,
        resident,
        bookmark,
        ranks,
        views_for(settings, augment, options.seed),
    )


def require_fitting(recipe: Recipe, dataset: Dataset, settings: TrainSettings, ranks: Ranks) -> None:
    """Refuse settings that do not go together, or not with a recipe or with several processes.

    Raises:
        ConfigError: They do not.
    """
    if settings.auto_batch:
        raise ConfigError("train.auto_batch is for edgekd distill; see fitting_batch_size for a size to set here")
    require_cacheable(settings)
    require_claims(recipe, processes=ranks.of, accumulate=settings.accumulate)
    require_labels(recipe, dataset.train)
    require_blendable(recipe, settings)
    if ranks.of > 1 and settings.compile != "no" and settings.sync_batch_norm:
        raise ConfigError(
            "compiled passes cannot share batch statistics between processes: set train.compile=no, or "
            "train.sync_batch_norm=false and have each process see its own"
        )
    if ranks.of > 1 and settings.shard_frozen and settings.teacher_cache is not None:
        raise ConfigError(
            "with train.shard_frozen every process takes part in every pass of a teacher, with train.teacher_cache "
            "each asks for its own: set one of them"
        )
    if ranks.of > 1 and settings.shard_frozen and (settings.compile != "no" or settings.cuda_graphs):
        raise ConfigError(
            "train.shard_frozen gathers weights layer by layer, which compiled and graphed passes cannot: set "
            "train.compile=no and train.cuda_graphs=false"
        )
    parts, rows = ranks.of * settings.accumulate, min(settings.batch_size, len(dataset.train))
    if ranks.of > 1 and rows % parts:
        raise ConfigError(
            f"batches of {rows} rows do not divide into {ranks.of} processes of {settings.accumulate} equal part(s): "
            f"set train.batch_size to a multiple of {parts}"
        )
    if rows // parts < 2:
        raise ConfigError(f"batches of {rows} rows in {parts} parts leave fewer than 2 rows in one: take fewer parts")


def _key(recipe: Recipe, session: Session, dataset: Dataset, settings: TrainSettings) -> str:
    nets = {
        f"{role} {name}": value.cpu().numpy()
        for role, net in session.nets.items()
        for name, value in net.state_dict().items()
    }
    facts = [recipe.digest, settings.deciding(), dataset.digest, session.seed]
    return sha256_of_json([*facts, sha256_of_arrays(nets)])


def _begin(recipe: Recipe, session: Session, start: Mapping[str, Tensor]) -> None:
    if recipe.needs_pretrained_student and not start:
        raise ConfigError(
            f"recipe {recipe.name!r} fine-tunes a student that was trained before, on other data as a rule: give its "
            "weights, --set student.weights=FILE"
        )
    if start:
        session.begin_from("student", start)


def check_recipe(
    recipe: Recipe,
    *,
    student: NetSpec,
    teacher: Given | None,
    dataset: Dataset,
    batch_size: int,
    start: Mapping[str, Tensor] = MappingProxyType({}),
    settings: TrainSettings | None = None,
) -> None:
    """Go through a recipe's stages on a few training rows, so that what does not fit is known before training starts.

    Args:
        recipe: The method.
        student: The student's architecture.
        teacher: The teacher's architecture and network, trained or not; it is not changed.
        dataset: The data.
        batch_size: Rows of a training batch.
        start: Weights of the student's backbone, by name, that are not drawn.
        settings: The run's, where it is to be known whether the recipe fits them too: mixed inputs, compiled passes,
            batches in parts, the limit of the teacher cache.

    Raises:
        ConfigError: The recipe does not fit the networks, the data or the settings, or needs a student that was trained
            before; or the teacher cache would grow over its limit.
    """
    recipe = recipe_for(recipe, dataset.task)
    require_labels(recipe, dataset.train)
    if settings is not None:
        require_blendable(recipe, settings)
    with torch.random.fork_rng(devices=[]):
        session = open_session(
            recipe,
            student=student,
            teacher=teacher,
            input_shape=dataset.input_shape,
            kind=dataset.task.kind,
            seed=0,
        )

        def also(stage: Stage) -> None:
            if settings is not None:
                require_compilable(stage.nets, settings.compile)
                augment = augment_for(dataset, settings)
                require_within_limit(stage, session, settings, dataset=dataset, augment=augment)

        _begin(recipe, session, start)
        parts = 1 if settings is None else settings.accumulate
        rehearse(recipe, session, dataset, batch_size=batch_size, parts=parts, also=also)


def threads_of(session: Session, settings: TrainSettings) -> int:
    """Return the CPU threads that a run trains with: those set, or what its steps are worth."""
    nets = session.nets.values()
    macs = settings.batch_size * sum(count_macs(net.backbone, net.shape_seen(session.input_shape)) for net in nets)
    return settings.threads or threads_for(macs)


def augment_for(dataset: Dataset, settings: TrainSettings) -> Augment:
    """Return the change of training batches that settings name, the data set's where they leave it to that."""
    return augmentation(default_augmentation(dataset.name) if settings.augment == "auto" else settings.augment)
