"""Networks with fewer channels than the one they were cut from, rebuilt from their spec: no pickle, no pruning library.

A pruned network is its original with smaller tensors. Its spec therefore holds the spec of the original and the shape
of every tensor that differs, and its weights are a safetensors file like any other.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from edgekd.core.artifacts import NetSpec, from_json, to_json
from edgekd.core.digest import canonical_json
from edgekd.core.errors import ConfigError, StorageError

PRUNED = "pruned"
"""Family of such networks."""

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes by name in the state dict."""


def pruned_spec(original: NetSpec, shapes: Shapes, *, label: str) -> NetSpec:
    """Describe a pruned network.

    Args:
        original: What it was cut from.
        shapes: Its tensors that have another shape than the original's.
        label: What tells it from others of the same original, for people.
    """
    options = {
        "model": f"{original.name}-{label}",
        "original": canonical_json(to_json(original)).decode(),
        "shapes": canonical_json({name: list(shape) for name, shape in shapes.items()}).decode(),
    }
    return NetSpec(
        family=PRUNED,
        depth=original.depth,
        width=original.width,
        resolution=original.resolution,
        in_channels=original.in_channels,
        num_classes=original.num_classes,
        mean=original.mean,
        std=original.std,
        options=options,
        vocabulary=original.vocabulary,
    )


def original_of(spec: NetSpec) -> NetSpec:
    """Return the spec of the network that a pruned one was cut from; any other spec is its own original.

    Raises:
        StorageError: The spec is damaged.
    """
    if spec.family != PRUNED:
        return spec
    try:
        return from_json(NetSpec, json.loads(spec.options["original"]))
    except (KeyError, ValueError, StorageError) as error:
        raise StorageError(f"the spec of {spec.name} does not say what it was cut from: {error}") from error


def shapes_of(spec: NetSpec) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a pruned network that are smaller than its original's, by name.

    Raises:
        StorageError: The spec is damaged.
    """
    try:
        return {name: tuple(map(int, shape)) for name, shape in json.loads(spec.options["shapes"]).items()}
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise StorageError(f"the spec of {spec.name} does not say what was cut: {error}") from error


def rebuilt(spec: NetSpec, build: Callable[[NetSpec], nn.Module]) -> nn.Module:
    """Make a pruned network with the weights of its original cut at the end: its own are to be loaded.

    Args:
        spec: What `pruned_spec` returned.
        build: Makes the original.

    Raises:
        StorageError: The spec is damaged.
        ConfigError: The original has changed and its tensors do not fit any more.
    """
    return reshaped(build(original_of(spec)), shapes_of(spec), name=spec.name)


def changed_shapes(net: nn.Module, cut: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a cut network whose shape differs from the original's, by name."""
    before = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    after = {name: tuple(value.shape) for name, value in cut.state_dict().items()}
    return {name: shape for name, shape in after.items() if before.get(name) != shape}


@torch.no_grad()
def reshaped(net: nn.Module, shapes: Shapes, *, name: str) -> nn.Module:
    """Cut tensors of a network to shapes, in a copy, and let its layers know.

    Args:
        net: The original.
        shapes: Shapes by name of tensor; none may be larger than the original's.
        name: Of the network, for messages.

    Raises:
        ConfigError: The original has no such tensor, or a smaller one.
    """
    net = copy.deepcopy(net)
    for tensor_name, shape in shapes.items():
        path, _, own = tensor_name.rpartition(".")
        try:
            owner = net.get_submodule(path)
            old: Tensor = getattr(owner, own)
        except AttributeError as error:
            raise ConfigError(f"{name} cannot be rebuilt: its original has no {tensor_name} any more") from error
        is_fitting = old.dim() == len(shape) and all(0 < new <= was for new, was in zip(shape, old.shape, strict=True))
        if not is_fitting:
            raise ConfigError(
                f"{name} cannot be rebuilt: {tensor_name} of its original is {list(old.shape)}, {list(shape)} is wanted"
            )
        cut = old[tuple(slice(size) for size in shape)].clone()
        setattr(owner, own, nn.Parameter(cut, old.requires_grad) if isinstance(old, nn.Parameter) else cut)
        if own == "weight":
            _tell(owner)
    return net


def _tell(layer: nn.Module) -> None:
    """Set what a layer keeps about the shape of its weight."""
    weight = layer.weight
    if not isinstance(weight, Tensor):
        return
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = weight.shape
    elif isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        layer.in_channels, layer.out_channels = weight.shape[0], weight.shape[1] * layer.groups
    elif isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        if 1 < layer.groups == layer.in_channels:
            layer.groups = weight.shape[0] * layer.in_channels // layer.out_channels
        layer.out_channels, layer.in_channels = weight.shape[0], weight.shape[1] * layer.groups
    elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        layer.num_features = weight.shape[0]
    elif isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = tuple(weight.shape)
    elif isinstance(layer, nn.GroupNorm):
        layer.num_channels = weight.shape[0]
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = weight.shape[0]
    elif isinstance(layer, nn.Embedding):
        layer.num_embeddings, layer.embedding_dim = weight.shape
