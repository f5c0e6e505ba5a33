"""The nouns that flow through edgekd: frozen data with a content digest and the digests they were made from.

`Teacher + Task + Target -> NetSpec -> TrainedModel -> OnnxModel -> Engine -> LatencyReport -> Bundle`. A digest covers
what a thing is, never where it lies: paths take no part in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from edgekd.core.digest import sha256_of_file, sha256_of_json
from edgekd.core.errors import StorageError

N = TypeVar("N")
Precision = Literal["fp32", "fp16", "int8", "bf16", "fp8"]
Flavour = Literal["any", "cpu", "tensorrt"]


def to_json(noun: Any) -> dict[str, Any]:
    """Return a noun as plain JSON data, its digest included."""
    document: dict[str, Any] = dataclasses.asdict(noun)
    document["digest"] = noun.digest
    return document


def from_json(kind: type[N], document: Mapping[str, Any]) -> N:
    """Return the noun that `to_json` wrote.

    Args:
        kind: Its class.
        document: What `to_json` returned.

    Returns:
        An equal noun.

    Raises:
        StorageError: The document is malformed, or its digest is not that of its content.
    """
    content = {key: value for key, value in document.items() if key != "digest"}
    try:
        noun = TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        raise StorageError(f"a recorded {kind.__name__} cannot be read: {error}") from error
    if getattr(noun, "digest") != document.get("digest"):  # noqa: B009
        raise StorageError(f"a recorded {kind.__name__} was altered: its digest does not match its content")
    return noun


def _digest_of(noun: Any) -> str:
    return sha256_of_json({"noun": type(noun).__name__, **_without_paths(dataclasses.asdict(noun))})


def _without_paths(document: Any) -> Any:
    if isinstance(document, Mapping):
        return {key: _without_paths(value) for key, value in document.items() if key != "path"}
    if isinstance(document, list | tuple):
        return [_without_paths(value) for value in document]
    return document


@dataclass(frozen=True)
class FileRef:
    """A file by content.

    Attributes:
        path: Where it lies; not part of any digest.
        sha256: Digest of its bytes.
        size_bytes: Its length.
    """

    path: str
    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, path: Path) -> FileRef:
        """Read a file and describe it."""
        return cls(str(path), sha256_of_file(path), path.stat().st_size)

    def is_intact(self) -> bool:
        """Say whether the file is still there with the same bytes."""
        path = Path(self.path)
        return path.is_file() and path.stat().st_size == self.size_bytes and sha256_of_file(path) == self.sha256


@dataclass(frozen=True)
class NetSpec:
    """A network's architecture, enough to build it again.

    Attributes:
        family: Registered family (`"resnet"`), `"timm"` / `"python"` for a teacher from elsewhere, or `"pruned"` for
            what was cut from another network.
        depth: Family-specific depth (`20` for ResNet-20); 0 where it has no meaning.
        width: Channels of the first stage; 0 where it has no meaning.
        resolution: Height and width of its input in pixels; length of its texts in tokens.
        in_channels: Colour channels of its input; 0 where it takes tokens.
        num_classes: Length of the channel axis of its output, whatever the task: `K` logits, of an input or of each
            pixel, or `D` means and `D` log variances.
        mean: Per-channel mean subtracted from inputs in 0..1; empty where it takes tokens.
        std: Per-channel standard deviation that inputs are divided by; empty where it takes tokens.
        options: Family-specific choices (`{"shortcut": "A"}`).
        vocabulary: Token numbers that its input may hold; 0 where it takes pictures.
    """

    family: str
    depth: int
    width: int
    resolution: int
    in_channels: int
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    options: Mapping[str, str] = field(default_factory=dict)
    vocabulary: int = 0

    @property
    def digest(self) -> str:
        """Content digest."""
        return _digest_of(self)

    @property
    def name(self) -> str:
        """Short name for tables (`resnet20-w16@32`; `resnet20-w16@32/2` halves its pictures first)."""
        if self.family in ("timm", "python", "pruned"):
            return f"{self.family}:{self.options.get('model', '?')}"
        reduced = f"/{self.options['reduce']}" if self.options.get("reduce", "1") != "1" else ""
        kernel = f"-k{self.options['kernel']}" if self.options.get("kernel", "3") != "3" else ""
        return f"{self.family}{self.depth}-w{self.width}{kernel}@{self.resolution}{reduced}"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """`(C, H, W)` of one picture, or `(L,)` of one text."""
        if self.vocabulary:
            return (self.resolution,)
        return (self.in_channels, self.resolution, self.resolution)


@dataclass(frozen=True)
class TrainedModel:
    """A network with weights.

    Attributes:
        role: `"teacher"`, `"alone"` (student trained without a teacher) or `"distilled"`.
        spec: Its architecture.
        weights: Its safetensors file.
        scores: Score by split (`{"val": 0.97, "test": 0.96}`), in the metric of its task; 1.0 is perfect.
        method: Recipe it was trained with.
        seed: Seed of its training.
        parents: Digests of what it was made from.
    """

    role: Literal["teacher", "alone", "distilled"]
    spec: NetSpec
    weights: FileRef
    scores: Mapping[str, float]
    method: str
    seed: int
    parents: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Content digest."""
        return _digest_of(self)


