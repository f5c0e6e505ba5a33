"""Tables on choosing a student and on a CPU say what their files say."""

import importlib
import json

import pytest


@pytest.fixture
def tables(monkeypatch):
    from pathlib import Path

    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "tools" / "bench"))
    return importlib.import_module("search_tables")


def test_a_line_for_each_way_of_choosing_has_mean_and_spread_of_its_runs(tables, tmp_path):
    file = tmp_path / "search.csv"
    file.write_text(
        "data,seed,method,student,mmacs,final_epochs,tried,spent_share,val,test,seconds\n"
        "digits,0,search,a,0.2,10,8,1,0.9,0.9,1\n"
        "digits,1,search,b,0.4,30,8,1,0.9,0.92,1\n"
        "digits,2,search,a,0.2,10,8,1,0.9,0.92,1\n"
        "digits,0,widest,c,0.5,40,0,0,0.9,0.95,1\n"
    )
    assert tables.search_rows(file) == [
        ("digits", "search", "`a` and 1 more", "3", "91.33 ± 1.15 %", "0.20", "10"),
        ("digits", "widest", "`c`", "1", "95.00 %", "0.50", "40"),
    ]


def test_a_verdict_names_sides_difference_and_how_often_the_search_was_better(tables, tmp_path):
    file = tmp_path / "search.json"
    found = {"mean_points": -0.866, "margin_points": 0.704, "pairs": 3, "search_better_in": 0, "statement": "worse"}
    file.write_text(json.dumps({"data": ["digits"], "search minus widest": found}))
    (verdict,) = tables.search_verdicts(file)
    assert verdict == "Search minus widest: -0.87 ± 0.70 points, the search better in 0 of 3; worse."


def test_a_cpus_line_is_in_percent(tables, tmp_path):
    file = tmp_path / "cpu.json"
    figures = {"median_error": 0.06225, "p90_error": 0.2286, "interval_coverage": 0.98}
    more = {"macs_baseline_median_error": 0.1676, "cpu": "X", "learnt_from": 10, "predicted": 50}
    file.write_text(json.dumps(figures | more))
    wanted = ("X", "10 measured", "50 students", "6.2 %", "22.9 %", "98.0 %", "16.8 %")
    assert tables.cpu_rows(file) == [wanted]


def test_a_search_is_compared_on_each_data_set_by_itself():
    compared = importlib.import_module("search_study").compared
    scores = {"a": {"search": (0.9, 0.8), "widest": (0.8, 0.7)}, "b": {"search": (0.5, 0.5), "widest": (0.6, 0.6)}}
    rows = [
        {"data": data, "seed": seed, "method": method, "test": score}
        for data, methods in scores.items()
        for method, found in methods.items()
        for seed, score in enumerate(found)
    ]
    summary = compared(rows)
    assert summary["data"] == ["a", "b"] and "search minus random on a" not in summary
    points = {name: each["mean_points"] for name, each in summary.items() if name != "data"}
    assert points == pytest.approx({"search minus widest on a": 10, "search minus widest on b": -10})
    assert summary["search minus widest on a"]["search_better_in"] == 2
