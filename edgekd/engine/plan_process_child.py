"""The far side of `plan_process`: what every build process does around its backend's `build_plan`."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from edgekd.core.errors import BuildError
from edgekd.engine.plan_job import BUILT, REFUSED, PlanJob, job_from_arguments, progress_line
from edgekd.engine.plan_network import BuilderLog, BuildRefused, Progress

BuildPlan = Callable[[ModuleType, PlanJob, BuilderLog, Progress], tuple[bytes, dict[str, Any]]]


def run_build_process(module: str, build_plan: BuildPlan, arguments: Sequence[str]) -> int:
    """Do one job and write its plan and report.

    Args:
        module: Name of the builder's Python module.
        build_plan: Builds with that module.
        arguments: What `PlanJob.arguments` wrote.

    Returns:
        Exit status: 0 built, 1 refused (the report says why). Anything else died on the way.
    """
    job = job_from_arguments(arguments)
    try:
        plan, facts = build_plan(importlib.import_module(module), job, BuilderLog(), _say)
    except BuildRefused as refused:
        return _refuse(job, refused.errors)
    except BuildError as error:
        return _refuse(job, [str(error)])
    job.plan.write_bytes(plan)
    job.report.write_text(json.dumps({"status": BUILT, **facts}), encoding="utf-8")
    return 0


def _say(phase: str, done: int, total: int) -> None:
    print(progress_line(phase, done, total), flush=True)  # noqa: T201 - read by the parent process


def _refuse(job: PlanJob, errors: Sequence[str]) -> int:
    job.report.write_text(json.dumps({"status": REFUSED, "errors": list(errors)}), encoding="utf-8")
    return 1
