"""What measures the students that a search would return, and learns from each: this CPU, or a board that is attached.

A measurement corrects the predictions of the students that follow, so that none is measured whose figures can only
miss.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from edgekd.boards import BoardOptions, build_on_boards
from edgekd.boards.build import check_boards, names_of
from edgekd.boards.results import MEASURED_NAME
from edgekd.core.artifacts import LatencyReport, NetSpec, OnnxModel, Precision
from edgekd.core.errors import BuildError, ConfigError
from edgekd.core.events import Listener, silent
from edgekd.data import NetInputs
from edgekd.latency import CpuModel, CpuPoint, LayerGraph, predict, refit_cpu
from edgekd.pipeline.choosing import precision_on
from edgekd.pipeline.context import RunContext
from edgekd.pipeline.cpu_calibration import CpuSettings, exported_student, measured_report
from edgekd.pipeline.timing import spread_inputs
from edgekd.precision import to_fp16
from edgekd.profile import read_profile
from edgekd.targets import Target
from edgekd.targets.ssh_connection import Address, SshKeys, parse_address


class Gauge(Protocol):
    """Measures students."""

    def expected(self, graph: LayerGraph) -> LatencyReport:
        """Predict a student from its kernels, as far as was learnt."""
        ...

    def measure(self, spec: NetSpec) -> LatencyReport:
        """Build a student and time it.

        Raises:
            BuildError: This student cannot be built; others may.
            EdgeKDError: Nothing can be measured there now.
        """
        ...

    def learn(self, name: str, graph: LayerGraph, report: LatencyReport) -> None:
        """Take a measurement into account."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """Plain data that a measurement depends on besides the student."""
        ...

    def document(self) -> dict[str, Any]:
        """Return what was learnt, as plain data."""
        ...


@dataclass
class CpuGauge:
    """This CPU.

    Attributes:
        model: Its latency model, fitted again after each measurement.
        threads: CPU threads of a network that is timed.
    """

    model: CpuModel
    threads: int

    @property
    def facts(self) -> Mapping[str, Any]:
        """Nothing more than the run says."""
        return {}

    def expected(self, graph: LayerGraph) -> LatencyReport:
        """Predict by the model as it is now."""
        return self.model.predict(graph)

    def measure(self, spec: NetSpec) -> LatencyReport:
        """Time a student by ONNX Runtime in float32."""
        return measured_report(spec, CpuSettings(threads=self.threads))

    def learn(self, name: str, graph: LayerGraph, report: LatencyReport) -> None:
        """Fit the model with one more point."""
        self.model = refit_cpu(self.model, [CpuPoint(graph, report.p50_ms, report.p99_ms, name)])

    def document(self) -> dict[str, Any]:
        """Return the model's parameters and the networks it rests on."""
        document = self.model.document()
        return {**document, "points": [{"name": one["name"], "p50_ms": one["p50_ms"]} for one in document["points"]]}


@dataclass
class BoardGauge:
    """A board that is attached: students are built there by its own TensorRT and timed by it.

    What it measures lies in `folder`, where `edgekd latency fit --from` learns the board from it.

    Attributes:
        address: Where it answers.
        target: What it must be.
        precision: What students run in there.
        folder: For engines and measurements.
        inputs: A few real inputs, to check lower precisions on.
        keys: Trusted host keys and the login's key.
        options: How long to measure.
        listener: Told of progress.
        log_ratios: By name of the student, logarithm of the median measured over the one predicted.
    """

    address: Address
    target: Target
    precision: Precision
    folder: Path
    inputs: NetInputs
    keys: SshKeys
    options: BoardOptions
    listener: Listener = silent
    log_ratios: dict[str, float] = field(default_factory=dict)

    @property
    def facts(self) -> Mapping[str, Any]:
        """Where it was measured and how."""
        return {"device": str(self.address), "target": self.target.digest, "precision": self.precision}

    def require(self, spec: NetSpec) -> None:
        """Ask the board what it is, and whether it could build a student; nothing is built.

        Raises:
            EdgeKDError: It does not answer, is no board of the target's kind, or cannot build.
        """
        model = self._exported(spec)
        check_boards(model, self._named, self.options, targets=self._targets, keys=self.keys)

    def expected(self, graph: LayerGraph) -> LatencyReport:
        """Predict for the target, times the mean ratio that was measured so far."""
        predicted = predict(graph, self.target, self.precision)
        if not self.log_ratios:
            return predicted
        ratio = math.exp(fmean(self.log_ratios.values()))
        conditions = {**predicted.conditions, "corrected_by": round(ratio, 4), "corrected_from": len(self.log_ratios)}
        scaled = {name: ratio * getattr(predicted, name) for name in ("p50_ms", "p99_ms", "low_ms", "high_ms")}
        return dataclasses.replace(predicted, **scaled, conditions=conditions)

    def measure(self, spec: NetSpec) -> LatencyReport:
        """Build a student on the board and time it there; what the board did before is brought, not done again."""
        model = self._exported(spec)
        result = build_on_boards(
            model,
            self._named,
            self.folder / spec.digest[:12],
            self.options,
            targets=self._targets,
            keys=self.keys,
            listener=self.listener,
        )[0]
        if result.error is not None:
            raise result.error
        measured = result.folder / MEASURED_NAME
        if not measured.is_file():
            raise BuildError(f"{spec.name} was built on {self.address.host}, and its times there could not be read")
        profile = read_profile(measured)
        energy = {} if profile.energy is None else {"energy_mj": profile.energy.total.gross_mj}
        return dataclasses.replace(profile.report, conditions={**profile.report.conditions, **energy})

    def learn(self, name: str, graph: LayerGraph, report: LatencyReport) -> None:
        """Note by how much the prediction was off."""
        self.log_ratios[name] = math.log(report.p50_ms / predict(graph, self.target, self.precision).p50_ms)

    def document(self) -> dict[str, Any]:
        """Return the ratios of measured over predicted medians."""
        ratios = {name: round(math.exp(value), 4) for name, value in self.log_ratios.items()}
        return {"device": str(self.address), "measured_over_predicted": ratios, "measurements": str(self.folder)}

    @property
    def _named(self) -> dict[str, Address]:
        return names_of([self.address])

    @property
    def _targets(self) -> dict[str, Target]:
        return dict.fromkeys(self._named, self.target)

    def _exported(self, spec: NetSpec) -> OnnxModel:
        place = self.folder / spec.digest[:12]
        fp32 = exported_student(spec, place / "student.onnx", opset=self.target.max_opset)
        return fp32 if self.precision == "fp32" else to_fp16(fp32, place / "student.fp16.onnx", inputs=self.inputs)


def board_gauge(context: RunContext) -> BoardGauge | None:
    """Return the board that a search names; raises `ConfigError` where its target is this CPU."""
    wanted, target = context.config.search, context.target
    if wanted.device is None:
        return None
    if target.kind == "cpu":
        raise ConfigError("target cpu is measured here: leave search.device out, or name the board's target")
    known_hosts, identity = (
        None if path is None else Path(path).expanduser() for path in (wanted.known_hosts, wanted.identity)
    )
    inputs, _ = spread_inputs(context.dataset.val, 8)
    return BoardGauge(
        parse_address(wanted.device),
        target,
        precision_on(target),
        context.folder / "measured",
        inputs,
        SshKeys(known_hosts, identity),
        BoardOptions(target=target),
        context.listener,
    )
