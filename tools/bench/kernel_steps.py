"""A training step with its distillation loss, before and after fusing it: what a faster loss is worth in the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import textbook_losses
import torch
import torch.nn.functional as F
from edgekd_kernels import functional
from torch import Tensor, nn

Features = tuple[Tensor, ...]


@dataclass(frozen=True)
class Pair:
    """One loss in a step of two networks.

    Attributes:
        distilled: Name of the loss; empty for a step without one.
        widths: Channels of the student's stages and of the teacher's.
        depths: Blocks in each stage.
        batch: Pictures.
        side: Of a picture.
        device: Where.
    """

    distilled: str
    widths: tuple[int, int]
    depths: tuple[int, int]
    batch: int
    side: int
    device: str
    student_dtype: torch.dtype = torch.float32
    teacher_dtype: torch.dtype = torch.float32

    @property
    def loss(self) -> str:
        """What the row is called."""
        return f"step:{self.distilled}"

    @property
    def shape(self) -> str:
        """The networks in a word."""
        names = (f"resnet{6 * depth + 2}-w{width}" for depth, width in zip(self.depths, self.widths, strict=True))
        return f"{'|'.join(names)} {self.batch}x3x{self.side}x{self.side}"

    def steps(self) -> dict[str, Callable[[], object]]:
        """Return a training step with the textbook's loss, with the fused one, and with none."""
        torch.manual_seed(0)
        student, teacher = (
            _network(width, depth).to(self.device) for width, depth in zip(self.widths, self.depths, strict=True)
        )
        pictures = torch.rand(self.batch, 3, self.side, self.side, device=self.device)
        labels = torch.arange(self.batch, device=self.device) % _CLASSES
        optimiser = torch.optim.SGD(student.parameters(), lr=1e-3, momentum=0.9)

        def step(loss: Callable[..., Tensor] | None) -> None:
            optimiser.zero_grad()
            with torch.no_grad():
                *their_maps, their_logits = teacher(pictures)
            *maps, logits = student(pictures)
            total = F.cross_entropy(logits, labels)
            if loss is not None:
                is_of_logits = self.distilled.endswith(_OF_LOGITS)
                pair = (logits, their_logits) if is_of_logits else (maps[-1], their_maps[-1])
                total = total + loss(*pair).mean()
            total.backward()
            optimiser.step()

        losses = {
            "eager": getattr(textbook_losses, self.distilled),
            "auto": getattr(functional, self.distilled),
            "no loss": None,
        }
        return {name: lambda loss=loss: step(loss) for name, loss in losses.items()}


_CLASSES = 100
_OF_LOGITS = ("kd_kl",)
STEP_LOSSES = ("kd_kl", "hint_mse", "hint_l2", "pkd", "attention_transfer", "similarity_preserving")


def pairs(device: str, table: str) -> list[Pair]:
    """Return the steps that are timed.

    Args:
        device: `"cuda"` for resnet32x4 and resnet8x4 on batches of 64, `"cpu"` for a smaller pair.
        table: Sizes; a trial takes one step only.
    """
    if table == "small":
        return [Pair("kd_kl", (8, 8), (1, 1), 4, 16, device)]
    of_device = ((64, 64), (1, 5), 64, 32) if device == "cuda" else ((16, 16), (1, 3), 32, 32)
    return [Pair(loss, *of_device, device) for loss in STEP_LOSSES]


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.two = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in range(2))
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if (inputs, stride) != (outputs, 1) else None

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norms[1](self.two(F.relu(self.norms[0](self.one(x)))))
        return F.relu(inner + (x if self.shortcut is None else self.shortcut(x)))


class _Network(nn.Module):
    """The benchmark's ResNet: three stages, `width`, `2 width` and `4 width` channels behind a stem of half a width."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width // 2, 3, 1, 1, bias=False)
        stages, inputs = [], width // 2
        for index in range(3):
            outputs = width << index
            blocks = [
                _Block(inputs if place == 0 else outputs, outputs, 2 if place == 0 < index else 1)
                for place in range(depth)
            ]
            stages.append(nn.Sequential(*blocks))
            inputs = outputs
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(inputs, _CLASSES)

    def forward(self, pictures: Tensor) -> Features:
        """Return the maps after each stage, then the logits."""
        x, maps = self.stem(pictures), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return *maps, self.head(x.mean(dim=(2, 3)))


def _network(width: int, depth: int) -> nn.Module:
    return _Network(width, depth)
