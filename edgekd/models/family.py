"""What a family of networks must offer so that a search can scale it and distillation can tap it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from edgekd.core.artifacts import NetSpec
from edgekd.core.errors import ConfigError, unknown_name

MIN_RESOLUTION = 8
"""Smallest input side in pixels that every family of pictures accepts."""

MIN_LENGTH = 3
"""Shortest text in tokens: a word between two special tokens."""


REDUCE = "reduce"
"""Option of every family of pictures with one answer for each: how many pixels a side are averaged into one first."""

REDUCTIONS = ("1", "2", "4")


def no_modalities(spec: NetSpec) -> tuple[str, ...]:
    """Return no path: the network mixes all input channels from its first layer on."""
    return ()


@dataclass(frozen=True)
class Family:
    """A family of networks that scales in depth, width and resolution.

    Attributes:
        build: Makes the network of a checked spec, without input normalisation.
        depth_rule: Which depths exist, in words (`"6n+2"`).
        has_depth: Says whether a depth exists.
        depths: Depths worth trying, increasing.
        widths: Channels of the first stage worth trying, increasing.
        standard: `(depth, width)` meant where a user gives neither.
        default_taps: Module paths of the stage ends of a built network, shallow to deep.
        options: Allowed values by option; the first is the default.
        penultimate: Path of the module whose output, `[B, d]` or `[B, C, H, W]`, feeds the last layer.
        takes: What its networks are given: pictures float32 `[B, C, H, W]`, or tokens int64 `[B, L]`.
        numbers: Options that also take any whole number above 0.
        embedded: Path of the module whose output `[B, L, D]` stands for the tokens where a gradient with respect to the
            input is asked for; empty for pictures.
        least_opset: Lowest ONNX opset that has all its operators.
        is_dense: Whether the output is `[B, num_classes, H, W]` at the input's resolution, else `[B, num_classes]`.
        modalities: Paths of the embeddings `[B, d]`, one for each group of input channels, before they are fused; none
            where a family does not keep groups apart.
    """

    build: Callable[[NetSpec], nn.Module]
    depth_rule: str
    has_depth: Callable[[int], bool]
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    standard: tuple[int, int]
    default_taps: Callable[[NetSpec], tuple[str, ...]]
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    penultimate: str = "net.flatten"
    takes: Literal["pictures", "tokens"] = "pictures"
    numbers: tuple[str, ...] = ()
    embedded: str = ""
    least_opset: int = 13
    is_dense: bool = False
    modalities: Callable[[NetSpec], tuple[str, ...]] = no_modalities


def check_spec(family: Family, spec: NetSpec) -> None:
    """Refuse a spec that the family cannot build.

    Args:
        family: The family that `spec.family` names.
        spec: What was asked for.

    Raises:
        ConfigError: Lists every problem of the spec.
    """
    problems = _size_problems(family, spec) + _input_problems(family, spec) + _normalisation_problems(spec)
    problems += _reduction_problems(family, spec)
    if problems:
        raise ConfigError(f"network {spec.name}: " + "; ".join(problems))
    for name, value in spec.options.items():
        if name == REDUCE and takes_reduction(family):
            continue
        if name not in family.options:
            raise unknown_name(f"{spec.family} option", name, family.options)
        is_number = name in family.numbers and value.isdecimal() and int(value) > 0
        if not is_number and value not in family.options[name]:
            raise unknown_name(f"{spec.family} {name}", value, family.options[name])


def takes_reduction(family: Family) -> bool:
    """Say whether networks of a family can average their pictures down first."""
    return family.takes == "pictures" and not family.is_dense


def reduction_of(spec: NetSpec) -> int:
    """Return how many pixels a side a network averages into one before its first layer; 1 for none."""
    return int(spec.options.get(REDUCE, "1"))


def _reduction_problems(family: Family, spec: NetSpec) -> list[str]:
    given = spec.options.get(REDUCE)
    if given is None or not takes_reduction(family):
        return []
    if given not in REDUCTIONS:
        return [f"reduce is {given!r}, it must be one of {', '.join(REDUCTIONS)}"]
    side, rest = divmod(spec.resolution, int(given))
    if rest or side < MIN_RESOLUTION:
        return [f"{spec.resolution} pixels cannot be reduced by {given} to whole ones, at least {MIN_RESOLUTION}"]
    return []


def check_normalisation(spec: NetSpec) -> None:
    """Refuse a network of any origin whose inputs cannot be normalised as its spec says.

    Args:
        spec: Its architecture.

    Raises:
        ConfigError: Mean or deviation are not one a channel, or a deviation is not above zero.
    """
    problems = _normalisation_problems(spec)
    if problems:
        raise ConfigError(f"network {spec.name}: {'; '.join(problems)}")


def _size_problems(family: Family, spec: NetSpec) -> list[str]:
    problems = []
    if not family.has_depth(spec.depth):
        ladder = ", ".join(map(str, family.depths))
        problems.append(f"depth {spec.depth} is not {family.depth_rule} (try one of {ladder})")
    if spec.width < 1:
        problems.append(f"width is {spec.width}, it must be at least 1 channel")
    if spec.num_classes < 1:
        problems.append(f"num_classes is {spec.num_classes}, it must be at least 1")
    return problems


def _input_problems(family: Family, spec: NetSpec) -> list[str]:
    if (family.takes == "tokens") != bool(spec.vocabulary):
        given = "tokens" if spec.vocabulary else "pictures"
        return [f"{spec.family} takes {family.takes}, the data are {given}; choose another family"]
    if family.takes == "tokens":
        is_long = spec.resolution >= MIN_LENGTH
        return [] if is_long else [f"length is {spec.resolution}, it must be at least {MIN_LENGTH} tokens"]
    problems = []
    if spec.resolution < MIN_RESOLUTION:
        problems.append(f"resolution is {spec.resolution}, it must be at least {MIN_RESOLUTION} pixels")
    if spec.in_channels < 1:
        problems.append(f"in_channels is {spec.in_channels}, it must be at least 1")
    groups = len(family.modalities(spec))
    if groups and spec.in_channels % groups:
        problems.append(f"{spec.in_channels} input channels cannot be divided into {groups} equal groups")
    return problems


def _normalisation_problems(spec: NetSpec) -> list[str]:
    problems = [
        f"{name} has {len(values)} values for {spec.in_channels} input channels"
        for name, values in (("mean", spec.mean), ("std", spec.std))
        if len(values) != spec.in_channels
    ]
    if any(not value > 0 for value in spec.std):
        problems.append(f"std is {spec.std}, every value must be above 0")
    return problems
