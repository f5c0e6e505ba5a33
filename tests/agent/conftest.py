"""A small valid bundle, made by hand with the standard library so that it does not depend on the code under test."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

FILES = {"golden.npz": b"golden bytes", "onnx/model-fp32.onnx": b"\x08\x07model", "timing/orin.cache": b""}
ROLES = {"golden.npz": "golden", "onnx/model-fp32.onnx": "model-fp32", "timing/orin.cache": "timing-cache"}
MEDIA = {".npz": "application/x-npz", ".onnx": "application/x-onnx", ".cache": "application/octet-stream"}


def manifest_document() -> dict[str, Any]:
    digest = "ab" * 32
    return {
        "schema_version": 1,
        "name": "digits-student",
        "version": 3,
        "created": "2026-01-31T12:00:00Z",
        "min_agent": "0.1.0",
        "targets": [
            {
                "name": "jetson-orin",
                "device": "jetson-agx-orin-64gb",
                "title": "Jetson AGX Orin 64GB",
                "kind": "jetson",
                "sm": 87,
                "power_mode": "MAXN",
                "jetpack": "6.2",
                "tensorrt": "10.3",
                "cuda": None,
            }
        ],
        "artifacts": [
            {
                "path": path,
                "role": ROLES[path],
                "media_type": MEDIA[Path(path).suffix],
                "size_bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
            for path, content in sorted(FILES.items())
        ],
        "build": {
            "backend": "tensorrt",
            "model": "onnx/model-fp32.onnx",
            "precision": "fp32",
            "strongly_typed": True,
            "flags": ["GPU_FALLBACK", "TF32"],
            "opt_profile": {"input_name": "input", "min": [1, 1, 8, 8], "opt": [1, 1, 8, 8], "max": [4, 1, 8, 8]},
            "workspace_mib": 256,
            "timing_cache": "equal-key-only",
        },
        "health": {
            "golden": "golden.npz",
            "metric": "max_abs_error",
            "tolerance": 0.01,
            "budget_ms": {"p99": 8.0},
            "warmup": 20,
            "max_memory_mib": None,
        },
        "provenance": {
            "recipe_sha256": digest,
            "data_sha256": digest,
            "parents": [digest],
            "metrics": {"test_accuracy": 0.96},
            "made_by": "edgekd 0.1.0",
        },
    }


def canonical(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


@pytest.fixture
def document() -> dict[str, Any]:
    return manifest_document()


@pytest.fixture(scope="session")
def valid_bytes() -> bytes:
    return canonical(manifest_document())


@pytest.fixture
def encode() -> Any:
    return canonical


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    for path, content in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    (folder / "bundle.json").write_bytes(canonical(manifest_document()))
    return folder
