"""Check a data set's folder before training, as `dcs-nas datasets NAME --root DIR` does."""

from __future__ import annotations

import inspect
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcs_nas.data.datasets import DATASETS, check_options, load_dataset
from dcs_nas.data.datasets.loaders import Problem, collect_problems
from dcs_nas.data.records import DISTRACTOR, SPLITS, Record, ReidDataset
from dcs_nas.errors import InputError
from dcs_nas.processes import count_cores

if TYPE_CHECKING:
    from dcs_nas.data.images import Progress

_EXAMPLES = 3
_NOT_IN_GALLERY = "the identity has no image in the gallery"
_OWN_CAMERA = "the identity's gallery images all come from the query's own camera"
_ADVICE = {
    _NOT_IN_GALLERY: "give an identity the same name in queries and gallery",
    _OWN_CAMERA: "evaluate with --protocol no_camera_filter (evaluate.protocol in a configuration)",
}


@dataclass(frozen=True)
class Unmatched:
    """Queries without a possible match in the gallery, and the cause."""

    cause: str
    queries: tuple[Record, ...]

    def __str__(self) -> str:
        count = len(self.queries)
        examples = ", ".join(q.path for q in self.queries[:_EXAMPLES])
        return f"{count:,}: {self.cause} ({examples}{', ...' if count > _EXAMPLES else ''})"


