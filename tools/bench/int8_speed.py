"""How much faster int8 for CPUs is than fp32 on this machine: a ResNet-18-sized network, one thread, rounds in turn.

    python tools/bench/int8_speed.py --keep

Weights are drawn, which does not change the time. Each round runs both models once, so other work on the machine slows
both alike; the ratio of a round is what counts, and its median is printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from keep_result import RESULTS, clean_commit, cpu_name
from torch import Tensor, nn

from edgekd.core.artifacts import OnnxModel
from edgekd.export import export_onnx
from edgekd.export.ort_run import session_options
from edgekd.precision import to_int8

_WIDTHS = (64, 64, 64, 128, 128, 256, 256, 512, 512)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.first = _conv_bn(in_channels, out_channels, 3, stride)
        self.second = _conv_bn(out_channels, out_channels, 3, 1)
        is_same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if is_same else _conv_bn(in_channels, out_channels, 1, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the rectified sum."""
        return torch.relu(self.second(torch.relu(self.first(maps))) + self.shortcut(maps))


def _conv_bn(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


def resnet18() -> nn.Module:
    """Return a network of the layers of ResNet-18 with drawn weights."""
    blocks = [Block(before, after, 1 if before == after else 2) for before, after in pairwise(_WIDTHS)]
    stem = [_conv_bn(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)).eval()


def _session(model: OnnxModel) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.file.path, session_options(), providers=["CPUExecutionProvider"])


def measured(resolution: int, rounds: int) -> dict[str, float]:
    """Time both models and return medians in milliseconds and the median ratio."""
    torch.manual_seed(0)
    coarse = np.random.default_rng(0).random((32, 3, resolution // 4, resolution // 4), dtype=np.float32)
    images = coarse.repeat(4, axis=2).repeat(4, axis=3)
    with tempfile.TemporaryDirectory() as folder:
        fp32 = export_onnx(resnet18(), Path(folder) / "fp32.onnx", input_shape=images.shape[1:])
        int8 = to_int8(fp32, Path(folder) / "int8.onnx", calibration=images, flavour="cpu")
        sessions = [_session(fp32), _session(int8)]
    times: list[list[float]] = []
    for index in range(rounds + 5):
        row = []
        for session in sessions:
            start = time.perf_counter()
            session.run(None, {"input": images[:1]})
            row.append((time.perf_counter() - start) * 1e3)
        if index >= 5:
            times.append(row)
    return {
        "resolution": resolution,
        "fp32_p50_ms": round(statistics.median(row[0] for row in times), 2),
        "int8_p50_ms": round(statistics.median(row[1] for row in times), 2),
        "ratio": round(statistics.median(row[0] / row[1] for row in times), 2),
    }


def main() -> None:
    """Measure, print, and keep the result where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, nargs="+", default=[64, 224])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--keep", action="store_true", help="write the result file, named by processor and commit")
    arguments = parser.parse_args()
    commit = clean_commit() if arguments.keep else ""
    found = {
        "cpu": cpu_name(),
        "onnxruntime": onnxruntime.__version__,
        "commit": commit,
        "sizes": [measured(resolution, arguments.rounds) for resolution in arguments.resolution],
    }
    print(json.dumps(found, indent=1))
    if arguments.keep:
        for older in RESULTS.glob("int8-speed_*.json"):
            older.unlink()
        name = f"int8-speed_cpu-{found['cpu']}_onnxruntime{onnxruntime.__version__}_{commit}.json"
        (RESULTS / name).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
