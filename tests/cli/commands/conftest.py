"""A small network for the digits, untrained, and its ONNX file."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="session")
def net(tmp_path_factory) -> SimpleNamespace:
    """Return paths `spec`, `weights`, `onnx`, and the torch `module`."""
    import torch

    from edgekd.core.artifacts import to_json
    from edgekd.export import export_onnx
    from edgekd.models import build, save_weights, spec_for

    folder: Path = tmp_path_factory.mktemp("net")
    torch.manual_seed(0)
    facts = {"in_channels": 1, "num_classes": 10, "resolution": 8, "mean": (0.3,), "std": (0.4,)}
    spec = spec_for("vgg", depth=8, width=8, **facts)
    module = build(spec).eval()
    (folder / "spec.json").write_text(json.dumps(to_json(spec)))
    save_weights(module, folder / "w.safetensors", {})
    export_onnx(module, folder / "net.onnx", input_shape=spec.input_shape, opset=17, parents=())
    return SimpleNamespace(
        spec=folder / "spec.json",
        spec_document=dataclasses.asdict(spec),
        weights=folder / "w.safetensors",
        onnx=folder / "net.onnx",
        module=module,
    )
