"""The last few states of a run on disk: the newest one at its path, those before it beside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.core.atomic import fsync_folder
from edgekd.core.errors import StorageError
from edgekd.distill.tree_file import load_tree, save_tree


@dataclass(frozen=True)
class StateFiles:
    """The states of one run.

    Attributes:
        path: File of the newest.
        keep: How many to keep.
    """

    path: Path
    keep: int = 1

    def write(self, tree: Any) -> None:
        """Keep a state. However the process ends, the newest or the one before it can be read.

        Raises:
            StorageError: It could not be written; those before it are as they were.
        """
        written = self._beside("next")
        save_tree(written, tree)
        try:
            for age in range(self.keep - 1, 0, -1):
                if self._aged(age - 1).exists():
                    os.replace(self._aged(age - 1), self._aged(age))
            os.replace(written, self.path)
            fsync_folder(self.path.parent)
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {error.strerror or error}") from error

    def newest(self, note: Callable[[str], None]) -> Any | None:
        """Return the newest state that can be read, or None where there is none.

        Args:
            note: Told of damaged ones.

        Raises:
            StorageError: There are states and none can be read.
        """
        damage: StorageError | None = None
        for path in self._existing():
            try:
                tree = load_tree(path)
            except StorageError as error:
                damage = error
                continue
            if damage is not None:
                note(f"{damage}; going on from the state before it, {path}")
            return tree
        if damage is not None:
            raise damage
        return None

    @property
    def last_good(self) -> Path | None:
        """The newest file there is."""
        return next(self._existing(), None)

    def remove(self) -> None:
        """Remove all of them."""
        for path in (*self._existing(), self._beside("next")):
            path.unlink(missing_ok=True)

    def _existing(self) -> Iterator[Path]:
        ages = sorted(self.path.parent.glob(f"{self.path.stem}.before-*{self.path.suffix}"))
        return (path for path in (self.path, *ages) if path.exists())

    def _aged(self, age: int) -> Path:
        return self.path if age == 0 else self._beside(f"before-{age}")

    def _beside(self, word: str) -> Path:
        return self.path.with_name(f"{self.path.stem}.{word}{self.path.suffix}")
