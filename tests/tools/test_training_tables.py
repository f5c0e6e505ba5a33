import json

from train_step import gains, summary
from training_tables import (
    SCALING_HEADER,
    STEP_HEADER,
    cache_rows,
    loading_rows,
    scaling_rows,
    step_rows,
    step_verdicts,
)


def _run(method, engine, number, step_ms, peak_mb=100.0):
    return {"method": method, "engine": engine, "round": number, "step_ms": step_ms, "peak_mb": peak_mb}


RUNS = [
    *(_run("kd", "bare", number, 50.0) for number in range(3)),
    *(_run("kd", "edgekd", number, step) for number, step in enumerate((60.0, 120.0, 61.0))),
    *(_run("kd", "mdistiller", number, step, 300.0) for number, step in enumerate((90.0, 180.0, 61.0))),
    *(_run("kd", "torchdistill", number, step, 200.0) for number, step in enumerate((75.0, 150.0, 70.0))),
    _run("kd", "edgekd-compiled", 0, 50.0),
    _run("kd", "edgekd-cached", 0, 25.0),
    {"method": "kd", "engine": "repdistiller", "round": 0, "failed": "no such loss"},
    _run("sp", "edgekd", 0, 80.0),
]


def test_a_summary_takes_medians_over_rounds_and_leaves_out_what_failed():
    found = {(row["method"], row["engine"]): row for row in summary(RUNS)}
    assert found["kd", "edgekd"]["step_ms"] == 61.0 and found["kd", "edgekd"]["rounds"] == 3
    assert found["kd", "edgekd"]["above_bare_percent"] == 100 * (61 / 50 - 1)
    assert ("kd", "repdistiller") not in found


def test_a_gain_is_the_median_of_ratios_within_rounds_over_the_fastest_peer():
    # Ratios in rounds: mdistiller 1.5, 1.5, 1.0; torchdistill 1.25, 1.25, 70/61.
    assert gains(RUNS, "edgekd") == {"kd": (1.25, "torchdistill")}
    assert gains(RUNS, "edgekd-compiled") == {"kd": (1.5, "torchdistill")}


def test_a_table_has_a_line_for_each_method_and_blanks_where_nothing_ran(tmp_path):
    file = tmp_path / "steps.json"
    file.write_text(json.dumps({"runs": RUNS}))
    kd, sp = step_rows(file)
    assert len(kd) == len(sp) == len(STEP_HEADER)
    steps = ("50", "61 (+22 %)", "50 (+0 %)", "25 (-50 %)", "90 (+80 %)", "", "75 (+50 %)")
    assert kd == ("`kd`", *steps, "1.50 (edgekd-compiled / torchdistill)", "3.00", "100 / 200 MB")
    assert sp == ("`sp`", "", "80", "", "", "", "", "", "", "", "")
    first, second, cached = step_verdicts(file)
    assert first.startswith("`edgekd`: 1.25 times") and "1 methods, 1.25 at least (`kd`)" in first
    assert second.startswith("`edgekd-compiled`: 1.50")
    assert cached.startswith("`edgekd-cached`: 3.00")


def test_scaling_lists_every_round(tmp_path):
    file = tmp_path / "scaling.json"
    one = {
        "one_process_two_threads_ms": [100.2, 101.0],
        "two_processes_one_thread_ms": [110.0, 121.4],
        "ratio_median": 1.15,
    }
    file.write_text(json.dumps({"recipes": {"kd": one}}))
    assert scaling_rows(file) == [("`kd`", "100, 101", "110, 121", "1.15")]
    assert len(SCALING_HEADER) == 4


def test_the_cache_has_a_line_for_each_kind_of_epoch_but_the_plain_one(tmp_path):
    def epoch(repeats, median, lowest, highest, share):
        ratio = {"median": median, "min": lowest, "max": highest}
        both = {name: {"ratio_to_plain": ratio} for name in ("cpu", "wall")}
        return {"repeats": repeats, **both, "recall_share_of_plain": {"median": share}}

    file = tmp_path / "cache.json"
    epochs = {
        "plain": epoch(5, 1, 1, 1, 0),
        "kd live": epoch(1, 3.5, 3.5, 3.5, 0),
        "kd": epoch(5, 0.95, 0.87, 1.17, 0.003),
    }
    file.write_text(json.dumps({"epochs": epochs}))
    assert cache_rows(file) == [
        ("kd live", "1", "3.50", "3.50", "0.0 %"),
        ("kd", "5", "0.95 (0.87 to 1.17)", "0.95 (0.87 to 1.17)", "0.3 %"),
    ]


def test_loaders_have_a_line_each_with_two_workers_beside_none(tmp_path):
    file = tmp_path / "loading.json"
    shards = {"loader": "edgekd", "storage": "webdataset", "shuffle": "shards"}
    rates = [
        {"loader": "edgekd", "storage": "folder", "workers": 0, "pictures_per_s": 700, "pictures_per_cpu_s": 1750},
        {**shards, "workers": 0, "pictures_per_s": 900, "pictures_per_cpu_s": 1900},
        {**shards, "workers": 2, "pictures_per_s": 1100},
        {"loader": "edgekd", "storage": "folder", "pictures": "large", "decode": "fast", "pictures_per_cpu_s": 130},
    ]
    file.write_text(json.dumps({"rates": rates}))
    assert loading_rows(file) == [
        ("edgekd, folder", "1,750", ""),
        ("edgekd, webdataset, by shards", "1,900", "1,100"),
        ("edgekd, folder, large JPEGs, `decode: fast`", "130", ""),
    ]
