"""A dictionary of named builders, filled by decorator, that refuses duplicates and explains unknown names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from edgekd.core.errors import unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to values of one kind.

    Example:
        >>> families: Registry[str] = Registry("student family")
        >>> families.add("resnet", "a residual network")
        >>> families["resnet"]
        'a residual network'
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}

    def add(self, name: str, value: T) -> None:
        """Register `value`; raises `ValueError` when the name is taken."""
        if name in self._items:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._items[name] = value

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers what it decorates under `name`."""

        def keep(value: T) -> T:
            self.add(name, value)
            return value

        return keep

    def __getitem__(self, name: str) -> T:
        """Look a name up; raises `ConfigError` with the nearest names when it is unknown."""
        if name not in self._items:
            raise unknown_name(self.kind, name, self._items)
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._items))

    def __len__(self) -> int:
        return len(self._items)
