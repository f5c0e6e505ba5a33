"""The published JSON schema of `report.json`. `python -m edgekd.report` prints what the models say now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekd.report.run_report import RunReport


def schema_path() -> Path:
    """Return where the published schema lies."""
    return Path(__file__).with_name("schema.json")


def schema_document() -> dict[str, Any]:
    """Return the schema generated from the models."""
    document = RunReport.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **document, "title": "edgekd run report"}
