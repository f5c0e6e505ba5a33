"""What recipes can be trained where pictures have no label.

A part that requires labels says with `leaves_out_unlabelled = True` that rows without one count nothing in it.
"""

from __future__ import annotations

from edgekd.core.errors import ConfigError
from edgekd.data import Split
from edgekd.distill.recipe import Recipe
from edgekd.distill.requirements import label_readers
from edgekd.distill.stage import Stage


def require_labels(recipe: Recipe, train: Split) -> None:
    """Refuse training pictures without labels where a recipe reads those that are not there.

    Raises:
        ConfigError: It does; the message says which part reads them.
    """
    has_label = train.has_label
    if has_label.all():
        return
    reading = tuple(dict.fromkeys(label_readers(recipe)))
    if reading and not has_label.any():
        raise ConfigError(
            f"recipe {recipe.name!r} reads labels ({', '.join(reading)}) and no training picture has one: take a "
            "recipe of your own without these, a teacher that was trained before (--teacher-weights FILE), and "
            "compare_alone=false"
        )
    for reader in label_readers(recipe, but="leaves_out_unlabelled"):
        raise ConfigError(
            f"{reader} of recipe {recipe.name!r} reads the label of every picture, and {int((~has_label).sum())} "
            "training pictures have none: leave data.unlabelled out, or take another recipe"
        )


def count_together(stage: Stage, train: Split) -> None:
    """Have terms that average over labelled rows count those of all processes, where some rows have no label."""
    if train.has_label.all():
        return
    for learner in stage.learners:
        for term in learner.terms:
            if getattr(term, "leaves_out_unlabelled", False):
                setattr(term, "row_claim", "together")  # noqa: B010 (not a tensor of the module)
