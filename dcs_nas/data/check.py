"""What `dcs-nas datasets NAME --root DIR` says about a folder before anything is trained on it."""

from __future__ import annotations

import inspect
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcs_nas.data.datasets import DATASETS, check_options, load_dataset
from dcs_nas.data.datasets.loaders import Problem, collected
from dcs_nas.data.records import DISTRACTOR, SPLITS, Record, ReidDataset
from dcs_nas.errors import InputError

Progress = Callable[[int, int], None]
"""Called with how many images are read and how many there are."""

_EXAMPLES = 3
_IS_DISTRACTOR = "the query is a distractor (person 0)"
_NOT_IN_GALLERY = "the person has no image in the gallery"
_OWN_CAMERA = "the person's gallery images all come from the query's own camera"
_ADVICE = {
    _IS_DISTRACTOR: "give the queries' identities other numbers than 0",
    _NOT_IN_GALLERY: "give an identity the same name in queries and gallery",
    _OWN_CAMERA: "evaluate with --protocol no_camera_filter (evaluate.protocol in a configuration)",
}


@dataclass(frozen=True)
class Unmatched:
    """Queries that nothing in the gallery can match, for one cause."""

    cause: str
    queries: tuple[Record, ...]

    def __str__(self) -> str:
        count = len(self.queries)
        examples = ", ".join(q.path for q in self.queries[:_EXAMPLES])
        return f"{count:,}: {self.cause} ({examples}{', ...' if count > _EXAMPLES else ''})"


