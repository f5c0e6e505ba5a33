"""The fit and its evidence, run as the commands they are."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekd.latency import load_parameters

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tools" / "latency"


def run(script: str) -> str:
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(TOOLS)!r}, {str(ROOT)!r}]\n{script}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def evaluated(data: Path, tests: str, sets: str) -> list[dict[str, Any]]:
    command = [
        sys.executable,
        str(TOOLS / "evaluate.py"),
        "--data",
        str(data),
        "--tests",
        tests,
        "--sets",
        sets,
        "--json",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    )
    rows: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
    return rows


def test_models_left_out_are_predicted_within_the_bar_on_every_jetson(shared_data: Path) -> None:
    rows = evaluated(shared_data / "latency", "A", "orin,xavier")
    ops = {row["case"]: row for row in rows if row["test"] == "A" and row["predictor"] == "OPS"}
    boards = {"jetson-agx-orin-64gb", "agx-orin-devkit-32gb", "jetson-orin-nano-8gb", "jetson-xavier-nx"}
    assert set(ops) >= boards
    for board, row in ops.items():
        assert row["mape"] <= 0.07, board
        assert row["hit10"] >= 0.80, board
        assert row["hit20"] >= 0.98, board
        assert row["spearman"] >= 0.99, board
        lin4 = next(r for r in rows if r["case"] == board and r["predictor"] == "LIN4")
        assert row["mape"] < lin4["mape"], board


def test_a_new_board_is_predicted_within_the_bars_from_its_data_sheet(shared_data: Path) -> None:
    rows = evaluated(shared_data / "latency", "C", "orin")
    ops = {row["case"]: row for row in rows if row["predictor"] == "OPS"}
    assert {"jetson-agx-orin-64gb", "agx-orin-devkit-32gb", "jetson-orin-nano-8gb", "jetson-xavier-nx"} == set(ops)
    for board, row in ops.items():
        assert row["mape"] <= (0.10 if board == "jetson-xavier-nx" else 0.08), board
        assert row["hit10"] >= (0.60 if board == "jetson-xavier-nx" else 0.75), board
        assert row["spearman"] >= 0.99, board
        assert all(row["mape"] < r["mape"] for r in rows if r["case"] == board and r["predictor"] != "OPS"), board


def test_bars_name_the_worst_row_and_whether_it_keeps_them() -> None:
    script = (
        "import json; from bars import bars_of; from dataclasses import asdict; from evaluate import Score, Coverage\n"
        "rows = [Score('B', 'a', 'OPS', 9, 0.07, 1, 1, 1), Score('B', 'b', 'OPS', 9, 0.081, 1, 1, 1),\n"
        "        Score('B', 'c', 'FLOPs', 9, 0.5, 1, 1, 1), Coverage('G', 'x', 3, 9, 0.86, 0.1),\n"
        "        Coverage('G', 'y', 3, 9, 0.96, 0.1)]\n"
        "print(json.dumps([asdict(bar) for bar in bars_of(rows)]))"
    )
    found = [(bar["worst"], bar["where"], bar["met"]) for bar in json.loads(run(script))]
    assert found == [(0.081, "b", False), (0.86, "x", True), (0.96, "y", False)]


def test_parameter_file_is_what_the_fit_gives(shared_data: Path) -> None:
    script = (
        "import dataclasses, json\nfrom pathlib import Path\nfrom fit import fit_all\nfrom sets import read_tables\n"
        f"fit = fit_all(read_tables(Path({str(shared_data / 'latency')!r})), ('orin',))['orin']\n"
        "print(json.dumps([dataclasses.asdict(fit.parameters), fit.offsets]))"
    )
    kernel, offsets = json.loads(run(script))
    entry = load_parameters().sets["orin"]
    for name, value in entry.kernel.model_dump().items():
        assert kernel[name] == pytest.approx(value, rel=1e-3), f"{name}: run tools/latency/fit.py"
    for board, offset in entry.device_offsets_log.items():
        assert offsets[board] == pytest.approx(offset, abs=1e-3)


def test_fit_recovers_parameters_it_was_given() -> None:
    script = """
