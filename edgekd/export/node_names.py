"""From the names of ONNX nodes back to the modules of the network they were exported from."""

from __future__ import annotations


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
