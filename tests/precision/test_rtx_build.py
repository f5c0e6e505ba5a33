"""Real TensorRT-RTX builds on the CPU, each in its own process: a failed build spoils later ones."""

import copy
import json
import subprocess
import sys

import pytest
import torch

from edgekd.precision import (
    calibrated,
    fake_quantized,
    int8_from_fake_quantized,
    to_bf16,
    to_fp8,
    to_fp16,
    to_int8,
    write_int8,
)
from edgekd.targets import get_target

SCRIPT = """
import json, sys
import tensorrt_rtx as trt
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, logger)
answer = {"parsed": parser.parse_from_file(sys.argv[1]), "errors": [], "bytes": 0}
answer["errors"] = [parser.get_error(index).desc() for index in range(parser.num_errors)]
if answer["parsed"]:
    config = builder.create_builder_config()
    targets = [getattr(trt.ComputeCapability, name) for name in sys.argv[2:]]
    config.num_compute_capabilities = len(targets)
    answer["targets"] = [config.set_compute_capability(target, index) for index, target in enumerate(targets)]
    profile = builder.create_optimization_profile()
    profile.set_shape("input", (1, 3, 8, 8), (4, 3, 8, 8), (8, 3, 8, 8))
    config.add_optimization_profile(profile)
    answer["types"] = sorted({str(network.get_layer(i).get_output(0).dtype) for i in range(network.num_layers)})
    answer["io"] = [str(network.get_input(0).dtype), str(network.get_output(0).dtype)]
    engine = builder.build_serialized_network(network, config)
    answer["bytes"] = 0 if engine is None else engine.nbytes
print(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    script = tmp_path_factory.mktemp("rtx") / "build.py"
    script.write_text(SCRIPT)

    def run(model, *capabilities):
        command = [sys.executable, str(script), model.file.path, *(capabilities or ("SM86", "SM89"))]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout.splitlines()[-1])

    return run


def test_rtx_builds_the_tensorrt_flavour_with_real_int8_tensors(build, model, calibration, tmp_path):
    answer = build(to_int8(model, tmp_path / "m.onnx", calibration=calibration, flavour="tensorrt"))
    assert answer["errors"] == []
    assert answer["targets"] == [True, True]
    assert "DataType.INT8" in answer["types"]
    assert answer["io"] == ["DataType.FLOAT", "DataType.FLOAT"]
    assert answer["bytes"] > 0


def test_rtx_builds_typed_fp16_with_float32_outside(build, model, tmp_path):
    answer = build(to_fp16(model, tmp_path / "m.onnx"))
    assert answer["errors"] == []
    assert "DataType.HALF" in answer["types"]
    assert answer["io"] == ["DataType.FLOAT", "DataType.FLOAT"]
    assert answer["bytes"] > 0


def test_rtx_refuses_the_cpu_flavour(build, model, calibration, tmp_path):
    """The reason why two flavours exist: int32 biases and unsigned activations are no TensorRT types."""
    answer = build(to_int8(model, tmp_path / "m.onnx", calibration=calibration, flavour="cpu"))
    assert not answer["parsed"]
    assert answer["errors"]


def test_rtx_builds_the_scales_that_were_trained(build, net, calibration, tmp_path):
    tuned = fake_quantized(copy.deepcopy(net), [torch.from_numpy(calibration)])
    model, _ = int8_from_fake_quantized(tuned, tmp_path / "q.onnx", inputs=calibration, opset=17, parents=())
    answer = build(model)
    assert answer["errors"] == []
    assert "DataType.INT8" in answer["types"]
    assert answer["bytes"] > 0


def test_rtx_builds_a_mixture_with_layers_in_float(build, model, calibration, tmp_path):
    ready = calibrated(model, calibration=calibration, flavour="tensorrt")
    answer = build(write_int8(ready, tmp_path / "m.onnx", kept_float=["first/Conv"]))
    assert answer["errors"] == []
    assert answer["bytes"] > 0


@pytest.mark.parametrize(("precision", "kind"), [("bf16", "DataType.BF16"), ("fp8", "DataType.FP8")])
def test_rtx_builds_bf16_and_fp8(build, exported, net, calibration, tmp_path, precision, kind):
    source, ada = exported(net, opset=22), get_target("rtx-4090")
    if precision == "bf16":
        model = to_bf16(source, tmp_path / "m.onnx", target=ada)
    else:
        model = to_fp8(source, tmp_path / "m.onnx", calibration=calibration, target=ada)
    answer = build(model, "SM89")
    assert answer["errors"] == []
    assert kind in answer["types"]
    assert answer["bytes"] > 0
