"""Reports on disk: both files written atomically, and nothing read back that the models do not accept."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from edgekd.core import atomic
from edgekd.core.artifacts import FileRef
from edgekd.core.errors import ConfigError, StorageError
from edgekd.report.html import render_html
from edgekd.report.run_report import REPORT_SCHEMA_VERSION, RunReport

JSON_NAME = "report.json"
HTML_NAME = "report.html"


def write_report(report: RunReport, folder: Path) -> tuple[FileRef, FileRef]:
    """Write `report.json` and `report.html`.

    Args:
        report: What the run found.
        folder: The run folder.

    Returns:
        The JSON file and the HTML file.

    Raises:
        StorageError: The folder cannot be written.
    """
    page = render_html(report)
    atomic.write_json(folder / JSON_NAME, report.model_dump(mode="json"))
    atomic.write_text(folder / HTML_NAME, page)
    return FileRef.of(folder / JSON_NAME), FileRef.of(folder / HTML_NAME)


def read_report(path: Path) -> RunReport:
    """Read and check a report.

    Args:
        path: `report.json`, or the run folder that has one.

    Returns:
        The report.

    Raises:
        ConfigError: There is no such report, or a newer edgekd wrote it.
        StorageError: The file is damaged; every problem is listed.
    """
    file = path / JSON_NAME if path.is_dir() else path
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: no report can be read there: {error.strerror}; run edgekd distill first") from error
    _require_known_version(file, content)
    try:
        return RunReport.model_validate_json(content)
    except ValidationError as error:
        problems = [f"  {'.'.join(map(str, item['loc'])) or '(report)'}: {item['msg']}" for item in error.errors()]
        raise StorageError(f"{file}: not a valid report, {len(problems)} problem(s)\n" + "\n".join(problems)) from error


def _require_known_version(file: Path, content: bytes) -> None:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{file}: not JSON: {error}") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != REPORT_SCHEMA_VERSION:
        raise ConfigError(f"{file}: schema_version {version!r}; this edgekd reads {REPORT_SCHEMA_VERSION}")
