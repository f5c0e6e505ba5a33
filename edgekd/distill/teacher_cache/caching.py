"""The teacher cache of a stage: which of its networks answer from it, how large it will be, what it did."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.core.errors import ConfigError
from edgekd.data import Augment, Dataset, SampleViews
from edgekd.data.augment import Unchanged
from edgekd.distill.epochs import LoopContext
from edgekd.distill.net import TracedNet, trace_on_zeros
from edgekd.distill.session import Session
from edgekd.distill.settings import TrainSettings
from edgekd.distill.sources import Ensemble, FrozenNets, LiveNets, Source
from edgekd.distill.stage import Stage
from edgekd.distill.teacher_cache.blocks import import_zstandard
from edgekd.distill.teacher_cache.folder import bytes_in, size_in_words
from edgekd.distill.teacher_cache.key import cache_folder, facts_of, opened
from edgekd.distill.teacher_cache.recall import Keeping, Recall, layout_of, parts_of
from edgekd.distill.views import View

_GB = 1e9


@dataclass(frozen=True)
class Recalls:
    """The networks of a stage that answer from a cache, by role; a part of the state of a run."""

    by_role: Mapping[str, Recall]

    def memory(self) -> dict[str, Any]:
        """Write what was computed, so that a run which goes on from this state finds it; there is nothing else."""
        for recall in self.by_role.values():
            recall.flush()
        return {}

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Take up what `memory` returned: nothing."""


def views_for(settings: TrainSettings, augment: Augment, seed: int) -> SampleViews | None:
    """Return the views of samples that a run trains on, or None where changes are drawn by step.

    Args:
        settings: The run's settings.
        augment: The change of training batches; of one that changes nothing there is one view.
        seed: The run's.
    """
    if settings.teacher_cache is None and settings.augment_views is None:
        return None
    root = seed if settings.augment_seed is None else settings.augment_seed
    return SampleViews(root, 1 if isinstance(augment, Unchanged) else settings.augment_views)


def require_cacheable(settings: TrainSettings) -> None:
    """Refuse settings with which no teacher output can be kept.

    Raises:
        ConfigError: They are such, or zstandard is not installed.
    """
    if settings.teacher_cache is None:
        return
    if settings.mixup or settings.cutmix:
        raise ConfigError(
            "a mixture of two samples is another one in every step, so teacher outputs cannot be kept: set "
            "train.teacher_cache=null, or train.mixup=0 and train.cutmix=0"
        )
    import_zstandard()


@contextmanager
def recalled(stage: Stage, session: Session, context: LoopContext) -> Iterator[Recalls | None]:
    """Let the frozen networks of a stage answer from the cache within the block, where there is one.

    Args:
        stage: The stage, ready to train.
        session: The run.
        context: What it is trained with.

    Raises:
        ConfigError: More would be kept than `train.cache_limit_gb`, or what the cache cannot hold.
        StorageError: What is in the cache is damaged as a whole, or stale.
    """
    settings, views = context.settings, context.views
    if settings.teacher_cache is None or views is None:
        yield None
        return
    nets, reasons = cacheable(stage, session)
    for reason in reasons:
        context.note(stage.name, f"teacher cache: {reason}, so it is asked live in every step")
    root = cache_folder(settings.teacher_cache)
    folders = {role: opened(root, _facts(net, stage, context, views)) for role, net in nets.items()}
    needed = require_within_limit(stage, session, settings, dataset=context.dataset, augment=context.augment)
    keeping = {role: _keeping(folder, stage, context, views) for role, folder in folders.items()}
    recalls = Recalls({role: Recall(net, keeping[role]) for role, net in nets.items()})
    for role, folder in folders.items():
        context.note(
            stage.name,
            f"teacher cache: {role} in {folder}, {size_in_words(bytes_in(folder))} there; this stage keeps at most "
            f"{size_in_words(needed)}",
        )
    for role, recall in recalls.by_role.items():
        nets[role].recall = recall
    try:
        yield recalls
    finally:
        for role, recall in recalls.by_role.items():
            nets[role].recall = None
            recall.flush()
            context.note(stage.name, f"teacher cache: {_in_words(role, recall)}")


