"""Device facts as data files: peaks, clocks, bandwidth, power modes, software lines, where each comes from."""

from edgekd.targets.catalogue import aliases, describe, get_target, load_target, target_names
from edgekd.targets.target import PowerMode, Target

__all__ = ["PowerMode", "Target", "aliases", "describe", "get_target", "load_target", "target_names"]
