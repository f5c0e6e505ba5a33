"""Networks from a user's own Python file: `path/file.py:function`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

from torch import nn

from edgekd.core.errors import ConfigError, unknown_name
from edgekd.core.python_file import import_file, neighbours_importable


def net_from_file(path: Path, function: str, facts: Mapping[str, int]) -> nn.Module:
    """Run a user's function and return the network it makes.

    The file may import its neighbours. The function gets those of `facts` that its parameters name.

    Args:
        path: The Python file; its code runs.
        function: Name of a function in it that returns an `nn.Module`.
        facts: `in_channels`, `num_classes`, `resolution`.

    Raises:
        ConfigError: The file or function is missing, the code fails, or something else than a module comes back.
    """
    make = _function_of(path, import_file(path, "network file"), function)
    with neighbours_importable(path):
        try:
            net = make(**{name: facts[name] for name in inspect.signature(make).parameters if name in facts})
        except Exception as error:
            raise ConfigError(f"{path}:{function} failed: {type(error).__name__}: {error}") from error
    if not isinstance(net, nn.Module):
        raise ConfigError(f"{path}:{function} returned {type(net).__name__}, expected a torch.nn.Module")
    return net


def _function_of(path: Path, module: ModuleType, function: str) -> Callable[..., object]:
    own: dict[str, Callable[..., object]] = {
        name: value for name, value in vars(module).items() if callable(value) and not name.startswith("__")
    }
    if function not in own:
        raise unknown_name(f"function in {path}", function, own)
    return own[function]