def cacheable(stage: Stage, session: Session) -> tuple[dict[str, TracedNet], tuple[str, ...]]:
    """Return the networks of a stage whose outputs can be kept, by role, and for all other teachers why not."""
    roles = {id(net): role for role, net in session.nets.items()}
    found: dict[str, TracedNet] = {}
    refused: dict[str, str] = {}
    for source in (source for learner in stage.learners for source in learner.sources):
        nets, reason = _nets_of(source)
        reason = reason or _mixing(stage)
        for net in nets:
            why = reason or ("a term reads gradients at its input" if net.traces_input_gradient else "")
            found[roles[id(net)]] = net
            if why:
                refused.setdefault(roles[id(net)], why)
    kept = {role: net for role, net in found.items() if role not in refused}
    return kept, tuple(f"{role} is not kept since {why}" for role, why in refused.items())


def _mixing(stage: Stage) -> str:
    named = zip(stage.spec.views, stage.views, strict=True)
    return next(
        (f"view {spec.type!r} makes other inputs in every step" for spec, view in named if not _copies(view)), ""
    )


def _copies(view: View) -> int:
    copies: int = getattr(view, "copies", 0)
    return copies


def _rows(stage: Stage, dataset: Dataset) -> int:
    return len(dataset.train) * math.prod(map(_copies, stage.views))


def _nets_of(source: Source) -> tuple[tuple[TracedNet, ...], str]:
    """Return the networks that a source asks besides the learner itself, and why they cannot be kept."""
    if isinstance(source, FrozenNets):
        return tuple(source.nets.values()), ""
    if isinstance(source, Ensemble):
        return tuple(source.members), ""
    if isinstance(source, LiveNets):
        others = tuple(net for name, net in source.nets.items() if source.roles[name] == name)
        return others, "it trains in this stage"
    return tuple(source.nets.values()), "it changes from step to step"


def require_within_limit(
    stage: Stage, session: Session, settings: TrainSettings, *, dataset: Dataset, augment: Augment
) -> int:
    """Return the bytes of teacher outputs that a stage keeps at most, before compression; 0 without a cache.

    Args:
        stage: The stage, its networks tapped.
        session: The run.
        settings: Its settings.
        dataset: The data.
        augment: The change of training batches.

    Raises:
        ConfigError: They are more than `train.cache_limit_gb`, or nothing can be kept with these settings.
    """
    views = views_for(settings, augment, seed=0)
    if settings.teacher_cache is None or views is None:
        return 0
    require_cacheable(settings)
    nets, _ = cacheable(stage, session)
    epochs = max(1, round(settings.epochs * stage.spec.epochs))
    count = epochs if views.count is None else min(views.count, epochs)
    by_view = _rows(stage, dataset) * sum(_row_bytes(net, session, settings) for net in nets.values())
    needed, limit = by_view * count, settings.cache_limit_gb * _GB
    if needed > limit:
        fewer = f"set train.augment_views to at most {int(limit // by_view)}, " if by_view <= limit else ""
        raise ConfigError(
            f"stage {stage.name!r} would keep {size_in_words(needed)} of teacher outputs: {count} view(s) of "
            f"{len(dataset.train)} samples, {size_in_words(by_view)} each; train.cache_limit_gb is "
            f"{settings.cache_limit_gb:g}. Raise it, {fewer}"
            "keep fewer logits (train.cache_top_k), or set train.teacher_cache=null"
        )
    return needed


def _row_bytes(net: TracedNet, session: Session, settings: TrainSettings) -> int:
    parts = parts_of(trace_on_zeros(net, session.input_shape))
    layouts = (
        layout_of(name, tuple(values.shape[1:]), stored=settings.cache_dtype, top=settings.cache_top_k)
        for name, values in parts.items()
    )
    return sum(layout.row_bytes for layout in layouts)


def _facts(net: TracedNet, stage: Stage, context: LoopContext, views: SampleViews) -> dict[str, Any]:
    return facts_of(
        net,
        dataset=context.dataset,
        augment=context.augment,
        views=views,
        changes=stage.views,
        precision=context.settings.precision,
    )


def _keeping(folder: Path, stage: Stage, context: LoopContext, views: SampleViews) -> Keeping:
    settings = context.settings
    return Keeping(
        folder,
        rows=_rows(stage, context.dataset),
        copies=math.prod(map(_copies, stage.views)),
        views=views,
        stored=settings.cache_dtype,
        top=settings.cache_top_k,
        takes_any_shape=settings.compile == "no" and not settings.cuda_graphs,
        processes=context.ranks.of,
        note=lambda message: context.note(stage.name, f"teacher cache: {message}"),
    )


def _in_words(role: str, recall: Recall) -> str:
    done = recall.counted
    return (
        f"{done.spared} of {done.batches} passes of {role} were spared, {done.read} of {done.rows} outputs were read, "
        f"{done.rows - done.read} computed"
    )