@dataclass(frozen=True)
class CheckReport:
    """What was found in a folder. ``dataset`` is None where it could not be loaded at all.

    ``problems`` are faults of the folder, ``unreadable`` the images that do not decode (None: not asked for),
    ``unmatched`` the queries without a match by cause, ``remarks`` what is unusual but may be meant.
    """

    name: str
    root: Path
    dataset: ReidDataset | None
    problems: tuple[Problem, ...] = ()
    unreadable: tuple[str, ...] | None = None
    unmatched: tuple[Unmatched, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the data set loads and every image that was read is readable; deviations and remarks may remain."""
        return self.dataset is not None and not self.problems and not self.unreadable

    @property
    def deviations(self) -> tuple[str, ...]:
        """The counts that differ from the published ones."""
        return self.dataset.notes if self.dataset else ()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, for JSON."""
        return {
            "name": self.name,
            "root": str(self.root),
            "ok": self.ok,
            "statistics": self.dataset.statistics() if self.dataset else None,
            "deviations": list(self.deviations),
            "problems": [{"kind": p.kind, "message": p.message} for p in self.problems],
            "unreadable": None if self.unreadable is None else list(self.unreadable),
            "queries_without_match": {u.cause: [q.path for q in u.queries] for u in self.unmatched},
            "remarks": list(self.remarks),
        }

    def lines(self, *, limit: int = 10) -> list[str]:
        """Return the report as text, at most ``limit`` lines for faults of one kind."""
        lines = [f"{self.name}: {self.dataset.version if self.dataset else 'not loaded'}", f"  folder: {self.root}"]
        if self.dataset is not None:
            lines += _statistics_lines(self.dataset)
        sections: list[tuple[str, Sequence[str]]] = [("deviates from the published facts", self.deviations)]
        for kind in dict.fromkeys(p.kind for p in self.problems):
            sections.append((kind, [p.message for p in self.problems if p.kind == kind]))
        sections.append(("unreadable image", self.unreadable or ()))
        sections.append(("queries without a match", [str(unmatched) for unmatched in self.unmatched]))
        sections.append(("remark", self.remarks))
        for title, texts in sections:
            lines += [f"  {title}: {text}" for text in texts[:limit]]
            if len(texts) > limit:
                lines.append(f"  {title}: {len(texts) - limit:,} more")
        if self.dataset is not None and not self.problems:
            read = "images not read" if self.unreadable is None else f"{len(self.unreadable):,} unreadable images"
            but = " but for what was passed over" if self.dataset.passed_over else ""
            lines.append(f"  complete{but}; {read}")
        return lines


def check_dataset(
    name: str,
    root: Path | str,
    *,
    options: Mapping[str, Any] | None = None,
    images: bool = False,
    progress: Progress | None = None,
) -> CheckReport:
    """Load a data set while collecting its faults instead of stopping at the first; ``images`` decodes every image.

    Raises:
        InputError: unknown data set or option only; every fault of the folder is in the report.
    """
    given = dict(options or {})
    check_options(name, given)
    with collected() as problems:
        try:
            dataset = load_dataset(name, root, **given)
        except InputError as error:
            fatal = Problem("unusable folder", str(error))
            return CheckReport(name, Path(root), None, problems=(*problems, fatal))
    unmatched = unmatched_queries(dataset)
    if dataset.query and dataset.gallery and sum(len(u.queries) for u in unmatched) == len(dataset.query):
        advice = dict(_ADVICE)
        if "camera" in inspect.signature(DATASETS[name]).parameters:
            advice[_OWN_CAMERA] += ", or load the data with -o camera=none"
        for each in unmatched:
            found = f"no query has a match, {len(each.queries):,} since {each.cause}"
            problems.append(Problem("no match", f"{found}: {advice[each.cause]}"))
    return CheckReport(
        name,
        dataset.root,
        dataset,
        problems=tuple(problems),
        unreadable=unreadable_images(dataset, progress=progress) if images else None,
        unmatched=unmatched,
        remarks=(*dataset.passed_over, *remarks(dataset)),
    )


def unmatched_queries(dataset: ReidDataset) -> tuple[Unmatched, ...]:
    """Return the queries for which the ranking protocol leaves no gallery image of the same person, by cause."""
    cameras: dict[int, set[int]] = defaultdict(set)
    for record in dataset.gallery:
        cameras[record.person].add(record.camera)
    by_cause: dict[str, list[Record]] = defaultdict(list)
    for query in dataset.query:
        cause = _cause(query, cameras.get(query.person, set()), filtered=dataset.protocol != "no_camera_filter")
        if cause is not None:
            by_cause[cause].append(query)
    return tuple(Unmatched(cause, tuple(queries)) for cause, queries in sorted(by_cause.items()))


def remarks(dataset: ReidDataset) -> Iterator[str]:
    """Yield what is unusual: people on both sides, distractors to train on, people of one camera, repeats."""
    filtered = dataset.protocol != "no_camera_filter"
    train = {r.person for r in dataset.train}
    both = train & {r.person for r in dataset.query + dataset.gallery}
    if both:
        yield f"{_people(len(both))} in training and test images alike: scores will be too good"
    if DISTRACTOR in train and any(r.person == DISTRACTOR for r in dataset.gallery):
        count = sum(r.person == DISTRACTOR for r in dataset.train)
        yield f"{count:,} training images of person 0, who is a distractor in the gallery, will be one class"
    if dataset.train:
        yield from _training_remarks(dataset.train, filtered=filtered)
    query = {r.path for r in dataset.query}
    repeated = sum(r.path in query for r in dataset.gallery)
    if repeated and not filtered:
        yield f"{repeated:,} query images are gallery images too, and nothing filters them: each finds itself"


def _training_remarks(train: Sequence[Record], *, filtered: bool) -> Iterator[str]:
    cameras: dict[int, set[int]] = defaultdict(set)
    for record in train:
        cameras[record.person].add(record.camera)
    images = Counter(r.person for r in train)
    if len({r.camera for r in train}) > 1:
        single = sum(len(seen) == 1 for seen in cameras.values())
        if single:
            share = f"{_people(single)} of the {len(cameras):,} to train on"
            yield f"{share} seen by one camera only: no match across cameras"
    elif filtered:
        yield "one camera took all images to train on: validation needs evaluate.protocol=no_camera_filter"
    lonely = sum(count == 1 for count in images.values())
    if lonely:
        yield f"{_people(lonely)} of the {len(images):,} to train on with a single image: no positive pair"


def unreadable_images(dataset: ReidDataset, *, progress: Progress | None = None) -> tuple[str, ...]:
    """Decode every image once; return a line, path and reason, for each that fails."""
    from dcs_nas.data.images import image_fault

    paths = sorted({r.path for r in dataset.records})
    faults: list[str] = []
    files = [dataset.root / path for path in paths]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for done, (path, fault) in enumerate(zip(paths, pool.map(image_fault, files)), start=1):
            if fault is not None:
                faults.append(f"{path}: {fault}")
            if progress is not None:
                progress(done, len(paths))
    return tuple(faults)


def _cause(query: Record, cameras: set[int], *, filtered: bool) -> str | None:
    if query.person == DISTRACTOR:
        return _IS_DISTRACTOR
    if not cameras:
        return _NOT_IN_GALLERY
    if filtered and cameras == {query.camera}:
        return _OWN_CAMERA
    return None


def _statistics_lines(dataset: ReidDataset) -> Iterator[str]:
    counts = dataset.statistics()
    yield f"  protocol: {dataset.protocol}, {counts['cameras']} cameras"
    for split in (name for name in (*SPLITS, "val") if name in counts):
        row = counts[split]
        distractors = f", {row['distractors']:,} distractors among them" if row.get("distractors") else ""
        counted = f"{row['people']:>7,} people {row['images']:>9,} images {row['cameras']:>4} cameras"
        yield f"  {split:8}{counted}{distractors}"


def _people(count: int) -> str:
    return "1 person" if count == 1 else f"{count:,} people"
