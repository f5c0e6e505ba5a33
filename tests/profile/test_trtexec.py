"""Files made by hand from the format in NVIDIA/TensorRT, samples/common/sampleReporting.cpp (exportJSONTrace,
exportJSONProfile) of 8.x and 10.x, and, for layer information, from inspector output quoted in public repositories
(`Metadata` with 0x1e and 0x1f between nodes, `Bindings` up to 10.x, `I/O Tensors` in 11.x). No board of ours wrote any.
"""

import json

import pytest

from edgekd.core.errors import DataError
from edgekd.engine.tensorrt.inspector import nodes_of_metadata
from edgekd.profile.trtexec import LayerInfo, LayerProfile, Times, export_from_text, read_export


def inference(start, compute=2.0, **more):
    """One object of exportTimes: 0.1 ms copy in, the compute, 0.2 ms copy out."""
    return {
        "startEnqMs": start - 0.5, "endEnqMs": start - 0.4,
        "startH2dMs": start, "endH2dMs": start + 0.1,
        "startComputeMs": start + 0.1, "endComputeMs": start + 0.1 + compute,
        "startD2hMs": start + 0.1 + compute, "endD2hMs": start + 0.3 + compute,
        "h2dMs": 0.1, "computeMs": compute, "d2hMs": 0.2, "latencyMs": compute + 0.3, **more,
    }  # fmt: skip


def profile_rows(**more):
    return [
        {"count": 50},
        {"name": "conv1/Conv + relu/Relu", "timeMs": 75.0, "averageMs": 1.5, "percentage": 75.0, **more},
        {"name": "fc/Gemm", "timeMs": 25.0, "averageMs": 0.5, "percentage": 25.0, **more},
    ]


def test_times_of_10_and_11():
    times = export_from_text(json.dumps([inference(10.0), inference(13.0, 4.0)]), "t.json")
    assert isinstance(times, Times)
    assert (len(times.inferences), times.dropped) == (2, 0)
    second = times.inferences[1]
    assert second.latency_ms == 4.3
    assert (second.enqueue, second.h2d) == ((12.5, 12.6), (13.0, 13.1))
    assert second.compute == pytest.approx((13.1, 17.1))
    assert second.d2h == pytest.approx((17.1, 17.3))


def test_times_of_8_lose_their_warm_up():
    rows = [inference(start, endToEndMs=3.0) for start in (0.0, 199.8, 200.0, 250.0)]
    times = export_from_text(json.dumps(rows), "t.json")
    assert (len(times.inferences), times.dropped) == (2, 2)
    assert len(export_from_text(json.dumps(rows), "t.json", warmup_ms=0.0).inferences) == 4
    with pytest.raises(DataError, match="all 4 inferences started within the warm-up of 500 ms"):
        export_from_text(json.dumps(rows), "t.json", warmup_ms=500.0)


@pytest.mark.parametrize("median", [None, 1.4])
def test_profiles_with_and_without_median(median):
    more = {} if median is None else {"medianMs": median}
    profile = export_from_text(json.dumps(profile_rows(**more)), "p.json")
    assert isinstance(profile, LayerProfile)
    assert (profile.runs, [layer.name for layer in profile.layers]) == (50, ["conv1/Conv + relu/Relu", "fc/Gemm"])
    first = profile.layers[0]
    assert (first.average_ms, first.median_ms, first.share) == (1.5, median, 0.75)


def test_layer_information_of_8_and_10():
    layers = [
        {"Name": "fused", "LayerType": "CaskConvolution", "Metadata": "[ONNX Layer: a/Conv]\x1f[ONNX Layer: a/Relu]"},
        {"Name": "old", "LayerType": "Shuffle"},
    ]
    text = json.dumps({"Layers": layers, "Bindings": ["input", "logits"]}).replace("\\u001f", "\x1f")
    assert "\x1f" in text
    info = export_from_text(text, "l.json")
    assert isinstance(info, LayerInfo)
    assert [(layer.name, layer.kind, layer.onnx_nodes) for layer in info.layers] == [
        ("fused", "CaskConvolution", ("a/Conv", "a/Relu")),
        ("old", "Shuffle", ()),
    ]
    assert info.tensors == ("input", "logits")


