"""What recipes can be trained by several processes, or on batches in parts.

A term, weigher or view says in `row_claim` how it treats the rows of a batch: `"apart"`, each by itself, so that any
part of a batch gives the values of these rows in the whole; or `"together"`, so that several processes have to gather
what it reads, which they do. What claims nothing is trained by one process only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from edgekd.core.errors import ConfigError
from edgekd.distill.recipe import Recipe
from edgekd.distill.requirements import parts_of
from edgekd.distill.specs import ActionSpec, StageSpec

RowClaim = Literal["apart", "together"]


def claim_of(part: object) -> RowClaim | None:
    """Return what a registered part, or one built from it, claims."""
    claim: RowClaim | None = getattr(part, "row_claim", None)
    return claim


def divides(stage: StageSpec) -> bool:
    """Whether a stage's batches can be worked through in parts: a policy decides once for a whole batch."""
    return not any(isinstance(term.weight, ActionSpec) for learner in stage.learners for term in learner.terms)


def single_process_reasons(recipe: Recipe) -> tuple[str, ...]:
    """Return why a recipe cannot be trained by several processes; nothing where it can."""
    return tuple(dict.fromkeys(_reasons(recipe)))


def require_claims(recipe: Recipe, *, processes: int, accumulate: int) -> None:
    """Refuse several processes, or batches in parts, where a recipe does not claim to be the same then.

    Raises:
        ConfigError: It does not; the message says which part and why.
    """
    reasons = single_process_reasons(recipe)
    if processes > 1 and reasons:
        raise ConfigError(
            f"recipe {recipe.name!r} is trained by one process only: {'; '.join(reasons)}. Leave --num-processes at 1"
        )
    if accumulate > 1 and not all(divides(stage) for stage in recipe.stages):
        raise ConfigError(
            f"recipe {recipe.name!r} has a policy, which decides once for a whole batch: set train.accumulate=1"
        )


def _reasons(recipe: Recipe) -> Iterator[str]:
    for name, policy in recipe.policies.items():
        yield f"policy {name!r} ({policy.type}) decides and learns from all rows of a batch, and is not shared"
    for registry, kind in parts_of(recipe):
        if registry.kind not in ("loss term", "weigher", "view"):
            continue
        part = registry[kind]
        claim = claim_of(part)
        if registry.kind == "view" and claim == "together":
            yield f"view {kind!r} makes rows of other rows of the batch, which lie in other processes"
        elif claim is None:
            reason = getattr(part, "single_process", "it does not say how it treats the rows of other processes")
            yield f"{registry.kind} {kind!r}: {reason}"
