"""Weights on disk: written as safetensors with one byte form, read without ever running code from a file."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from edgekd.core.artifacts import FileRef
from edgekd.core.atomic import write_bytes
from edgekd.core.errors import ConfigError, StorageError

_SAFE = ".safetensors"
_PICKLED = (".pth", ".pt", ".th")
_LISTED = 8
_LENGTH_BYTES = 8


def save_weights(module: nn.Module, path: Path, metadata: Mapping[str, str]) -> FileRef:
    """Write a module's parameters and buffers as safetensors, atomically; equal content gives equal bytes.

    Args:
        module: The network.
        path: File to write, ending in `.safetensors`.
        metadata: Facts to keep in its header.

    Returns:
        The file written.

    Raises:
        ConfigError: The path has another ending.
        StorageError: The file could not be written.
    """
    if path.suffix != _SAFE:
        raise ConfigError(f"weights are written as {_SAFE}, not as {path.name!r}")
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in module.state_dict().items()}
    write_bytes(path, _with_sorted_header(safetensors.torch.save(tensors, metadata=dict(metadata))))
    return FileRef.of(path)


def load_weights(module: nn.Module, path: Path) -> None:
    """Load weights into a module, all or none.

    A prefix `module.` (left by data parallel training) is dropped; weights of a bare network load into one with
    input normalisation; batch counters, which old checkpoints lack, may be missing.

    Args:
        module: The network.
        path: `.safetensors`, or `.pth`, `.pt`, `.th` that hold plain tensors, also below `"state_dict"`.

    Raises:
        ConfigError: The file is missing, of another kind, or belongs to another network; lists missing, unexpected
            and differently shaped weights.
        StorageError: The file cannot be read, is damaged, or holds other objects than tensors or values that are not
            finite.
    """
    load_tensors(module, _renamed(read_tensors(path), module.state_dict()), origin=str(path))


def starting_weights(module: nn.Module, path: Path, *, head: tuple[str, ...]) -> dict[str, Tensor]:
    """Read the weights that the training of a network starts from, its classifier left out where that is another.

    Args:
        module: A network of the wanted architecture; the weights are loaded into it.
        path: See `load_weights`.
        head: Paths of the modules that make the classifier. Where the file has none, or one for other classes, none of
            their weights are returned.

    Returns:
        Weights by name.

    Raises:
        ConfigError: The file is missing, of another kind, or belongs to another network.
        StorageError: The file cannot be read, is damaged, or holds values that are not finite.
    """
    own, beginnings = module.state_dict(), tuple(f"{part}." for part in head)
    found = _renamed(read_tensors(path), own)
    of_head = {name for name in own if name.startswith(beginnings)}
    if any(name not in found or found[name].shape != own[name].shape for name in of_head):
        found = {name: value for name, value in found.items() if not name.startswith(beginnings)}
    load_tensors(module, found, origin=str(path), optional=beginnings)
    return found


def load_tensors(
    module: nn.Module, tensors: Mapping[str, Tensor], *, origin: str, optional: tuple[str, ...] = ()
) -> None:
    """Load named tensors into a module, all or none; batch counters may be missing.

    Args:
        module: The network.
        tensors: Its weights by name.
        origin: Where they came from, for messages.
        optional: Beginnings of names that may be missing too; those weights stay as they are.

    Raises:
        ConfigError: Lists missing, unexpected and differently shaped weights.
        StorageError: Values that are not finite.
    """
    problems = _problems(module.state_dict(), tensors, ("num_batches_tracked",), optional)
    if problems:
        raise ConfigError(f"{origin} does not hold the weights of this network\n" + "\n".join(problems))
    wild = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if wild:
        raise StorageError(f"weights {origin} hold NaN or infinite values: {_some(wild)}")
    module.load_state_dict(tensors, strict=False)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read named tensors from a file without running code from it.

    Args:
        path: `.safetensors`, or `.pth`, `.pt`, `.th` that hold plain tensors, also below `"state_dict"`.

    Raises:
        ConfigError: The file is missing, of another kind, or holds no state dict.
        StorageError: The file cannot be read, is damaged, or holds other objects than tensors.
    """
    if path.suffix not in (_SAFE, *_PICKLED):
        raise ConfigError(f"weights {path}: expected a file ending in {_SAFE}, {', '.join(_PICKLED)}")
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(f"weights {path}: no such file") from error
    except OSError as error:
        raise StorageError(f"weights {path} cannot be read: {error.strerror or error}") from error
    try:
        if path.suffix == _SAFE:
            return safetensors.torch.load(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle that is refused a moment later
            document = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise StorageError(
            f"weights {path} are damaged or hold other objects than tensors, which edgekd never unpickles; "
            "save the network's state_dict() alone"
        ) from error
    return _tensors_of(path, document)


def _with_sorted_header(content: bytes) -> bytes:
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    header = json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + length])
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text + content[_LENGTH_BYTES + length :]


def _tensors_of(path: Path, document: object) -> dict[str, Tensor]:
    if isinstance(document, Mapping) and isinstance(document.get("state_dict"), Mapping):
        document = document["state_dict"]
    if not isinstance(document, Mapping) or not document:
        raise ConfigError(f"weights {path}: expected a state dict, found {type(document).__name__}")
    strange = [str(name) for name, value in document.items() if not isinstance(value, Tensor)]
    if strange:
        raise ConfigError(f"weights {path}: not tensors: {_some(strange)}; save the network's state_dict() alone")
    return {str(name): value for name, value in document.items()}


def _renamed(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plain = dict(found)
    if plain and all(name.startswith("module.") for name in plain):
        plain = {name.removeprefix("module."): value for name, value in plain.items()}
    is_wrapped = all(name.startswith("net.") for name in own)
    if is_wrapped and not any(name.startswith("net.") for name in plain):
        plain = {f"net.{name}": value for name, value in plain.items()}
    return plain


def _problems(
    own: Mapping[str, Tensor], found: Mapping[str, Tensor], endings: tuple[str, ...], beginnings: tuple[str, ...]
) -> list[str]:
    missing = [
        name for name in own if name not in found and not name.endswith(endings) and not name.startswith(beginnings)
    ]
    unexpected = [name for name in found if name not in own]
    misshapen = [
        f"{name} (file {list(found[name].shape)}, network {list(own[name].shape)})"
        for name in own
        if name in found and found[name].shape != own[name].shape
    ]
    lists = (("missing", missing), ("unexpected", unexpected), ("other shape", misshapen))
    # Where a wrapper that normalises put its name before all others, messages say names as the user's network has them.
    prefix = "net." if all(name.startswith("net.") for name in (*own, *found)) else ""
    return [f"  {title}: {_some([name.removeprefix(prefix) for name in names])}" for title, names in lists if names]


def _some(names: list[str]) -> str:
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")
