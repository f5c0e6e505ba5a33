"""The published schema is the one of the models, and says the same about documents."""

import copy
import json
import subprocess
import sys

import jsonschema
import pytest
from pydantic import ValidationError

from edgekd.report import RunReport, schema_document, schema_path


def _published():
    return json.loads(schema_path().read_text(encoding="utf-8"))


def _document(report):
    return json.loads(report.model_dump_json())


def test_published_schema_is_generated_from_the_models():
    assert _published() == schema_document(), "run: python -m edgekd.report > edgekd/report/schema.json"


def test_schema_is_published_by_the_command_that_the_test_above_names():
    done = subprocess.run([sys.executable, "-m", "edgekd.report"], capture_output=True, text=True, check=True)
    assert done.stdout == schema_path().read_text(encoding="utf-8")


def test_published_schema_is_a_valid_schema():
    jsonschema.Draft202012Validator.check_schema(_published())


def test_report_conforms_to_the_published_schema(report):
    jsonschema.Draft202012Validator(_published()).validate(_document(report))


def test_schema_names_at_least_what_was_promised():
    schema = _published()
    promised = {"schema_version", "verdict", "budget", "scores", "latency", "artifacts"}
    assert promised <= set(schema["properties"])
    parts = schema["$defs"]
    assert {"teacher", "alone", "distilled"} == set(parts["Scores"]["properties"])
    assert {"mean", "std", "seeds"} <= set(parts["ScoreSummary"]["properties"])
    assert {"target", "precision", "kind", "p50_ms", "p99_ms", "low_ms", "high_ms"} <= set(
        parts["LatencyRow"]["properties"]
    )
    assert set(parts["ArtifactRow"]["properties"]) == {"kind", "path", "sha256", "bytes"}


def _without(key):
    return lambda document: document.pop(key)


def _with(keys, value):
    def put(document):
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return put


@pytest.mark.parametrize(
    "spoil",
    [
        _without("verdict"),
        _without("latency"),
        _with(["unknown"], 1),
        _with(["schema_version"], 2),
        _with(["verdict"], "fine"),
        _with(["latency", 0, "kind"], "guessed"),
        _with(["latency", 0, "p50_ms"], "0.1"),
        _with(["latency", 0, "p50_ms"], 0),
        _with(["artifacts", 0, "sha256"], "abc"),
        _with(["artifacts", 0, "bytes"], -1),
        _with(["scores", "teacher", "mean"], 98.3),
        _with(["created"], "today"),
    ],
)
def test_models_and_schema_refuse_the_same_documents(report, spoil):
    document = copy.deepcopy(_document(report))
    spoil(document)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(_published()).validate(document)
    with pytest.raises(ValidationError):
        RunReport.model_validate_json(json.dumps(document))
