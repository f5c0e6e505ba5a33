"""Every family by name, and how a network is named on the command line."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import TypedDict

from torch import nn

from edgekd.core.artifacts import NetSpec
from edgekd.core.errors import ConfigError, unknown_name
from edgekd.core.registry import Registry
from edgekd.models.bert import BERT
from edgekd.models.family import REDUCE, Family, check_spec, reduction_of, takes_reduction
from edgekd.models.fcn import FCN
from edgekd.models.layers import initialise, normalized
from edgekd.models.mobilenet import MOBILENETV2
from edgekd.models.repvgg import REPVGG
from edgekd.models.resnet import RESNET
from edgekd.models.surgery import original_of
from edgekd.models.towers import TOWERS
from edgekd.models.vgg import VGG
from edgekd.models.wideresnet import WRN

_FORMS = "write it as resnet20, resnet20-w16 or resnet:depth=20,width=16,shortcut=A"

FAMILIES: Registry[Family] = Registry("network family")
FAMILIES.add("resnet", RESNET)
FAMILIES.add("wrn", WRN)
FAMILIES.add("vgg", VGG)
FAMILIES.add("mobilenetv2", MOBILENETV2)
FAMILIES.add("repvgg", REPVGG)
FAMILIES.add("bert", BERT)
FAMILIES.add("fcn", FCN)
FAMILIES.add("towers", TOWERS)


class NetChoice(TypedDict, total=False):
    """What a network's name says; keys that it leaves open are absent."""

    depth: int
    width: int
    options: dict[str, str]


def build(spec: NetSpec) -> nn.Module:
    """Make a freshly initialised network of a zoo family, weights drawn from torch's global generator.

    Args:
        spec: Its architecture.

    Returns:
        `nn.Sequential` of `normalize` and `net`: float32 `[B, C, H, W]` in 0..1 to `[B, num_classes]`, or to
        `[B, num_classes, H, W]` where the family is dense; or of `net` alone: tokens int64 `[B, L]` to logits.

    Raises:
        ConfigError: The family is unknown, or cannot build this spec.
        PreconditionError: A package that the family needs is missing.
    """
    family = FAMILIES[spec.family]
    check_spec(family, spec)
    reduction = reduction_of(spec)
    net = family.build(replace(spec, resolution=spec.resolution // reduction))
    if family.takes == "tokens":
        return nn.Sequential(OrderedDict(net=net))
    initialise(net)
    return normalized(net, spec.mean, spec.std, reduction=reduction)


def spec_for(
    family: str,
    *,
    depth: int | None = None,
    width: int | None = None,
    in_channels: int,
    num_classes: int,
    resolution: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    options: Mapping[str, str] | None = None,
    vocabulary: int = 0,
) -> NetSpec:
    """Describe a zoo network for a data set.

    Args:
        family: Name in `FAMILIES`.
        depth: Family-specific depth; the family's standard one when left out.
        width: Channels of the first stage; the family's standard one when left out.
        in_channels: Colour channels; 0 for texts.
        num_classes: Length of the output's channel axis.
        resolution: Height and width in pixels, or length in tokens.
        mean: Per-channel mean of the data set, 0..1; empty for texts.
        std: Per-channel standard deviation of the data set; empty for texts.
        options: Family-specific choices; those left out take the family's first value and appear in the spec.
        vocabulary: Token numbers of texts; 0 for pictures.

    Returns:
        A spec that `build` accepts.

    Raises:
        ConfigError: The family is unknown, or cannot build this network.
    """
    known = FAMILIES[family]
    defaults = {name: values[0] for name, values in known.options.items()}
    spec = NetSpec(
        family=family,
        depth=known.standard[0] if depth is None else depth,
        width=known.standard[1] if width is None else width,
        resolution=resolution,
        in_channels=in_channels,
        num_classes=num_classes,
        mean=tuple(mean),
        std=tuple(std),
        options={**defaults, **(options or {})},
        vocabulary=vocabulary,
    )
    check_spec(known, spec)
    return spec


def family_of(spec: NetSpec) -> Family | None:
    """Return the family of a network, or of what it was cut from; None for networks from elsewhere.

    Raises:
        StorageError: The spec of a pruned network is damaged.
    """
    name = original_of(spec).family
    return FAMILIES[name] if name in FAMILIES else None  # noqa: SIM401


def modalities_of(spec: NetSpec) -> tuple[str, ...]:
    """Return the module paths of a network's modality embeddings `[B, d]`, one for each group of input channels.

    Args:
        spec: Its architecture; networks from elsewhere have none.
    """
    family = family_of(spec)
    return () if family is None else family.modalities(spec)


def parse_net(text: str) -> tuple[str, NetChoice]:
    """Read a network's name.

    Args:
        text: `resnet`, `resnet20`, `resnet20-w16`, or `resnet:depth=20,width=16,shortcut=A`.

    Returns:
        The family and what the name says; the second goes to `spec_for` as keywords.

    Raises:
        ConfigError: The text has none of these forms, or names an unknown family or option.
    """
    family, colon, assignments = text.strip().partition(":")
    if colon:
        return family, _parse_assignments(text, FAMILIES[family], assignments)
    name = _family_of(family)
    match = re.fullmatch(r"(?:-?(\d+))?(?:-w(\d+))?", family[len(name) :])
    if match is None:
        raise ConfigError(f"network {text!r}: {family[len(name) :]!r} after {name} is not understood; {_FORMS}")
    choice: NetChoice = {}
    if match[1] is not None:
        choice["depth"] = int(match[1])
    if match[2] is not None:
        choice["width"] = int(match[2])
    return name, choice


def _family_of(text: str) -> str:
    fitting = [name for name in FAMILIES if text.startswith(name)]
    if not fitting:
        raise unknown_name("network family", re.split(r"[\d-]", text)[0] or text, FAMILIES)
    return max(fitting, key=len)


def _parse_assignments(text: str, family: Family, assignments: str) -> NetChoice:
    choice: NetChoice = {}
    for assignment in assignments.split(","):
        key, _, value = (part.strip() for part in assignment.partition("="))
        if not key or not value:
            raise ConfigError(f"network {text!r}: {assignment!r} is not of the form key=value; {_FORMS}")
        if key == "depth":
            choice["depth"] = _number(text, key, value)
        elif key == "width":
            choice["width"] = _number(text, key, value)
        elif key in family.options or (key == REDUCE and takes_reduction(family)):
            choice.setdefault("options", {})[key] = value
        else:
            raise unknown_name("network setting", key, ("depth", "width", *family.options))
    return choice


def _number(text: str, key: str, value: str) -> int:
    if not value.isdecimal():
        raise ConfigError(f"network {text!r}: {key} is {value!r}, it must be a whole number")
    return int(value)
