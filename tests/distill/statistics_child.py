"""One process of two that normalise a batch together: `statistics_child.py FOLDER`, where the cases are."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from edgekd.distill.group import Group, launched
from edgekd.distill.ranks import summed
from edgekd.distill.shared_statistics import shared_batch_norm

NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def main(folder):
    torch.set_num_threads(1)
    group = Group(launched())
    with group.connected("cpu"):
        for name, case in json.loads((folder / "cases.json").read_text()).items():
            given = load_file(folder / f"{name}.safetensors")
            found = normalised(case, given, group.ranks)
            save_file(found, folder / f"{name}-rank{group.ranks.index}.safetensors")


def normalised(case, given, ranks):
    """Normalise this process's rows and go back, once and twice; returns all there is to compare."""
    inputs, slopes = (given[name].chunk(ranks.of)[ranks.index].clone() for name in ("inputs", "slopes"))
    if case["layout"] == "last":
        inputs, slopes = (part.contiguous(memory_format=torch.channels_last) for part in (inputs, slopes))
    inputs.requires_grad_()
    slopes.requires_grad_()
    norm = NORMS[inputs.dim()](inputs.shape[1], affine=case["affine"], momentum=case["momentum"])
    norm.to(torch.float64 if inputs.dtype is torch.float64 else torch.float32)
    if case["affine"]:
        norm.load_state_dict({name: given[name] for name in ("weight", "bias")}, strict=False)
    outputs = shared_batch_norm(norm, inputs, own=norm.forward, processes=ranks.of)
    learned = [inputs, *norm.parameters()]
    first = torch.autograd.grad(outputs, learned, slopes.detach(), retain_graph=True)
    again = torch.autograd.grad(outputs, learned, slopes, create_graph=True)
    # Squares of gradients of the whole batch: those of inputs are apart, those of weights add up over processes.
    penalty = again[0].square().sum()
    if case["affine"]:
        penalty = penalty + summed(again[1]).square().sum() / ranks.of
    second = torch.autograd.grad(penalty, [inputs, slopes, *list(norm.parameters())[:1]])
    named = {"outputs": outputs, "variance": norm.running_var, "mean": norm.running_mean}
    named |= dict(zip(["of_inputs", "of_weight", "of_bias"], first, strict=False))
    named |= dict(zip(["again_of_inputs", "again_of_weight", "again_of_bias"], again, strict=False))
    named |= dict(zip(["twice_of_inputs", "twice_of_slopes", "twice_of_weight"], second, strict=False))
    return {name: value.detach().contiguous() for name, value in named.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
