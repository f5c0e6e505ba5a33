"""Analyses ONNX files from elsewhere: what each costs on a target, or why it cannot be said.

    python tools/latency/external.py FOLDER --target jetson-orin --into FILE.csv

Every `.onnx` under the folder is a row. Open sizes are given in `FOLDER/dims.json`: `{"file.onnx": {"x:2": 48}}`; a
file with open sizes that are not given is refused, which is a row too. An error that is not one of edgekd's ends it.
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from edgekd.core.errors import EdgeKDError
from edgekd.latency import graph_from_onnx, predict
from edgekd.targets import Target, get_target


@dataclass(frozen=True)
class Row:
    """One file; an empty text is what is not known.

    Attributes:
        file: Its name.
        dims: Sizes that were given.
        gmacs: Multiply-accumulates, 1e9.
        kernels: After fusion.
        p50_ms: Predicted, fp16.
        low_ms: Lower end of the 90 % interval.
        high_ms: Upper end.
        refused: Why it cannot be analysed.
    """

    file: str
    dims: str
    gmacs: str = ""
    kernels: str = ""
    p50_ms: str = ""
    low_ms: str = ""
    high_ms: str = ""
    refused: str = ""


def row_of(path: Path, target: Target, dims: dict[str, int]) -> Row:
    """Return the row of a file.

    Args:
        path: ONNX file.
        target: Where it would run.
        dims: Values of its open sizes.
    """
    given = " ".join(f"{name}={value}" for name, value in dims.items())
    try:
        graph = graph_from_onnx(path, dims=dims)
        report = predict(graph, target, "fp16")
    except EdgeKDError as error:
        return Row(path.name, given, refused=str(error).replace(f"{path}: ", ""))
    figures = (report.p50_ms, report.low_ms, report.high_ms)
    return Row(
        path.name, given, f"{graph.macs / 1e9:.3f}", str(len(graph.columns)), *(f"{each:.4f}" for each in figures)
    )


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--target", default="jetson-orin")
    parser.add_argument("--into", type=Path, required=True)
    arguments = parser.parse_args()
    given = arguments.folder / "dims.json"
    dims = json.loads(given.read_text(encoding="utf-8")) if given.is_file() else {}
    target = get_target(arguments.target)
    files = sorted(arguments.folder.rglob("*.onnx"), key=lambda path: path.name)
    rows = [row_of(path, target, dims.get(path.name, {})) for path in files]
    with arguments.into.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Row)])
        writer.writerows(map(astuple, rows))
    print(f"{sum(not row.refused for row in rows)} analysed, {sum(bool(row.refused) for row in rows)} refused")


if __name__ == "__main__":
    main()
