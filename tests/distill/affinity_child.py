"""One process of two that writes down which CPUs its threads may use, and how many it computes with: `... FOLDER`."""

import json
import os
import sys
import threading
from pathlib import Path

import torch

from edgekd.distill.group import Group, launched


def main(folder):
    group = Group(launched())
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    before = seen(thread)
    with group.connected("cpu"):
        within = seen(thread)
    after = seen(thread)
    ended.set()
    (folder / f"rank{group.ranks.index}.json").write_text(json.dumps([before, within, after]))


def seen(thread):
    mine, other = (sorted(os.sched_getaffinity(number)) for number in (0, thread.native_id))
    return {"mine": mine, "other": other, "threads": torch.get_num_threads()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
