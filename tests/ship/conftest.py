"""Something small to pack."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from edgekd.core.artifacts import FileRef, OnnxModel
from edgekd.core.budget import parse_budget
from edgekd.ship import BundlePlan, Golden, build_plan, health_check, provenance, target_selector


@dataclass(frozen=True)
class Board:
    name: str = "jetson-orin"
    device: str = "jetson-agx-orin-64gb"
    title: str = "Jetson AGX Orin 64GB"
    kind: Literal["jetson", "gpu", "cpu"] = "jetson"
    sm: int | None = 87
    power_mode: str = "MAXN"
    jetpack: str | None = "6.2"
    tensorrt: str | None = "10.3"
    cuda: str | None = "12.6"


@pytest.fixture
def board():
    return Board


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "onnx"
    folder.mkdir()
    files = {}
    for precision, seed in [("fp32", 1), ("fp16", 2)]:
        path = folder / f"student.{precision}.onnx"
        path.write_bytes(np.random.default_rng(seed).bytes(4096))
        files[f"model-{precision}"] = path
    return files


@pytest.fixture
def model(sources: dict[str, Path]) -> OnnxModel:
    return OnnxModel(FileRef.of(sources["model-fp16"]), "fp16", "any", 17, "input", (1, 8, 8), "logits", 0)


@pytest.fixture
def golden() -> Golden:
    rng = np.random.default_rng(0)
    return Golden(rng.random((4, 1, 8, 8), dtype=np.float32), rng.standard_normal((4, 10)).astype(np.float32))


@pytest.fixture
def plan(model: OnnxModel) -> BundlePlan:
    return BundlePlan(
        created="2026-01-31T12:00:00Z",
        targets=(target_selector(Board()),),
        build=build_plan(model, Board(), role="model-fp16", max_batch=8),
        health=health_check(tolerance=0.05, budget=parse_budget("p99<8ms, p50<500us")),
        provenance=provenance(
            recipe_sha256="ab" * 32, data_sha256="cd" * 32, parents=[model.digest], metrics={"test_accuracy": 0.96}
        ),
    )
