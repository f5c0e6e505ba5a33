"""Engines built and measured on boards over SSH: checked before, resumed after a drop, fetched whole.

Not run on a Jetson yet; proved against a real SSH server with stand-ins for NVIDIA's programs.
"""

from edgekd.boards.build import BoardResult, build_on_boards
from edgekd.boards.options import BoardOptions, Patience

__all__ = ["BoardOptions", "BoardResult", "Patience", "build_on_boards"]
