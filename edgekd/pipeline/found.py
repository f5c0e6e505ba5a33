"""The file of a student that a search found: what `edgekd distill --student FILE` takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgekd.core.artifacts import FileRef, NetSpec, from_json, to_json
from edgekd.core.atomic import write_json
from edgekd.core.errors import ConfigError, StorageError
from edgekd.models import build, load_tensors, read_tensors, save_weights

_KIND = "edgekd student"


@dataclass(frozen=True)
class FoundStudent:
    """A student, and where it came from.

    Attributes:
        spec: Its architecture.
        start: File of the weights that it starts from: of its short training in the search or, whole or in part, of
            the teacher; None when all are drawn.
        facts: What the search found out about it, for people.
    """

    spec: NetSpec
    start: FileRef | None
    facts: Mapping[str, Any]


def write_found(path: Path, spec: NetSpec, start: Mapping[str, Tensor], facts: Mapping[str, Any]) -> FoundStudent:
    """Write a student's file, and the weights it starts from beside it.

    Args:
        path: File to write, ending in `.json`.
        spec: Its architecture.
        start: Weights by name.
        facts: What is known about it.
    """
    file = None
    if start:
        holder = nn.Module()
        weights = save_weights(_holding(holder, start), path.with_suffix(".safetensors"), {"net": spec.name})
        file = FileRef(weights.path, weights.sha256, weights.size_bytes)
    found = FoundStudent(spec, file, dict(facts))
    document = {
        "schema_version": 1,
        "kind": _KIND,
        "spec": to_json(spec),
        "start": None if file is None else {**file.__dict__, "path": Path(file.path).name},
        "facts": found.facts,
    }
    write_json(path, document)
    return found


def read_found(path: Path) -> FoundStudent:
    """Read a student's file.

    Raises:
        ConfigError: There is no such file, or it is of another kind.
        StorageError: It is damaged, or its weights are missing or altered.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"student {path}: no such file; edgekd search writes them") from error
    except (OSError, ValueError) as error:
        raise StorageError(f"student {path} cannot be read: {error}") from error
    if not isinstance(document, dict) or document.get("kind") != _KIND or document.get("schema_version") != 1:
        raise ConfigError(f"{path} is no student that edgekd search found")
    start = None
    if document.get("start") is not None:
        start = FileRef(**{**document["start"], "path": str(path.parent / document["start"]["path"])})
        if not start.is_intact():
            raise StorageError(f"{start.path}, the weights that {path} starts from, is missing or was altered")
    return FoundStudent(from_json(NetSpec, document["spec"]), start, document.get("facts", {}))


def start_of_found(found: FoundStudent) -> dict[str, Tensor]:
    """Return the weights that a student starts from, by name, after checking that they are its own.

    Raises:
        ConfigError: They belong to another network.
        StorageError: They cannot be read.
    """
    if found.start is None:
        return {}
    tensors = read_tensors(Path(found.start.path))
    load_tensors(build(found.spec), tensors, origin=found.start.path, optional=("",))
    return tensors


def _holding(module: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Put tensors into nested modules, so that they are saved under their names."""
    for name, value in tensors.items():
        *parents, own = name.split(".")
        owner = module
        for parent in parents:
            if not hasattr(owner, parent):
                owner.add_module(parent, nn.Module())
            owner = owner.get_submodule(parent)
        owner.register_buffer(own, value)
    return module
