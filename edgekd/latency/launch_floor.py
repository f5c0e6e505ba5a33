"""The least time any network can take on a device, so that an impossible budget is refused before work begins."""

from __future__ import annotations

import math

from edgekd.core.budget import Budget
from edgekd.core.errors import BudgetExceeded
from edgekd.latency.parameters import fp16_hardware, parameters_for
from edgekd.targets import Target


def launch_floor_ms(target: Target, kernels: int = 1) -> float:
    """Return what launching takes, before anything is computed.

    Args:
        target: A device that can be predicted.
        kernels: How many kernels are launched.

    Returns:
        Predicted median in milliseconds.

    Raises:
        TargetError: As for `predict`.
    """
    chosen = parameters_for(target)
    offset = math.exp(chosen.parameters.device_offsets_log.get(target.device, 0.0))
    floor_s = kernels * chosen.kernel.floor_cycles / fp16_hardware(target).clock_hz
    return 1e3 * offset * (chosen.kernel.constant_us * 1e-6 + floor_s)


def require_above_launch_floor(budget: Budget, target: Target) -> None:
    """Refuse a budget that not even a network of one kernel can keep.

    Args:
        budget: What was asked for.
        target: The device; nothing is said of this machine's CPU.

    Raises:
        BudgetExceeded: Names the clause and the floor.
        TargetError: As for `predict`.
    """
    if target.kind == "cpu" or not budget.limits:
        return
    floor_ms = launch_floor_ms(target)
    for clause in budget.limits:
        if clause.limit <= floor_ms:
            raise BudgetExceeded(
                f"budget {clause} is below the launch floor of {target.name}: launching one kernel takes "
                f"{floor_ms:.3g} ms there (predicted, not measured), each further one "
                f"{launch_floor_ms(target, 2) - floor_ms:.2g} ms"
            )
