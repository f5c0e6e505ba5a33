"""Trainings in TensorBoard, MLflow or Weights & Biases, through Accelerate: one run of a tracker for each.

The trials of a search are one run together, a step each.

A tracker hears the events that `log.jsonl` keeps, so that whatever it shows is there too. It hears them in the first
process only. What goes wrong with it (no network, a full disk) is noted once, and training goes on without it.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from edgekd.core.errors import missing_package
from edgekd.core.events import Event, Listener, silent

if TYPE_CHECKING:
    from edgekd.pipeline.config import RunConfig

TrackerName: TypeAlias = Literal["tensorboard", "mlflow", "wandb"]
Plain: TypeAlias = str | int | float | bool

RUN = "run"
"""What events call the whole run."""

PROJECT = "edgekd"
"""Experiment of MLflow, and project of Weights & Biases."""

_TRAINING = re.compile(r"teacher|alone/seed\d+|distilled/seed\d+|qat|search")
_UNFIT = re.compile(r"[^\w\-./ ]")
_SECRET = re.compile(r"password|passwd|secret|token|api_?key|credential", re.IGNORECASE)
_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
_EXTRAS: Mapping[TrackerName, str] = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}


class Tracker(Protocol):
    """One run of a tracker, as Accelerate has it."""

    def store_init_configuration(self, values: dict[str, Plain]) -> None:
        """Keep hyper-parameters."""
        ...

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        """Keep figures."""
        ...

    def finish(self) -> None:
        """End the run."""
        ...


Opener: TypeAlias = Callable[[str], Tracker]


@dataclass
class _OpenRun:
    stage: str
    tracker: Tracker
    step: int = 0
    before: int = 0
    inner: str = ""


@dataclass
class Tracking:
    """A listener that hands what is told to trackers.

    Attributes:
        openers: For each tracker, what begins a run of a name.
        settings: Hyper-parameters of all runs.
        tell: Told what went wrong.
        unheard: What to tell once somebody listens.
    """

    openers: dict[TrackerName, Opener]
    settings: dict[str, Plain]
    tell: Listener = silent
    unheard: str = ""
    _open: dict[TrackerName, _OpenRun] = field(default_factory=dict)

    def __call__(self, event: Event) -> None:
        """Log an event where it is one of a training, or the result of all."""
        if self.unheard and self.tell is not silent and event.kind == "start":
            unheard, self.unheard = self.unheard, ""
            self.tell(Event("note", "trackers", unheard))
        is_begun = event.kind == "start" and _TRAINING.fullmatch(event.stage)
        if is_begun or (event.kind == "result" and event.stage == RUN):
            self._each(lambda name: self._begin(name, event.stage))
        if event.kind in ("step", "progress", "result"):
            self._each(lambda name: self._log(name, event))
        if event.stage == RUN or (event.kind == "end" and _TRAINING.fullmatch(event.stage)):
            self._each(self._finish)

    def close(self) -> None:
        """End the runs that an error left open."""
        self._each(self._finish)

    def _each(self, work: Callable[[TrackerName], None]) -> None:
        for name in list(self.openers):
            try:
                with _accelerate_ready():
                    work(name)
            except Exception as error:  # A tracker's client raises its own, its transport's and the system's.
                del self.openers[name]
                self._open.pop(name, None)
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
                self.tell(
                    Event(
                        "note", "trackers", f"{name} failed ({reason}); the run goes on without it, log.jsonl has all"
                    )
                )

    def _begin(self, name: TrackerName, stage: str) -> None:
        self._finish(name)
        tracker = self.openers[name](stage)
        self._open[name] = _OpenRun(stage, tracker)
        tracker.store_init_configuration(dict(self.settings))

    def _log(self, name: TrackerName, event: Event) -> None:
        run = self._open.get(name)
        if run is None or not (event.stage == run.stage or event.stage.startswith(f"{run.stage}/")):
            return
        inner = event.stage.removeprefix(run.stage).strip("/")
        if inner != run.inner:
            run.inner, run.before = inner, run.step
        is_epoch = event.kind == "progress" and "step" in event.values  # Else it is a trial of a search.
        if event.kind != "result":
            run.step = run.before + int(event.values.get("step", 0) if is_epoch else event.done)
        values = {**event.values, "epoch": float(event.done)} if is_epoch else dict(event.values)
        values.pop("step", None)
        prefix = "/".join(filter(None, [inner, "epoch" if is_epoch else ""]))
        named = {_UNFIT.sub("_", f"{prefix}/{key}" if prefix else key): float(one) for key, one in values.items()}
        run.tracker.log(named, step=run.step)

    def _finish(self, name: TrackerName) -> None:
        run = self._open.pop(name, None)
        if run is not None:
            run.tracker.finish()


@contextmanager
def _accelerate_ready() -> Iterator[None]:
    """Give Accelerate's trackers the state that they ask for; trainings decide it, so none is left behind."""
    from accelerate import PartialState

    if PartialState._shared_state:
        yield
        return
    PartialState(cpu=True)
    try:
        yield
    finally:
        PartialState._reset_state()


