"""Print the evidence for the latency model: tests A to E and G of the design notes, with the baselines beside them.

    python tools/latency/evaluate.py --data FOLDER [--tests A,B,C,D,E,G] [--sets orin,xavier] [--json] [--csv FILE]

A leaves one model out, B one family, C one board, D gives ten points of a board that was not fitted, E applies the
Orin fit to another source, G counts how often intervals cover models left out. The bars were set on the same tables:
A to D guard against regressions; only E and boards measured by users are evidence.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from calibrate import conformal_half_width, held_out_errors, scores_by_model
from fit import fit_all, prior_of
from points import DEVKIT, ULTRALYTICS, Point
from scipy.stats import spearmanr  # type: ignore[import-untyped]
from sets import RECIPES, Tables, fitted_points, read_tables

from edgekd.core.atomic import write_text
from edgekd.latency.kernel_model import Floats
from edgekd.latency.lin4 import lin4_ms
from edgekd.latency.map_fit import (
    GENERIC_PRIOR,
    Fit,
    Prior,
    fit_lin4,
    fit_linear,
    graph_of,
    log_predictions,
    log_seconds,
    map_fit,
)

SETS = ("orin", "xavier", "turing", "ampere-desktop")
DRAWS = 10
POINTS_GIVEN = 10


@dataclass(frozen=True)
class Score:
    """One row of a table: errors of one predictor on points it did not see."""

    test: str
    board: str
    predictor: str
    points: int
    mape: float
    hit10: float
    hit20: float
    spearman: float


Predictor = Callable[[Sequence[Point], Sequence[Point]], Floats]
"""Fit on the first points, return log seconds of the second."""


def score(test: str, board: str, predictor: str, *, errors: Floats, measured: Floats) -> Score:
    """Summarise log errors `[N]`."""
    relative = np.abs(np.expm1(errors))
    rank = float(spearmanr(measured, measured + errors).statistic) if len(errors) > 2 else float("nan")
    return Score(
        test=test,
        board=board,
        predictor=predictor,
        points=len(errors),
        mape=round(float(relative.mean()), 4),
        hit10=round(float((relative <= 0.1).mean()), 3),
        hit20=round(float((relative <= 0.2).mean()), 3),
        spearman=round(rank, 4),
    )


def leave_out(points: Sequence[Point], key: Callable[[Point], str], predictor: Predictor) -> Floats:
    """Return log errors `[N]`, every group of `key` predicted from the others."""
    errors = np.empty(len(points))
    for group in sorted({key(point) for point in points}):
        rows = [row for row, point in enumerate(points) if key(point) == group]
        rest, held_out = [p for p in points if key(p) != group], [points[row] for row in rows]
        errors[rows] = predictor(rest, held_out) - log_seconds(held_out)
    return errors


def ops_predictor(tables: Tables, prior: Prior) -> Predictor:
    """Return the model itself under a prior."""

    def predictor(known: Sequence[Point], wanted: Sequence[Point]) -> Floats:
        return log_predictions(map_fit(known, tables.graphs, prior), wanted, tables.graphs)

    return predictor


def baselines(tables: Tables) -> dict[str, Predictor]:
    """Return LIN4, constant + MACs, and FLOPs x constant, each fitted per board."""
    graphs = tables.graphs

    def lin4(known: Sequence[Point], wanted: Sequence[Point]) -> Floats:
        entry = fit_lin4(known, graphs)
        return np.log([max(lin4_ms(graph_of(p, graphs), entry), 1e-3) * 1e-3 for p in wanted])

    def linear(columns: Callable[[float], list[float]]) -> Predictor:
        def predictor(known: Sequence[Point], wanted: Sequence[Point]) -> Floats:
            coefficients = fit_linear(np.array([columns(graph_of(p, graphs).macs / 1e9) for p in known]), known)
            rows = np.array([columns(graph_of(p, graphs).macs / 1e9) for p in wanted])
            return np.log(np.maximum(rows @ coefficients, 1e-3) * 1e-3)

        return predictor

    return {"LIN4": lin4, "constant+MACs": linear(lambda g: [1.0, g]), "FLOPs": linear(lambda g: [g])}


def leave_group_out(
    test: str, tables: Tables, fits: Mapping[str, Fit], *, key: Callable[[Point], str], sets: Sequence[str]
) -> list[Score]:
    """Tests A and B: OPS fitted on a generation, baselines on each board."""
    found = []
    for name in sets:
        points = fitted_points(RECIPES[name], tables)
        if len({key(point) for point in points}) < 2:
            continue
        errors = leave_out(points, key, ops_predictor(tables, prior_of(RECIPES[name], fits)))
        for board in sorted({point.board for point in points}):
            rows = [row for row, point in enumerate(points) if point.board == board]
            own = [points[row] for row in rows]
            measured = log_seconds(own)
            found.append(score(test, board, "OPS", errors=errors[rows], measured=measured))
            for label, predictor in baselines(tables).items():
                found.append(score(test, board, label, errors=leave_out(own, key, predictor), measured=measured))
    return found


def leave_board_out(tables: Tables, fits: Mapping[str, Fit]) -> list[Score]:
    """Test C: each Orin board from the others' fit and its own data sheet; Xavier NX from Orin."""
    found = []
    points = fitted_points(RECIPES["orin"], tables)
    for board in sorted({point.board for point in points}):
        own = [point for point in points if point.board == board]
        # The developer kit is the same module as the 64 GB board: knowing one would give the other away.
        relatives = {board, DEVKIT, "jetson-agx-orin-64gb"} if board != "jetson-orin-nano-8gb" else {board}
        fit = map_fit([p for p in points if p.board not in relatives], tables.graphs, GENERIC_PRIOR)
        found.append(_applied("C", board, fit, own, tables))
    own = fitted_points(RECIPES["xavier"], tables)
    return [*found, _applied("C", "jetson-xavier-nx", Fit(fits["orin"].log_values, {}), own, tables)]


