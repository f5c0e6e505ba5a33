"""Auxiliary modules that read a network's features during training: branches, encoders, exits."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Protocol

from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.core.registry import Registry
from edgekd.distill.trace import TraceSpec, shape_of


class Attachment(Protocol):
    """What an attachment is; in practice an `nn.Module` built as `builder(spec, name, **options)`.

    Attributes:
        reads: Module paths of the backbone whose outputs it is given.
    """

    reads: tuple[str, ...]

    def __call__(self, feats: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return named outputs; each is called `aux:NAME` in terms."""
        ...


ATTACHMENTS: Registry[type[nn.Module]] = Registry("attachment")


@ATTACHMENTS.register("granular-branch")
class GranularBranch(nn.Module):
    """A self-analysing branch: the penultimate feature encoded into a narrow code, and decoded into logits.

    Encoder `Linear(d, d) - ReLU - Linear(d, code)`; decoder `Linear(code, d) - ReLU - Linear(d, K)`. Outputs
    `NAME.code` `[B, code_width]` and `NAME.logits` `[B, K]`.

    Args:
        spec: Shapes of the network's traces.
        name: Prefix of its outputs.
        code_width: Width of the code.

    Reference:
        Shao and Chen, Multi-granularity for knowledge distillation, Image and Vision Computing 2021.
    """

    def __init__(self, spec: TraceSpec, name: str, *, code_width: int) -> None:
        super().__init__()
        self.name, self.reads = name, (spec.penultimate,)
        width = spec.feature_width
        self.encoder = _two_layers(width, width, code_width)
        self.decoder = _two_layers(code_width, width, spec.num_classes)

    def forward(self, feats: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Encode and decode the penultimate feature."""
        code = self.encoder(feats[self.reads[0]].flatten(1))
        return {f"{self.name}.code": code, f"{self.name}.logits": self.decoder(code)}


@ATTACHMENTS.register("granular-encoder")
class GranularEncoder(nn.Module):
    """The encoder half of `GranularBranch`: all that a student needs. Output `NAME.code` `[B, code_width]`.

    Args:
        spec: Shapes of the network's traces.
        name: Prefix of its output.
        code_width: Width of the code.
    """

    def __init__(self, spec: TraceSpec, name: str, *, code_width: int) -> None:
        super().__init__()
        self.name, self.reads = name, (spec.penultimate,)
        self.encoder = _two_layers(spec.feature_width, spec.feature_width, code_width)

    def forward(self, feats: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Encode the penultimate feature."""
        return {f"{self.name}.code": self.encoder(feats[self.reads[0]].flatten(1))}


@ATTACHMENTS.register("penultimate")
class PenultimateFeature(nn.Module):
    """The feature that feeds the classifier, the mean over positions where it is a map. Output `NAME.feature` `[B, d]`.

    Args:
        spec: Shapes of the network's traces.
        name: Prefix of its output.
    """

    def __init__(self, spec: TraceSpec, name: str) -> None:
        super().__init__()
        self.name, self.reads = name, (spec.penultimate,)

    def forward(self, feats: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the feature."""
        feature = feats[self.reads[0]]
        return {f"{self.name}.feature": feature.flatten(2).mean(dim=2) if feature.ndim == 4 else feature.flatten(1)}


@ATTACHMENTS.register("projection-head")
class ProjectionHead(nn.Module):
    """`Linear(d, d) - ReLU - Linear(d, d)` on the penultimate feature. Output `NAME.projection` `[B, d]`.

    Args:
        spec: Shapes of the network's traces.
        name: Prefix of its output.

    Reference:
        Xu et al. 2020, arXiv 2006.07114.
    """

    def __init__(self, spec: TraceSpec, name: str) -> None:
        super().__init__()
        self.name, self.reads = name, (spec.penultimate,)
        self.head = _two_layers(spec.feature_width, spec.feature_width, spec.feature_width)

    def forward(self, feats: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Project the penultimate feature."""
        return {f"{self.name}.projection": self.head(feats[self.reads[0]].flatten(1))}


@ATTACHMENTS.register("exit")
class EarlyExit(nn.Module):
    """A classifier on an earlier feature map. Outputs `NAME.feature` `[B, d]` and `NAME.logits` `[B, K]`.

    A bottleneck (1x1 to a quarter of `d`, k x k with stride k down to the last map's size, 1x1 up to `d`, each with
    batch normalisation and ReLU), global average pooling, a linear layer; `d` is the width of the penultimate feature.

    Args:
        spec: Shapes of the network's traces.
        name: Prefix of its outputs.
        at: Which feature map, counted from the shallowest; it may not be the last.

    Reference:
        Zhang et al. 2019, Be your own teacher, arXiv 1905.08094.
    """

    def __init__(self, spec: TraceSpec, name: str, *, at: int) -> None:
        super().__init__()
        maps = list(spec.maps)
        if len(maps) < 2:
            raise ConfigError(
                f"exit {name!r} goes on a feature map before the last one, the network has {len(maps)}; take a method "
                "without exits, such as kd"
            )
        if not 0 <= at < len(maps) - 1:
            raise ConfigError(
                f"exit {name!r} at map {at}: the network has {len(maps)} maps, exits go on 0..{len(maps) - 2}"
            )
        self.name, self.reads = name, (maps[at],)
        channels, height, _ = shape_of(spec, maps[at])
        stride = max(1, height // shape_of(spec, maps[-1])[1])
        width = spec.feature_width
        middle = max(4, width // 4)
        self.bottleneck = nn.Sequential(
            *_conv_bn_relu(channels, middle, 1, 1),
            *_conv_bn_relu(middle, middle, stride, stride),
            *_conv_bn_relu(middle, width, 1, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(width, spec.num_classes)

    def forward(self, feats: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Classify the map."""
        feature = self.bottleneck(feats[self.reads[0]])
        return {f"{self.name}.feature": feature, f"{self.name}.logits": self.classifier(feature)}


@ATTACHMENTS.register("paraphraser")
class Paraphraser(nn.Module):
    """An autoencoder of the last feature map; what it compresses to are the factors.

    Three 3x3 convolutions down to `rate` of the channels and three transposed ones back, each followed by a leaky ReLU
    of slope 0.1; the size stays. Outputs `NAME.factor` `[B, rate C, H, W]` and `NAME.reconstruction` `[B, C, H, W]`.

    Args:
        spec: Shapes of the network's traces.
        name: Prefix of its outputs.
        rate: Factors for each channel, positive.

    Reference:
        Kim et al. 2018, Paraphrasing complex network, arXiv 1802.04977.
    """

    def __init__(self, spec: TraceSpec, name: str, *, rate: float = 0.5) -> None:
        super().__init__()
        if not rate > 0:
            raise ConfigError(f"paraphraser {name!r}: rate must be positive, got {rate}")
        if not spec.maps:
            raise ConfigError(f"paraphraser {name!r}: the network has no feature map [B, C, H, W]")
        self.name, self.reads = name, (list(spec.maps)[-1],)
        channels = shape_of(spec, self.reads[0])[0]
        factors = max(1, round(rate * channels))
        self.encoder = _three_convolutions(nn.Conv2d, (channels, channels, factors, factors))
        self.decoder = _three_convolutions(nn.ConvTranspose2d, (factors, factors, channels, channels))

    def forward(self, feats: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compress the map and restore it."""
        factor = self.encoder(feats[self.reads[0]])
        return {f"{self.name}.factor": factor, f"{self.name}.reconstruction": self.decoder(factor)}


def _three_convolutions(kind: type[nn.Conv2d | nn.ConvTranspose2d], widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [kind(inputs, outputs, kernel_size=3, padding=1), nn.LeakyReLU(0.1, inplace=True)]
    return nn.Sequential(*layers)


def _conv_bn_relu(inputs: int, outputs: int, kernel: int, stride: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, bias=False)
    return conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


def _two_layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, outputs))
