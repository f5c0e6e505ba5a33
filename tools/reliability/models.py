"""Small ONNX networks with known answers, good and bad, and bundles of them."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

INPUT, OUTPUT = "input", "logits"
SHAPE = (1, 4, 4)
CLASSES = 3
GOLDEN_ROWS = 4
DEVICE = "cpu"


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory.

    Attributes:
        manifest: The bytes of `bundle.json`.
        blobs: Content by digest.
    """

    manifest: bytes
    blobs: dict[str, bytes]

    @property
    def sha256(self) -> str:
        """Digest of the manifest."""
        return hashlib.sha256(self.manifest).hexdigest()


@dataclass(frozen=True)
class Recipe:
    """What a bundle is made of; every field has the value of a good one.

    Attributes:
        version: Release number.
        model: The ONNX file; None for a good one whose weights depend on `version`.
        padding_bytes: Size of an extra file that makes bundles bigger.
        budget_ms: Latency limits.
        tolerance: Largest error on the golden inputs.
        max_memory_mib: Memory ceiling.
        shift: What is added to the expected answers, to make a good model wrong.
        extra: Further files by path.
        backend: What is planned to run it.
    """

    version: int = 1
    model: bytes | None = None
    padding_bytes: int = 0
    budget_ms: dict[str, float] = field(default_factory=dict)
    tolerance: float = 1e-3
    max_memory_mib: int | None = None
    shift: float = 0.0
    extra: dict[str, bytes] = field(default_factory=dict)
    backend: str = "onnxruntime"


def bundle(recipe: Recipe) -> Bundle:
    """Make a bundle; equal recipes give equal bytes."""
    model = recipe.model if recipe.model is not None else good_model(recipe.version)
    inputs = np.random.default_rng(0).random((GOLDEN_ROWS, *SHAPE), dtype=np.float32)
    logits = expected(recipe.version, inputs) + np.float32(recipe.shift)
    files = {"golden.npz": npz(inputs=inputs, logits=logits), "model-fp32.onnx": model, **recipe.extra}
    if recipe.padding_bytes:
        files["notes.txt"] = bytes(np.random.default_rng(recipe.version).bytes(recipe.padding_bytes))
    manifest = json.dumps(_manifest(recipe, files), sort_keys=True, separators=(",", ":")).encode()
    return Bundle(manifest, {hashlib.sha256(content).hexdigest(): content for content in files.values()})


def good_model(seed: int) -> bytes:
    """Return a network of one layer: the inputs, flattened, times weights that depend on `seed`."""
    return _model([helper.make_node("MatMul", ["flat", "weights"], [OUTPUT])], {"weights": weights(seed)})


def weights(seed: int) -> NDArray[np.float32]:
    """Return the weights of `good_model`."""
    return np.random.default_rng(seed).standard_normal((int(np.prod(SHAPE)), CLASSES)).astype(np.float32)


