"""One process of several that train the jobs of some folders together: `ranked_child.py FOLDER...`."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from edgekd.distill.group import joined, launched
from edgekd.distill.jobs import load_job
from edgekd.distill.terms import TERMS
from tests.distill.conftest import quadrants


def main(folders):
    torch.set_num_threads(1)
    ranks = launched()
    with joined(ranks, device="cpu"):
        for folder in map(Path, folders):
            if (folder / "forget-claims").exists():
                for name in TERMS:
                    TERMS[name].row_claim = "apart"
            outcome = load_job(folder).run(quadrants())
            path = folder / f"student-rank{ranks.index}.safetensors"
            save_file({name: value.clone() for name, value in outcome.student.state_dict().items()}, path)
            (folder / f"losses-rank{ranks.index}").write_text(" ".join(str(epoch.loss) for epoch in outcome.history))


if __name__ == "__main__":
    main(sys.argv[1:])
