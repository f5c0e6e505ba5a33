"""What a search found, as one plain document."""

from __future__ import annotations

import shlex
from collections import Counter
from typing import Any

from edgekd.core.budget import parse_budget
from edgekd.pipeline.choosing import JUDGED
from edgekd.pipeline.config import CONFIG_FILE, RunConfig
from edgekd.pipeline.searching import SearchResult
from edgekd.search import SpaceProfile, shown


def document_of(config: RunConfig, result: SearchResult) -> dict[str, Any]:
    """Return the document of `edgekd search --json`.

    Args:
        config: What was asked.
        result: What was found.
    """
    finals = result.finals
    clauses = parse_budget(config.budget).clauses if config.budget else ()
    return {
        "target": config.target,
        "budget": config.budget,
        "clauses": [{"metric": one.metric, "limit": one.limit, "unit": one.unit} for one in clauses],
        "study": config.search.name,
        "storage": shown(result.storage),
        "teacher": {"net": result.teacher.spec.name, "weights": result.teacher.weights.path},
        "statement": result.profile.statement(),
        "profile": profile_rows(result.profile),
        "finalists": [
            {
                "file": str(one.file),
                "trial": one.record.number,
                "score": one.record.score,
                "epochs": one.record.epochs,
                "cost": one.cost.document(),
            }
            for one in finals.finalists
        ],
        "refused": [
            {
                "name": one.cost.name,
                "trial": one.record.number,
                "score": one.record.score,
                "reason": one.reason,
                "cost": one.cost.document(),
            }
            for one in finals.refused
        ],
        "front": list(finals.front),
        "states": dict(Counter(record.state for record in result.records)),
        "trials": [record.document() for record in result.records],
        "measured_on": config.search.device or ("cpu" if finals.gauge is not None else None),
        "learnt": None if finals.gauge is None else finals.gauge.document(),
        "next": _next(config, result),
    }


def profile_rows(profile: SpaceProfile) -> list[dict[str, Any]]:
    """Return the rows of a space's profile as plain data."""
    return [row.document() for row in profile.rows]


def _next(config: RunConfig, result: SearchResult) -> str:
    """Return the command that distils the best student: the search's settings, what it judges of the budget."""
    words = ["edgekd", "distill", str(result.folder / CONFIG_FILE), "--student", str(result.finals.finalists[0].file)]
    words += ["--teacher-weights", result.teacher.weights.path]
    budget = parse_budget(config.budget) if config.budget else None
    judged = None if budget is None else budget.only(JUDGED)
    if judged != budget:
        words += ["--budget", str(judged)] if judged is not None and judged.clauses else ["--set", "budget=null"]
    return shlex.join(words)
