"""One loader for every YAML file: overrides applied, unknown keys refused, all problems reported at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from edgekd.core.errors import ConfigError

M = TypeVar("M", bound=BaseModel)


class StrictModel(BaseModel):
    """Base of configuration models: frozen, unknown keys are errors, no silent coercion of NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; raises `ConfigError` naming the file and line when it is not one."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(document).__name__}")
    return document


def apply_overrides(document: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of `document` with `a.b=c` assignments applied; values are read as YAML.

    Raises:
        ConfigError: An assignment has no `=`, or goes through a key that holds a plain value.
    """
    result: dict[str, Any] = _copied(document)
    for assignment in overrides:
        key, separator, text = assignment.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"--set {assignment!r}: write it as key.sub=value")
        *parents, last = key.strip().split(".")
        node = result
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"--set {assignment!r}: {parent!r} holds a plain value, not keys")
        try:
            node[last] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {assignment!r}: the value is not valid YAML") from error
    return result


def validated(model: type[M], document: Mapping[str, Any], origin: str) -> M:
    """Check `document` against `model`.

    Args:
        model: The pydantic model.
        document: Plain data.
        origin: Where the data came from, for messages.

    Returns:
        The frozen configuration.

    Raises:
        ConfigError: Lists every problem with its key.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise config_error(origin, _problems(error)) from error


def problems_of(model: type[BaseModel], document: Mapping[str, Any]) -> list[str]:
    """Return every problem of `document` with its key, for callers that know of more; none when it is valid."""
    try:
        model.model_validate(document)
    except ValidationError as error:
        return _problems(error)
    return []


def config_error(origin: str, problems: Sequence[str]) -> ConfigError:
    """Return the error that lists problems, each on a line."""
    return ConfigError("\n".join([f"{origin}: {len(problems)} problem(s)", *(f"  {problem}" for problem in problems)]))


def _problems(error: ValidationError) -> list[str]:
    return [f"{_key_of(item['loc'])}: {_explain(item)}" for item in error.errors()]


def _key_of(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location)) or "(whole document)"


def _explain(item: Any) -> str:
    if item["type"] == "extra_forbidden":
        return "unknown key"
    if item["type"] == "missing":
        return "missing"
    message = str(item["msg"]).removeprefix("Value error, ")
    is_whole_entry = item["type"] == "value_error" and isinstance(item["input"], Mapping)
    return message if is_whole_entry else f"{message} (got {item['input']!r})"


def _copied(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in document.items()}
