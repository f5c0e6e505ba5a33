"""Networks that never train, shared out among processes: each holds its part of every weight.

For the pass of a layer its weights are gathered, and dropped behind it, so that a teacher may be larger than one GPU
holds beside a student. The numbers are those of whole weights.

Reference: Zhao et al. 2023, PyTorch FSDP, arXiv 2304.11277; here by `torch.distributed.fsdp.fully_shard`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from edgekd.distill.net import TracedNet
from edgekd.distill.ranks import Ranks
from edgekd.distill.recipe import Recipe
from edgekd.distill.session import Session
from edgekd.models import zeros_for

_PIECES = 16


def never_trained(recipe: Recipe, session: Session) -> tuple[str, ...]:
    """Return the roles whose networks no stage of a recipe trains."""
    trained = {learner.learner for stage in recipe.stages for learner in stage.learners}
    return tuple(role for role in session.nets if role not in trained)


def share_out(nets: Iterable[TracedNet], input_shape: tuple[int, ...], ranks: Ranks, device: str) -> None:
    """Leave in this process its part of the weights of some networks.

    Args:
        nets: Networks that never train; all processes hold the same weights.
        input_shape: `(C, H, W)` of the data, or `(L,)` of tokens.
        ranks: This process among all.
        device: Type of device that they lie on.
    """
    mesh = init_device_mesh(device, (ranks.of,))
    for net in nets:
        net.freeze()
        for module in _pieces(net.backbone):
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
        # The first pass makes room for gathered weights, which must not happen in inference mode.
        with torch.no_grad():
            net(zeros_for(net, input_shape, batch=2))


def _pieces(net: nn.Module) -> list[nn.Module]:
    """Return the modules to gather one after the other, inner ones first, the whole last.

    A module is one when what it holds outside of the pieces inside it is a sixteenth of all weights.
    """
    least = sum(parameter.numel() for parameter in net.parameters()) / _PIECES
    found: list[nn.Module] = []

    def left(module: nn.Module) -> int:
        own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        own += sum(left(child) for child in module.children())
        if own < least or isinstance(module, nn.ModuleList | nn.ModuleDict):
            return own
        found.append(module)
        return 0

    if left(net):
        found.append(net)
    return found
