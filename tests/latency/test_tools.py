"""The fit and its evidence, run as the commands they are."""

import json
import math
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
    rows = evaluated(shared_data / "latency", "A,E", "orin,xavier")
    ops = {row["board"]: row for row in rows if row["test"] == "A" and row["predictor"] == "OPS"}
    boards = {"jetson-agx-orin-64gb", "agx-orin-devkit-32gb", "jetson-orin-nano-8gb", "jetson-xavier-nx"}
    assert set(ops) >= boards
    for board, row in ops.items():
        assert row["mape"] <= 0.09, board
        assert row["hit10"] >= 0.65, board
        assert row["hit20"] >= 0.90, board
        assert row["spearman"] >= 0.99, board
        lin4 = next(r for r in rows if r["board"] == board and r["predictor"] == "LIN4")
        assert row["mape"] < lin4["mape"], board
    (untouched,) = [row for row in rows if row["test"] == "E"]
    assert untouched["mape"] <= 0.15


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
truth = GENERIC_PRIOR.log_mean + 0.3 * rng.standard_normal(12)
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


def test_conformal_half_width_is_the_right_rank_or_widened() -> None:
    script = (
        "import json; from calibrate import conformal_half_width as w\n"
        "print(json.dumps([w([i / 100 for i in range(1, 20)]), w([0.1] * 9), w([0.1, 0.2, 0.05]), w([0.1])]))"
    )
    many, nine, three, one = json.loads(run(script))
    assert many == pytest.approx(0.18)  # ceil(20 x 0.9) = 18th of 19
    assert nine == pytest.approx(0.1)  # ceil(10 x 0.9) = 9th of 9
    assert three == pytest.approx(0.2 * 2.920 / 1.645, rel=1e-3)  # Student's t with 2 degrees of freedom
    assert one == pytest.approx(0.6)
    assert math.isfinite(one)
