"""One process of two that distil with the teacher's weights shared out: `sharded_child.py FOLDER...`.

Writes the student, and what this process held of the teacher while it trained.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from edgekd.distill import run as run_module
from edgekd.distill.group import Group, launched
from edgekd.distill.jobs import load_job
from tests.distill.conftest import quadrants


def main(folders):
    torch.set_num_threads(1)
    group = Group(launched())
    held = []
    whole = run_module.run_stage

    def watched(stage, session, context, history):
        whole(stage, session, context, history)
        parameters = list(session.nets["teacher"].parameters())
        local = [one.to_local() if isinstance(one, DTensor) else one for one in parameters]
        held.append([sum(one.numel() for one in local), sum(one.numel() for one in parameters)])

    run_module.run_stage = watched
    for folder in map(Path, folders):
        held.clear()
        with group.connected("cpu"):
            outcome = load_job(folder).run(quadrants())
        path = folder / f"student-rank{group.ranks.index}.safetensors"
        save_file({name: value.clone() for name, value in outcome.student.state_dict().items()}, path)
        (folder / f"held-rank{group.ranks.index}.json").write_text(json.dumps(held))


if __name__ == "__main__":
    main(sys.argv[1:])
