"""What a configuration asks for, checked before a run, or the estimate of one, touches data or networks."""

from __future__ import annotations

from dataclasses import dataclass

from edgekd.core.budget import Budget, parse_budget
from edgekd.distill import Recipe, load_recipe
from edgekd.distill.claims import require_claims
from edgekd.latency import require_above_launch_floor
from edgekd.pipeline.choosing import JUDGED
from edgekd.pipeline.config import RunConfig
from edgekd.pipeline.timing import timed_precisions
from edgekd.targets import Target, get_target


@dataclass(frozen=True)
class Asked:
    """The device, its limits and the method that a configuration names.

    Attributes:
        target: Device the student is for.
        budget: Its limits, or None.
        recipe: The method.
    """

    target: Target
    budget: Budget | None
    recipe: Recipe


def asked_of(config: RunConfig, *, processes: int = 1) -> Asked:
    """Read what a configuration names, and refuse what no run could keep or do.

    Args:
        config: What to do.
        processes: How many train together.

    Raises:
        ConfigError: A target, the budget or the recipe is none, a clause cannot be known or kept on the target, or the
            recipe cannot be trained in parts or by several processes.
        TargetError: Nothing can be timed or predicted for the target.
    """
    target, budget = get_target(config.target), parse_budget(config.budget) if config.budget is not None else None
    if budget is not None:
        budget.require_known(JUDGED, target.name)
        require_above_launch_floor(budget, target)
    for name in config.also_build:
        get_target(name)
    recipe = load_recipe(config.method)
    require_claims(recipe, processes=processes, accumulate=config.train.accumulate)
    timed_precisions(target)
    return Asked(target, budget, recipe)
