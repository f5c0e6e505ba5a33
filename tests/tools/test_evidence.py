"""The evidence that is shipped is what the result files say, computed another way."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from edgekd.distill import load_recipe
from edgekd.distill.evidence import evidence_of

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "tools" / "bench" / "results"
SHIPPED = json.loads((ROOT / "edgekd" / "distill" / "evidence.json").read_text(encoding="utf-8"))


def _scores(file, pair, method):
    rows = csv.DictReader((RESULTS / file).open(encoding="utf-8"))
    rows = [row for row in rows if row["method"] == method and row.get("pair", "") == pair and not row.get("error")]
    return {int(row["seed"]): 100 * float(row["test_accuracy"]) for row in rows}


@pytest.mark.parametrize("method", sorted(SHIPPED["methods"]))
def test_shipped_figures_are_those_of_the_file_they_name(method):
    assert load_recipe(method).name == method
    for one in evidence_of(method):
        scores, plain = (_scores(one.result_file, one.pair, name) for name in (method, "plain"))
        assert one.seeds == len(scores) > 0
        assert one.top1_mean == pytest.approx(np.mean(list(scores.values())), abs=0.0051)
        if one.seeds > 1:
            assert one.top1_std == pytest.approx(np.std(list(scores.values()), ddof=1), abs=0.0051)
        if method == "plain":
            assert one.over_plain is None
            continue
        differences = np.array([scores[seed] - plain[seed] for seed in sorted(scores.keys() & plain.keys())])
        assert one.over_plain == pytest.approx(differences.mean(), abs=0.0051)
        if len(differences) > 1:
            low, high = stats.t.interval(0.95, len(differences) - 1, differences.mean(), stats.sem(differences))
            assert one.over_plain_margin == pytest.approx((high - low) / 2, abs=0.0051)


def test_the_shipped_file_is_what_the_script_writes(bench):
    module = bench("evidence")
    files = [RESULTS / name for name in dict.fromkeys(o["result_file"] for v in SHIPPED["methods"].values() for o in v)]
    assert set(files) == set(module.studies())
    assert module.evidence(module.studies()) == module.SHIPPED.read_text(encoding="utf-8")


def test_trials_teachers_failures_and_other_pairs_are_kept_apart(bench, tmp_path):
    module = bench("evidence")
    file = tmp_path / "methods-two_cpu-x_torch2.0.0_abc1234.csv"
    file.write_text(
        "pair,method,seed,test_accuracy,error\n"
        "a,teacher,0,0.99,\na,plain,0,0.50,\na,kd,0,0.60,\na,kd,1,0.70,\na,dkd,0,,Boom: no\nb,kd,0,0.10,\n"
    )
    methods = json.loads(module.evidence([file]))["methods"]
    assert set(methods) == {"plain", "kd"}
    first, second = methods["kd"]
    assert (first["pair"], first["task"], first["top1_mean"], first["seeds"]) == ("a", "two", 65.0, 2)
    assert (first["over_plain"], first["over_plain_margin"]) == (10.0, None)
    assert (second["pair"], second["over_plain"], second["top1_std"]) == ("b", None, None)
    assert math.isclose(first["top1_std"], 7.07)


@pytest.mark.parametrize(
    "name, is_study",
    [("methods-digits", True), ("methods-cifar10-small", True), ("methods-digits-epochs2", False),
     ("methods-digits-epochs2-limit90", False), ("methods-digits-limit90", False)],
)  # fmt: skip
def test_trials_are_no_evidence(bench, tmp_path, monkeypatch, name, is_study):
    module = bench("evidence")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    (tmp_path / f"{name}_cpu-x_torch2.0.0_abc1234.csv").write_text("method,seed,test_accuracy\n")
    assert bool(module.studies()) == is_study
