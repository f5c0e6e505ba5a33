"""Networks by reference (zoo, timm, a Python file, a BERT's folder), any trained one back from its artefact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from edgekd.core.artifacts import NetSpec, TrainedModel
from edgekd.core.digest import sha256_of_file
from edgekd.core.errors import ConfigError, StorageError
from edgekd.models.bertfolder import HEAD, read_bert_folder, spec_of_folder
from edgekd.models.evaluation import run_on_zeros
from edgekd.models.networks import build
from edgekd.models.weights import load_tensors, load_weights
from edgekd.models.zoo import parse_net, spec_for

_TIMM_PREFIX, _FOLDER_PREFIX = "timm:", "hf:"
_PROBE_BATCH = 2

Role = Literal["teacher", "student"]


def is_foreign(ref: str) -> bool:
    """Say whether a reference names a network that is not edgekd's: one of timm, or of a Python file."""
    return ref.startswith(_TIMM_PREFIX) or ref.partition(":")[0].endswith(".py")


def load_teacher(
    ref: str,
    *,
    role: Role = "teacher",
    in_channels: int,
    num_classes: int,
    resolution: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    weights: Path | None,
    vocabulary: int = 0,
    is_dense: bool = False,
) -> tuple[NetSpec, nn.Module]:
    """Make a teacher, or a student of the user's own, load its weights, and check that it fits the data set.

    Whatever the origin, the network returned takes inputs in 0..1 and normalises them itself, or takes tokens; the
    user's function or timm supplies a network for normalised inputs.

    Args:
        ref: `resnet56`, `resnet:depth=56,width=16`, `timm:resnet18`, `path/file.py:function`, or `hf:folder` of a BERT
            as transformers saves it. The function gets those of `in_channels`, `num_classes` and `resolution` that its
            parameters name.
        role: What it is for, in messages.
        in_channels: Colour channels; 0 for texts.
        num_classes: Length that the output's channel axis must have.
        resolution: Height and width in pixels, or length in tokens.
        mean: Per-channel mean that the weights expect to be subtracted, inputs in 0..1.
        std: Per-channel standard deviation that the weights expect.
        weights: A file for `load_weights`, or `None` for fresh weights (nothing is ever downloaded), or those of the
            folder.
        vocabulary: Token numbers of texts; 0 for pictures.
        is_dense: Whether it must answer for each pixel, at the input's resolution.

    Returns:
        Its spec and the network in evaluation mode.

    Raises:
        ConfigError: The reference is wrong, the weights belong to another network, or the output is not
            `[B, num_classes]`, or `[B, num_classes, H, W]` where it is dense.
        PreconditionError: An optional package is missing.
    """
    spec = _spec_of(
        ref,
        NetSpec(
            family="",
            depth=0,
            width=0,
            resolution=resolution,
            in_channels=in_channels,
            num_classes=num_classes,
            mean=tuple(mean),
            std=tuple(std),
            vocabulary=vocabulary,
        ),
        role,
    )
    module = build(spec)
    if start := teacher_start(ref, spec):
        load_tensors(module, start, origin=ref, optional=(HEAD,))
    if weights is not None:
        load_weights(module, weights)
    _check_output(module, spec, f"{role} {ref!r}", (resolution, resolution) if is_dense else ())
    return spec, module.eval()


def teacher_start(ref: str, spec: NetSpec) -> dict[str, Tensor]:
    """Return the weights that a teacher's reference brings itself, by name: those of an `hf:folder`, else none.

    A folder without a classifier brings the encoder alone, for its training to start from.

    Args:
        ref: The teacher's reference.
        spec: Its architecture.

    Raises:
        ConfigError: The folder is no BERT that fits.
        StorageError: A file of it cannot be read.
    """
    if not ref.startswith(_FOLDER_PREFIX):
        return {}
    return dict(read_bert_folder(Path(ref.removeprefix(_FOLDER_PREFIX)), length=spec.resolution).state)


def load_model(model: TrainedModel) -> nn.Module:
    """Build a trained network again, whatever its origin, and load its weights.

    Args:
        model: The artefact.

    Returns:
        The network in evaluation mode.

    Raises:
        ConfigError: The network cannot be built, or the weights belong to another one.
        StorageError: The weights file, or the Python file of the network, is missing or altered since.
    """
    if not model.weights.is_intact():
        raise StorageError(
            f"weights {model.weights.path} are missing or were altered after {model.spec.name} was saved"
        )
    module = build(model.spec)
    load_weights(module, Path(model.weights.path))
    return module.eval()


def _spec_of(ref: str, facts: NetSpec, role: Role) -> NetSpec:
    if ref.startswith(_TIMM_PREFIX):
        return replace(facts, family="timm", options={"model": ref.removeprefix(_TIMM_PREFIX)})
    file, colon, function = ref.rpartition(":")
    if colon and file.endswith(".py"):
        return replace(facts, family="python", options=_file_options(Path(file), function, role))
    if ref.endswith(".py"):
        raise ConfigError(f"{role} {ref!r}: name the function that makes it, as in {ref}:make_{role}")
    if ref.startswith(_FOLDER_PREFIX):
        folder = ref.removeprefix(_FOLDER_PREFIX)
        return spec_of_folder(read_bert_folder(Path(folder), length=facts.resolution), facts, origin=folder)
    family, choice = parse_net(ref)
    return spec_for(
        family,
        **choice,
        in_channels=facts.in_channels,
        num_classes=facts.num_classes,
        resolution=facts.resolution,
        mean=facts.mean,
        std=facts.std,
        vocabulary=facts.vocabulary,
    )


def _file_options(path: Path, function: str, role: Role) -> dict[str, str]:
    if not path.is_file():
        raise ConfigError(f"{role} file {path}: no such file")
    return {
        "model": f"{path.name}:{function}",
        "function": function,
        "path": str(path.resolve()),
        "sha256": sha256_of_file(path),
    }


def _check_output(module: nn.Module, spec: NetSpec, named: str, positions: tuple[int, ...]) -> None:
    shape = list(spec.input_shape)
    try:
        output = run_on_zeros(module, spec.input_shape, batch=_PROBE_BATCH)
    except Exception as error:
        raise ConfigError(f"{named} cannot take inputs {shape}: {type(error).__name__}: {error}") from error
    if not isinstance(output, Tensor):
        raise ConfigError(f"{named} returned {type(output).__name__}, expected logits as one tensor")
    expected = [_PROBE_BATCH, spec.num_classes, *positions]
    if list(output.shape) != expected:
        raise ConfigError(
            f"{named} returned {list(output.shape)} for a batch of {_PROBE_BATCH}; this data set needs "
            f"{spec.num_classes} outputs{' for each pixel' if positions else ''}, so {expected} was expected; "
            f"use a network of the same task{' (edgekd has fcn)' if positions else ''}"
        )
