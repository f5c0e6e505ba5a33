"""The score of an ONNX model on this CPU, computed the way its own runtime will."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edgekd.core.artifacts import OnnxModel
from edgekd.data import Split, eval_batches
from edgekd.engine import BACKENDS, BuildOptions, score_of
from edgekd.export import fp16_rounded, read_content, read_proto, run_onnx
from edgekd.targets import get_target


def score_here(model: OnnxModel, split: Split, folder: Path, *, threads: int) -> float:
    """Return the score of a model on a split.

    ONNX Runtime's CPU kernels compute fp16 graphs in float32, so those are run with every tensor rounded to fp16; int8
    for TensorRT is run as its graph is written, with float biases; everything else as this CPU runs it.

    Args:
        model: The model.
        split: Inputs and labels.
        folder: Where an engine for this CPU goes.
        threads: CPU threads of that engine.

    Returns:
        The score, at most 1.

    Raises:
        BuildError: The engine gave outputs that mean nothing.
        ExportError: ONNX Runtime cannot run the model.
        PreconditionError: `onnxruntime` is not installed.
    """
    batches = ((batch.inputs.numpy(), batch.labels.numpy()) for batch in eval_batches(split))
    if model.precision == "fp16" or model.flavour == "tensorrt":
        is_half = model.precision == "fp16"
        content = fp16_rounded(read_proto(model)).SerializeToString() if is_half else read_content(model)
        run = partial(run_onnx, content, as_written=True)
        size = model.batch
        return split.task.metric.over((run(inputs, batch=size or len(inputs)), labels) for inputs, labels in batches)
    backend = BACKENDS["onnxruntime"]
    options = BuildOptions(get_target("cpu"), threads=threads)
    with backend.open(backend.build(model, folder, options)) as runner:
        return score_of(runner, batches, split.task)
