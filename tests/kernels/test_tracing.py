"""Losses whose tensors' sizes are not known while they are traced."""

import pytest
import torch
from edgekd_kernels import functional as K

PAIRS = {
    "attention_transfer": lambda size: (torch.randn(size, 3, 2 * size, size), torch.randn(size, 2, size, size)),
    "similarity_preserving": lambda size: (
        torch.randn(size, 3, size, 2).to(memory_format=torch.channels_last),
        torch.randn(size, size + 1),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_one_graph_without_breaks_serves_all_sizes(name):
    torch._dynamo.reset()
    loss = getattr(K, name)
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="eager")
    for size in (3, 4):
        student, teacher = PAIRS[name](size)
        leaves = [student.clone().requires_grad_() for _ in range(2)]
        results = [run(leaf, teacher) for run, leaf in zip((compiled, loss), leaves, strict=True)]
        torch.testing.assert_close(*results)
        torch.testing.assert_close(*torch.autograd.grad([values.sum() for values in results], leaves))
