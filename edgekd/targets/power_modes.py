"""A device in another power mode: peaks scale with SMs and GPU clock, memory bandwidth with the memory clock."""

from __future__ import annotations

import dataclasses

from edgekd.core.errors import TargetError, unknown_name
from edgekd.targets.target import PowerMode, Target


def in_power_mode(target: Target, name: str) -> Target:
    """Return a target as it is in one of its power modes.

    Args:
        target: The device in the mode its figures belong to.
        name: Name of the mode as `nvpmodel` prints it, in any case; numbers are not taken, since they differ between
            releases.

    Returns:
        The target, its name ending in `@` and the mode's. Where the mode's memory clock is not known, the bandwidth
        stays as it is and a note says so.

    Raises:
        ConfigError: It has no such mode; the message lists them.
        TargetError: The GPU clock of the mode is not known, so nothing can be said about it.
    """
    mode = next((mode for mode in target.power_modes if mode.name.lower() == name.lower()), None)
    if mode is None:
        if name.lower() == target.power_mode.lower():
            return dataclasses.replace(target, name=f"{target.name}@{target.power_mode}")
        known = [mode.name for mode in target.power_modes] or [target.power_mode]
        raise unknown_name(f"power mode of {target.name}", name, known)
    renamed = dataclasses.replace(target, name=f"{target.name}@{mode.name}")
    return renamed if mode.name == target.power_mode else _scaled(renamed, mode)


def _scaled(target: Target, mode: PowerMode) -> Target:
    if mode.clock_mhz is None or target.clock_mhz is None or target.sms is None:
        raise TargetError(
            f"the GPU clock of {target.device} in power mode {mode.name} is not known: read /etc/nvpmodel.conf on the "
            f"board (edgekd targets add my-board --like {target.device} --nvpmodel-conf FILE --power-mode {mode.name})"
        )
    sms = mode.sms or target.sms
    share = mode.clock_mhz * sms / (target.clock_mhz * target.sms)
    is_memory_known = mode.emc_mhz is not None and target.emc_mhz is not None and target.bandwidth_gb_s is not None
    bandwidth = target.bandwidth_gb_s
    notes = target.notes
    if mode.emc_mhz is not None and target.emc_mhz is not None and target.bandwidth_gb_s is not None:
        bandwidth = target.bandwidth_gb_s * mode.emc_mhz / target.emc_mhz
    else:
        notes = (*notes, f"The memory clock in {mode.name} is not known: bandwidth is that of {target.power_mode}.")
    status = f"D from power mode {mode.name} ({mode.status})"
    changed = {"clock_mhz", "sms", *(f"peaks_tflops.{precision}" for precision in target.peaks_tflops)}
    changed |= {"bandwidth_gb_s", "emc_mhz"} if is_memory_known else set()
    return dataclasses.replace(
        target,
        power_mode=mode.name,
        clock_mhz=mode.clock_mhz,
        sms=sms,
        cuda_cores=None if target.cuda_cores is None else target.cuda_cores * sms // target.sms,
        tensor_cores=None if target.tensor_cores is None else target.tensor_cores * sms // target.sms,
        peaks_tflops={precision: peak * share for precision, peak in target.peaks_tflops.items()},
        bandwidth_gb_s=bandwidth,
        emc_mhz=mode.emc_mhz if is_memory_known else target.emc_mhz,
        notes=notes,
        sources={**target.sources, **dict.fromkeys(sorted(changed), status)},
    )
