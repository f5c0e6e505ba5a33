"""What is asked of boards, and how patient to be with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekd.core.errors import ConfigError
from edgekd.engine.backend import level_problems
from edgekd.engine.portability import TIED, Portability

if TYPE_CHECKING:
    from edgekd.targets import Target

_MOST_DLA_CORES = 8


@dataclass(frozen=True)
class BoardOptions:
    """What to build and how long to measure it.

    Attributes:
        target: What every board must be; None takes each as it is.
        batch: Batch the engine is optimised for and measured at.
        max_batch: Largest batch of an engine from a model with dynamic batch; 0 means `batch`.
        workspace_mb: Limit of the builder's scratch memory in MiB; 0 leaves its own.
        build_timeout_s: Seconds after which a build is stopped.
        measure_timeout_s: Seconds after which a measurement is stopped.
        warm_up_ms: Inferences before the first that counts.
        duration_s: Length of the timed run.
        profile_s: Length of the run with layer times.
        optimization_level: How long the builder looks for fast kernels, 0 to 5; None leaves its own.
        portability: Which other TensorRTs and GPUs the engine may run on.
        dla_core: Deep-learning accelerator that runs what it can; None runs all on the GPU.
        gpu_fallback: Whether the GPU takes what the DLA cannot; otherwise such a network is refused.
    """

    target: Target | None = None
    batch: int = 1
    max_batch: int = 0
    workspace_mb: int = 0
    build_timeout_s: float = 3600.0
    measure_timeout_s: float = 900.0
    warm_up_ms: int = 2000
    duration_s: int = 10
    profile_s: int = 3
    optimization_level: int | None = None
    portability: Portability = TIED
    dla_core: int | None = None
    gpu_fallback: bool = True

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {getattr(self, name)}, it must be positive"
            for name in ("batch", "build_timeout_s", "measure_timeout_s", "duration_s", "profile_s")
            if not getattr(self, name) > 0
        ]
        if self.max_batch and self.max_batch < self.batch:
            problems.append(f"max_batch is {self.max_batch}, less than batch {self.batch}")
        if self.dla_core is not None and not 0 <= self.dla_core < _MOST_DLA_CORES:
            problems.append(f"dla_core is {self.dla_core}, it goes from 0 to {_MOST_DLA_CORES - 1}")
        if self.dla_core is None and not self.gpu_fallback:
            problems.append("without a DLA core there is nothing to fall back from")
        if self.dla_core is not None and self.largest_batch != self.batch:
            problems.append(f"a DLA takes one batch size: batch is {self.batch}, max_batch {self.max_batch}")
        problems += level_problems(self.optimization_level)
        if self.workspace_mb < 0 or self.warm_up_ms < 0:
            problems.append("workspace_mb and warm_up_ms must not be negative")
        if problems:
            raise ConfigError("board options: " + "; ".join(problems))

    @property
    def largest_batch(self) -> int:
        """Largest batch the engine must take."""
        return self.max_batch or self.batch

    @property
    def smallest_batch(self) -> int:
        """Smallest batch the engine must take where the model leaves it open; a DLA takes one size only."""
        return 1 if self.dla_core is None else self.batch


@dataclass(frozen=True)
class Patience:
    """How long a board that stopped answering is waited for.

    Attributes:
        give_up_s: Seconds without any answer after which it is given up; its job goes on.
        first_wait_s: Pause before the first new try; doubled each time.
        longest_wait_s: Longest pause.
        poll_s: Seconds between two looks at the log of a running build.
        quiet_s: The same while it is measured, which looks disturb.
        restarts: Times a job is started again after the board was restarted.
    """

    give_up_s: float = 900.0
    first_wait_s: float = 1.0
    longest_wait_s: float = 30.0
    poll_s: float = 5.0
    quiet_s: float = 30.0
    restarts: int = 2
