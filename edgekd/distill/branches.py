"""Attachments that bring two networks of different shapes together: guided modules, and the student's last layers."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from edgekd.core.errors import ConfigError, unknown_name
from edgekd.distill.attachments import ATTACHMENTS
from edgekd.distill.net import TracedNet
from edgekd.distill.trace import Depth, TraceSpec, map_at, shape_of
from edgekd.models import conv_bn_relu, initialise


@ATTACHMENTS.register("guided-module")
class GuidedModule(nn.Module):
    """A classifier on a feature map through an embedding whose shape no backbone decides.

    A bottleneck (1x1 to a quarter of `width`, 3x3 with a stride towards `side` pixels, 1x1 to `width`, each with batch
    normalisation and ReLU), average pooling to exactly `side` pixels: the embedding; its mean over positions and a
    linear layer: the logits. Outputs `NAME.embedding` `[B, width, side, side]` and `NAME.logits` `[B, K]`.

    Args:
        spec: Shapes of the network's traces.
        name: Prefix of its outputs.
        at: Which feature map.
        width: Channels of the embedding.
        side: Height and width of the embedding.

    Raises:
        ConfigError: The network has no feature map, or a size is not positive.

    Reference:
        Zhang et al. 2021, arXiv 2103.13811; the layers are a reconstruction.
    """

    def __init__(self, spec: TraceSpec, name: str, *, at: Depth, width: int = 64, side: int = 4) -> None:
        super().__init__()
        if width < 4 or side < 1:
            raise ConfigError(
                f"guided module {name!r}: width must be 4 or more and side 1 or more, got {width}, {side}"
            )
        self.name, self.reads = name, (map_at(spec, at),)
        channels, height, _ = shape_of(spec, self.reads[0])
        self.embedding = nn.Sequential(
            *conv_bn_relu(nn.Conv2d(channels, width // 4, 1, bias=False)),
            *conv_bn_relu(nn.Conv2d(width // 4, width // 4, 3, max(1, height // side), padding=1, bias=False)),
            *conv_bn_relu(nn.Conv2d(width // 4, width, 1, bias=False)),
            nn.AdaptiveAvgPool2d(side),
        )
        self.classifier = nn.Linear(width, spec.num_classes)

    def forward(self, feats: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Embed and classify the map."""
        embedding = self.embedding(feats[self.reads[0]])
        return {
            f"{self.name}.embedding": embedding,
            f"{self.name}.logits": self.classifier(embedding.mean(dim=(2, 3))),
        }


@ATTACHMENTS.register("student-branch")
class StudentBranch(nn.Module):
    """What the student would make of this network's feature map: a transform, then layers like the student's last ones.

    The transform brings the map to the size that those layers take: a 1x1 convolution where height and width agree, a
    strided 3x3 one where the student's map is smaller, a 4x4 transposed one of stride 2 where it is larger, with batch
    normalisation and ReLU, and average pooling where strides do not give the size exactly. The layers have weights of
    their own. Output `NAME.logits` `[B, K]`.

    Args:
        spec: Shapes of the network's traces.
        name: Prefix of its output.
        nets: Every network by role.
        specs: Shapes of their traces by role.
        at: After which feature map, of this network and of the student.

    Raises:
        ConfigError: A network has no feature map, or the student is not built of nested `nn.Sequential`s.

    Reference:
        Park et al. 2021, arXiv 2102.07650; normalisation and ReLU of the transform are a reconstruction.
    """

    def __init__(
        self, spec: TraceSpec, name: str, nets: Mapping[str, TracedNet], specs: Mapping[str, TraceSpec], *, at: Depth
    ) -> None:
        super().__init__()
        self.name, self.reads = name, (map_at(spec, at),)
        path = map_at(specs["student"], at)
        self.transform = _transform(shape_of(spec, self.reads[0]), shape_of(specs["student"], path))
        self.tail = tail_after(nets["student"].backbone, path)
        initialise(self.tail)

    def forward(self, feats: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Classify the map as the student would."""
        return {f"{self.name}.logits": self.tail(self.transform(feats[self.reads[0]]))}


def tail_after(net: nn.Module, path: str) -> nn.Sequential:
    """Copy the layers that run after a module.

    Args:
        net: Nested `nn.Sequential`s down to the module's parent.
        path: The module's path.

    Returns:
        What turns the module's output into the network's, with copied weights.

    Raises:
        ConfigError: A module on the way is no `nn.Sequential`, or there is no such path.
    """
    if not isinstance(net, nn.Sequential):
        raise ConfigError(f"cannot cut the student before {path!r}: {type(net).__name__} is no nn.Sequential")
    name, _, rest = path.partition(".")
    names = [child for child, _ in net.named_children()]
    if name not in names:
        raise unknown_name("module path", name, names)
    index = names.index(name)
    inside = [tail_after(net[index], rest)] if rest else []
    return nn.Sequential(*inside, *copy.deepcopy(list(net)[index + 1 :]))


def _transform(given: tuple[int, ...], wanted: tuple[int, ...]) -> nn.Sequential:
    """Return layers that turn a map of one shape `(C, H, W)` into one of another."""
    channels, height, _ = given
    conv: nn.Module
    if height > wanted[1]:
        conv = nn.Conv2d(channels, wanted[0], 3, stride=height // wanted[1], padding=1, bias=False)
    elif height < wanted[1]:
        conv = nn.ConvTranspose2d(channels, wanted[0], 4, stride=2, padding=1, bias=False)
    else:
        conv = nn.Conv2d(channels, wanted[0], 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(wanted[0]), nn.ReLU(), nn.AdaptiveAvgPool2d(wanted[1:]))
