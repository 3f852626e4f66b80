"""What was published about a data set, compared with what is on disk."""

from __future__ import annotations

from dataclasses import dataclass

from dcs_nas.data.records import SPLITS, ReidDataset

Count = int | tuple[int, ...] | None


@dataclass(frozen=True)
class Facts:
    """Published counts: (people, images) of each split, distractors and cameras; None is not known or not checked.

    Distractors are counted among the gallery's images but not among its people. Where publications disagree, a count
    is the tuple of what they say.
    """

    train: tuple[Count, Count] = (None, None)
    query: tuple[Count, Count] = (None, None)
    gallery: tuple[Count, Count] = (None, None)
    distractors: Count = None
    cameras: Count = None

    def deviations(self, dataset: ReidDataset) -> tuple[str, ...]:
        """One line for every count that differs from the published one."""
        found = dataset.statistics()
        rows = [(f"{split} {what}", found[split][what], getattr(self, split)[i]) for split, i, what in _COUNTS]
        rows.append(("gallery distractors", found["gallery"]["distractors"], self.distractors))
        rows.append(("cameras", found["cameras"], self.cameras))
        return tuple(_deviation(what, n, fact) for what, n, fact in rows if not _agrees(n, fact))


_COUNTS = [(split, i, what) for split in SPLITS for i, what in enumerate(("people", "images"))]


def _agrees(found: int, fact: Count) -> bool:
    return fact is None or found in (fact if isinstance(fact, tuple) else (fact,))


def _deviation(what: str, found: int, fact: Count) -> str:
    published = " or ".join(f"{n:,}" for n in (fact if isinstance(fact, tuple) else (fact,)))
    return f"{what}: {found:,} found, {published} published"
