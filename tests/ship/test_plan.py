"""Build plans follow what each TensorRT line accepts."""

from dataclasses import replace

import pytest

from edgekd.core.budget import parse_budget
from edgekd.core.errors import ConfigError
from edgekd.ship import build_plan, health_check, provenance, target_selector, usual_tolerance


@pytest.mark.parametrize(
    ("tensorrt", "sm", "precision", "is_strong", "flags"),
    [
        ("8.5", 72, "fp32", False, ()),
        ("8.5", 72, "fp16", False, ("FP16",)),
        ("8.5", 87, "int8", False, ("INT8", "TF32")),
        ("10.3", 87, "fp16", True, ("TF32",)),
        ("10.16", 110, "int8", True, ("TF32",)),
        ("11.4.1", 110, "int8", True, ("TF32",)),
        (None, 89, "fp16", True, ("TF32",)),
        (None, 75, "fp16", True, ()),
    ],
)
def test_precision_flags_are_only_for_the_weakly_typed_line(model, board, tensorrt, sm, precision, is_strong, flags):
    plan = build_plan(replace(model, precision=precision), board(tensorrt=tensorrt, sm=sm), role="m")
    assert (plan.backend, plan.strongly_typed, plan.flags) == ("tensorrt", is_strong, flags)
    assert (plan.model, plan.precision, plan.timing_cache) == ("m.onnx", precision, "equal-key-only")


def test_cpu_runs_the_onnx_itself(model, board):
    plan = build_plan(model, board(kind="cpu", sm=None, tensorrt=None), role="m")
    assert (plan.backend, plan.strongly_typed, plan.flags, plan.timing_cache) == ("onnxruntime", False, (), "none")


def test_profile_covers_batches_of_a_dynamic_model(model, board):
    profile = build_plan(model, board(), role="m", max_batch=8).opt_profile
    assert (profile.min, profile.opt, profile.max) == ((1, 1, 8, 8), (1, 1, 8, 8), (8, 1, 8, 8))
    assert profile.input_name == "input"


def test_profile_of_a_fixed_batch_has_one_shape(model, board):
    profile = build_plan(replace(model, batch=4), board(), role="m").opt_profile
    assert (profile.min, profile.opt, profile.max) == ((4, 1, 8, 8),) * 3


@pytest.mark.parametrize(("batch", "max_batch"), [(0, 0), (4, 5), (4, -1)])
def test_impossible_batch_is_refused(model, board, batch, max_batch):
    with pytest.raises(ConfigError, match="max_batch"):
        build_plan(replace(model, batch=batch), board(), role="m", max_batch=max_batch)


def test_version_that_is_none_is_refused(model, board):
    with pytest.raises(ConfigError, match="TensorRT version 'latest'"):
        build_plan(model, board(tensorrt="latest"), role="m")


def test_selector_copies_what_a_device_compares(board):
    selector = target_selector(board())
    assert (selector.name, selector.device, selector.sm) == ("jetson-orin", "jetson-agx-orin-64gb", 87)
    assert (selector.jetpack, selector.tensorrt, selector.cuda, selector.power_mode) == ("6.2", "10.3", "12.6", "MAXN")


def test_selector_accepts_the_targets_of_edgekd():
    targets = pytest.importorskip("edgekd.targets")
    for name in targets.target_names():
        target = targets.get_target(name)
        selector = target_selector(target)
        assert (selector.name, selector.kind, selector.sm) == (name, target.kind, target.sm)


def test_health_budget_is_in_milliseconds():
    assert health_check(tolerance=0.1, budget=parse_budget("p50<500us, p99<1s")).budget_ms == {
        "p50": 0.5,
        "p99": 1000.0,
    }
    assert health_check(tolerance=0.1).budget_ms == {}


def test_provenance_names_the_program():
    made = provenance(recipe_sha256="a", data_sha256="b", parents=["c"], metrics={"x": 1.0})
    assert made.made_by.startswith("edgekd ")
    assert (made.parents, made.metrics) == (("c",), {"x": 1.0})


@pytest.mark.parametrize(
    ("precision", "largest", "expected"),
    [("fp32", 10.0, 0.01), ("fp16", 10.0, 0.5), ("int8", 10.0, 2.5), ("fp32", 0.0, 0.001), ("bf16", 2.0, 0.2)],
)
def test_usual_tolerance_grows_with_the_logits_and_shrinks_with_precision(precision, largest, expected):
    assert usual_tolerance(precision, largest) == pytest.approx(expected)
