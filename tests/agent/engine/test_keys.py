"""Keys of engines: everything that decides whether one may be loaded."""

import dataclasses
import json

import pytest
from edgekd_agent.engine import keys
from edgekd_agent.errors import AgentError
from edgekd_agent.install.work import prebuilt_engine, wanted_artifacts
from edgekd_agent.reader import parse_manifest
from models import Recipe, bundle

FACTS = {
    "machine": "aarch64",
    "model": "NVIDIA Jetson AGX Orin",
    "l4t": "36.4.3",
    "gpu": "Orin",
    "sm": 87,
    "cuda_driver": "12.6",
    "tensorrt": "10.3.0",
    "onnxruntime": "1.20.0",
}


def manifest(version: int = 1, backend: str = "tensorrt", **extra):
    return parse_manifest(bundle(Recipe(version, backend=backend, **extra)).manifest)


@pytest.mark.parametrize("fact", ["machine", "model", "l4t", "gpu", "sm", "cuda_driver", "tensorrt"])
def test_every_fact_of_the_device_is_in_the_key_of_an_engine(fact) -> None:
    other = {**FACTS, fact: "another"}
    assert keys.engine_key(manifest(), other) != keys.engine_key(manifest(), FACTS)
    assert keys.timing_key(manifest(), other) != keys.timing_key(manifest(), FACTS)


def test_onnx_runtime_does_not_matter_to_an_engine_of_tensorrt(fact="onnxruntime") -> None:
    assert keys.engine_key(manifest(), {**FACTS, fact: "2"}) == keys.engine_key(manifest(), FACTS)


def test_model_and_plan_are_in_the_key() -> None:
    first = manifest()
    flags = dataclasses.replace(first, build=dataclasses.replace(first.build, flags=("TF32",)))
    assert keys.engine_key(manifest(2), FACTS) != keys.engine_key(first, FACTS)
    assert keys.timing_key(manifest(2), FACTS) == keys.timing_key(first, FACTS)
    assert keys.engine_key(flags, FACTS) != keys.engine_key(first, FACTS)
    assert keys.timing_key(flags, FACTS) != keys.timing_key(first, FACTS)


def test_key_does_not_depend_on_what_the_release_is_called() -> None:
    first = manifest()
    assert keys.engine_key(dataclasses.replace(first, version=9, name="other"), FACTS) == keys.engine_key(first, FACTS)


def test_onnx_runtime_runs_what_tensorrt_cannot() -> None:
    assert keys.backend_for(manifest(), FACTS) == "tensorrt"
    assert keys.backend_for(manifest(), {**FACTS, "gpu": None}) == "onnxruntime"
    assert keys.backend_for(manifest(backend="onnxruntime"), FACTS) == "onnxruntime"
    with pytest.raises(AgentError, match="neither TensorRT") as caught:
        keys.backend_for(manifest(), {"machine": "aarch64"})
    assert caught.value.exit_code == 5


def test_only_the_engine_of_exactly_this_device_is_wanted() -> None:
    key, other = keys.engine_key(manifest(), FACTS), "0" * 64
    extra = {f"engines/{key}/model.plan": b"mine", f"engines/{other}/model.plan": b"another's"}
    recipe = Recipe(1, backend="tensorrt", extra=extra)
    document = json.loads(bundle(recipe).manifest)
    for number, item in enumerate(document["artifacts"]):
        item["role"] = f"r{number}"
    whole = parse_manifest(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())
    assert keys.engine_key(whole, FACTS) == key
    found = prebuilt_engine(whole, key)
    assert found is not None and found.path == f"engines/{key}/model.plan"
    wanted = {item.path for item in wanted_artifacts(whole, key)}
    assert f"engines/{other}/model.plan" not in wanted
    assert wanted == {"golden.npz", "model-fp32.onnx", f"engines/{key}/model.plan"}
