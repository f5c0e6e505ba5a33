"""One process of two that are together for nothing: the first lets the other go at once, which is slow to hear it."""

import sys
import time
from pathlib import Path

from edgekd.distill.group import Group, launched


class Slow:
    """A store that takes its time to answer."""

    def __init__(self, store):
        self.store = store

    def __getattr__(self, name):
        return getattr(self.store, name)

    def get(self, key):
        time.sleep(2)
        return self.store.get(key)


def main(folder):
    group = Group(launched())
    if group.ranks.is_main:
        group.dismiss()
    else:
        group._store = Slow(group._store)
        group.follow(None)
    (folder / f"left{group.ranks.index}").touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
