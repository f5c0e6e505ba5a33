"""One process of several that train the jobs of some folders together: `ranked_child.py FOLDER...`."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from edgekd.distill.group import Group, launched
from edgekd.distill.jobs import load_job
from edgekd.distill.terms import TERMS
from tests.distill.conftest import partly_labelled, quadrants


def main(folders):
    torch.set_num_threads(1)
    group = Group(launched())
    for folder in map(Path, folders):
        if (folder / "forget-claims").exists():
            for name in TERMS:
                TERMS[name].row_claim = "apart"
        with group.connected("cpu"):
            dataset = quadrants()
            if (folder / "partly-labelled").exists():
                dataset = partly_labelled(dataset, slice(0, 60))
            outcome = load_job(folder).run(dataset)
        path = folder / f"student-rank{group.ranks.index}.safetensors"
        save_file({name: value.clone() for name, value in outcome.student.state_dict().items()}, path)
        losses = " ".join(str(epoch.loss) for epoch in outcome.history)
        (folder / f"losses-rank{group.ranks.index}").write_text(losses)


if __name__ == "__main__":
    main(sys.argv[1:])
