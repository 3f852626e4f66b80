"""Names to factories, explicitly: a duplicate raises, an unknown name lists the choices."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

from dcs_nas.errors import InputError, choices

F = TypeVar("F", bound=Callable)


class Registry(dict[str, F]):
    """A named table of factories, each with its owner: the module or the file that registered it.

    >>> OPERATIONS = Registry("operation")
    >>> @OPERATIONS.register("twice")
    ... def twice(x): return 2 * x
    >>> OPERATIONS["twice"](4)
    8
    """

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self._owners: dict[str, str] = {}
        _REGISTRIES.append(self)

    def register(self, name: str) -> Callable[[F], F]:
        """Return a decorator that registers a factory under ``name``; raise ``InputError`` if the name is taken."""

        def enter(factory: F) -> F:
            if name in self:
                raise InputError(
                    f"{self.what} '{name}' is registered already, by {self._owners[name]}; choose another name"
                )
            self[name] = factory
            self._owners[name] = _find_importer()
            return factory

        return enter

    def __missing__(self, name: str) -> F:
        raise InputError(
            f"unknown {self.what} '{name}'; {choices(name, self)}. If a Python file of yours registers it, "
            "name the file by -o extensions=[FILE] to a configuration, by --extension FILE otherwise"
        )

    def owner(self, name: str) -> str:
        """Return the owner of ``name``: a module of this package, or the path of an extension."""
        return self._owners[name]

    def is_extension(self, name: str) -> bool:
        """Return whether an extension registered ``name``."""
        return name in self._owners and not self._owners[name].startswith("dcs_nas.")

    def forget(self, owner: str) -> None:
        """Remove all names that ``owner`` registered."""
        for name in [name for name, by in self._owners.items() if by == owner]:
            del self[name], self._owners[name]


_REGISTRIES: list[Registry[Any]] = []


def list_entries(owner: str) -> list[tuple[str, str]]:
    """Return (what, name) of all registrations by ``owner``."""
    return [(r.what, name) for r in _REGISTRIES for name in r if r.owner(name) == owner]


def forget(owner: str) -> None:
    """Remove all names that ``owner`` registered from every registry."""
    for registry in _REGISTRIES:
        registry.forget(owner)


def _find_importer() -> str:
    """Return the innermost module that is being imported: the name of one of this package, the file of another."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    name = str(frame.f_globals.get("__name__", ""))
    return name if name.startswith("dcs_nas.") else str(frame.f_globals.get("__file__", name))