@contextmanager
def tracked(config: RunConfig, folder: Path) -> Iterator[Tracking]:
    """Give a listener for the trackers of a run, and end their runs with the block.

    Args:
        config: Says which; TensorBoard where it is installed, by default.
        folder: The run folder, where those write that write files.

    Yields:
        The listener.

    Raises:
        PreconditionError: A tracker that is named is not installed.
    """
    unheard = ""
    names: tuple[TrackerName, ...] = config.trackers or ()
    if config.trackers is None and _is_installed("tensorboard"):
        names = ("tensorboard",)
    elif config.trackers is None:
        unheard = "TensorBoard is not installed, log.jsonl has all: pip install 'edgekd[tensorboard]' for plots"
    for name in names:
        if not _is_installed(name):
            raise missing_package(name, _EXTRAS[name], f"tracker {name}")
    openers: dict[TrackerName, Opener] = {name: _OPENERS[name](folder.resolve()) for name in names}
    tracking = Tracking(openers, public_settings(config.model_dump(mode="json")), unheard=unheard)
    try:
        yield tracking
    finally:
        tracking.close()


def public_settings(document: Mapping[str, Any]) -> dict[str, Plain]:
    """Return settings by dotted name, without what looks like a secret: such keys, and users in addresses."""
    found: dict[str, Plain] = {}
    for key, value in document.items():
        if _SECRET.search(key):
            continue
        if isinstance(value, Mapping):
            found |= {f"{key}.{name}": one for name, one in public_settings(value).items()}
        elif isinstance(value, bool | int | float):
            found[key] = value
        elif value is not None:
            found[key] = _USER_IN_URL.sub("", str(value))
    return found


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _tensorboard(folder: Path) -> Opener:
    def begin(stage: str) -> Tracker:
        from accelerate.tracking import TensorBoardTracker

        return _started(TensorBoardTracker, run_name=stage, logging_dir=str(folder / "tensorboard"))

    return begin


def _mlflow(folder: Path) -> Opener:
    def begin(stage: str) -> Tracker:
        import mlflow
        from accelerate.tracking import MLflowTracker

        if not os.environ.get("MLFLOW_TRACKING_URI"):
            mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        return _started(MLflowTracker, experiment_name=PROJECT, run_name=f"{folder.name}/{stage}")

    return begin


def _wandb(folder: Path) -> Opener:
    def begin(stage: str) -> Tracker:
        from accelerate.tracking import WandBTracker

        name = f"{folder.name}/{stage}"
        return _started(WandBTracker, run_name=PROJECT, name=name, group=folder.name, dir=str(folder))

    return begin


_OPENERS: Mapping[TrackerName, Callable[[Path], Opener]] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
}


def _started(kind: type[Any], **options: str) -> Tracker:
    """Begin a run. The first process alone is here, so a tracker need not ask whether it is the first."""
    tracker = type(kind.__name__, (kind,), {"main_process_only": False})(**options)
    tracker.start()
    started: Tracker = tracker
    return started
