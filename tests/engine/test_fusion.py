import dataclasses
import json

import pytest

from edgekd.core.errors import BuildError
from edgekd.engine import FusedLayer, FusedTensor, FusionReport, report_from_json, require_precision


def tensor(dtype="fp32", shape=(1, 8, 4, 4)):
    return FusedTensor("t", shape, dtype, "linear")


def layer(dtype, kind="correlation", name="conv", constants=()):
    return FusedLayer(name, kind, (tensor(dtype),), constants, (tensor("fp32"),), ("node",))


def report(*dtypes):
    return FusionReport(tuple(layer(dtype, name=f"conv{i}") for i, dtype in enumerate(dtypes)))


@pytest.mark.parametrize(
    ("kind", "name", "constants", "is_compute"),
    [
        ("correlation", "conv", (), True),
        ("gemm", "fc", (), True),
        ("deconv", "up", (), True),
        ("runtime_fusion", "__myl_FcAdd", (), True),
        ("Convolution", "conv", (), True),
        ("CaskGemmMatrixMultiply", "fc", (), True),
        ("kgen", "__myl_ReshMulSum_myl0_9", (tensor(shape=(32, 10)),), True),
        ("kgen", "__myl_ReshMulSum_myl0_9", (tensor(shape=(1, 10)),), False),
        ("kgen", "__myl_MulAddRelu_myl0_3", (tensor(shape=(32, 10)),), False),
        ("maxpool", "pool", (), False),
        ("signal", "s", (), False),
    ],
)
def test_compute_layers_are_convolutions_and_matrix_products(kind, name, constants, is_compute):
    assert layer("fp32", kind, name, constants).is_compute is is_compute


@pytest.mark.parametrize(
    ("dtypes", "precision"),
    [
        (("fp32", "fp32"), "fp32"),
        (("fp16", "fp32"), "fp16"),
        (("int8", "int8", "fp32"), "int8"),
        (("int8", "fp16", "int8", "fp32"), "int8"),
    ],
)
def test_precision_is_kept_when_half_are_exact_and_none_narrower(dtypes, precision):
    require_precision(report(*dtypes), precision)


@pytest.mark.parametrize(
    ("dtypes", "precision", "first"),
    [
        (("fp32", "fp16"), "fp32", r"conv1 \(fp16\)"),
        (("fp16", "fp32", "fp32"), "fp16", r"conv1 \(fp32\)"),
        (("fp16", "fp16", "int8"), "fp16", r"conv2 \(int8\)"),
        (("fp32", "fp32"), "int8", r"conv0 \(fp32\)"),
        (("bf16", "bf16"), "fp16", r"conv0 \(bf16\)"),
    ],
)
def test_precision_is_refused_with_counts_and_names(dtypes, precision, first):
    with pytest.raises(BuildError, match=rf"{precision} was asked for, but of {len(dtypes)} .*: {first}"):
        require_precision(report(*dtypes), precision)


def test_precision_is_refused_when_nothing_computes():
    with pytest.raises(BuildError, match="no convolution or matrix product among its 1 layers"):
        require_precision(FusionReport((layer("fp16", "maxpool"),)), "fp16")


def test_report_counts_and_survives_json():
    empty = FusedLayer("shape", "shape_call", (), (), ())
    whole = FusionReport((layer("fp16"), layer("int8", "kgen", constants=(tensor(),)), empty), 1000, None)
    document = whole.to_json()
    assert document["layers_by_kind"] == {"correlation": 1, "kgen": 1, "shape_call": 1}
    assert document["layers_by_precision"] == {"fp16": 1, "int8": 1}
    assert document["compute_precisions"] == {"fp16": 1}
    assert (document["num_layers"], document["activation_bytes"], document["weight_bytes"]) == (3, 1000, None)
    assert report_from_json(json.loads(json.dumps(document))) == whole
    assert empty.precision == "none"
    assert dataclasses.is_dataclass(whole)
