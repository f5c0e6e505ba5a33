"""Networks from a user's own Python file: `path/file.py:function`."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from torch import nn

from edgekd.core.digest import sha256_of_file
from edgekd.core.errors import ConfigError, unknown_name


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
    if not path.is_file():
        raise ConfigError(f"teacher file {path}: no such file")
    with _importable(path.parent):
        make = _function_of(path, _import(path), function)
        try:
            net = make(**{name: facts[name] for name in inspect.signature(make).parameters if name in facts})
        except Exception as error:
            raise ConfigError(f"{path}:{function} failed: {type(error).__name__}: {error}") from error
    if not isinstance(net, nn.Module):
        raise ConfigError(f"{path}:{function} returned {type(net).__name__}, expected a torch.nn.Module")
    return net


def _import(path: Path) -> ModuleType:
    name = f"edgekd_teacher_{sha256_of_file(path)[:16]}"
    plan = importlib.util.spec_from_file_location(name, path)
    if plan is None or plan.loader is None:
        raise ConfigError(f"teacher file {path}: expected a Python file ending in .py")
    module = importlib.util.module_from_spec(plan)
    sys.modules[name] = module
    try:
        plan.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(f"teacher file {path} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _function_of(path: Path, module: ModuleType, function: str) -> Callable[..., object]:
    own: dict[str, Callable[..., object]] = {
        name: value for name, value in vars(module).items() if callable(value) and not name.startswith("__")
    }
    if function not in own:
        raise unknown_name(f"function in {path}", function, own)
    return own[function]


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)