import json, dataclasses, math, sys
import numpy as np
from edgekd.latency import Layer, LayerGraph
from edgekd.latency.map_fit import GENERIC_PRIOR, Fit, log_predictions, map_fit
from points import Point
rng = np.random.default_rng(0)
graphs, points = {}, []
for index in range(60):
    width, size = int(rng.choice([16, 32, 64, 128, 256])), int(rng.choice([8, 16, 32, 64, 128]))
    depth = int(rng.integers(2, 60))
    pixels = size * size
    def conv(area):
        k = area * width
        kind = "conv_1x1" if area == 1 else "conv_kxk"
        return Layer(kind, pixels * width * k, pixels * width, pixels * width, width * k, pixels, width, k, 1, area)
    graphs[(f"n{index}", size)] = LayerGraph("n", 1, (conv(9),) * depth + (conv(1),) * int(rng.integers(1, 40)))
prior = GENERIC_PRIOR
truth = prior.log_mean + np.where(prior.log_sd > 0.01, 0.2, 0.0) * rng.standard_normal(len(prior.log_mean))
for (model, size) in graphs:
    points.append(Point("jetson-agx-orin-64gb", model, size, 1, "fp16", 1.0, None, "r", "t"))
seconds = np.exp(log_predictions(Fit(truth, {}), points, graphs))
points = [dataclasses.replace(p, latency_ms=float(s) * 1e3) for p, s in zip(points, seconds)]
fit = map_fit(points, graphs, GENERIC_PRIOR)
error = np.abs(log_predictions(fit, points, graphs) - np.log(seconds))
floor = dict(zip([f.name for f in dataclasses.fields(fit.parameters)], fit.log_values - truth))
print(json.dumps([float(error.max()), float(floor["floor_cycles"]), float(floor["eff_kxk"])]))
"""
    worst, floor, efficiency = json.loads(run(script))
    assert worst < 0.05
    assert abs(floor) < 0.1
    assert abs(efficiency) < 0.1


WIDTH = """
import json
import numpy as np
from calibrate import clustered_half_width
from points import Point
def width(errors, groups):
    points = [Point("b", f"m{group}", 1, 1, "fp16", 1.0, None, "r", "t") for group in groups]
    return clustered_half_width(points, np.array(errors), key=lambda point: point.model)
"""


def test_half_width_is_the_conformal_quantile_of_as_many_points_as_there_are_independent_ones() -> None:
    script = """
apart = [i / 100 for i in range(1, 41)]
signed = [error * (-1) ** i for i, error in enumerate(apart)]
weighed = [0.3] + 90 * [0.1]
print(json.dumps([
    width(apart, range(40)),
    width(apart, [i % 4 for i in range(40)]),
    width(signed, range(40)),
    width([i / 100 for i in range(1, 10)], range(9)),
    width(weighed, [0] + [1 + i % 9 for i in range(90)]),
]))
"""
    each, exchangeable, signed, nine, weighed = json.loads(run(WIDTH + script))
    assert each == pytest.approx(0.37)  # 40 groups of one: 0.9 x 41 / 40 = 92.25 %, the 37th of 40
    assert exchangeable == pytest.approx(0.37)  # groups alike: 40 points count as 40
    assert signed == pytest.approx(0.37)  # errors of both signs by their size
    assert nine == pytest.approx(0.09)  # 0.9 x 10 / 9 is all of them
    assert weighed == pytest.approx(0.3)  # the one point of a group weighs as much as the ten of each other


def test_half_width_of_too_few_for_a_conformal_quantile_is_student_s() -> None:
    script = """
alike = [0.1 * (i // 10 + 1) * (-1) ** i for i in range(40)]
rng = np.random.default_rng(0)
draws = rng.normal(0.0, 0.2, (1500, 6))
covered = np.mean([abs(draw[5]) <= width(draw[:5], range(5)) for draw in draws])
print(json.dumps([width(alike, [i // 10 for i in range(40)]), width([0.3] + 8 * [0.1], [0] + 8 * [1]), covered]))
"""
    alike, weighed, covered = json.loads(run(WIDTH + script))
    assert alike == pytest.approx(2.3534 * (1.25 * 0.075) ** 0.5, rel=1e-4)  # four, 3 degrees of freedom
    assert weighed == pytest.approx(6.3138 * (1.5 * 0.05) ** 0.5, rel=1e-4)  # each group weighs the same
    assert 0.9 <= covered < 0.95  # 0.9 and what the mean costs, which is 0 here; the largest of five covers 0.83
