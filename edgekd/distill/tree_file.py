"""State on disk: nested lists and dictionaries of tensors and plain values, as safetensors, never as a pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from edgekd.core.atomic import replacing
from edgekd.core.errors import StorageError

_TENSOR = "$tensor"


def save_tree(path: Path, tree: Any) -> None:
    """Write a tree atomically.

    Args:
        path: The file.
        tree: Tensors, `None`, booleans, numbers and strings in lists and dictionaries with strings as keys; tuples come
            back as lists.

    Raises:
        StorageError: The file could not be written.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_written(tree, tensors))
    with replacing(path) as temporary:
        try:
            safetensors.torch.save_file(tensors, temporary, metadata={"tree": text})
        except SafetensorError as error:
            raise StorageError(f"cannot write {path}: {error}") from error


def load_tree(path: Path) -> Any:
    """Read a tree that `save_tree` wrote, its tensors on the CPU.

    Raises:
        StorageError: The file is damaged or of another kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            document = json.loads((file.metadata() or {})["tree"])
            return _read(document, {name: file.get_tensor(name) for name in names})
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise StorageError(f"{path} cannot be read as saved state, remove it to start again: {error}") from error


def _written(node: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = node.detach().cpu().clone().contiguous()
        return {_TENSOR: name}
    if isinstance(node, dict):
        return {key: _written(value, tensors) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_written(value, tensors) for value in node]
    return node


def _read(node: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, dict):
        if node.keys() == {_TENSOR}:
            return tensors[node[_TENSOR]]
        return {key: _read(value, tensors) for key, value in node.items()}
    return [_read(value, tensors) for value in node] if isinstance(node, list) else node