def expected(seed: int, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what `good_model` answers."""
    return inputs.reshape(len(inputs), -1) @ weights(seed)


def nan_model(seed: int) -> bytes:
    """Return a network whose answers are NaN: a square root of what is below zero."""
    nodes = [
        helper.make_node("MatMul", ["flat", "weights"], ["product"]),
        helper.make_node("Abs", ["product"], ["positive"]),
        helper.make_node("Neg", ["positive"], ["negative"]),
        helper.make_node("Sqrt", ["negative"], [OUTPUT]),
    ]
    return _model(nodes, {"weights": weights(seed)})


def wide_model(seed: int) -> bytes:
    """Return a network with one class too many."""
    wide = np.concatenate([weights(seed), weights(seed)[:, :1]], axis=1)
    return _model([helper.make_node("MatMul", ["flat", "weights"], [OUTPUT])], {"weights": wide})


def slow_model(seed: int, side: int = 512, layers: int = 24) -> bytes:
    """Return a network with the right answers and a long way to them: products of big matrices, times nothing."""
    big = np.random.default_rng(seed).standard_normal((side, side)).astype(np.float32) / side
    nodes = [
        helper.make_node("MatMul", ["flat", "weights"], ["right"]),
        helper.make_node("MatMul", ["flat", "in"], ["row"]),
        helper.make_node("MatMul", ["column", "row_first"], ["layer0"]),
    ]
    nodes.insert(2, helper.make_node("Gather", ["row", "first"], ["row_first"], axis=0))
    nodes += [helper.make_node("MatMul", [f"layer{i}", "big"], [f"layer{i + 1}"]) for i in range(layers)]
    nodes += [
        helper.make_node("ReduceMax", [f"layer{layers}"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "nothing"], ["none"]),
        helper.make_node("Add", ["right", "none"], [OUTPUT]),
    ]
    values = {
        "weights": weights(seed),
        "in": np.ones((int(np.prod(SHAPE)), side), np.float32),
        "column": np.ones((side, 1), np.float32),
        "first": np.array([0], np.int64),
        "big": big,
        "nothing": np.array(0, np.float32),
    }
    return _model(nodes, values)


def huge_model(seed: int, mib: int = 256) -> bytes:
    """Return a network with the right answers that takes memory on its way: a big tensor, summed, times nothing."""
    nodes = [
        helper.make_node("MatMul", ["flat", "weights"], ["right"]),
        helper.make_node("ReduceMax", ["flat"], ["most"], keepdims=0),
        helper.make_node("Expand", ["most", "size"], ["big"]),
        helper.make_node("Exp", ["big"], ["bigger"]),
        helper.make_node("ReduceMax", ["bigger"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "nothing"], ["none"]),
        helper.make_node("Add", ["right", "none"], [OUTPUT]),
    ]
    values = {
        "weights": weights(seed),
        "size": np.array([mib << 18], np.int64),
        "nothing": np.array(0, np.float32),
    }
    return _model(nodes, values)


def npz(**arrays: NDArray[Any]) -> bytes:
    """Return an npz of stored members, the same bytes every time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in sorted(arrays.items()):
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), content.getvalue())
    return buffer.getvalue()


def _model(nodes: list[Any], values: dict[str, NDArray[Any]]) -> bytes:
    batch = ["batch", *SHAPE]
    flatten = helper.make_node("Flatten", [INPUT], ["flat"], axis=1)
    graph = helper.make_graph(
        [flatten, *nodes],
        "student",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, batch)],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", values["weights"].shape[1]])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def _manifest(recipe: Recipe, files: dict[str, bytes]) -> dict[str, Any]:
    digest = "ab" * 32
    return {
        "schema_version": 1,
        "name": "student",
        "version": recipe.version,
        "created": "2026-01-31T12:00:00Z",
        "min_agent": "0.1.0",
        "targets": [
            {
                "name": DEVICE,
                "device": DEVICE,
                "title": "This machine",
                "kind": "cpu",
                "sm": None,
                "power_mode": "",
                "jetpack": None,
                "tensorrt": None,
                "cuda": None,
            }
        ],
        "artifacts": [_artifact(path, content) for path, content in sorted(files.items())],
        "build": {
            "backend": recipe.backend,
            "model": "model-fp32.onnx",
            "precision": "fp32",
            "strongly_typed": False,
            "flags": [],
            "opt_profile": {"input_name": INPUT, "min": [1, *SHAPE], "opt": [1, *SHAPE], "max": [4, *SHAPE]},
            "workspace_mib": 64,
            "timing_cache": "equal-key-only" if recipe.backend == "tensorrt" else "none",
        },
        "health": {
            "golden": "golden.npz",
            "metric": "max_abs_error",
            "tolerance": recipe.tolerance,
            "budget_ms": recipe.budget_ms,
            "warmup": 2,
            "max_memory_mib": recipe.max_memory_mib,
        },
        "provenance": {
            "recipe_sha256": digest,
            "data_sha256": digest,
            "parents": [],
            "metrics": {},
            "made_by": "a test",
        },
    }


def _artifact(path: str, content: bytes) -> dict[str, Any]:
    media = {
        ".npz": "application/x-npz",
        ".onnx": "application/x-onnx",
        ".txt": "text/plain",
        ".plan": "application/octet-stream",
        ".cache": "application/octet-stream",
    }
    role = "".join(letter if letter.isalnum() else "-" for letter in Path(path).with_suffix("").as_posix())[:60]
    return {
        "path": path,
        "role": role,
        "media_type": media[Path(path).suffix],
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
