"""Builds engines with TensorRT-RTX, without a GPU, of edgekd's own networks and of ONNX files from elsewhere.

    python tools/bench/rtx_builds.py FOLDER --into FILE.csv      # again, to go on where it stopped

Every `.onnx` under the folder is built as it is and, where it is fp32, in fp16; open sizes are given in
`FOLDER/dims.json` as for `tools/latency/external.py`. edgekd's own networks, for 8x8 digits and with drawn weights, are
built in fp32, fp16, int8 and fp8, so that what int8 adds to fp16 shows: kernels between the layers.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path

import torch

from edgekd.cli.onnx_file import onnx_model_from_file, with_dims
from edgekd.core.artifacts import Engine, OnnxModel
from edgekd.core.errors import EdgeKDError
from edgekd.data import DataConfig, load_dataset
from edgekd.engine import BACKENDS, BuildOptions
from edgekd.engine.fusion import report_from_json
from edgekd.export import export_onnx
from edgekd.models import build, parse_net, spec_for
from edgekd.precision import drawn_calibration, to_fp8, to_fp16, to_int8
from edgekd.targets import get_target

OWN = ("resnet20-w16", "repvgg", "mobilenetv2:depth=12,width=16", "vgg8", "wrn16-w16")
"""Networks of edgekd's families."""
TARGET = "rtx-4090"


@dataclass(frozen=True)
class Row:
    """One build; an empty text is what is not known.

    Attributes:
        model: File, or network of edgekd.
        dims: Sizes that were given.
        precision: Of the ONNX file.
        target: Architecture of the engine.
        version: Of TensorRT-RTX.
        seconds: Of the build, other work on the machine included.
        mib: Of the engine.
        layers: After fusion.
        kernels: Of these, generated ones (`kgen`).
        computes_in: Convolutions and matrix products by type.
        refused: Why there is no engine.
    """

    model: str
    dims: str
    precision: str
    target: str
    version: str = ""
    seconds: str = ""
    mib: str = ""
    layers: str = ""
    kernels: str = ""
    computes_in: str = ""
    refused: str = ""


def main() -> None:
    """Make the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="ONNX files from elsewhere; edgekd's own networks alone")
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--own", nargs="*", default=OWN, help="networks of edgekd")
    arguments = parser.parse_args()
    done = {(row.model, row.precision) for row in read(arguments.into)}
    for row in rows(arguments.own, arguments.folder, done):
        _append(arguments.into, row)
    print(arguments.into)


def rows(own: tuple[str, ...], folder: Path | None, done: set[tuple[str, str]]) -> Iterator[Row]:
    """Yield a row for each build.

    Args:
        own: Networks of edgekd.
        folder: ONNX files from elsewhere, or None.
        done: Models and precisions to leave out.
    """
    with tempfile.TemporaryDirectory() as scratch:
        for net in own:
            yield from _of_own(net, Path(scratch), done)
        given = folder / "dims.json" if folder else None
        dims = json.loads(given.read_text(encoding="utf-8")) if given and given.is_file() else {}
        for path in sorted(folder.rglob("*.onnx"), key=lambda each: each.name) if folder else ():
            yield from _of_file(path, dims.get(path.name, {}), Path(scratch), done)


def _of_own(net: str, scratch: Path, done: set[tuple[str, str]]) -> Iterator[Row]:
    dataset = load_dataset(DataConfig(name="digits"))
    family, choice = parse_net(net)
    side = dataset.input_shape[-1]
    facts = {"in_channels": 1, "num_classes": 10, "resolution": side, "mean": (0.3,), "std": (0.4,)}
    torch.manual_seed(0)
    spec = spec_for(family, **choice, **facts)
    calibration = drawn_calibration(dataset, size=64, seed=0)
    opset = {"fp8": 19}
    target = get_target(TARGET)
    ways: Mapping[str, Callable[[OnnxModel, Path], OnnxModel]] = {
        "fp32": lambda model, path: model,
        "fp16": to_fp16,
        "int8": lambda model, path: to_int8(model, path, calibration=calibration, flavour="tensorrt"),
        "fp8": lambda model, path: to_fp8(model, path, calibration=calibration, target=target),
    }
    backbone = build(spec).eval()
    for precision, convert in ways.items():
        if (net, precision) in done:
            continue
        source = scratch / f"own.{precision}.source.onnx"
        model = export_onnx(backbone, source, input_shape=dataset.input_shape, opset=opset.get(precision, 17))
        yield _row(net, "", precision, partial(convert, model, scratch / "own.onnx"), scratch)


def _of_file(path: Path, dims: Mapping[str, int], scratch: Path, done: set[tuple[str, str]]) -> Iterator[Row]:
    given = [f"{name}={value}" for name, value in dims.items()]
    for precision in ("fp32", "fp16"):
        if (path.name, precision) in done:
            continue

        def make(precision: str = precision) -> OnnxModel:
            with with_dims(path, given) as fixed:
                kept = scratch / "fixed.onnx"
                kept.write_bytes(fixed.read_bytes())
            model = onnx_model_from_file(kept)
            return model if precision == model.precision else to_fp16(model, scratch / "half.onnx")

        yield _row(path.name, " ".join(given), precision, make, scratch)


def _row(name: str, dims: str, precision: str, make: Callable[[], OnnxModel], scratch: Path) -> Row:
    row, started = Row(name, dims, precision, TARGET), time.monotonic()
    try:
        engine = BACKENDS["tensorrt_rtx"].build(make(), scratch / "engine", BuildOptions(get_target(TARGET)))
    except EdgeKDError as error:
        return replace(row, refused=" ".join(str(error).replace(str(scratch), "").split())[:300])
    return _with_facts(replace(row, seconds=f"{time.monotonic() - started:.1f}"), engine)


def _with_facts(row: Row, engine: Engine) -> Row:
    report = report_from_json(engine.facts["fusion"])
    kinds = report.layers_by_kind
    computes = " ".join(f"{name}:{count}" for name, count in report.compute_precisions.items())
    return replace(
        row,
        target=engine.target,
        version=str(engine.facts["version"]),
        mib=f"{engine.file.size_bytes / 2**20:.2f}",
        layers=str(len(report.layers)),
        kernels=str(kinds.get("kgen", 0)),
        computes_in=computes,
    )


def read(path: Path) -> list[Row]:
    """Return the rows of a result file; none where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [Row(**row) for row in csv.DictReader(file)]


def _append(path: Path, row: Row) -> None:
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        if is_new:
            writer.writeheader()
        writer.writerow(asdict(row))


if __name__ == "__main__":
    main()
