"""One root seed, and independent seeds derived from it by name, so that adding a consumer shifts no other."""

from __future__ import annotations

import hashlib


def derive_seed(root: int, *names: str | int) -> int:
    """Return a 63-bit seed that depends on the root and on every name.

    Args:
        root: The run's seed.
        names: What the seed is for (`"augment", epoch, step`).

    Returns:
        An integer in `[0, 2**63)`, equal on every machine.
    """
    text = "/".join([str(root), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
