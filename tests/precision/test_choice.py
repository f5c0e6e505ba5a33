import dataclasses

import pytest

from edgekd.core.artifacts import FileRef, OnnxModel
from edgekd.core.errors import ConfigError, DataError
from edgekd.data.metrics import TOP_1
from edgekd.precision import Candidate, choose_precision

MODEL = OnnxModel(FileRef("m.onnx", "0" * 64, 1), "fp32", "any", 17, "input", (3, 8, 8), "logits", 0)


def candidate(precision, accuracy, p50_ms, kind="measured", flavour="any"):
    model = dataclasses.replace(MODEL, precision=precision, flavour=flavour)
    return Candidate(model, accuracy, p50_ms, kind if p50_ms is not None else None)


def decide(*candidates, max_drop=0.01, metric=TOP_1):
    decision = choose_precision(candidates, max_drop=max_drop, metric=TOP_1)
    assert [verdict.precision for verdict in decision.verdicts] == [item.model.precision for item in candidates]
    return decision.chosen.model.precision, decision.verdicts


def test_choice_takes_int8_when_it_is_accurate_and_faster():
    chosen, verdicts = decide(candidate("fp32", 0.925, 1.0), candidate("int8", 0.920, 0.4, flavour="cpu"))
    assert chosen == "int8"
    assert all(verdict.accepted for verdict in verdicts)
    assert verdicts[0].reason == "fp32: the reference, int8 (cpu) is chosen instead"
    assert verdicts[1].flavour == "cpu"
    assert "p50 0.4 ms against 1 ms; chosen" in verdicts[1].reason


def test_choice_rejects_lost_accuracy_with_the_numbers():
    chosen, verdicts = decide(candidate("fp32", 0.925, 1.0), candidate("int8", 0.912, 0.4))
    assert chosen == "fp32"
    assert not verdicts[1].accepted
    assert verdicts[1].reason == "int8: top-1 91.20 % is 1.3 points below fp32 top-1 92.50 %, the gate is 1 points"


def test_choice_rejects_a_slower_one_with_the_numbers():
    chosen, verdicts = decide(candidate("int8", 0.930, 0.074), candidate("fp32", 0.925, 0.052))
    assert chosen == "fp32"
    assert verdicts[0].reason == "int8: p50 0.074 ms is slower than fp32 0.052 ms"
    assert verdicts[1].reason == "fp32: the reference, chosen"


def test_choice_accepts_a_drop_of_exactly_the_gate():
    assert decide(candidate("fp32", 0.925, 1.0), candidate("fp16", 0.915, 0.5))[0] == "fp16"
    assert decide(candidate("fp32", 0.925, 1.0), candidate("fp16", 0.9149, 0.5))[0] == "fp32"


def test_choice_accepts_no_drop_when_the_gate_is_zero():
    assert decide(candidate("fp32", 0.925, 1.0), candidate("fp16", 0.925, 0.5), max_drop=0.0)[0] == "fp16"
    assert decide(candidate("fp32", 0.925, 1.0), candidate("fp16", 0.924, 0.5), max_drop=0.0)[0] == "fp32"


def test_choice_gives_ties_to_fp32():
    chosen, verdicts = decide(candidate("fp16", 0.925, 0.5), candidate("fp32", 0.925, 0.5))
    assert chosen == "fp32"
    assert not verdicts[0].accepted
    assert "ties go to fp32" in verdicts[0].reason


def test_choice_takes_the_fastest_then_the_more_accurate_then_the_wider():
    fp32 = candidate("fp32", 0.925, 1.0)
    chosen, verdicts = decide(fp32, candidate("fp16", 0.925, 0.5), candidate("int8", 0.920, 0.4))
    assert chosen == "int8"
    assert verdicts[1].accepted
    assert "int8 is preferred at 0.4 ms" in verdicts[1].reason
    assert decide(fp32, candidate("int8", 0.920, 0.5), candidate("fp16", 0.925, 0.5))[0] == "fp16"
    assert decide(fp32, candidate("int8", 0.930, 0.5), candidate("fp16", 0.925, 0.5))[0] == "int8"
    assert decide(fp32, candidate("int8", 0.925, 0.5), candidate("fp16", 0.925, 0.5))[0] == "fp16"


