"""What settings can name: operations, attention blocks, backbones, data sets and tuners, from their registries."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from typing import Any

_INTRODUCTION = """# Names

What search spaces and configurations can name, with the settings that each takes. Made from the registries in the code
at build time; what your own files (key `extensions`) add comes on top.
"""


def names_page() -> str:
    """The page as Markdown."""
    return "\n".join([_INTRODUCTION, *_operations(), *_attention(), *_backbones(), *_data_sets(), *_tuners()])


def _operations() -> Iterator[str]:
    from dcs_nas.models.operations import OPERATIONS

    yield "## Operations\n\n`operations` of a [space of cells](../own_space.md#cells): candidates on an edge.\n"
    yield ", ".join(f"`{name}`" for name in OPERATIONS) + "\n"


def _attention() -> Iterator[str]:
    from dcs_nas.models.blocks import ATTENTION

    yield "## Attention blocks\n\n`attention` of a search space, where `none` is also a name, or of a backbone.\n"
    yield "The settings go into `retrain.backbone_options.attention_settings`.\n"
    yield from _table("block", {name: _keywords(make) for name, make in _entries(ATTENTION)})


def _backbones() -> Iterator[str]:
    from dcs_nas.models.backbones import BACKBONES

    yield "## Backbones\n\n`retrain.backbone`. All take `attention`, `attention_stages` and `attention_settings` in"
    yield "`retrain.backbone_options`, and their own options beside these.\n"
    shared = ("height", "width", "attention", "attention_stages", "attention_settings")
    rows = {
        name: [text for text in _keywords(inspect.unwrap(make)) if text.split(" ")[0].strip("`") not in shared]
        for name, make in _entries(BACKBONES)
    }
    yield from _table("backbone", rows)


def _data_sets() -> Iterator[str]:
    from dcs_nas.data.datasets import DATASETS, describe

    yield "## Data sets\n\n`data.name`; the options go into `data.options`. `dcs-nas datasets NAME` prints the same.\n"
    for name in DATASETS:
        yield f"### {name}\n\n```text\n{describe(name)}\n```\n"


def _tuners() -> Iterator[str]:
    from dcs_nas.tune.study import TUNERS

    yield f"## Tuners\n\n`tune.tuner`: {', '.join(f'`{name}`' for name in TUNERS)}; see [tuning](../tune.md#tuners).\n"


def _entries(registry: Any) -> Iterator[tuple[str, Callable]]:
    return ((name, registry[name]) for name in registry)


def _keywords(make: Callable) -> list[str]:
    """The keyword-only parameters of a factory as ``name`` (default)."""
    found = [p for p in inspect.signature(make).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return [f"`{p.name}`" if p.default is p.empty else f"`{p.name}` ({_plain(p.default)})" for p in found]


def _plain(value: Any) -> str:
    """A default as YAML writes it."""
    return json.dumps(value).strip('"')


def _table(title: str, rows: dict[str, list[str]]) -> Iterator[str]:
    yield f"| {title} | settings (defaults) |\n|---|---|"
    for name, settings in rows.items():
        yield f"| `{name}` | {', '.join(settings) or 'none'} |"
    yield ""
