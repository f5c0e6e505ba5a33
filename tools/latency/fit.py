"""Fit the latency model to the public tables and write `edgekd/latency/data/ops_parameters.yaml`.

    python tools/latency/fit.py --data FOLDER [--out FILE] [--set NAME ...]

FOLDER holds the `latency/*.csv.gz` tables. The same tables give the same file, byte for byte.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from calibrate import borrowed_precision, calibration_of, errors_of, precision_entry, tail_factor
from points import DEVKIT, GPU_OTHER, JETSON_OTHER, LAYERS, PADDLECLAS, TRTUTILS, ULTRALYTICS, Point
from sets import RECIPES, TRANSFERS, Recipe, Tables, extra_points, fitted_points, read_tables

from edgekd.core.atomic import write_text
from edgekd.core.digest import sha256_of_file
from edgekd.latency.kernel_model import PARAMETER_NAMES
from edgekd.latency.map_fit import GENERIC_PRIOR, Fit, Prior, fit_lin4, map_fit
from edgekd.latency.parameters import (
    KernelEntry,
    Lin4Entry,
    ParameterFile,
    ParameterSet,
    PrecisionEntry,
    Transfer,
)

HEADER = """\
# Made by tools/latency/fit.py from public tables of measured latencies; do not edit by hand.
# Times of fp16 engines; half-widths and offsets are natural logs. data_sha256 says which tables.
"""
PRECISION_TABLES = (ULTRALYTICS, GPU_OTHER, PADDLECLAS, JETSON_OTHER)


def fit_all(tables: Tables, names: Sequence[str] = tuple(RECIPES)) -> dict[str, Fit]:
    """Fit the recipes named, those that others build on first."""
    fits: dict[str, Fit] = {}
    for name in sorted(names, key=lambda name: RECIPES[name].prior != "generic"):
        recipe = RECIPES[name]
        fits[name] = map_fit(fitted_points(recipe, tables), tables.graphs, prior_of(recipe, fits))
    return fits


def prior_of(recipe: Recipe, fits: Mapping[str, Fit]) -> Prior:
    """Return a recipe's prior, given the fits made so far."""
    if recipe.prior == "generic":
        return GENERIC_PRIOR
    return GENERIC_PRIOR.around(fits[recipe.prior], recipe.prior_scale)


def parameter_file(data: Path) -> ParameterFile:
    """Fit, calibrate and assemble the whole file from the tables in `data`."""
    tables = read_tables(data)
    fits = fit_all(tables)
    precisions = _precisions(tables, fits)
    tails = {name: tail_factor(fitted_points(recipe, tables)) for name, recipe in RECIPES.items()}
    sets = {name: _set(name, tables, fits, precisions=precisions[name], tails=tails) for name in RECIPES}
    names = (LAYERS, TRTUTILS, ULTRALYTICS, JETSON_OTHER, GPU_OTHER, PADDLECLAS)
    half_width = round(_generation_half_width(tables, fits), 4)
    return ParameterFile(
        schema_version=1,
        made_by="tools/latency/fit.py",
        data_sha256={name: sha256_of_file(data / name) for name in names},
        sets=sets,
        transfers={name: Transfer(use=source, half_width_log=half_width) for name, source in TRANSFERS.items()},
    )


def _set(
    name: str,
    tables: Tables,
    fits: Mapping[str, Fit],
    *,
    precisions: dict[Any, PrecisionEntry],
    tails: Mapping[str, float | None],
) -> ParameterSet:
    recipe, fit = RECIPES[name], fits[name]
    points = fitted_points(recipe, tables)
    source = recipe.tail_from or name
    values = np.exp(fit.log_values)
    return ParameterSet(
        applies_to=recipe.applies_to,
        measured=recipe.measured,
        prior=recipe.prior if recipe.prior == "generic" else f"{recipe.prior} x {recipe.prior_scale:g}",
        kernel=KernelEntry(**{key: _rounded(value) for key, value in zip(PARAMETER_NAMES, values, strict=True)}),
        device_offsets_log={board: round(offset, 4) for board, offset in fit.offsets.items() if board != DEVKIT},
        precisions=precisions,
        calibration=calibration_of(
            points, extra_points(recipe, tables), tables.graphs, fit=fit, prior=prior_of(recipe, fits)
        ),
        tail_factor=tails[source] or math.nan,
        tail_origin=f"90th percentile over nets of slowest run / median, {source} boards",
        lin4=_lin4(points, tables),
    )


def _lin4(points: list[Point], tables: Tables) -> dict[str, Lin4Entry]:
    boards = sorted({point.board for point in points} - {DEVKIT})
    by_board = {board: [point for point in points if point.board == board] for board in boards}
    return {board: fit_lin4(own, tables.graphs) for board, own in by_board.items() if len(own) >= 12}


def _precisions(tables: Tables, fits: Mapping[str, Fit]) -> dict[str, dict[Any, PrecisionEntry]]:
    own: dict[str, dict[Any, PrecisionEntry]] = {name: {} for name in RECIPES}
    for name, recipe in RECIPES.items():
        for precision in ("int8", "fp32"):
            for table in PRECISION_TABLES:
                rows = [p for p in tables.points[table] if p.board in recipe.boards]
                entry = precision_entry(
                    [p for p in rows if p.precision == precision],
                    [p for p in rows if p.precision == "fp16"],
                    tables.graphs,
                    fit=fits[name],
                    origin=table,
                )
                if entry is not None and precision not in own[name]:
                    own[name][precision] = entry
    for precision in ("int8", "fp32"):
        lent = [entries[precision] for entries in own.values() if precision in entries]
        for entries in own.values():
            entries.setdefault(precision, borrowed_precision(lent))
    return own


def _generation_half_width(tables: Tables, fits: Mapping[str, Fit]) -> float:
    """Predict each generation with the parameters of another of its kind; the largest 90th percentile of error."""
    kinds = (("orin", "xavier", "thor"), ("turing", "ampere-desktop", "dgx-spark"))
    worst = 0.0
    for names in kinds:
        for known in names:
            for unknown in set(names) - {known}:
                points = fitted_points(RECIPES[unknown], tables)
                errors = errors_of(Fit(fits[known].log_values, {}), points, tables.graphs)
                print(f"  {known} -> {unknown}: bias {errors.mean():+.2f}, 90th percentile {_q90(errors):.2f}")
                worst = max(worst, _q90(errors))
    return worst


def _q90(errors: Any) -> float:
    return float(np.quantile(np.abs(errors), 0.9))


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def main() -> None:
    """Fit and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the latency tables")
    default = Path(str(files("edgekd.latency") / "data" / "ops_parameters.yaml"))
    parser.add_argument("--out", type=Path, default=default)
    arguments = parser.parse_args()
    document = parameter_file(arguments.data)
    body = yaml.safe_dump(document.model_dump(mode="json"), sort_keys=False, width=120, allow_unicode=True)
    write_text(arguments.out, HEADER + body)
    for name, entry in document.sets.items():
        calibration = entry.calibration
        print(
            f"{name:16} models {calibration.models:3} points {calibration.points:4} held-out MAPE "
            f"{calibration.held_out_mape:.1%} half-width {math.expm1(calibration.model_half_width_log):.0%} "
            f"offsets {entry.device_offsets_log}"
        )
    print(f"{arguments.out}: digest {document.digest}")


if __name__ == "__main__":
    main()
