"""Genotypes and scores with pictures and tables for notebooks. Text in pictures and tables is escaped."""

from __future__ import annotations

import base64
import shutil
import tempfile
import textwrap
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcs_nas.errors import InputError, choices, translate_errors
from dcs_nas.files import atomic_path, write_text
from dcs_nas.space import AnyGenotype

if TYPE_CHECKING:
    import networkx

    from dcs_nas.training.evaluate import Evaluation

_RANKS = (1, 5, 10)
_LINES, _COLUMNS = 10, 110  # of a summary


class GenotypeView:
    """A genotype that a notebook displays as pictures of its cells, or of its chain.

    It has every attribute of the genotype.
    """

    def __init__(self, genotype: AnyGenotype) -> None:
        self.genotype = genotype

    def __getattr__(self, name: str) -> Any:
        if name == "genotype" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.genotype, name)

    def __repr__(self) -> str:
        return repr(self.genotype)

    def __str__(self) -> str:
        """Return the genotype in at most ten lines."""
        origin = self.genotype.origin
        source = ", ".join(filter(None, (origin.method, origin.data)))
        lines = [f"{self.genotype.summary()}{f'; by {source}' if source else ''}"]
        for table in self.genotype.tables():
            rows = "; ".join(" ".join(filter(None, row)) for row in table.rows)
            text = f"{table.title} ({', '.join(table.columns)}): {rows}"
            lines += textwrap.wrap(text, _COLUMNS, subsequent_indent="    ", break_long_words=False)
        more = "..., see .tables()"
        return "\n".join(lines if len(lines) <= _LINES else [*lines[: _LINES - 1], more])

    @translate_errors()
    def save(self, file: str | Path) -> Path:
        """Write the genotype as YAML, as ``genotype.yaml`` of a run, and return the file."""
        write_text(Path(file), self.genotype.to_yaml())
        return Path(file)

    @translate_errors()
    def plot(self, out: str | Path, kind: str | None = None, *, theme: str = "light") -> list[Path]:
        """Draw one kind of cell, or all and the whole network, and return the files.

        Args:
            out: a picture file (.svg, .png, .pdf, .tex) of one kind, or a folder for SVG and PNG files of all kinds.
            kind: the kind of cell, by default the first of ``kinds``; only for a picture file.
            theme: ``light`` or ``dark``.

        Raises:
            InputError: an unknown kind, theme or ending.
        """
        from dcs_nas.report.graphs import draw

        target = Path(out)
        if not target.suffix:
            if kind is not None:
                raise InputError(f"kind {kind} is one picture, and {target} a folder for all; name a file, a.svg")
            return draw(self.genotype, target, theme=theme).files
        name = kind or self.kinds[0]
        if name not in self.kinds:
            raise InputError(f"the genotype has no picture '{name}'; {choices(name, self.kinds)}")
        form = {".tex": "tikz"}.get(target.suffix, target.suffix.lstrip("."))
        with tempfile.TemporaryDirectory() as folder:
            files = draw(self.genotype, Path(folder), formats=(form,), theme=theme).files
            (picture,) = (file for file in files if file.stem == name)
            with atomic_path(target) as temporary:
                shutil.copyfile(picture, temporary)
        return [target]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of the pictures: the kinds of cell, or ``chain``."""
        return self.genotype.parts

    @translate_errors()
    def graph(self, kind: str | None = None) -> networkx.MultiDiGraph:
        """Return one cell, or the chain, as a networkx graph (``Genotype.graph``), which a notebook draws.

        A copy or a subgraph has no picture.

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
        """Return the share of queries with a match among the first k images; ``InputError`` for k beyond the curve."""
        curve = self.evaluation.result.cmc
        if not 1 <= k <= len(curve):
            raise InputError(f"rank {k} is not on the CMC curve, expected 1 to {len(curve)}; raise evaluate.max_rank")
        return float(curve[k - 1])

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
