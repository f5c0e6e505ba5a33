"""Layers that leave int8: those that do harm, never at the price of a score below all-int8's."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core.errors import ConfigError, ExportError
from edgekd.data.metrics import TOP_1
from edgekd.latency import graph_from_onnx, predict
from edgekd.precision import (
    Gains,
    Mixture,
    calibrated,
    choose_layers,
    measured_gains,
    predicted_gains,
    predicted_mixture,
    quantized_ops,
    write_int8,
)
from edgekd.precision.layer_choice import choose_mixture, departure_order, pareto
from edgekd.precision.sensitivity import Sensitivity, layer_output, sensitivities, snr_db
from edgekd.targets import get_target

LAYERS = ("stem/Conv", "first/Conv", "second/Conv", "fc/Gemm")


@pytest.fixture(scope="module")
def ready(model, calibration):
    return calibrated(model, calibration=calibration, flavour="tensorrt")


def gains(*by_layer_ms, kind="predicted"):
    return Gains(dict(zip(LAYERS, by_layer_ms, strict=True)), 1.0, kind)


def losing(**losses):
    """A score of 1, less what each layer costs when it is quantised."""

    def score(model):
        if model.precision == "fp32":
            return 1.0
        floating = quantized_ops(model).floating
        return 1.0 - sum(loss for layer, loss in losses.items() if f"{layer}/Conv" not in floating)

    return score


def test_snr_is_ten_times_the_logarithm_of_the_ratio_of_powers():
    assert snr_db(np.float32([3, 4]), np.float32([3.5, 4])) == pytest.approx(20.0)
    assert snr_db(np.float32([3, 4]), np.float32([3, 4])) == 200
    assert snr_db(np.float32([0, 0]), np.float32([1, 0])) == -200


def test_sensitivity_of_a_layer_is_that_of_hand_made_quantisation(one_conv, one_conv_model, calibration):
    ready = calibrated(one_conv_model, calibration=calibration, flavour="tensorrt")
    (found,) = sensitivities(ready, calibration, lambda model: 0.25)
    weight, bias = one_conv.conv.weight.detach().double(), one_conv.conv.bias.detach().double()
    inputs = (torch.from_numpy(calibration).double() - 0.3) / 0.25
    scale, scales = inputs.abs().max() / 127, weight.abs().amax(dim=(1, 2, 3), keepdim=True) / 127
    expected = torch.nn.functional.conv2d(inputs, weight, bias)
    rounded = ((inputs / scale).round().clip(-128, 127) * scale, (weight / scales).round() * scales)
    error = torch.nn.functional.conv2d(*rounded, bias) - expected
    by_hand = 10 * float(torch.log10(expected.square().sum() / error.square().sum()))
    assert found.snr_db == pytest.approx(by_hand, abs=0.05)
    assert (found.layer, found.operator, found.score) == ("conv/Conv", "Conv", 0.25)
    assert 20 < by_hand < 60


def test_each_layer_is_quantised_alone(ready, calibration):
    seen = []
    found = sensitivities(ready, calibration, lambda model: seen.append(quantized_ops(model).floating) or 1.0)
    assert tuple(one.layer for one in found) == LAYERS
    assert seen == [tuple(name for name in LAYERS if name != layer) for layer in LAYERS]


def test_layer_output_names_a_node_that_is_not_there(ready, calibration):
    with pytest.raises(ExportError, match="no node 'nope'"):
        layer_output(ready.proto, "nope", calibration, 0)


def sensitive(layer, score, snr=40.0):
    return Sensitivity(layer, "Conv", snr, score)


def test_layers_leave_by_harm_for_a_millisecond_and_those_slower_in_int8_first():
    found = [sensitive("a", 0.9), sensitive("b", 0.95), sensitive("c", 1.0, snr=20), sensitive("d", 1.0, snr=50)]
    by_layer = {"a": 0.4, "b": 0.1, "c": 0.1, "d": 0.1}
    assert departure_order(found, Gains(by_layer, 1.0, "predicted"), 1.0) == ["b", "a", "c", "d"]
    slow = Gains({**by_layer, "d": -0.02}, 1.0, "measured")
    assert departure_order(found, slow, 1.0)[0] == "d"


scores = st.floats(0.0, 1.0)
mixtures = st.lists(st.builds(Mixture, st.just(()), scores, st.floats(0.1, 10)), min_size=1, max_size=8)


@given(mixtures, scores)
def test_a_mixture_is_never_worse_than_all_int8_and_the_fastest_good_one(found, goal):
    chosen = choose_mixture(found, goal=goal)
    assert chosen in found
    assert chosen.score >= found[0].score
    better = [one for one in found if one.score >= max(goal, found[0].score) and one.latency_ms < chosen.latency_ms]
    assert not better or chosen.score < goal
    if chosen.score < goal - 1e-9:
        assert chosen.score == max(one.score for one in found)


@given(mixtures)
def test_the_front_holds_what_no_other_beats(found):
    front = pareto(found)
    for one in found:
        assert any(other.latency_ms <= one.latency_ms and other.score >= one.score for other in front)
    for faster, slower in itertools.pairwise(front):
        assert (faster.latency_ms, faster.score) < (slower.latency_ms, slower.score)


def choice(ready, calibration, score, found_gains, max_drop=0.01):
    return choose_layers(ready, inputs=calibration, score=score, gains=found_gains, max_drop=max_drop, metric=TOP_1)


def test_the_layer_that_does_harm_is_left_in_float(ready, calibration):
    found = choice(ready, calibration, losing(second=0.05), gains(0.1, 0.2, 0.3, 0.1))
    assert found.chosen == Mixture(("second/Conv",), 1.0, 1.3)
    assert [(row.layer, row.precision) for row in found.rows] == [
        ("stem/Conv", "int8"), ("first/Conv", "int8"), ("second/Conv", "fp32"), ("fc/Gemm", "int8")
    ]  # fmt: skip
    assert [round(row.drop, 6) for row in found.rows] == [0, 0, 0.05, 0]
    assert [one.kept_float for one in found.front] == [(), ("second/Conv",)]
    assert "1 layer(s) in fp32 (second/Conv), the fastest found within" in found.reason
    assert "predicted 1.3 ms against all-int8 1 ms" in found.reason


def test_nothing_leaves_int8_where_all_of_it_is_good_enough(ready, calibration):
    found = choice(ready, calibration, losing(second=0.009), gains(0.1, 0.1, 0.1, 0.1))
    assert found.chosen.kept_float == ()
    assert len(found.mixtures) == 1
    assert found.reason.startswith("every layer in int8")


def test_a_layer_slower_in_int8_leaves_though_the_score_is_good(ready, calibration):
    found = choice(ready, calibration, losing(), gains(-0.1, 0.1, 0.1, 0.1, kind="measured"))
    assert found.chosen.kept_float == ("stem/Conv",)
    assert found.chosen.latency_ms == pytest.approx(0.9)


def test_the_float_model_is_the_last_resort(ready, calibration):
    score = losing(stem=0.1, first=0.1, second=0.1)
    found = choice(ready, calibration, lambda model: min(score(model), 1.0 if model.precision == "fp32" else 0.8),
                   gains(0.1, 0.1, 0.1, 0.1))  # fmt: skip
    assert found.chosen.kept_float == LAYERS
    assert found.chosen.score == 1.0


def test_no_mixture_is_taken_that_scores_below_all_int8(ready, calibration):
    """Every mixture is worse than all-int8, which misses the gate itself."""

    def score(model):
        if model.precision == "fp32":
            return 0.6
        return 0.5 if not quantized_ops(model).floating else 0.4

    found = choice(ready, calibration, score, gains(0.1, 0.1, 0.1, 0.1))
    assert found.chosen.score >= found.mixtures[0].score == 0.5
    assert found.chosen.kept_float == LAYERS
    broken = choice(ready, calibration, lambda model: 0.45 if model.precision == "fp32" else score(model),
                    gains(0.1, 0.1, 0.1, 0.1))  # fmt: skip
    assert broken.chosen.kept_float == ()


def test_an_impossible_drop_or_a_missing_gain_is_refused(ready, calibration):
    with pytest.raises(ConfigError, match=r"max_drop is 1\.5"):
        choice(ready, calibration, losing(), gains(1, 1, 1, 1), max_drop=1.5)
    with pytest.raises(ConfigError, match="no gain is known of first/Conv, second/Conv, fc/Gemm"):
        choice(ready, calibration, losing(), Gains({"stem/Conv": 1.0}, 1.0, "predicted"))


def test_predicted_gains_are_those_of_each_layers_kernel(ready, model, tmp_path):
    target = get_target("jetson-orin")
    found = predicted_gains(ready, target)
    graph = graph_from_onnx(Path(model.file.path))
    int8, fp32 = predict(graph, target, "int8"), predict(graph, target, "fp32")
    assert found.int8_ms == int8.p50_ms
    assert all(found.by_layer_ms[name] > 0 for name in LAYERS)
    assert sum(found.by_layer_ms.values()) <= fp32.p50_ms - int8.p50_ms + 1e-9
    plain, most = (write_int8(ready, tmp_path / f"{len(kept)}.onnx", kept_float=kept) for kept in ((), LAYERS[:3]))
    assert predicted_mixture(plain, target).p50_ms == pytest.approx(int8.p50_ms)
    mixed = predicted_mixture(most, target)
    share = sum(found.by_layer_ms[name] for name in LAYERS[:3]) / (fp32.p50_ms - int8.p50_ms)
    assert 0.5 < share <= 1 + 1e-9
    assert mixed.p50_ms == pytest.approx(int8.p50_ms + share * (fp32.p50_ms - int8.p50_ms), rel=0.02)
    assert int8.high_ms < mixed.high_ms <= fp32.high_ms
    assert "3 layer(s) in fp32" in mixed.conditions["assumptions"][-1]


def test_measured_gains_compare_each_layer_alone_in_float_with_all_int8(ready):
    asked = {}

    def time_all(mixtures):
        asked.update(mixtures)
        return {name: 2.0 + 0.1 * len(kept) * LAYERS.index(name) if kept else 2.0 for name, kept in mixtures.items()}

    found = measured_gains(ready, time_all)
    assert asked == {"": ()} | {name: (name,) for name in LAYERS}
    assert [found.by_layer_ms[name] for name in LAYERS] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert (found.int8_ms, found.kind) == (2.0, "measured")
    assert found.latency_ms(["first/Conv", "fc/Gemm"]) == pytest.approx(2.4)
