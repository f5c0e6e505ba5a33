"""A small residual network, its numpy double-precision twin, and its export."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.core.artifacts import OnnxModel
from edgekd.export import export_onnx

SHAPE = (3, 8, 8)


class Residual(nn.Module):
    """conv-bn-relu, a residual block, mean over the map, dropout, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.2, 0.25, 0.3]).view(1, 3, 1, 1))
        self.stem, self.stem_bn = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv, self.bn = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.pool, self.dropout, self.fc = nn.AdaptiveAvgPool2d(1), nn.Dropout(0.5), nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        stem = torch.relu(self.stem_bn(self.stem((images - self.mean) / self.std)))
        block = torch.relu(stem + self.bn(self.conv(stem)))
        return self.fc(self.dropout(self.pool(block).flatten(1)))


def _conv(images: np.ndarray, weight: np.ndarray) -> np.ndarray:
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = images.shape[2:]
    result = np.zeros((len(images), len(weight), height, width))
    for row in range(3):
        for column in range(3):
            window = padded[:, :, row : row + height, column : column + width]
            result += np.einsum("bchw,kc->bkhw", window, weight[:, :, row, column])
    return result


def _logits_by_numpy(net: nn.Module, images: np.ndarray) -> np.ndarray:
    state = {name: tensor.double().numpy() for name, tensor in net.state_dict().items()}

    def norm(values: np.ndarray, name: str) -> np.ndarray:
        scale = state[f"{name}.weight"] / np.sqrt(state[f"{name}.running_var"] + 1e-5)
        shift = state[f"{name}.bias"] - scale * state[f"{name}.running_mean"]
        return values * scale[None, :, None, None] + shift[None, :, None, None]

    scaled = (images.astype(np.float64) - state["mean"]) / state["std"]
    stem = np.maximum(norm(_conv(scaled, state["stem.weight"]), "stem_bn"), 0)
    block = np.maximum(stem + norm(_conv(stem, state["conv.weight"]), "bn"), 0)
    return block.mean(axis=(2, 3)) @ state["fc.weight"].T + state["fc.bias"]


@pytest.fixture(scope="session")
def make_net() -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            net = Residual()
            for bn in (net.stem_bn, net.bn):
                bn.running_mean.uniform_(-0.5, 0.5)
                bn.running_var.uniform_(0.5, 2.0)
                nn.init.uniform_(bn.weight, 0.5, 1.5)
                nn.init.uniform_(bn.bias, -0.5, 0.5)
        return net.eval()

    return make


@pytest.fixture(scope="session")
def net(make_net: Callable[[], nn.Module]) -> nn.Module:
    return make_net()


@pytest.fixture(scope="session")
def oracle() -> Callable[[nn.Module, np.ndarray], np.ndarray]:
    return _logits_by_numpy


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    return np.random.default_rng(11).random((6, *SHAPE), dtype=np.float32)


@pytest.fixture(scope="session")
def model(net: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    path: Path = tmp_path_factory.mktemp("export") / "net.onnx"
    return export_onnx(net, path, input_shape=SHAPE, parents=("a-parent",))
