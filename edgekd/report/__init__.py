"""What a run found, as `report.json` for programs and `report.html` for people; neither needs the network or torch."""

from edgekd.report.facts import (
    ArtifactRow,
    BudgetResult,
    CorruptInputRow,
    Curve,
    CurvePoint,
    DataFacts,
    FidelityRow,
    LatencyRow,
    LayerTable,
    PairedGain,
    Parity,
    PrecisionDecision,
    PrecisionVerdict,
    Scores,
    ScoreSummary,
    SeedValue,
    SizeRow,
    TargetRef,
    TaskFacts,
)
from edgekd.report.files import read_report, write_report
from edgekd.report.html import render_html
from edgekd.report.run_report import REPORT_SCHEMA_VERSION, RunReport, Verdict
from edgekd.report.schema import schema_document, schema_path
from edgekd.report.search_page import search_page, write_search_report

__all__ = [
    "ScoreSummary",
    "ArtifactRow",
    "BudgetResult",
    "CorruptInputRow",
    "Curve",
    "CurvePoint",
    "DataFacts",
    "FidelityRow",
    "LatencyRow",
    "LayerTable",
    "PairedGain",
    "Parity",
    "PrecisionDecision",
    "PrecisionVerdict",
    "Scores",
    "REPORT_SCHEMA_VERSION",
    "RunReport",
    "SeedValue",
    "SizeRow",
    "TargetRef",
    "TaskFacts",
    "Verdict",
    "read_report",
    "render_html",
    "schema_document",
    "schema_path",
    "search_page",
    "write_report",
    "write_search_report",
]
