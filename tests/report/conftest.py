"""A report with everything in it, and ways to make others."""

import math
from collections.abc import Callable

import pytest

from edgekd.core.artifacts import LatencyReport
from edgekd.core.budget import parse_budget
from edgekd.report import (
    ArtifactRow,
    BudgetResult,
    Curve,
    CurvePoint,
    DataFacts,
    LatencyRow,
    PairedGain,
    Parity,
    PrecisionDecision,
    PrecisionVerdict,
    RunReport,
    Scores,
    ScoreSummary,
    SizeRow,
    TargetRef,
    TaskFacts,
    Verdict,
)

DIGEST = "0123456789abcdef" * 4


def _latency() -> tuple[LatencyRow, ...]:
    predicted = {"coverage": 0.9, "bound": "launch", "layers": 11, "parameters": "3f9c"}
    measured = {"samples": 4021, "warmup": 20, "threads": 1, "p90_ms": 0.1034, "provider": "CPUExecutionProvider"}
    rows = [
        LatencyReport("predicted", "jetson-orin", "fp16", "roofline", 0.1123, 0.1904, 0.0871, 0.1481, predicted),
        LatencyReport("predicted", "jetson-orin", "fp32", "roofline", 0.1310, 0.2210, 0.1010, 0.1720, predicted),
        LatencyReport("measured", "cpu", "fp32", "onnxruntime", 0.0912, 0.1432, 0.0909, 0.0918, measured),
        LatencyReport("measured", "cpu", "int8", "onnxruntime", 0.1207, 0.1811, 0.1201, 0.1214, measured),
    ]
    return tuple(LatencyRow.of(row) for row in rows)


def _curves() -> tuple[Curve, ...]:
    def curve(stage: str, seed: int, top: float, speed: float, scale: float) -> Curve:
        points = [
            CurvePoint(
                epoch=epoch,
                loss=scale * math.exp(-epoch * speed) + 0.02 * scale * (1 + math.sin(epoch + seed)),
                val_score=top * (1 - math.exp(-(epoch + 1) * speed)) + 0.004 * math.sin(3 * epoch + seed),
            )
            for epoch in range(20)
        ]
        return Curve(stage=stage, seed=seed, points=tuple(points))

    runs = [curve("teacher", 0, 0.985, 0.5, 2.3)]
    runs += [curve("alone", seed, 0.905, 0.22, 2.3) for seed in range(3)]
    runs += [curve("distilled", seed, 0.945, 0.3, 4.0) for seed in range(3)]
    return tuple(runs)


@pytest.fixture
def report() -> RunReport:
    alone = ScoreSummary.of("resnet8-w4@8", "test", {0: 0.9111, 1: 0.8972, 2: 0.9028})
    distilled = ScoreSummary.of("resnet8-w4@8", "test", {0: 0.9389, 1: 0.9333, 2: 0.9417})
    latency = _latency()
    judged_ms = {"p99": latency[0].p99_ms}
    return RunReport(
        name="digits-orin",
        created="2026-01-31T12:00:00Z",
        command='edgekd distill --target jetson-orin --budget "p99<0.25ms"',
        verdict=Verdict.PREDICTED_KEPT,
        budget=BudgetResult.of(parse_budget("p99<0.25ms"), kind="predicted", judged_ms=judged_ms),
        target=TargetRef(name="jetson-orin", title="Jetson AGX Orin 64GB, MAXN, JetPack 6.2"),
        data=DataFacts(name="digits", digest=DIGEST, targets=10, train=1222, val=215, test=360),
        method="mag-mas",
        task=TaskFacts(kind="classification", metric="top-1", is_share=True, agreement="same class"),
        scores=Scores(
            teacher=ScoreSummary.of("resnet20-w16@8", "test", {0: 0.9833}), alone=alone, distilled=distilled
        ),
        gain=PairedGain.of(distilled, alone),
        latency=latency,
        parity=Parity(max_abs=3.8e-6, max_rel=8.1e-7, agreement=1.0, n=424, tolerance=1e-4, is_ok=True),
        precision=PrecisionDecision(
            chosen="fp16",
            flavour="any",
            max_drop=0.01,
            verdicts=(
                PrecisionVerdict(precision="fp32", flavour="any", accepted=True, reason="the reference",
                                 score=0.9389, p50_ms=0.131, ms_kind="predicted"),
                PrecisionVerdict(precision="fp16", flavour="any", accepted=True,
                                 reason="accuracy 93.89 % equals fp32, predicted 0.112 ms against 0.131 ms",
                                 score=0.9389, p50_ms=0.1123, ms_kind="predicted"),
                PrecisionVerdict(precision="int8", flavour="cpu", accepted=False,
                                 reason="accuracy 92.22 % is 1.67 points below fp32, the gate allows 1.00; "
                                        "and 0.121 ms is slower than 0.0912 ms",
                                 score=0.9222, p50_ms=0.1207, ms_kind="measured"),
            ),
        ),
        sizes=(
            SizeRow(network="teacher", net="resnet20-w16@8", params=272_186, macs=2_560_000),
            SizeRow(network="student", net="resnet8-w4@8", params=5_030, macs=49_320,
                    onnx_bytes={"fp32": 24_310, "fp16": 14_720, "int8": 13_105}),
        ),
        curves=_curves(),
        artifacts=(
            ArtifactRow(kind="onnx", path="onnx/student.fp32.onnx", sha256=DIGEST, bytes=24_310),
            ArtifactRow(kind="onnx", path="onnx/student.fp16.onnx", sha256=DIGEST[::-1], bytes=14_720),
            ArtifactRow(kind="bundle", path="bundle/bundle.json", sha256=DIGEST, bytes=2_345),
        ),
        notes=("Thirty test images carry most of the difference between seeds.",),
        environment={"edgekd": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.32.0", "Python": "3.11.7"},
    )  # fmt: skip


@pytest.fixture
def change(report: RunReport) -> Callable[..., RunReport]:
    """Make a report that differs in some fields, with all checks applied."""

    def changed(**fields: object) -> RunReport:
        return RunReport(**{name: getattr(report, name) for name in RunReport.model_fields} | fields)

    return changed
