"""The network whose int8 speed is measured is as large as ResNet-18, and both models are timed."""

import importlib

import pytest


@pytest.fixture
def speed(monkeypatch):
    from pathlib import Path

    pytest.importorskip("onnxruntime")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "tools" / "bench"))
    return importlib.import_module("int8_speed")


def test_the_network_has_as_many_weights_as_the_published_resnet_18(speed):
    assert sum(weights.numel() for weights in speed.resnet18().parameters()) == 11_689_512


def test_both_models_are_timed(speed):
    found = speed.measured(32, 2)
    assert found["resolution"] == 32 and found["fp32_p50_ms"] > 0 < found["int8_p50_ms"]
    assert found["ratio"] > 0
