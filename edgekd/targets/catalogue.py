"""Look a target up by name: files are read when first asked for, so that command help stays fast."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from edgekd.core.config import read_yaml, validated
from edgekd.core.errors import ConfigError, unknown_name
from edgekd.core.user_folder import user_folder
from edgekd.targets.power_modes import in_power_mode
from edgekd.targets.schema import TargetFile, target_from_entry
from edgekd.targets.target import Target

_NOT_TARGETS = ("aliases.yaml", "architectures.yaml", "jetpack.yaml", "sources.yaml", "tensorrt.yaml")
_FILE_ENDINGS = (".yaml", ".yml")


def get_target(name: str) -> Target:
    """Return the target of that name.

    Args:
        name: A name of `target_names()`, an alias, a board of one's own (`own_boards()`) or the path of its YAML file;
            each may end in `@` and a power mode (`"jetson-orin@30W"`).

    Returns:
        The target; its `name` is the one asked for, its `device` the one it is kept under.

    Raises:
        ConfigError: No such name or power mode (the message lists the nearest ones), or the file of a board is wrong.
        TargetError: The clocks of that power mode are not known.
    """
    plain, at, mode = name.partition("@")
    target = _plain_target(plain)
    return in_power_mode(target, mode) if at else target


def _plain_target(name: str) -> Target:
    if name.endswith(_FILE_ENDINGS):
        return load_target(Path(name))
    known, other = _targets(), aliases()
    device = other.get(name, name)
    if device in known:
        return dataclasses.replace(known[device], name=name)
    boards = own_boards()
    if name in boards:
        return _own_board(boards[name])
    raise unknown_name("target", name, [*known, *other, *boards])


def _own_board(path: Path) -> Target:
    target = load_target(path)
    if target.name != path.stem:
        raise ConfigError(
            f"{path}: holds the board {target.name!r}; give the file its name, or the board that of its file"
        )
    return target


def own_boards() -> dict[str, Path]:
    """Return the files of the user's own boards by name."""
    return {path.stem: path for path in sorted(boards_folder().glob("*.yaml"))}


def boards_folder() -> Path:
    """Return where `edgekd targets add` keeps boards."""
    return user_folder() / "targets"


def target_names() -> tuple[str, ...]:
    """Return every device name, sorted, without aliases."""
    return tuple(sorted(_targets()))


def aliases() -> dict[str, str]:
    """Return what each alias stands for."""
    return dict(_aliases())


def load_target(path: Path) -> Target:
    """Read a board of one's own from a target file with exactly one target.

    Args:
        path: YAML in the schema of the built-in files.

    Returns:
        The target.

    Raises:
        ConfigError: The file is missing, is not YAML, or holds wrong keys or impossible figures (all listed), or more
            than one target, or takes a built-in name.
    """
    targets = _read(path)
    if len(targets) != 1:
        raise ConfigError(f"{path}: a board file holds exactly one target, this one holds {len(targets)}")
    target = targets[0]
    if target.name in _targets() or target.name in aliases():
        raise ConfigError(f"{path}: {target.name!r} is a built-in target; give your board a name of its own")
    return target


def describe(target: Target) -> str:
    """Say in one line what a target stands for.

    Args:
        target: The target.

    Returns:
        For example `"jetson-orin = Jetson AGX Orin 64GB, MAXN, JetPack 6.2, TensorRT 10.3"`.
    """
    parts = [target.title, target.power_mode]
    if target.jetpack is not None:
        parts.append(f"JetPack {target.jetpack}")
    if target.tensorrt is not None:
        parts.append(f"TensorRT {target.tensorrt}")
    return f"{target.name} = {', '.join(part for part in parts if part)}"


@lru_cache(maxsize=1)
def _targets() -> Mapping[str, Target]:
    found: dict[str, Target] = {}
    for path in sorted(_folder().glob("*.yaml")):
        if path.name in _NOT_TARGETS:
            continue
        for target in _read(path):
            if target.name in found:
                raise ConfigError(f"{path}: target {target.name!r} is defined twice")
            found[target.name] = target
    return found


@lru_cache(maxsize=1)
def _aliases() -> Mapping[str, str]:
    document: dict[str, str] = read_yaml(_folder() / "aliases.yaml")["aliases"]
    return document


def _read(path: Path) -> tuple[Target, ...]:
    document = validated(TargetFile, read_yaml(path), str(path))
    return tuple(target_from_entry(entry) for entry in document.targets)


def _folder() -> Path:
    return Path(str(files("edgekd.targets") / "data"))
