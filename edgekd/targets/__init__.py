"""Device facts as data files: peaks, clocks, bandwidth, power modes, software lines, where each comes from."""

from edgekd.targets.catalogue import (
    aliases,
    boards_folder,
    describe,
    get_target,
    load_target,
    own_boards,
    target_names,
)
from edgekd.targets.jetpack import JetPackLine, jetpack_lines, jetpack_of_l4t
from edgekd.targets.power_modes import in_power_mode
from edgekd.targets.sources import cited
from edgekd.targets.target import PowerMode, Target

__all__ = [
    "JetPackLine",
    "PowerMode",
    "Target",
    "aliases",
    "boards_folder",
    "cited",
    "describe",
    "get_target",
    "in_power_mode",
    "jetpack_lines",
    "jetpack_of_l4t",
    "load_target",
    "own_boards",
    "target_names",
]
