"""A small residual network with its export, a one-convolution network, and calibration images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.core.artifacts import OnnxModel
from edgekd.export import export_onnx

SHAPE = (3, 8, 8)


def smooth_images(count: int, seed: int = 21) -> np.ndarray:
    """Pictures whose neighbouring pixels are alike: noise, doubled in both directions, with some noise of its own."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((count, SHAPE[0], SHAPE[1] // 2, SHAPE[2] // 2), dtype=np.float32)
    fine = rng.random((count, *SHAPE), dtype=np.float32)
    return np.float32(0.8) * coarse.repeat(2, axis=2).repeat(2, axis=3) + np.float32(0.2) * fine


class Residual(nn.Module):
    """Normalisation, two residual blocks, mean over the map, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        stem = torch.relu(self.stem((images - 0.5) / 0.25))
        block = torch.relu(stem + self.first(stem))
        block = torch.relu(block + self.second(block))
        return self.fc(self.pool(block).flatten(1))


class OneConv(nn.Module):
    """Normalisation, one convolution without padding, mean over the map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv((images - 0.3) / 0.25).mean((2, 3))


def _seeded(kind: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return kind().eval()


@pytest.fixture(scope="session")
def net() -> nn.Module:
    return _seeded(Residual)


@pytest.fixture(scope="session")
def one_conv() -> nn.Module:
    return _seeded(OneConv)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., OnnxModel]:
    def export(net: nn.Module, **options: int) -> OnnxModel:
        path: Path = tmp_path_factory.mktemp("fp32") / "net.onnx"
        return export_onnx(net, path, input_shape=SHAPE, **options)

    return export


@pytest.fixture(scope="session")
def model(net: nn.Module, exported: Callable[..., OnnxModel]) -> OnnxModel:
    return exported(net)


@pytest.fixture(scope="session")
def one_conv_model(one_conv: nn.Module, exported: Callable[..., OnnxModel]) -> OnnxModel:
    return exported(one_conv)


@pytest.fixture(scope="session")
def calibration() -> np.ndarray:
    return smooth_images(40)
