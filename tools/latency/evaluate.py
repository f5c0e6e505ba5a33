"""Print the evidence for the latency model: tests A to G of the design notes, with the baselines beside them.

    python tools/latency/evaluate.py --data FOLDER [--tests A,B,C,D,E,F,G] [--sets orin,xavier] [--json]
    python tools/latency/evaluate.py --data FOLDER --all      # every test, kept under tools/bench/results

A leaves one model out, B one family, C one board (its data sheet remains), D gives ten points of a board that was not
fitted, E applies a fit to other sources, F leaves one family of classifiers out, G counts how often intervals cover
what was left out. Structure and priors of the model were chosen on the tables of A to D and F; E was looked at once,
when everything was fixed. Boards and families that are in no table here remain the proof.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from bars import Bar, bars_of
from calibrate import board_errors, clustered_half_width, held_out_errors
from fit import fit_all, prior_of
from points import JETSON_OTHER, ULTRALYTICS, Point
from predictors import Predictor, baselines, ops
from scipy.stats import spearmanr  # type: ignore[import-untyped]
from sets import RECIPES, Tables, fitted_points, read_tables

from edgekd.core.atomic import write_text
from edgekd.core.digest import sha256_of_file, sha256_of_json
from edgekd.latency.kernel_model import Floats
from edgekd.latency.map_fit import Fit, log_predictions, log_seconds, map_fit

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tools" / "bench" / "results"
SETS = ("orin", "xavier", "turing", "ampere-desktop")
CLASSIFIERS = "t4"
DRAWS = 10
POINTS_GIVEN = 10


@dataclass(frozen=True)
class Score:
    """One row of a table: errors of one predictor on points it did not see.

    Attributes:
        test: Letter of the test.
        case: Board or source predicted.
        predictor: Who predicted.
        points: Points predicted.
        mape: Mean relative error.
        hit10: Share within 10 %.
        hit20: Share within 20 %.
        spearman: Rank correlation.
    """

    test: str
    case: str
    predictor: str
    points: int
    mape: float
    hit10: float
    hit20: float
    spearman: float


@dataclass(frozen=True)
class Coverage:
    """How often 90 % intervals cover what they were not calibrated on.

    Attributes:
        test: `"G"`.
        case: Set and what was left out.
        groups: How many were left out, one after another.
        points: Points covered or not.
        coverage: Share covered.
        half_width: Median half-width, relative.
    """

    test: str
    case: str
    groups: int
    points: int
    coverage: float
    half_width: float


Row = Score | Coverage


def score(test: str, case: str, predictor: str, *, errors: Floats, measured: Floats) -> Score:
    """Summarise log errors `[N]` of measurements `[N]` in log seconds."""
    relative = np.abs(np.expm1(errors))
    return Score(
        test=test,
        case=case,
        predictor=predictor,
        points=len(errors),
        mape=round(float(relative.mean()), 4),
        hit10=round(float((relative <= 0.1).mean()), 3),
        hit20=round(float((relative <= 0.2).mean()), 3),
        spearman=round(float(spearmanr(measured, measured + errors).statistic), 4) if len(errors) > 2 else float("nan"),
    )


def leave_out(points: Sequence[Point], key: Callable[[Point], str], predictor: Predictor) -> Floats:
    """Return log errors `[N]`, every group of `key` predicted from the others."""
    errors = np.empty(len(points))
    for group in sorted({key(point) for point in points}):
        rows = [row for row, point in enumerate(points) if key(point) == group]
        rest, held_out = [p for p in points if key(p) != group], [points[row] for row in rows]
        errors[rows] = predictor(rest, held_out) - log_seconds(held_out)
    return errors


def leave_group_out(
    test: str, tables: Tables, fits: Mapping[str, Fit], *, key: Callable[[Point], str], sets: Sequence[str]
) -> list[Row]:
    """Tests A, B and F: OPS fitted on a generation, baselines on each board."""
    found: list[Row] = []
    for name in sets:
        points = fitted_points(RECIPES[name], tables)
        if len({key(point) for point in points}) < 2:
            continue
        errors = leave_out(points, key, ops(tables, prior_of(RECIPES[name], fits)))
        for board in sorted({point.board for point in points}):
            rows = [row for row, point in enumerate(points) if point.board == board]
            own = [points[row] for row in rows]
            found.append(score(test, board, "OPS", errors=errors[rows], measured=log_seconds(own)))
            for label, predictor in baselines(tables).items():
                left_out = leave_out(own, key, predictor)
                found.append(score(test, board, label, errors=left_out, measured=log_seconds(own)))
    return found


def leave_board_out(tables: Tables, fits: Mapping[str, Fit]) -> list[Row]:
    """Test C: each Orin board from other devices of its generation; Xavier NX from Orin; all by their data sheet.

    The developer kit has the module of the 64 GB board: knowing one would give the other away, so both are left out.
    """
    orins = fitted_points(RECIPES["orin"], tables)
    cases = [
        (board, [p for p in orins if p.board == board], [p for p in orins if p.device != _device_of(orins, board)])
        for board in sorted({point.board for point in orins})
    ]
    cases.append(("jetson-xavier-nx", fitted_points(RECIPES["xavier"], tables), orins))
    found: list[Row] = []
    for board, own, others in cases:
        predictors = {"OPS": ops(tables, prior_of(RECIPES["orin"], fits)), **baselines(tables)}
        found += [_predicted("C", board, label, predictor(others, own), own) for label, predictor in predictors.items()]
    return found


def ten_points(tables: Tables, fits: Mapping[str, Fit], sets: Sequence[str]) -> list[Row]:
    """Test D: ten random points of a board, prior from the other boards of its generation (or the recipe's)."""
    found: list[Row] = []
    for name in sets:
        points = fitted_points(RECIPES[name], tables)
        for board in sorted({point.board for point in points}):
            own, rest = [p for p in points if p.board == board], [p for p in points if p.board != board]
            prior = prior_of(RECIPES[name], fits)
            if rest:
                prior = prior.around(map_fit(rest, tables.graphs, prior), 0.5)
            for label, predictor in {"OPS": ops(tables, prior), **baselines(tables)}.items():
                errors, measured = _over_draws(own, predictor)
                found.append(score("D", board, label, errors=errors, measured=measured))
    return found


def other_sources(tables: Tables, fits: Mapping[str, Fit]) -> list[Row]:
    """Test E: fits on one source applied to the rows of others, no refit."""
    board = "jetson-agx-orin-64gb"
    cases = {
        "AGX Orin, Ultralytics": ("orin", board, _rows(tables, ULTRALYTICS, board)),
        "AGX Orin, EfficientViT": ("orin", board, _rows(tables, JETSON_OTHER, board)),
        "AGX Xavier, torch2trt": ("xavier", "jetson-xavier-nx", _rows(tables, JETSON_OTHER, "jetson-agx-xavier-32gb")),
    }
    found: list[Row] = []
    for case, (name, fitted_board, wanted) in cases.items():
        known = [p for p in fitted_points(RECIPES[name], tables) if p.board == fitted_board]
        found.append(_predicted("E", case, "OPS", log_predictions(fits[name], wanted, tables.graphs), wanted))
        found += [
            _predicted("E", case, label, predictor(known, wanted), wanted)
            for label, predictor in baselines(tables).items()
        ]
    return found


def coverage(tables: Tables, fits: Mapping[str, Fit]) -> list[Row]:
    """Test G: intervals calibrated on other models (families, boards), held against the one left out."""
    found: list[Row] = []
    for name in ("orin", "turing", "ampere-desktop", CLASSIFIERS):
        recipe = RECIPES[name]
        points, prior = fitted_points(recipe, tables), prior_of(recipe, fits)
        errors = held_out_errors(points, tables.graphs, prior)
        found.append(_covered(f"{name}: new model", points, errors, key=lambda point: point.model))
        if name == CLASSIFIERS:
            errors = leave_out(points, lambda point: point.family, ops(tables, prior))
            found.append(_covered(f"{name}: new family", points, errors, key=lambda point: point.family))
    points = fitted_points(RECIPES["orin"], tables)
    errors = board_errors(points, tables.graphs, prior_of(RECIPES["orin"], fits))
    return [*found, _covered("orin: new board", points, errors, key=lambda point: point.board)]


def _covered(case: str, points: Sequence[Point], errors: Floats, *, key: Callable[[Point], str]) -> Coverage:
    names = np.array([key(point) for point in points])
    covered, widths = [], []
    for group in sorted(set(names)):
        rest = [point for point, name in zip(points, names, strict=True) if name != group]
        width = clustered_half_width(rest, errors[names != group], key=key)
        covered.extend(np.abs(errors[names == group]) <= width)
        widths.append(width)
    return Coverage(
        test="G",
        case=case,
        groups=len(widths),
        points=len(points),
        coverage=round(float(np.mean(covered)), 3),
        half_width=round(float(np.expm1(np.median(widths))), 3),
    )


def _over_draws(own: Sequence[Point], predictor: Predictor) -> tuple[Floats, Floats]:
    errors, measured = [], []
    for draw in range(DRAWS):
        given = set(np.random.default_rng(draw).permutation(len(own))[:POINTS_GIVEN].tolist())
        known = [own[row] for row in sorted(given)]
        wanted = [point for row, point in enumerate(own) if row not in given]
        measured.append(log_seconds(wanted))
        errors.append(predictor(known, wanted) - measured[-1])
    return np.concatenate(errors), np.concatenate(measured)


def _predicted(test: str, case: str, predictor: str, predicted: Floats, wanted: Sequence[Point]) -> Score:
    measured = log_seconds(wanted)
    return score(test, case, predictor, errors=predicted - measured, measured=measured)


def _rows(tables: Tables, table: str, board: str) -> list[Point]:
    return [p for p in tables.points[table] if p.board == board and p.precision == "fp16"]


def _device_of(points: Sequence[Point], board: str) -> str:
    return next(point.device for point in points if point.board == board)


def evaluate(data: Path, tests: Sequence[str], sets: Sequence[str]) -> list[Row]:
    """Run the tests asked for."""
    tables = read_tables(data)
    fits = fit_all(tables, ("orin", "xavier"))
    work: dict[str, Callable[[], list[Row]]] = {
        "A": lambda: leave_group_out("A", tables, fits, key=lambda point: point.model, sets=sets),
        "B": lambda: leave_group_out("B", tables, fits, key=lambda point: point.family, sets=sets),
        "C": lambda: leave_board_out(tables, fits),
        "D": lambda: ten_points(tables, fits, sets),
        "E": lambda: other_sources(tables, fits),
        "F": lambda: leave_group_out("F", tables, fits, key=lambda point: point.family, sets=(CLASSIFIERS,)),
        "G": lambda: coverage(tables, fits),
    }
    return [row for name in tests for row in work[name]()]


def document(data: Path, rows: Sequence[Row], bars: Sequence[Bar]) -> dict[str, object]:
    """Return rows and bars as plain data, with the digest of every table they rest on."""
    digests = {path.name: sha256_of_file(path) for path in sorted(data.glob("*.csv.gz"))}
    return {
        "schema_version": 1,
        "data_sha256": digests,
        "rows": [asdict(row) for row in rows],
        "bars": [asdict(bar) for bar in bars],
    }


def keep(found: Mapping[str, object]) -> Path:
    """Write a document under the results, its name saying data and commit; an older one goes."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    for older in RESULTS.glob("latency-evidence_*.json"):
        older.unlink()
    path = RESULTS / f"latency-evidence_data-{sha256_of_json(found['data_sha256'])[:8]}_{commit}.json"
    write_text(path, json.dumps(found, indent=1) + "\n")
    return path


def main() -> None:
    """Print the rows, or keep all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the latency tables")
    parser.add_argument("--tests", default="A,B,C,D,E,F,G")
    parser.add_argument("--sets", default=",".join(SETS), help="parameter sets of tests A, B and D")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--all", action="store_true", help="run everything and keep it under tools/bench/results")
    arguments = parser.parse_args()
    tests = "A,B,C,D,E,F,G" if arguments.all else arguments.tests
    rows = evaluate(arguments.data, tests.split(","), SETS if arguments.all else arguments.sets.split(","))
    bars = bars_of(rows)
    found = document(arguments.data, rows, bars)
    if arguments.json:
        json.dump(found, sys.stdout)
        return
    for item in (*rows, *bars):
        print("  ".join(f"{key}={value}" for key, value in asdict(item).items()))
    if arguments.all:
        print(keep(found))


if __name__ == "__main__":
    main()
