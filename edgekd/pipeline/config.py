"""What a run of `edgekd distill` is asked to do: the YAML file, its presets and the command line, in one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from edgekd.core import atomic
from edgekd.core.config import StrictModel, apply_overrides, read_yaml, validated
from edgekd.data import DataConfig
from edgekd.distill import TrainSettings
from edgekd.models import PRUNED, is_foreign
from edgekd.pipeline.search_config import KEEPS, SearchConfig, Share
from edgekd.pipeline.tracking import TrackerName
from edgekd.precision import Calibrator

CONFIG_FILE = "config.yaml"
"""Where a run's folder keeps what it was asked to do."""


class TeacherConfig(StrictModel):
    """The network to learn from."""

    net: str = Field("resnet56-w16", description="Zoo name, timm:NAME, file.py:function, or hf:FOLDER.")
    weights: str | None = Field(None, description="Its weights; without any it is trained first, on the same data.")
    mean: tuple[float, ...] | None = Field(None, description="Mean its weights expect, inputs in 0..1; the data set's.")
    std: tuple[float, ...] | None = Field(None, description="Deviation its weights expect; the data set's.")
    epochs: int | None = Field(None, ge=1, description="Epochs to train it for; the run's.")
    lr: float | None = Field(None, gt=0, description="Peak learning rate to train it with; the run's.")


class StudentConfig(StrictModel):
    """The space the student is chosen from."""

    family: str = Field("resnet", description="Family, or pruned for the teacher with fewer channels.")
    net: str | None = Field(
        None, description="A network of your own instead of a family: file.py:function, or timm:NAME, untrained or not."
    )
    depths: tuple[int, ...] = Field((8, 14, 20), min_length=1)
    widths: tuple[int, ...] = Field((8, 16), min_length=1)
    options: Mapping[str, str] = {}
    max_share: float = Field(0.5, gt=0, description="Largest share of the teacher's MACs.")
    keeps: tuple[Share, ...] = Field(
        KEEPS, min_length=1, description="Shares of the teacher's channels that pruned chooses from."
    )
    init: Literal["drawn", "first", "spread"] = Field(
        "drawn", description="Weights it starts from: drawn, or the teacher's first or evenly spread layers (bert)."
    )
    weights: str | None = Field(
        None, description="File of weights it starts from; a classifier for other classes is drawn anew."
    )
    mean: tuple[float, ...] | None = Field(None, description="Mean these expect, inputs in 0..1; the data set's.")
    std: tuple[float, ...] | None = Field(None, description="Deviation these expect; the data set's.")
    found: str | None = Field(
        None, description="File of a student that `edgekd search` found: the network, and the weights it starts from."
    )

    @model_validator(mode="after")
    def _starts_once(self) -> StudentConfig:
        own = (self.weights, self.mean, self.std)
        if self.family == PRUNED and (any(one is not None for one in own) or self.init != "drawn" or self.options):
            raise ValueError(
                "a student cut from the teacher has its weights, mean and std: leave those out, init, options"
            )
        if self.net is not None and not is_foreign(self.net):
            raise ValueError(f"net is file.py:function or timm:NAME, not {self.net!r}; edgekd's own are a family's")
        if self.net is not None and (self.found is not None or self.family == PRUNED or self.init != "drawn"):
            raise ValueError(
                "a network of your own is neither found nor cut from the teacher, nor begins with its layers"
            )
        if self.found is not None and (self.weights is not None or self.init != "drawn"):
            raise ValueError("a student that was found brings the weights it starts from: leave weights and init out")
        if self.weights is not None and self.init != "drawn":
            raise ValueError(f"it starts from weights or from layers of the teacher (init: {self.init}), not from both")
        return self


class PrecisionConfig(StrictModel):
    """How lower precisions are made."""

    calibrator: Calibrator = Field("min-max", description="How INT8 ranges follow from the values seen.")
    per_layer: bool = Field(False, description="Keep layers in float where INT8 harms, and say which.")
    qat: bool = Field(False, description="Go on with the distillation in fake INT8.")
    qat_method: str = Field("kd", description='Recipe of that, by name or file; "run" is the run\'s own.')
    qat_epochs: int = Field(10, ge=1, description="Epochs of that.")
    qat_lr: float = Field(3e-4, gt=0, description="Peak learning rate of that, of AdamW.")


class RunConfig(StrictModel):
    """A whole run."""

    schema_version: Literal[1] = 1
    data: DataConfig = DataConfig()
    teacher: TeacherConfig = TeacherConfig()
    student: StudentConfig = StudentConfig()
    method: str = Field("multi-granularity", description="Recipe by name, wrapper+base, or path of a YAML file.")
    train: TrainSettings = TrainSettings()
    trackers: tuple[TrackerName, ...] | None = Field(
        None, description="Where trainings are also logged; TensorBoard where it is installed, by default."
    )
    target: str = Field("cpu", description="Device the student is for.")
    budget: str | None = Field(None, description='Limits on it, such as "p99<8ms, memory<8MB".')
    seeds: int = Field(3, ge=1, description="Students trained with and without the teacher.")
    compare_alone: bool = Field(True, description="Also train each student without the teacher.")
    max_drop: float = Field(
        0.01, ge=0, lt=1, description="Score a lower precision may lose; 0.01 is one point of accuracy."
    )
    calibration_size: int = Field(256, ge=32, description="Training inputs that INT8 ranges come from.")
    precision: PrecisionConfig = PrecisionConfig()
    threads: int = Field(1, ge=1, description="CPU threads of the network when it is timed.")
    search: SearchConfig = SearchConfig()
    also_build: tuple[str, ...] = Field(("rtx-4090",), description="Targets that TensorRT-RTX builds for here as well.")


def load_config(path: Path | None, *, flags: Mapping[str, Any], overrides: Sequence[str]) -> RunConfig:
    """Put a configuration together: preset, then file, then flags, then `--set` assignments; later ones win.

    Args:
        path: A YAML file, or None.
        flags: Command-line flags as a partial document.
        overrides: `a.b=c` assignments.

    Returns:
        The configuration.

    Raises:
        ConfigError: Lists every problem.
    """
    given = apply_overrides(merged(read_yaml(path) if path else {}, flags), overrides)
    data = given.get("data")
    name = str(data.get("name", "digits")) if isinstance(data, Mapping) else "digits"
    return validated(RunConfig, merged(preset(name), given), str(path or "configuration"))


def write_config(config: RunConfig, folder: Path) -> None:
    """Keep a configuration in a run's folder, whole, so that it can be given as the file of another run."""
    atomic.write_text(folder / CONFIG_FILE, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def preset(dataset: str) -> dict[str, Any]:
    """Return what a run does by default for a data set."""
    folder = resources.files("edgekd.pipeline") / "presets"
    files = [folder / "default.yaml", folder / f"{dataset}.yaml"]
    documents = [read_yaml(Path(str(file))) for file in files if file.is_file()]
    return merged(*documents)


def merged(*documents: Mapping[str, Any]) -> dict[str, Any]:
    """Return documents laid over each other: keys of later ones win, mappings are merged."""
    result: dict[str, Any] = {}
    for document in documents:
        for key, value in document.items():
            below = result.get(key)
            both = isinstance(below, Mapping) and isinstance(value, Mapping)
            result[key] = merged(below, value) if both else value  # type: ignore[arg-type]
    return result
