"""The bundle format: what `bundle.json` may say, and nothing else.

A bundle is a folder: the manifest and the files it lists. The manifest is canonical JSON, so one content has one
digest; that digest is the thing to sign. Nothing here says who made a bundle: `edgekd_agent.reader` answers "is it well
formed", `edgekd_agent.integrity` answers "is it whole", a signature answers "is it ours".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from edgekd_agent import strict

SCHEMA_VERSION = 1
MANIFEST_NAME = "bundle.json"

_MEDIA_TYPES = {
    ".cache": "application/octet-stream",
    ".json": "application/json",
    ".npz": "application/x-npz",
    ".onnx": "application/x-onnx",
    ".plan": "application/octet-stream",
    ".txt": "text/plain",
    ".yaml": "application/yaml",
}
ProblemKind = Literal["manifest", "missing", "unlisted", "not-a-file", "size", "digest", "unreadable"]


@dataclass(frozen=True)
class BundleProblem:
    """One reason not to trust a bundle.

    Attributes:
        path: Member it concerns, relative to the bundle.
        kind: What is wrong, for programs.
        message: What is wrong, for people.
    """

    path: str
    kind: ProblemKind
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class ManifestError(Exception):
    """`bundle.json` is not one; `problems` has every reason."""

    def __init__(self, problems: tuple[BundleProblem, ...]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


@dataclass(frozen=True)
class TargetSelector:
    """A device the bundle is for.

    Attributes:
        name: Name it was asked for by (`"jetson-orin"`), which may be an alias.
        device: The one name of the device behind it; what a device compares itself with.
        title: What the name stands for.
        kind: `"jetson"`, `"gpu"` or `"cpu"`.
        sm: Compute capability times ten (87), or None without a GPU.
        power_mode: Power mode the budget was judged at; empty where there is none.
        jetpack: JetPack version, or None off Jetson.
        tensorrt: TensorRT version, or None where TensorRT is not used.
        cuda: CUDA version, or None where CUDA is not used.
    """

    name: str
    device: str
    title: str
    kind: Literal["jetson", "gpu", "cpu"]
    sm: int | None
    power_mode: str
    jetpack: str | None
    tensorrt: str | None
    cuda: str | None


@dataclass(frozen=True)
class Artifact:
    """A file of the bundle.

    Attributes:
        path: Where it lies, relative to the bundle, with `/`.
        role: What it is for (`"model-fp16"`); each role once.
        media_type: Follows from the suffix of `path`.
        size_bytes: Its length.
        sha256: Digest of its bytes.
    """

    path: str
    role: str
    media_type: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class OptProfile:
    """Input shapes an engine is built for.

    Attributes:
        input_name: Name of the input.
        min: Smallest shape `[B, C, H, W]`.
        opt: Shape it is tuned for.
        max: Largest shape.
    """

    input_name: str
    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True)
class BuildPlan:
    """How the device turns the ONNX model into an engine.

    Attributes:
        backend: `"tensorrt"`, `"tensorrt_rtx"` or `"onnxruntime"`.
        model: Path of the ONNX artefact to build.
        precision: Precision written in that model.
        strongly_typed: Whether the builder must obey the types in the model.
        flags: Builder flags by TensorRT name, sorted.
        opt_profile: Input shapes.
        workspace_mib: Limit of builder scratch memory.
        timing_cache: `"equal-key-only"` (load one made on an equal device, version and configuration) or `"none"`.
    """

    backend: Literal["tensorrt", "tensorrt_rtx", "onnxruntime"]
    model: str
    precision: Literal["fp32", "fp16", "int8", "bf16", "fp8"]
    strongly_typed: bool
    flags: tuple[str, ...]
    opt_profile: OptProfile
    workspace_mib: int
    timing_cache: Literal["equal-key-only", "none"]


@dataclass(frozen=True)
class Health:
    """What an engine must show on the device before it serves.

    Attributes:
        golden: Path of the npz with `inputs` float32 `[N, C, H, W]` or int64 `[N, L]` and `logits` float32 `[N, K]` or
            `[N, K, H, W]`.
        metric: `"max_abs_error"` of the logits, or `"argmax_disagreement"` as a share 0..1.
        tolerance: Largest accepted value of the metric.
        budget_ms: Limit in milliseconds by statistic (p50, p90, p99, mean); empty without a budget.
        warmup: Runs before timing.
        max_memory_mib: Memory ceiling, or None without one.
    """

    golden: str
    metric: Literal["max_abs_error", "argmax_disagreement"]
    tolerance: float
    budget_ms: Mapping[str, float]
    warmup: int
    max_memory_mib: int | None


@dataclass(frozen=True)
class Provenance:
    """Where the model came from.

    Attributes:
        recipe_sha256: Digest of the distillation recipe.
        data_sha256: Digest of the data set.
        parents: Digests of the artefact nouns that were packed.
        metrics: Figures of the packed model (`{"test_accuracy": 0.96}`).
        made_by: Program and version.
    """

    recipe_sha256: str
    data_sha256: str
    parents: tuple[str, ...]
    metrics: Mapping[str, float]
    made_by: str


@dataclass(frozen=True)
class Manifest:
    """The content of `bundle.json`.

    Attributes:
        schema_version: Always `SCHEMA_VERSION`.
        name: Name of the model line; devices replace a bundle only by one of the same name.
        version: Grows with each release of `name`.
        created: UTC time, `2026-01-31T12:00:00Z`.
        min_agent: Oldest agent that may install it.
        targets: Devices it is for; at least one.
        artifacts: Its files, sorted by path.
        build: How to build the engine.
        health: How to check the engine.
        provenance: Where it came from.
    """

    schema_version: Literal[1]
    name: str
    version: int
    created: str
    min_agent: str
    targets: tuple[TargetSelector, ...]
    artifacts: tuple[Artifact, ...]
    build: BuildPlan
    health: Health
    provenance: Provenance


def manifest_bytes(manifest: Manifest) -> bytes:
    """Return the exact content of `bundle.json` for a manifest."""
    return strict.canonical(dataclasses.asdict(manifest))


def media_type_of(path: str) -> str | None:
    """Return the media type of a member by its suffix; None when such files may not be in a bundle."""
    return _MEDIA_TYPES.get(PurePosixPath(path).suffix)
