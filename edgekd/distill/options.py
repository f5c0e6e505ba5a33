"""Options of recipe parts, checked against the keyword-only parameters of what they build."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, create_model

from edgekd.core.config import validated


def options_model(what: str, builder: Callable[..., object]) -> type[BaseModel]:
    """Return a strict pydantic model of a builder's keyword-only parameters.

    Args:
        what: Name of the model in messages and schemas.
        builder: A class or function whose keyword-only parameters are annotated.
    """
    constructor: Any = builder.__init__ if inspect.isclass(builder) else builder
    hints = get_type_hints(constructor)
    fields: dict[str, Any] = {
        name: (hints[name], ... if parameter.default is inspect.Parameter.empty else parameter.default)
        for name, parameter in inspect.signature(constructor).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    model: type[BaseModel] = create_model(what, __config__=ConfigDict(extra="forbid", frozen=True), **fields)
    return model


def checked_options(what: str, builder: Callable[..., object], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options converted to the builder's types, defaults filled in.

    Raises:
        ConfigError: Unknown, missing or ill-typed options, all listed.
    """
    checked = validated(options_model(what, builder), options, what)
    return {name: getattr(checked, name) for name in type(checked).model_fields}