def test_layer_information_of_11():
    tensors = [{"Name": "input", "IOMode": "Input", "DataType": "FP32", "Dimensions": [1, 3, 8, 8], "ProfileInfo": []}]
    info = export_from_text(json.dumps({"Layers": [{"Name": "x"}], "I/O Tensors": tensors}), "l.json")
    assert (info.layers[0].kind, info.tensors) == ("", ("input",))


def test_layer_information_without_details_is_names():
    info = export_from_text(json.dumps({"Layers": ["a", "b"], "Bindings": []}), "l.json")
    assert [layer.name for layer in info.layers] == ["a", "b"]


@pytest.mark.parametrize(
    ("metadata", "nodes"),
    [
        ("[ONNX Layer: a/Conv][ONNX Layer: b/Relu]", ("a/Conv", "b/Relu")),
        ("[ONNX Layer: a]\x1e[ONNX Layer: b[0]]\x1f[ONNX Layer: a]", ("a", "b[0]")),
        ("", ()),
        ("something else", ()),
    ],
)
def test_nodes_of_metadata(metadata, nodes):
    assert nodes_of_metadata(metadata) == nodes


def without(row, field):
    return {name: value for name, value in row.items() if name != field}


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ([], "neither, or empty"),
        ("text", "neither, or empty"),
        ([1, 2], "inference 0 is int, not an object with the field 'startEnqMs'"),
        ([inference(0.0), without(inference(1.0), "computeMs")], "inference 1: the field 'computeMs' is missing"),
        ([inference(0.0) | {"latencyMs": "2"}], "inference 0: 'latencyMs' is '2', not a finite number"),
        ([inference(0.0) | {"latencyMs": 0.0}], "'latencyMs' is 0, it must be above zero"),
        ([inference(0.0) | {"startD2hMs": True}], "'startD2hMs' is True"),
        ([{"count": 0}, *profile_rows()[1:]], "entry 0: 'count' is 0"),
        ([{"count": 5}], "no layer took any time"),
        ([{"count": 5}, {"averageMs": 1.0}], "entry 1: the field 'name' is missing"),
        ([{"count": 5}, {"name": "a"}], "entry 1: the field 'averageMs' is missing"),
        ([{"count": 5}, {"name": "a", "averageMs": -1.0}], "'averageMs' is -1, it must not be negative"),
        ([{"count": 5}, {"name": "a", "averageMs": 1.0, "medianMs": None}], "'medianMs' is None"),
        ({"Bindings": []}, "'Layers' is missing or empty"),
        ({"Layers": [{"LayerType": "x"}]}, "layer 0: the field 'Name' is missing"),
        ({"Layers": [7]}, "layer 0 is int, not an object with the field 'Name'"),
        ({"Layers": ["a"], "I/O Tensors": [{}]}, "I/O Tensors: the field 'Name' is missing"),
    ],
)
def test_malformed_files_are_refused_with_the_field(document, says):
    with pytest.raises(DataError, match="^f.json.*") as caught:
        export_from_text(json.dumps(document), "f.json")
    assert says in str(caught.value)


@pytest.mark.parametrize("text", ["", "[{", '[{"startEnqMs": nan}]', "&&&& PASSED TensorRT.trtexec"])
def test_what_is_no_json_is_refused(text, tmp_path):
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(DataError, match="f.json is not JSON as trtexec writes it"):
        read_export(tmp_path / "f.json")
    with pytest.raises(DataError, match="cannot read .*absent.json"):
        read_export(tmp_path / "absent.json")


def test_not_a_number_is_refused():
    with pytest.raises(DataError, match="'latencyMs' is nan, not a finite number"):
        export_from_text(json.dumps([inference(0.0) | {"latencyMs": float("nan")}]), "f.json")
