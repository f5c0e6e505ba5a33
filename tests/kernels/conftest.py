"""Without a GPU, Triton kernels run in Triton's interpreter, which is chosen before a kernel is decorated.

The interpreter is several times slower where lines are counted, and that a line of a kernel ran says little: each
kernel has a mutant that the checks must see (`test_mutations.py`). So no lines are counted in these tests.
"""

import os
from pathlib import Path

import torch

INTERPRETED = {
    "test_column_tiles",
    "test_contrastive_kernels",
    "test_fused_spatial",
    "test_gram_kernels",
    "test_learned_and_standard",
    "test_long_rows",
    "test_mutations",
    "test_on_gpu",
    "test_row_kernels",
    "test_traffic",
}

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent == Path(__file__).parent and item.path.stem in INTERPRETED:
            item.add_marker("no_cover")
