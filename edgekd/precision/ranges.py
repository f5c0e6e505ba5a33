"""The range of every activation, from calibration inputs: ONNX Runtime's calibrators, run one batch at a time.

`min-max` keeps every value seen. `entropy` clips where the histogram of the quantised values says least against that
of the real ones (Kullback-Leibler), `percentile` clips one value of ten thousand. ONNX Runtime's own setting of
`entropy`, 128 bins for 128 levels, leaves it one candidate, the largest value: 2,048 bins are used here, as TensorRT
does. Histograms grow with each batch, so no more than one batch of activations is ever held.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from edgekd.core.errors import unknown_name
from edgekd.data import NetInputs

Calibrator = Literal["min-max", "entropy", "percentile"]
CALIBRATORS: tuple[Calibrator, ...] = get_args(Calibrator)
_METHODS = {"min-max": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
_BINS = 2048
_LEVELS = 128
_PERCENTILE = 99.99


def require_calibrator(name: str) -> None:
    """Raise `ConfigError` for a name that is no calibrator."""
    if name not in CALIBRATORS:
        raise unknown_name("calibrator", name, CALIBRATORS)


def calibrator_words(calibrator: Calibrator) -> str:
    """Name a calibrator with its setting, as a file's metadata says it."""
    return f"percentile {_PERCENTILE}" if calibrator == "percentile" else calibrator


def activation_ranges(
    path: Path, batches: Sequence[NetInputs], *, calibrator: Calibrator, operators: Sequence[str], is_symmetric: bool
) -> Any:
    """Find the range of every tensor that operators read or write.

    Args:
        path: A float model.
        batches: Inputs as it takes them.
        calibrator: How a range follows from the values.
        operators: ONNX operators that will be quantised.
        is_symmetric: Whether ranges are centred on 0.

    Returns:
        ONNX Runtime's `TensorsData`.

    Raises:
        Exception: Whatever ONNX Runtime raises for a model that it cannot run.
    """
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    options: dict[str, Any] = {"symmetric": is_symmetric}
    if calibrator != "min-max":
        options |= {"num_bins": _BINS, "num_quantized_bins": _LEVELS, "percentile": _PERCENTILE}
    with contextlib.redirect_stdout(io.StringIO()):  # the calibrators print their progress
        tool = create_calibrator(
            path,
            list(operators),
            augmented_model_path=str(path.with_suffix(".augmented.onnx")),
            calibrate_method=CalibrationMethod[_METHODS[calibrator]],
            extra_options=options,
        )
        for batch in batches:
            tool.collect_data(_Reader(tool.infer_session.get_inputs()[0].name, batch))
        return tool.compute_data()


class _Reader:
    def __init__(self, name: str, batch: NetInputs) -> None:
        self._feeds: Iterator[dict[str, NetInputs]] = iter([{name: batch}])

    def get_next(self) -> dict[str, NetInputs] | None:
        return next(self._feeds, None)
