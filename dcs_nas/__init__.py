"""Differentiable neural architecture search for person re-identification.

In Python as on the command line, each name loaded when it is first used (``dcs_nas.api``):

    run = dcs_nas.search("configs/demo.yaml", ["data.root=/data/people"])
    trained = dcs_nas.retrain("configs/demo.yaml", ["data.root=/data/people"], genotype=run.genotype)
    dcs_nas.evaluate(trained)
"""

import importlib
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_PACKAGES = ("search",)
_FUNCTIONS = ("retrain", "evaluate", "tabular", "load_run", "load_genotype", "load_extensions")


class CallablePackage(ModuleType):
    """A package that is also the function of its name: ``dcs_nas.search`` holds the code, and runs it when called."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return getattr(importlib.import_module("dcs_nas.api"), self.__name__.rpartition(".")[2])(*arguments, **options)


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"dcs_nas.{name}")
    if name in _FUNCTIONS:
        return getattr(importlib.import_module("dcs_nas.api"), name)
    raise AttributeError(f"module 'dcs_nas' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PACKAGES, *_FUNCTIONS})
