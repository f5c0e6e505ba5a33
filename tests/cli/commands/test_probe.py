"""`edgekd probe` on a run folder written by hand, whose distilled student is the teacher itself."""

import json

import pytest
import torch
import yaml

from edgekd.core.artifacts import TrainedModel, to_json
from edgekd.data import DataConfig, load_dataset
from edgekd.distill.probes import PROBES
from edgekd.models import build, save_weights, spec_for
from edgekd.pipeline.config import load_config
from edgekd.pipeline.ledger import Ledger
from edgekd.report import (
    DataFacts,
    PairedGain,
    RunReport,
    Scores,
    ScoreSummary,
    TargetRef,
    TaskFacts,
    Verdict,
    write_report,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe") / "mine"
    config = load_config(
        None, flags={"data": {"name": "digits", "limit": 120}, "seeds": 2, "method": "kd"}, overrides=[]
    )
    dataset = load_dataset(DataConfig(name="digits", limit=120))
    facts = {"in_channels": 1, "num_classes": 10, "resolution": 8, "mean": dataset.mean, "std": dataset.std}
    spec = spec_for("resnet", depth=8, width=2, **facts)
    with Ledger.open(folder) as ledger:
        _network(ledger, "teacher", spec, weights=9)
        for seed in range(2):
            _network(ledger, f"alone/seed{seed}", spec, weights=seed, seed=seed)
            _network(ledger, f"distilled/seed{seed}", spec, weights=9, seed=seed)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    write_report(_report(spec, dataset), folder)
    return folder


def _network(ledger, stage, spec, *, weights, seed=0):
    torch.manual_seed(weights)
    role = stage.partition("/")[0]
    path = ledger.folder / "student" / f"{stage.replace('/', '-')}.safetensors"
    file = save_weights(build(spec), path, {})
    model = TrainedModel(role, spec, file, {"val": 0.1, "test": 0.1}, "kd", seed)
    ledger.stage(stage, {}, lambda: {"model": to_json(model), "history": []})


def _report(spec, dataset):
    summary = ScoreSummary.of(spec.name, "test", {0: 0.1})
    return RunReport(
        name="mine",
        created="2026-01-02T03:04:05Z",
        command="edgekd distill",
        verdict=Verdict.of(None),
        budget=None,
        target=TargetRef(name="cpu", title="cpu"),
        data=DataFacts(name="digits", digest=dataset.digest, targets=10, train=1, val=1, test=1),
        method="kd",
        scores=Scores(teacher=summary, alone=summary, distilled=summary),
        task=TaskFacts(kind="classification", metric="top-1", is_share=True, agreement="same class"),
        gain=PairedGain.of(summary, summary),
        latency=(),
        parity=None,
        precision=None,
        sizes=(),
        curves=(),
        artifacts=(),
    )


def test_list_names_every_probe(edgekd):
    result = edgekd("probe", "list")
    assert result.exit_code == 0
    assert {line.split()[0] for line in result.stdout.splitlines()[2:]} == set(PROBES)
    document = json.loads(edgekd("probe", "list", "--json").stdout)
    assert document["schema_version"] == 1
    assert [probe["name"] for probe in document["probes"]] == list(PROBES)


@pytest.mark.parametrize("name", PROBES)
def test_show_gives_paper_chance_and_options(edgekd, name):
    text = edgekd("probe", "show", name).stdout
    facts = json.loads(edgekd("probe", "show", name, "--json").stdout)["probe"]
    assert PROBES[name].chance in text
    assert "arXiv" in facts["reference"]
    assert facts["roles"][:2] == ["teacher", "student"]
    assert all(option in text for option in facts["options"])


def test_an_unknown_probe_ends_with_2(edgekd):
    result = edgekd("probe", "show", "kca")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "did you mean cka" in result.stderr


def test_run_prints_the_extreme_of_a_student_that_is_the_teacher(edgekd, run):
    result = edgekd("probe", "run", "fidelity", "errors", run, "--split", "test")
    assert result.exit_code == 0, result.stderr
    rows = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line[:1].isalpha()}
    assert rows["agreement"][:2] == ["1.00", "0"]
    assert float(rows["agreement"][2]) < 0.9
    assert rows["kl"][0] == "0"
    assert rows["overlap"][0] == "1.00"
    assert "fidelity on digits test, 2 seed(s)" in result.stdout
    assert result.stdout.count("\nchance: ") == 2
    assert "errors on test: " in result.stderr
    assert "errors on test: " not in result.stdout


def test_run_as_json_is_one_document_with_spread_and_chance(edgekd, run, tmp_path):
    out = tmp_path / "found.json"
    result = edgekd("probe", "run", "localisation", run, "--set", "layer=3", "--json", "--out", out)
    document = json.loads(result.stdout)
    assert document == json.loads(out.read_text())
    assert document["schema_version"] == 1
    assert document["run"] == "mine"
    assert document["student"]["seeds"] == [0, 1]
    (found,) = document["probes"]
    assert found["options"] == {"layer": 3, "images": 5000, "seed": 0}
    row = next(row for row in found["rows"] if row["name"] == "win_rate")
    assert row["distilled"]["mean"] > 0.9
    assert row["independent"]["mean"] == pytest.approx(0.5)
    assert row["chance"] == 0.5
    assert len(row["distilled"]["values"]) == 2


def test_out_is_not_overwritten_unless_forced(edgekd, run, tmp_path):
    out = tmp_path / "found.json"
    out.write_text("mine")
    refused = edgekd("probe", "run", "errors", run, "--out", out)
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    assert out.read_text() == "mine"
    assert edgekd("probe", "run", "errors", run, "--out", out, "--force").exit_code == 0
    assert json.loads(out.read_text())["probes"][0]["probe"] == "errors"


def test_other_pictures_are_named_by_data_set(edgekd, run):
    result = edgekd("probe", "run", "consensus", run, "--data", "digits", "--set", "domains=[as-is]", "--json")
    (found,) = json.loads(result.stdout)["probes"]
    assert [row["name"] for row in found["rows"]] == ["as-is"]
    assert found["rows"][0]["distilled"]["mean"] == 1.0


def test_splits_may_be_repeated(edgekd, run):
    result = edgekd("probe", "run", "calibration", run, "--split", "val", "--split", "train", "--json")
    assert [found["split"] for found in json.loads(result.stdout)["probes"]] == ["val", "train"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("fidelity", "absent"), 2, "run edgekd distill first"),
        (("kca", "RUN"), 2, "did you mean cka"),
        (("cka", "RUN", "--set", "imges=3"), 2, "did you mean images"),
        (("cka", "RUN", "--split", "holdout"), 2, "Invalid value"),
        (("adversarial", "RUN", "--set", "epsilon=1e-9"), 1, "raise epsilon"),
    ],
)
def test_mistakes_are_one_message(edgekd, run, words, code, says):
    result = edgekd("probe", "run", *(run if word == "RUN" else word for word in words))
    assert result.exit_code == code
    assert says in result.stderr
    assert result.stdout == ""


def test_a_run_without_students_alone_says_how_to_get_them(edgekd, run):
    config = run / "config.yaml"
    kept = config.read_text()
    try:
        config.write_text(yaml.safe_dump(yaml.safe_load(kept) | {"compare_alone": False}))
        result = edgekd("probe", "run", "fidelity", run)
    finally:
        config.write_text(kept)
    assert result.exit_code == 2
    assert f"edgekd distill {config} --set compare_alone=true --out {run}" in result.stderr
