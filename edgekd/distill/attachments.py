"""Auxiliary modules that read a network's penultimate feature `[B, D]` during training."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from edgekd.core.registry import Registry

AttachmentBuilder = Callable[..., nn.Module]

ATTACHMENTS: Registry[AttachmentBuilder] = Registry("attachment")


@ATTACHMENTS.register("granular-branch")
class GranularBranch(nn.Module):
    """A self-analysing branch: the feature encoded into a narrow code, and decoded into logits.

    Encoder `Linear(d, d) - ReLU - Linear(d, code)`; decoder `Linear(code, d) - ReLU - Linear(d, K)`. Outputs
    `NAME.code` `[B, code_width]` and `NAME.logits` `[B, K]`.

    Args:
        feature_width: `d`.
        num_classes: `K`.
        name: Prefix of its outputs.
        code_width: Width of the code.

    Reference:
        Shao and Chen, Multi-granularity for knowledge distillation, Image and Vision Computing 2021.
    """

    def __init__(self, feature_width: int, num_classes: int, name: str, *, code_width: int) -> None:
        super().__init__()
        self.name = name
        self.encoder = _two_layers(feature_width, feature_width, code_width)
        self.decoder = _two_layers(code_width, feature_width, num_classes)

    def forward(self, feature: Tensor) -> dict[str, Tensor]:
        """Encode and decode a feature `[B, d]`."""
        code = self.encoder(feature)
        return {f"{self.name}.code": code, f"{self.name}.logits": self.decoder(code)}


@ATTACHMENTS.register("granular-encoder")
class GranularEncoder(nn.Module):
    """The encoder half of `GranularBranch`: all that a student needs. Output `NAME.code` `[B, code_width]`.

    Args:
        feature_width: `d`.
        num_classes: Not used; every attachment is given it.
        name: Prefix of its output.
        code_width: Width of the code.
    """

    def __init__(self, feature_width: int, num_classes: int, name: str, *, code_width: int) -> None:
        super().__init__()
        self.name = name
        self.encoder = _two_layers(feature_width, feature_width, code_width)

    def forward(self, feature: Tensor) -> dict[str, Tensor]:
        """Encode a feature `[B, d]`."""
        return {f"{self.name}.code": self.encoder(feature)}


def _two_layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, outputs))
