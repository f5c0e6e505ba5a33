"""`edgekd schema`: the JSON schemas of the files edgekd reads and writes."""

from __future__ import annotations

import json
from enum import Enum
from typing import Annotated

import typer

from edgekd.cli.outcome import Outcome


class Document(str, Enum):
    """A kind of file."""

    CONFIG = "config"
    RECIPE = "recipe"
    REPORT = "report"
    FLEET = "fleet"


def schema(document: Annotated[Document, typer.Argument(help="Which file.")]) -> Outcome:
    """Print the JSON schema of a run's YAML, of a recipe's YAML, of report.json, or of fleet.yaml.

    Example:
      edgekd schema config > edgekd.schema.json
    """
    content = _schema(document)
    return Outcome({"schema": content}, json.dumps(content, indent=2))


def _schema(document: Document) -> dict[str, object]:
    if document is Document.REPORT:
        from edgekd.report import schema_document

        return schema_document()
    if document is Document.RECIPE:
        from edgekd.distill import Recipe

        return Recipe.model_json_schema()
    if document is Document.FLEET:
        from edgekd.ship.fleet import Fleet

        return Fleet.model_json_schema()
    from edgekd.pipeline.config import RunConfig

    return RunConfig.model_json_schema()
