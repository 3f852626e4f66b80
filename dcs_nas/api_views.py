"""Genotypes and scores that show themselves in a notebook. Text in pictures and tables is escaped."""

from __future__ import annotations

import base64
import tempfile
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcs_nas.space import AnyGenotype

if TYPE_CHECKING:
    import networkx

    from dcs_nas.training.evaluate import Evaluation

_RANKS = (1, 5, 10)


class GenotypeView:
    """A genotype, plain data, with its pictures: in a notebook it shows all cells, or the chain.

    The view has every attribute of the genotype.
    """

    def __init__(self, genotype: AnyGenotype) -> None:
        self.genotype = genotype

    def __getattr__(self, name: str) -> Any:
        if name == "genotype" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.genotype, name)

    def __repr__(self) -> str:
        return repr(self.genotype)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of the pictures: the kinds of cell, or ``chain``."""
        return self.genotype.parts

    def graph(self, kind: str | None = None) -> networkx.MultiDiGraph:
        """Return one cell as a networkx graph, see ``Genotype.graph``, or the chain; a notebook draws it.

        A copy or a part of the graph is a graph without a picture.

        Raises:
            InputError: a kind that the genotype does not have.
        """
        picture = kind or self.kinds[0]
        graph = self.genotype.graph(picture)
        graph._repr_svg_ = lambda: self.svg(picture)  # type: ignore[attr-defined]
        return graph

    def svg(self, kind: str | None = None, *, theme: str = "light") -> str:
        """Return the picture of one kind, by default of the first, as SVG text."""
        return self._svgs(theme)[kind or self.kinds[0]]

    def _repr_html_(self) -> str:
        return "".join(
            f'<figure style="display:inline-block;margin:0 1em 1em 0"><img alt="{escape(kind)}" '
            f'style="max-width:100%" src="data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}">'
            f"<figcaption>{escape(kind)}</figcaption></figure>"
            for kind, svg in self._svgs("light").items()
        )

    def _svgs(self, theme: str) -> dict[str, str]:
        from dcs_nas.report.graphs import draw

        with tempfile.TemporaryDirectory() as folder:
            files = draw(self.genotype, Path(folder), formats=("svg",), theme=theme).files
            texts = {file.stem: file.read_text(encoding="utf-8") for file in files}
        return {kind: texts[kind] for kind in self.kinds}


class Scores:
    """The scores of an evaluation, as fractions; ``evaluation`` holds features, distances and the whole report."""

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation

    @property
    def report(self) -> dict[str, Any]:
        """Scores, protocol, counts, data and versions, as ``evaluation.json`` holds them."""
        return self.evaluation.report

    @property
    def mAP(self) -> float:  # noqa: N802
        """Mean average precision."""
        return self.evaluation.result.mAP

    @property
    def mINP(self) -> float:  # noqa: N802
        """Mean inverse negative penalty."""
        return self.evaluation.result.mINP

    def rank(self, k: int) -> float:
        """Return the share of queries with a match among the first k gallery images."""
        return float(self.evaluation.result.cmc[k - 1])

    def __repr__(self) -> str:
        scores = ", ".join(f"{name} {100 * value:.2f} %" for name, value in self._named.items())
        return f"{self._title}: {scores}"

    def _repr_html_(self) -> str:
        heads = "".join(f"<th>{escape(name)}</th>" for name in self._named)
        cells = "".join(f"<td>{100 * value:.2f} %</td>" for value in self._named.values())
        return f"<table><caption>{escape(self._title)}</caption><tr>{heads}</tr><tr>{cells}</tr></table>"

    @property
    def _title(self) -> str:
        protocol = self.report["protocol"]
        return f"{self.report['data']['version']}, {protocol['name']}, {protocol['metric']} distance"

    @cached_property
    def _named(self) -> dict[str, float]:
        ranks = {f"rank-{k}": self.rank(k) for k in _RANKS if k <= len(self.evaluation.result.cmc)}
        return {"mAP": self.mAP, "mINP": self.mINP, **ranks}
