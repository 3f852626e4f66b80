"""Names to factories, explicitly: a duplicate raises, an unknown name lists the choices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from dcs_nas.errors import InputError, choices

F = TypeVar("F", bound=Callable)


class Registry(Generic[F]):
    """A named table of factories.

    >>> OPERATIONS = Registry("operation")
    >>> @OPERATIONS.register("twice")
    ... def twice(x): return 2 * x
    >>> OPERATIONS["twice"](4)
    8
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._table: dict[str, F] = {}

    def register(self, name: str) -> Callable[[F], F]:
        """Decorator that enters a factory under ``name``; raises ``ValueError`` if the name is taken."""

        def enter(factory: F) -> F:
            if name in self._table:
                raise ValueError(f"{self.what} '{name}' is registered already, by {self._table[name]!r}")
            self._table[name] = factory
            return factory

        return enter

    def __getitem__(self, name: str) -> F:
        if name not in self._table:
            raise InputError(f"unknown {self.what} '{name}'; {choices(name, self)}")
        return self._table[name]

    def __contains__(self, name: object) -> bool:
        return name in self._table

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)