def ten_points(tables: Tables, fits: Mapping[str, Fit], sets: Sequence[str]) -> list[Score]:
    """Test D: ten random points of a board, prior from the rest of its generation (or the generic one)."""
    found = []
    for name in sets:
        points = fitted_points(RECIPES[name], tables)
        for board in sorted({point.board for point in points}):
            own, rest = [p for p in points if p.board == board], [p for p in points if p.board != board]
            prior = GENERIC_PRIOR
            if rest:
                prior = prior.around(map_fit(rest, tables.graphs, prior), 0.5)
            elif name == "xavier":
                prior = prior.around(fits["orin"], 0.5)
            errors, measured = [], []
            for draw in range(DRAWS):
                given = set(np.random.default_rng(draw).permutation(len(own))[:POINTS_GIVEN].tolist())
                fit = map_fit([own[row] for row in given], tables.graphs, prior)
                wanted = [point for row, point in enumerate(own) if row not in given]
                measured.append(log_seconds(wanted))
                errors.append(log_predictions(fit, wanted, tables.graphs) - measured[-1])
            found.append(score("D", board, "OPS", errors=np.concatenate(errors), measured=np.concatenate(measured)))
    return found


def untouched_source(tables: Tables, fits: Mapping[str, Fit]) -> list[Score]:
    """Test E: the Orin fit on the Ultralytics rows of AGX Orin, no refit."""
    wanted = [p for p in tables.points[ULTRALYTICS] if p.board == "jetson-agx-orin-64gb" and p.precision == "fp16"]
    return [_applied("E", "jetson-agx-orin-64gb", fits["orin"], wanted, tables)]


def coverage(tables: Tables, fits: Mapping[str, Fit]) -> list[dict[str, object]]:
    """Test G: for each model left out, the interval calibrated on the others; how many of its points it covers."""
    rows: list[dict[str, object]] = []
    for name in ("orin", "turing", "ampere-desktop", "t4"):
        points = fitted_points(RECIPES[name], tables)
        errors = held_out_errors(points, tables.graphs, prior_of(RECIPES[name], fits))
        scores = scores_by_model(points, errors)
        covered: list[bool] = []
        widths: list[float] = []
        for model in scores:
            width = conformal_half_width([value for other, value in scores.items() if other != model])
            own = np.abs([error for point, error in zip(points, errors, strict=True) if point.model == model])
            covered.extend(own <= width)
            widths.append(width)
        rows.append(
            {
                "test": "G",
                "set": name,
                "models": len(scores),
                "points": len(points),
                "coverage": round(float(np.mean(covered)), 3),
                "median_half_width": round(float(np.expm1(np.median(widths))), 3),
            }
        )
    return rows


def _applied(test: str, board: str, fit: Fit, wanted: Sequence[Point], tables: Tables) -> Score:
    errors = log_predictions(fit, wanted, tables.graphs) - log_seconds(wanted)
    return score(test, board, "OPS", errors=errors, measured=log_seconds(wanted))


def evaluate(data: Path, tests: Sequence[str], sets: Sequence[str]) -> list[dict[str, object]]:
    """Run the tests asked for and return their rows as plain data."""
    tables = read_tables(data)
    fits = fit_all(tables, ("orin",))
    work: dict[str, Callable[[], list[Score]]] = {
        "A": lambda: leave_group_out("A", tables, fits, key=lambda point: point.model, sets=sets),
        "B": lambda: leave_group_out("B", tables, fits, key=lambda point: point.family, sets=sets),
        "C": lambda: leave_board_out(tables, fits),
        "D": lambda: ten_points(tables, fits, sets),
        "E": lambda: untouched_source(tables, fits),
    }
    rows: list[dict[str, object]] = [asdict(item) for name in tests if name in work for item in work[name]()]
    return rows + (coverage(tables, fits) if "G" in tests else [])


def main() -> None:
    """Print the tables; write them as CSV if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the latency tables")
    parser.add_argument("--tests", default="A,B,C,D,E,G")
    parser.add_argument("--sets", default=",".join(SETS), help="parameter sets of tests A, B and D")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--csv", type=Path, help="also write the rows here")
    arguments = parser.parse_args()
    rows = evaluate(arguments.data, arguments.tests.split(","), arguments.sets.split(","))
    if arguments.csv is not None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(arguments.csv, text.getvalue())
    if arguments.json:
        json.dump({"schema_version": 1, "rows": rows}, sys.stdout)
    else:
        for row in rows:
            print("  ".join(f"{key}={value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