@dataclass(frozen=True)
class OnnxModel:
    """An ONNX file with its precision written into the graph.

    Attributes:
        file: The model.
        precision: `fp32`, `fp16`, `bf16`, or `int8` or `fp8` (explicit Q/DQ).
        flavour: Who the quantisation suits: `"any"`, `"cpu"` (u8 activations) or `"tensorrt"` (symmetric s8).
        opset: Default-domain opset.
        input_name: Name of the one input: pictures float32 `[B, C, H, W]` in 0..1, or tokens int64 `[B, L]`.
        input_shape: `(C, H, W)` of a picture, or `(L,)` of a text.
        output_name: Name of the one output: logits `[B, K]` or `[B, K, H, W]`, or means and log variances `[B, 2D]`.
        batch: Fixed batch size, or 0 for a dynamic one.
        parents: Digests of what it was made from.
        vocabulary: Token numbers that its input may hold; 0 where it takes pictures.
    """

    file: FileRef
    precision: Precision
    flavour: Flavour
    opset: int
    input_name: str
    input_shape: tuple[int, ...]
    output_name: str
    batch: int
    parents: tuple[str, ...] = ()
    vocabulary: int = 0

    @property
    def digest(self) -> str:
        """Content digest."""
        return _digest_of(self)


@dataclass(frozen=True)
class Engine:
    """Something a backend can run, or carry to where it runs.

    Attributes:
        backend: `"onnxruntime"`, `"tensorrt_rtx"` or `"tensorrt"`.
        target: What it was built for (`"cpu"`, `"sm_86"`).
        precision: Precision asked for.
        file: The plan, or the ONNX itself where the backend has no separate plan.
        facts: Build facts: versions, provider, seconds, fusion report.
        parents: Digests of what it was made from.
    """

    backend: str
    target: str
    precision: Precision
    file: FileRef
    facts: Mapping[str, Any]
    parents: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Content digest of what was built; facts such as build seconds take no part."""
        return sha256_of_json(
            ["Engine", self.backend, self.target, self.precision, self.file.sha256, list(self.parents)]
        )


@dataclass(frozen=True)
class LatencyReport:
    """Latency of one network on one target, measured or predicted, never mixed.

    Attributes:
        kind: `"measured"` or `"predicted"`.
        target: Target name.
        precision: Precision of the network timed.
        backend: What ran it, or the model that predicted it.
        p50_ms: Median.
        p99_ms: 99th percentile.
        low_ms: Lower end of the interval of the median.
        high_ms: Upper end of the interval of the median.
        conditions: Everything needed to read the figures: samples, warm-up, threads, clocks, coverage of the interval,
            what bounds the network, other percentiles.
        parents: Digests of what was timed.
    """

    kind: Literal["measured", "predicted"]
    target: str
    precision: Precision
    backend: str
    p50_ms: float
    p99_ms: float
    low_ms: float
    high_ms: float
    conditions: Mapping[str, Any] = field(default_factory=dict)
    parents: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Content digest."""
        return _digest_of(self)

    @property
    def judged_ms(self) -> dict[str, float]:
        """Milliseconds by statistic that a budget is held against: as measured, or the upper ends as predicted."""
        if self.kind == "predicted":
            return {"p50": self.high_ms, "mean": self.high_ms, "p90": self.p99_ms, "p99": self.p99_ms}
        known = {"p50": self.p50_ms, "p99": self.p99_ms}
        more = {
            name: float(self.conditions[f"{name}_ms"]) for name in ("p90", "mean") if f"{name}_ms" in self.conditions
        }
        return known | more


@dataclass(frozen=True)
class Bundle:
    """A folder ready to be shipped.

    Attributes:
        manifest: Its `bundle.json`.
        files: Number of files it lists.
        size_bytes: Their total length.
        parents: Digests of what was packed.
    """

    manifest: FileRef
    files: int
    size_bytes: int
    parents: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Content digest."""
        return _digest_of(self)