@dataclass(frozen=True)
class CheckReport:
    """The result of a check. ``dataset`` is None where it could not be loaded.

    ``problems`` are faults of the folder, ``unreadable`` the images that do not decode (None: not checked),
    ``unmatched`` the queries without a match by cause, ``remarks`` unusual properties that may be intended.
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
        """True if the data set loads and every image that was read decodes; deviations and remarks may remain."""
        return self.dataset is not None and not self.problems and not self.unreadable

    def lines(self, *, limit: int = 10) -> list[str]:
        """Return the report as text, at most ``limit`` lines for faults of one kind."""
        lines = [f"{self.name}: {self.dataset.version if self.dataset else 'not loaded'}", f"  folder: {self.root}"]
        if self.dataset is not None:
            lines += _format_statistics(self.dataset)
        notes = self.dataset.notes if self.dataset else ()
        sections: dict[str, Sequence[str]] = {"deviates from the published facts": notes}
        for kind in dict.fromkeys(p.kind for p in self.problems):
            sections[kind] = [p.message for p in self.problems if p.kind == kind]
        sections["unreadable image"] = self.unreadable or ()
        sections["queries without a match"] = [str(unmatched) for unmatched in self.unmatched]
        sections["remark"] = self.remarks
        for title, texts in sections.items():
            lines += [f"  {title}: {text}" for text in texts[:limit]]
            if len(texts) > limit:
                lines.append(f"  {title}: {len(texts) - limit:,} more")
        if self.dataset is not None and not self.problems:
            read = "images not read" if self.unreadable is None else f"{len(self.unreadable):,} unreadable images"
            but = " except for the files passed over" if self.dataset.passed_over else ""
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
    """Load a data set and collect all its faults; with ``images`` also decode every image.

    Raises:
        InputError: an unknown data set or option; faults of the folder are in the report.
    """
    settings = dict(options or {})
    check_options(name, settings)
    with collect_problems() as problems:
        try:
            dataset = load_dataset(name, root, **settings)
        except InputError as error:
            fatal = Problem("unusable folder", str(error))
            return CheckReport(name, Path(root), None, problems=(*problems, fatal))
    unmatched = find_unmatched_queries(dataset)
    if dataset.query and dataset.gallery and sum(len(u.queries) for u in unmatched) == len(dataset.query):
        advice = dict(_ADVICE)
        if "camera" in inspect.signature(DATASETS[name]).parameters:
            advice[_OWN_CAMERA] += ", or load the data with -o camera=none"
        for each in unmatched:
            count = f"no query has a match, {len(each.queries):,} because {each.cause}"
            problems.append(Problem("no match", f"{count}: {advice[each.cause]}"))
    return CheckReport(
        name,
        dataset.root,
        dataset,
        problems=tuple(problems),
        unreadable=find_unreadable_images(dataset, progress=progress) if images else None,
        unmatched=unmatched,
        remarks=(*dataset.passed_over, *list_remarks(dataset)),
    )


def find_unmatched_queries(dataset: ReidDataset) -> tuple[Unmatched, ...]:
    """Return the queries for which the ranking protocol leaves no gallery image of the same identity, by cause."""
    cameras, filtered = _collect_cameras(dataset.gallery), dataset.protocol != "no_camera_filter"
    by_cause: dict[str, list[Record]] = defaultdict(list)
    for query in dataset.query:
        if query.identity not in cameras:
            by_cause[_NOT_IN_GALLERY].append(query)
        elif filtered and cameras[query.identity] == {query.camera}:
            by_cause[_OWN_CAMERA].append(query)
    return tuple(Unmatched(cause, tuple(queries)) for cause, queries in sorted(by_cause.items()))


def _collect_cameras(records: Iterable[Record]) -> dict[int, set[int]]:
    """Return the cameras of each identity."""
    cameras: dict[int, set[int]] = defaultdict(set)
    for record in records:
        cameras[record.identity].add(record.camera)
    return cameras


def list_remarks(dataset: ReidDataset) -> Iterator[str]:
    """Yield a line for each unusual property, such as identities in both training and test images."""
    filtered = dataset.protocol != "no_camera_filter"
    train = {r.identity for r in dataset.train}
    both = train & {r.identity for r in dataset.query + dataset.gallery}
    if both:
        yield f"{_count_identities(len(both))} in both training and test images: scores will be too good"
    if DISTRACTOR in train and any(r.identity == DISTRACTOR for r in dataset.gallery):
        count = sum(r.identity == DISTRACTOR for r in dataset.train)
        yield f"{count:,} training images of identity 0, a distractor in the gallery, will be one class"
    if count := sum(r.identity == DISTRACTOR for r in dataset.query):
        yield f"{count:,} queries of identity 0, a distractor, which match every distractor: give them other numbers"
    if dataset.train:
        yield from _list_training_remarks(dataset.train, filtered=filtered)
    query = {r.path for r in dataset.query}
    repeated = sum(r.path in query for r in dataset.gallery)
    if repeated and not filtered:
        yield f"{repeated:,} query images are gallery images too, and nothing filters them: each finds itself"


def _list_training_remarks(train: Sequence[Record], *, filtered: bool) -> Iterator[str]:
    cameras = _collect_cameras(train)
    images = Counter(r.identity for r in train)
    if len({r.camera for r in train}) > 1:
        single = sum(len(seen) == 1 for seen in cameras.values())
        if single:
            share = f"{_count_identities(single)} of the {len(cameras):,} to train on"
            yield f"{share} seen by one camera only: they have no match across cameras"
    elif filtered:
        yield "one camera took all images to train on: validation needs evaluate.protocol=no_camera_filter"
    lonely = sum(count == 1 for count in images.values())
    if lonely:
        share = f"{_count_identities(lonely)} of the {len(images):,} to train on"
        yield f"{share} with a single image: they have no positive pair"


def find_unreadable_images(dataset: ReidDataset, *, progress: Progress | None = None) -> tuple[str, ...]:
    """Decode every image once; return a line, path and reason, for each that fails."""
    from dcs_nas.data.images import find_image_fault

    paths = sorted({r.path for r in dataset.records})
    faults: list[str] = []
    files = [dataset.root / path for path in paths]
    with ThreadPoolExecutor(min(8, count_cores())) as pool:
        for done, (path, fault) in enumerate(zip(paths, pool.map(find_image_fault, files)), start=1):
            if fault is not None:
                faults.append(f"{path}: {fault}")
            if progress is not None:
                progress(done, len(paths))
    return tuple(faults)


def _format_statistics(dataset: ReidDataset) -> Iterator[str]:
    counts = dataset.statistics()
    yield f"  protocol: {dataset.protocol}, {counts['cameras']} cameras"
    for split in (name for name in (*SPLITS, "val") if name in counts):
        row = counts[split]
        distractors = f", {row['distractors']:,} distractors among them" if row.get("distractors") else ""
        counted = f"{row['people']:>7,} identities {row['images']:>9,} images {row['cameras']:>4} cameras"
        yield f"  {split:8}{counted}{distractors}"


def _count_identities(count: int) -> str:
    return "1 identity" if count == 1 else f"{count:,} identities"
