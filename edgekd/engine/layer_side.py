"""An engine as one side of a layer-wise comparison: for each tensor asked for, the network up to it is built and run.

An engine shows no tensor inside it, and one with more outputs is fused differently. So a tensor costs a build; compare
by bisection. What ends at the tensor may be fused in another way than in the whole network.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from edgekd.core.artifacts import FileRef, OnnxModel
from edgekd.core.errors import ConfigError
from edgekd.engine.backend import Backend, BuildOptions
from edgekd.export.layerwise import Feeds, TensorGraph, Values


class EngineSide:
    """A backend and a network to build up to any of its tensors.

    Args:
        model: The network; it has one input.
        proto: Its graph.
        backend: What builds and runs it.
        options: What to build for; its batch is that of the inputs.
    """

    def __init__(self, model: OnnxModel, proto: onnx.ModelProto, backend: Backend, options: BuildOptions) -> None:
        self.name = f"an engine of {backend.name}"
        self._model = model
        self._graph = TensorGraph(proto)
        self._backend = backend
        self._options = options

    def values(self, tensors: Sequence[str], feeds: Feeds) -> Values:
        """Compute some tensors, each by an engine of its own; see `edgekd.export.layerwise.Side.values`.

        Raises:
            ConfigError: The network has more than one input.
            BuildError: The backend refuses a part of the network.
        """
        if len(feeds) != 1:
            raise ConfigError(f"engines take one input, the network has {len(feeds)}")
        (inputs,) = feeds.values()
        options = dataclasses.replace(self._options, batch=len(inputs), max_batch=0)
        found: Values = {}
        with tempfile.TemporaryDirectory(prefix="edgekd-part-") as scratch:
            for index, tensor in enumerate(tensors):
                path = Path(scratch) / f"{index}.onnx"
                part = self._part(tensor, path)
                engine = self._backend.build(part, Path(scratch) / str(index), options)
                with self._backend.open(engine) as runner:
                    found[tensor] = runner.run(inputs)
        return found

    def _part(self, tensor: str, path: Path) -> OnnxModel:
        part = self._graph.cut([tensor])
        output = f"{tensor}/float"
        part.graph.node.append(helper.make_node("Cast", [tensor], [output], f"{output}/Cast", to=TensorProto.FLOAT))
        del part.graph.output[:]
        part.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
        onnx.save(onnx.shape_inference.infer_shapes(part), path)
        return dataclasses.replace(self._model, file=FileRef.of(path), output_name=output)
