"""A student learns from a teacher with three losses, in a plain PyTorch loop: python plain_loop.py."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from edgekd_kernels.modules import AttentionTransfer, KdKl, ProjectedMse
from torch import Tensor, nn


class Net(nn.Module):
    """A small convolutional network that returns its last feature map and its logits."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1))
        self.head = nn.Linear(width, 4)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Return the feature map `[B, C, 4, 4]` and the logits `[B, 4]`."""
        feature_map = self.features(pictures)
        return feature_map, self.head(F.relu(feature_map).mean(dim=(2, 3)))


def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return noisy pictures of a bright quarter, and which quarter it is."""
    labels = torch.randint(4, (64,), generator=generator)
    pictures = torch.randn(64, 1, 16, 16, generator=generator)
    for picture, label in zip(pictures, labels.tolist(), strict=True):
        row, column = 8 * (label // 2), 8 * (label % 2)
        picture[:, row : row + 8, column : column + 8] += 1.0
    return pictures, labels


def accuracy(net: nn.Module) -> float:
    """Return the share of fresh pictures that a network gets right."""
    pictures, labels = batch(torch.Generator().manual_seed(1))
    with torch.no_grad():
        return float((net(pictures)[1].argmax(dim=1) == labels).float().mean())


def main() -> float:
    """Train the teacher, then the student; returns the student's accuracy."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    teacher, student = Net(32), Net(16)
    optimiser = torch.optim.Adam(teacher.parameters(), lr=1e-2)
    for _ in range(100):
        pictures, labels = batch(generator)
        optimiser.zero_grad()
        F.cross_entropy(teacher(pictures)[1], labels).backward()
        optimiser.step()

    kd, attention = KdKl(temperature=4.0), AttentionTransfer()
    hint = ProjectedMse(student_channels=16, teacher_channels=32)  # its projection is trained with the student
    optimiser = torch.optim.Adam([*student.parameters(), *hint.parameters()], lr=1e-2)
    for step in range(100):
        pictures, labels = batch(generator)
        with torch.no_grad():
            their_map, their_logits = teacher(pictures)
        own_map, own_logits = student(pictures)
        loss = F.cross_entropy(own_logits, labels) + kd(own_logits, their_logits)
        loss = loss + 0.1 * hint(own_map, their_map) + 10.0 * attention(own_map, their_map)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 25 == 24:
            print(f"step {step + 1}: loss {loss.item():.3f}")
    print(f"accuracy: teacher {accuracy(teacher):.3f}, student {accuracy(student):.3f}")
    return accuracy(student)


if __name__ == "__main__":
    main()