def test_choice_counts_two_percent_as_a_tie_and_gives_it_to_the_more_accurate():
    fp32 = candidate("fp32", 0.925, 1.0)
    assert decide(fp32, candidate("int8", 0.920, 0.500), candidate("fp16", 0.925, 0.509))[0] == "fp16"
    assert decide(fp32, candidate("int8", 0.920, 0.500), candidate("fp16", 0.925, 0.512))[0] == "int8"


def test_choice_refuses_a_gain_of_under_two_percent_on_fp32():
    fp32 = candidate("fp32", 0.925, 1.0)
    chosen, verdicts = decide(fp32, candidate("fp16", 0.925, 0.985))
    assert (chosen, verdicts[1].accepted) == ("fp32", False)
    assert "gains 1.5% on fp32 1 ms; under 2% is a tie" in verdicts[1].reason
    assert decide(fp32, candidate("fp16", 0.925, 0.975))[0] == "fp16"


@pytest.mark.parametrize(("first", "second"), [("measured", "predicted"), ("predicted", "measured")])
def test_choice_never_compares_measured_with_predicted(first, second):
    chosen, verdicts = decide(candidate("fp32", 0.9, 1.0, first), candidate("int8", 0.9, 0.1, second))
    assert chosen == "fp32"
    expected = f"int8: p50 0.1 ms is {second} and fp32 1 ms is {first}; the two cannot be compared"
    assert verdicts[1].reason == expected


def test_choice_compares_predictions_and_calls_them_so():
    chosen, verdicts = decide(candidate("fp32", 0.9, 1.0, "predicted"), candidate("int8", 0.9, 0.1, "predicted"))
    assert chosen == "int8"
    assert "predicted p50 0.1 ms" in verdicts[1].reason


@pytest.mark.parametrize(("reference_ms", "other_ms", "named"), [(1.0, None, "int8"), (None, 0.1, "fp32")])
def test_choice_takes_nothing_for_speed_without_both_latencies(reference_ms, other_ms, named):
    chosen, verdicts = decide(candidate("fp32", 0.9, reference_ms), candidate("int8", 0.9, other_ms))
    assert chosen == "fp32"
    assert verdicts[1].reason.endswith(f"but {named} has no latency: no speed-up is shown")


def test_choice_compares_like_with_like_among_several():
    chosen, verdicts = decide(
        candidate("fp32", 0.9, 1.0), candidate("fp16", 0.9, 0.01, "predicted"), candidate("int8", 0.9, 0.9)
    )
    assert chosen == "int8"
    assert [verdict.accepted for verdict in verdicts] == [True, False, True]


@pytest.mark.parametrize("precisions", [(), ("int8",), ("fp32", "fp32")])
def test_choice_needs_one_fp32_reference(precisions):
    with pytest.raises(ConfigError, match="exactly one fp32"):
        choose_precision([candidate(name, 0.9, 1.0) for name in precisions], max_drop=0.01, metric=TOP_1)


@pytest.mark.parametrize("max_drop", [-0.01, 1.0, float("nan")])
def test_choice_needs_the_gate_as_a_fraction(max_drop):
    with pytest.raises(ConfigError, match="0.01, one point"):
        choose_precision([candidate("fp32", 0.9, 1.0)], max_drop=max_drop, metric=TOP_1)


@pytest.mark.parametrize(
    "wrong",
    [
        candidate("int8", float("nan"), 1.0),
        candidate("int8", 1.2, 1.0),
        candidate("int8", 0.9, 0.0),
        candidate("int8", 0.9, float("nan")),
        candidate("int8", 0.9, float("inf")),
        dataclasses.replace(candidate("int8", 0.9, 1.0), ms_kind=None),
        dataclasses.replace(candidate("int8", 0.9, None), ms_kind="measured"),
    ],
)
def test_choice_refuses_impossible_figures(wrong):
    with pytest.raises(DataError, match="int8"):
        choose_precision([candidate("fp32", 0.9, 1.0), wrong], max_drop=0.01, metric=TOP_1)
