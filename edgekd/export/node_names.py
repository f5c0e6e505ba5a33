"""Names of ONNX nodes: back to the modules of the network they were exported from, and one for each that has none."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def name_nodes(graph: onnx.GraphProto) -> None:
    """Give nodes without a name one of their own, in place."""
    taken = {node.name for node in graph.node}
    for index, node in enumerate(graph.node):
        if not node.name:
            node.name = next(
                name for name in (f"{node.op_type}_{index}{'_' * more}" for more in count()) if name not in taken
            )


def module_of(node: str) -> str:
    """Return the path of the module that an ONNX node belongs to; empty at the top, or where the name tells none.

    edgekd names nodes `layer1.0.conv1/Conv`; the older exporter of PyTorch writes `/layer1/layer1.0/conv1/Conv`. Both
    belong to `layer1.0.conv1`.
    """
    *scopes, _ = node.strip("/").split("/")
    path = ""
    for scope in scopes:
        is_whole = path and scope.startswith(f"{path.rpartition('.')[2]}.") and not scope.startswith(f"{path}.")
        if is_whole:  # the older exporter repeats the parent's own name: layer1, then layer1.0
            path = ".".join(filter(None, (path.rpartition(".")[0], scope)))
        elif path and scope.startswith(f"{path}."):
            path = scope
        else:
            path = f"{path}.{scope}" if path else scope
    return path
