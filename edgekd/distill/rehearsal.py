"""Going through a recipe without training: what does not fit is refused before hours are spent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import torch

from edgekd.core.errors import ConfigError
from edgekd.data import Batch, Dataset, eval_batches
from edgekd.distill.preparation import prepare
from edgekd.distill.recipe import Recipe
from edgekd.distill.session import Session
from edgekd.distill.specs import StageSpec
from edgekd.distill.stage import Stage, build_stage
from edgekd.distill.step import Step
from edgekd.distill.terms.base import Term

_ROWS = 8


def scheduled(recipe: Recipe) -> Iterator[StageSpec]:
    """Yield a recipe's stages as often as they run; repetitions are numbered from the second on."""
    for spec in recipe.stages:
        for index in range(spec.repeat):
            yield spec if index == 0 else spec.model_copy(update={"name": f"{spec.name}-{index + 1}"})


def rehearse(
    recipe: Recipe,
    session: Session,
    dataset: Dataset,
    *,
    batch_size: int,
    parts: int = 1,
    also: Callable[[Stage], object],
) -> None:
    """Build every stage in order and compute its losses once on a few training rows.

    Args:
        recipe: The method.
        session: Its networks, which keep their weights but not their statistics; take one made for the purpose.
        dataset: The data.
        batch_size: Rows of a training batch.
        parts: Parts that a batch is worked through in.
        also: Called with every stage, to refuse it for other reasons.

    Raises:
        ConfigError: A stage does not fit the networks, or its terms the batch.
    """
    rows = min(batch_size, len(dataset.train))
    batch = next(iter(eval_batches(dataset.train, batch_size=min(rows, _ROWS))))
    for spec in recipe.stages:
        stage = build_stage(spec, session)
        _require_rows(stage, rows // parts, "batch" if parts == 1 else f"part of a batch of {rows}")
        prepare(stage, session, dataset.train, torch.device("cpu"))
        _losses(stage, batch)
        also(stage)
        if spec.record:
            session.record(spec.learner, 1.0)


def _losses(stage: Stage, batch: Batch) -> None:
    step = Step(0, 1, 0)
    try:
        for view in stage.views:
            batch = view(batch, step)
        losses = stage.learners(batch, step)
    except (ValueError, IndexError, RuntimeError) as error:
        raise ConfigError(f"stage {stage.name!r} does not fit this task: {error}") from error
    missing = [name for name, value in losses.by_term.items() if not torch.isfinite(value)]
    if missing:
        raise ConfigError(f"stage {stage.name!r}: {', '.join(missing)} is not finite on the first training rows")


def _require_rows(stage: Stage, rows: int, what: str) -> None:
    for learner in stage.learners:
        for name, _, term in learner.named_terms():
            least = cast(Term, term).needs.least_rows
            if rows < least:
                raise ConfigError(
                    f"term {name!r} of stage {stage.name!r} compares the rows of a batch: it needs {least}, "
                    f"a {what} has {rows}"
                )
