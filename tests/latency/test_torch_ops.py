"""Kernels from one pass over shapes against those of real exports, and templates of specs against both."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekd.core.artifacts import NetSpec
from edgekd.core.errors import DataError
from edgekd.export import export_onnx
from edgekd.latency import graph_from_onnx, predict
from edgekd.latency.spec_templates import SpecTemplates
from edgekd.latency.torch_ops import graph_from_module, graph_of_spec
from edgekd.models import FAMILIES, build, deploy, spec_for
from edgekd.targets import get_target


def spec_of(family: str, depth: int, width: int, resolution: int, **options: str) -> NetSpec:
    channels = 0 if family == "bert" else 4 if family == "towers" else 3
    return spec_for(
        family,
        depth=depth,
        width=width,
        in_channels=channels,
        num_classes=10,
        resolution=resolution,
        mean=(0.5,) * channels,
        std=(0.2,) * channels,
        options=options,
        vocabulary=100 if family == "bert" else 0,
    )


# Widths and resolutions of which nothing is a power of two; one case for each family, one for each other structure.
EXPORTED = [
    spec_of("resnet", 8, 5, 33),
    spec_of("resnet", 8, 6, 30, stem="half", shortcut="B"),
    spec_of("wrn", 10, 24, 33),
    spec_of("vgg", 8, 5, 31),
    spec_of("mobilenetv2", 7, 12, 65),
    spec_of("repvgg", 4, 7, 60),
    spec_of("fcn", 8, 6, 60),
    spec_of("towers", 3, 6, 34),
    spec_of("bert", 1, 48, 9, heads="4"),
]


@pytest.mark.parametrize("spec", EXPORTED, ids=lambda spec: spec.name)
def test_kernels_are_those_of_the_export(spec: NetSpec, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    export_onnx(deploy(build(spec)), path, input_shape=spec.input_shape, opset=17)
    exported, templates = graph_from_onnx(path), SpecTemplates()
    templates.graph_of(spec_of(spec.family, spec.depth, spec.width + 4, spec.resolution + 2, **spec.options))
    for found in (graph_of_spec(spec), templates.graph_of(spec)):
        assert [layer.shape_key for layer in found.layers] == [layer.shape_key for layer in exported.layers]
        assert found.digest == exported.digest
        assert found.parents == (spec.digest,)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_templates_equal_a_pass_over_each_member(family: str) -> None:
    depths, resolutions = FAMILIES[family].depths[:1], (9, 16, 57, 100, 128)
    widths = (32, 96) if family == "bert" else (5, 16, 24)
    specs = [spec_of(family, *point) for point in itertools.product(depths, widths, resolutions)]
    templates = SpecTemplates()
    columns, owner = templates.columns_of(specs)
    for index, spec in enumerate(specs):
        itself = graph_of_spec(spec)
        assert templates.graph_of(spec).digest == itself.digest, spec.name
        own = owner == index
        for name in ("kind", "macs", "in_elems", "out_elems", "weight_elems", "gemm_m", "gemm_n", "gemm_k", "groups"):
            np.testing.assert_array_equal(getattr(columns, name)[own], getattr(itself.columns, name), spec.name)


def test_specs_are_predicted_in_their_order_whatever_their_families() -> None:
    specs = [
        spec_of("resnet", 8, 16, 32),
        spec_of("vgg", 8, 8, 32),
        spec_of("resnet", 14, 8, 32),
        spec_of("vgg", 8, 4, 64),
    ]
    found = SpecTemplates().predict(specs, get_target("jetson-orin"), "fp16")
    for index, spec in enumerate(specs):
        expected = predict(graph_of_spec(spec), get_target("jetson-orin"), "fp16").p50_ms
        assert found.p50_ms[index] == pytest.approx(expected)


def test_a_users_own_network_is_left_as_it_was(tmp_path: Path) -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 12, 3, stride=2, padding=1)
            self.squeeze, self.excite = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
            self.head = nn.Linear(12, 5)

        def forward(self, maps: Tensor) -> Tensor:
            maps = nn.functional.silu(self.first(maps))
            gate = self.excite(torch.relu(self.squeeze(maps.mean((2, 3), keepdim=True)))).sigmoid()
            return self.head((maps * gate).mean((2, 3)))  # type: ignore[no-any-return]

    module = Gated().train()
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    found = graph_from_module(module, (3, 20, 20), name="gated")
    assert module.training
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())
    path = tmp_path / "net.onnx"
    export_onnx(module, path, input_shape=(3, 20, 20), opset=17)
    assert found.digest == graph_from_onnx(path).digest
    assert [layer.kind for layer in found.layers].count("gate") == 1


def test_operators_without_a_rule_are_named() -> None:
    class Odd(nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            return torch.linalg.matrix_exp(maps)  # type: ignore[no-any-return]

    with pytest.raises(DataError, match="linalg_matrix_exp"):
        graph_from_module(Odd(), (3, 4, 4))


def test_networks_with_several_outputs_are_refused() -> None:
    class Two(nn.Module):
        def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
            return maps + 1, maps * 2

    with pytest.raises(DataError, match="returns tuple"):
        graph_from_module(Two(), (3, 4, 4))
