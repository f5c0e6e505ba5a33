"""Where a user's own boards and fits are kept: `EDGEKD_CACHE`, or `~/.config/edgekd` where it is not set."""

from __future__ import annotations

import os
from pathlib import Path


def user_folder() -> Path:
    """Return the folder; it need not exist."""
    chosen = os.environ.get("EDGEKD_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".config" / "edgekd"
