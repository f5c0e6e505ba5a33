"""A job for a board as plain data: files by their digests, steps as argument lists. Its digest is its name there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgekd.boards.facts import BoardFacts, Trtexec
from edgekd.boards.options import BoardOptions
from edgekd.boards.program import board_program
from edgekd.boards.trtexec import (
    LAYERS,
    LAYERS_OF_RUN,
    MODEL,
    PLAN,
    PROFILE,
    TIMES,
    TIMING_CACHE,
    build_arguments,
    profile_arguments,
    times_arguments,
)
from edgekd.core.artifacts import OnnxModel
from edgekd.core.digest import canonical_json, sha256_of_bytes


@dataclass(frozen=True)
class BoardJob:
    """What a board is told to do.

    Attributes:
        document: Plain data.
    """

    document: dict[str, Any]

    @property
    def content(self) -> bytes:
        """The bytes of `job.json`."""
        return canonical_json(self.document)

    @property
    def digest(self) -> str:
        """Their SHA-256: the same model, options and board give the same job."""
        return sha256_of_bytes(self.content)


def job_for(model: OnnxModel, facts: BoardFacts, tool: Trtexec, options: BoardOptions) -> BoardJob:
    """Plan the build of a model on a board: the plan, its times, its layer times.

    Args:
        model: What is built.
        facts: The board as found.
        tool: Its trtexec.
        options: How it is built and measured.

    Returns:
        The job. Layer times that fail do not lose the engine and its times.

    Raises:
        TargetError: This trtexec cannot do it.
        ConfigError: The model's input has a name that trtexec cannot be given.
    """
    build = {
        **_step("build", build_arguments(tool, model, options), options.build_timeout_s),
        "status": "building",
        "outputs": [PLAN, LAYERS, TIMING_CACHE],
        "required": [PLAN],
        "timing_cache": facts.timing_key,
    }
    times = {
        **_step("times", times_arguments(tool, model, options), options.measure_timeout_s),
        "outputs": [TIMES],
        "required": [TIMES],
        "is_watched": True,
    }
    profile = {
        **_step("profile", profile_arguments(tool, model, options), options.measure_timeout_s),
        "outputs": [PROFILE, LAYERS_OF_RUN],
        "required": [PROFILE] if "exportProfile" in tool.options else [],
        "is_optional": True,
    }
    return BoardJob(
        {
            "schema_version": 1,
            "program": board_program().sha256,
            "files": [{"name": MODEL, "sha256": model.file.sha256, "size_bytes": model.file.size_bytes}],
            "identity": facts.identity,
            "tegrastats": facts.raw["tegrastats"],
            "steps": [build, times, profile],
        }
    )


def _step(name: str, arguments: list[str], timeout_s: float) -> dict[str, Any]:
    return {
        "name": name,
        "status": "measuring",
        "argv": arguments,
        "timeout_s": timeout_s,
        "is_optional": False,
        "is_watched": False,
    }
