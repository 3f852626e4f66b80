"""A tabular benchmark: the results of training every architecture of a small space. No torch here.

As NAS-Bench-201 (Dong, Yang, arXiv 2001.00326) for images: a search is judged in seconds against the true best.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dcs_nas.errors import InputError, choices
from dcs_nas.settings import Settings, parse
from dcs_nas.space.architectures import architectures, decode, encode
from dcs_nas.space.kinds import AnyGenotype, Space
from dcs_nas.space.reading import find_shipped_file, load_space

TABLES = ("bench_cells", "bench_chain")
SIZE = (64, 32)
_FOLDER = "results/reference"


class Training(Settings):
    """One row: an architecture trained with one seed. Scores in percent, ``seconds`` of processor time.

    ``validation_mAP`` is of identities held out of the training set, which a search may look at, after all epochs;
    ``half_mAP`` and ``quarter_mAP`` after half and a quarter of them. The others are of the test set.
    """

    architecture: str
    seed: int
    mAP: float
    rank1: float
    mINP: float
    validation_mAP: float
    half_mAP: float
    quarter_mAP: float
    parameters: int
    multiply_adds: int
    seconds: float


@dataclass(frozen=True)
class Entry:
    """The results of an architecture, beside those of the others. Scores in percent of mAP.

    Attributes:
        score: mean test mAP over the seeds that every architecture was trained with.
        spread: standard deviation over all seeds of this architecture; NaN for a single seed.
        rank: 1 for the best score.
        regret: the best score minus this one.
        front_distance: the best score at no more multiply-adds minus this one; 0 on the Pareto front.
    """

    architecture: str
    score: float
    spread: float
    rank: int
    regret: float
    front_distance: float
    parameters: int
    multiply_adds: int
    seconds: float
    trainings: dict[int, Training]


@dataclass(frozen=True)
class Noise:
    """The noise of scores, compared with their spread. Points of mAP.

    Attributes:
        single: standard deviation of one training around the mean of its architecture, without the effect that a seed
            has on all architectures.
        score: standard deviation of a score, a mean over the common seeds.
        between: standard deviation of the scores of all architectures.
        ratio: score / between.
    """

    single: float
    score: float
    between: float

    @property
    def ratio(self) -> float:
        return self.score / self.between


class Table:
    """All trainings of a space. ``table[genotype]``, or of a text such as an entry's ``architecture``, is its entry.

    Raises:
        InputError: a file that is no such table.
    """

    def __init__(self, name: str, space: Space, trainings: list[Training]) -> None:
        self.name, self.space = name, space
        self.trainings: dict[str, dict[int, Training]] = {}
        for row in trainings:
            self.trainings.setdefault(row.architecture, {})[row.seed] = row
        if not self.trainings:
            raise InputError(f"the table {name} has no rows yet; train some with benchmarks/bench_table.py {name}")

    @classmethod
    def read(cls, name: str, path: Path | None = None) -> Table:
        """Return the table ``name``, one of ``TABLES``, as shipped or from a file of benchmarks/bench_table.py.

        Raises:
            InputError: an unknown name, or a file that is no such table.
        """
        if name not in TABLES:
            raise InputError(f"unknown table '{name}'; {choices(name, TABLES)}")
        space, file = load_space(find_shipped_file("search_spaces", name)), path or _find_shipped(name)
        rows = _read_rows(file)
        strange = {row.architecture for row in rows} - set(architectures(space, *SIZE))
        if strange:
            raise InputError(f"{file} is no table of {name}: it holds '{min(strange)[:200]}'; name the file of {name}")
        return cls(name, space, rows)

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that every architecture of the table was trained with."""
        return tuple(sorted(set.intersection(*(set(rows) for rows in self.trainings.values()))))

    @cached_property
    def whole(self) -> bool:
        """True where every architecture of the space is in the table."""
        return set(architectures(self.space, *SIZE)) <= set(self.trainings)

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """All architectures, the best first."""
        scores = {text: self._score(text) for text in self.trainings}
        order = sorted(scores, key=lambda text: (-scores[text], text))
        macs = {text: next(iter(self.trainings[text].values())).multiply_adds for text in order}
        return tuple(
            self._build_entry(text, rank, scores, max(scores[other] for other in order if macs[other] <= macs[text]))
            for rank, text in enumerate(order, start=1)
        )

    @property
    def best(self) -> Entry:
        return self.entries[0]

    @property
    def front(self) -> tuple[Entry, ...]:
        """The Pareto front of score against multiply-adds, from the fewest multiply-adds up."""
        ordered = sorted(self.entries, key=lambda entry: (entry.multiply_adds, -entry.score))
        front: list[Entry] = []
        for entry in ordered:
            if not front or entry.score > front[-1].score:
                front.append(entry)
        return tuple(front)

    @cached_property
    def noise(self) -> Noise | None:
        """The noise of a training, measured on the architectures with more seeds than the rest.

        Of scores y(a, s) with seed s it is the residual y(a, s) - mean_s - mean_a + mean, with as many degrees of
        freedom as a two-way table leaves: the effect that a seed has on all architectures changes no comparison. None
        if no two architectures have two seeds in common yet.
        """
        most = max(self.trainings.values(), key=len)
        full = [rows for rows in self.trainings.values() if set(rows) == set(most)]
        values = np.array([[rows[seed].mAP for seed in sorted(most)] for rows in full])
        if min(values.shape) < 2:
            return None
        residual = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
        single = float(np.sqrt(np.square(residual).sum() / ((values.shape[0] - 1) * (values.shape[1] - 1))))
        between = float(np.std([entry.score for entry in self.entries], ddof=1))
        return Noise(single, single / len(self.seeds) ** 0.5, between)

    def __getitem__(self, genotype: AnyGenotype | str) -> Entry:
        return self._by_text[self.key(genotype)]

    def __len__(self) -> int:
        return len(self.trainings)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def key(self, genotype: AnyGenotype | str) -> str:
        """Return the key of an architecture in the table.

        Raises:
            InputError: a genotype of another space or network, or one that the table lacks.
        """
        if isinstance(genotype, str):
            genotype = decode(genotype, self.space, *SIZE)
        genotype.require_space(self.space, source="the genotype")
        own = self.space.network(*SIZE)
        if genotype.network != own:
            raise InputError(
                f"the genotype's network is {genotype.network}, the table {self.name} was trained with {own}; "
                "search the space at its own width, depth and image size"
            )
        text = encode(genotype)
        if text not in self.trainings:
            raise InputError(
                f"the table {self.name} lacks '{text}'; it is unfinished, with {len(self)} architectures: train it by "
                f"benchmarks/bench_table.py {self.name}"
            )
        return text

    def genotype(self, architecture: str) -> AnyGenotype:
        """Return the genotype of an entry's text; ``InputError`` for a text that is no architecture of the space."""
        return decode(architecture, self.space, *SIZE)

    @cached_property
    def _by_text(self) -> dict[str, Entry]:
        return {entry.architecture: entry for entry in self.entries}

    def _score(self, text: str) -> float:
        rows = self.trainings[text]
        return float(np.mean([rows[seed].mAP for seed in self.seeds or rows]))

    def _build_entry(self, text: str, rank: int, scores: dict[str, float], best_as_cheap: float) -> Entry:
        rows = self.trainings[text]
        first = next(iter(rows.values()))
        return Entry(
            architecture=text,
            score=scores[text],
            spread=float(np.std([row.mAP for row in rows.values()], ddof=1)) if len(rows) > 1 else float("nan"),
            rank=rank,
            regret=max(scores.values()) - scores[text],
            front_distance=best_as_cheap - scores[text],
            parameters=first.parameters,
            multiply_adds=first.multiply_adds,
            seconds=float(np.mean([row.seconds for row in rows.values()])),
            trainings=rows,
        )


def _find_shipped(name: str) -> Path:
    package = Path(__file__).resolve().parents[1]
    places = [package.parent / _FOLDER / f"{name}.csv", package / "_shipped/tables" / f"{name}.csv"]
    for place in places:
        if place.is_file():
            return place
    raise InputError(f"the table {name} is not installed here; expected {places[0]}, see benchmarks/bench_table.py")


def _read_rows(path: Path) -> list[Training]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", error)
        raise InputError(f"{path} cannot be read: {reason}; name a table of benchmarks/bench_table.py") from None
    source = f"{path} is no table of benchmarks/bench_table.py"
    return [parse(Training, {name: row.get(name) for name in Training.model_fields}, source=source) for row in rows]
