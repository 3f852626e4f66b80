"""Ranked lists of single queries: those that ``dcs-nas evaluate --pictures`` left, or worst and best drawn anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from dcs_nas.data.cache import Progress
from dcs_nas.report.embedded import Figure, picture_uri, read_uri
from dcs_nas.report.run_files import RunFiles

_MOST = 12


@dataclass(frozen=True)
class Lists:
    """Pictures under one heading; ``note`` says what is not shown."""

    title: str
    figures: list[Figure]
    note: str = ""


def saved_lists(run: RunFiles) -> list[Lists]:
    """The lists in ``RUN/ranked/*/ranked.json``, hardest first, at most a dozen of each folder."""
    found = []
    for index in sorted((run.path / "ranked").glob("*/ranked.json")):
        entries = json.loads(index.read_text(encoding="utf-8"))
        shown = [
            Figure(read_uri(index.parent / Path(str(entry["file"])).name), _words(entry), caption=_words(entry))
            for entry in entries[:_MOST]
        ]
        more = f"{len(entries) - len(shown)} more are in {index.parent}" if len(entries) > len(shown) else ""
        found.append(Lists(f"Hardest queries of {index.parent.name}", shown, more))
    return found


def drawn_lists(run: RunFiles, *, count: int, progress: Callable[[str], Progress] | None = None) -> list[Lists]:
    """The ``count`` queries of lowest and of highest average precision, by evaluating the trained network again.

    Raises:
        InputError: the run holds no trained network, or its data are not there.
    """
    from dcs_nas.report.ranked_pictures import RankedPictures
    from dcs_nas.report.retrieval import easiest_lists, hardest_lists
    from dcs_nas.training.evaluate import evaluate_run

    found = evaluate_run(run.path, progress=progress)
    height, width = found.query.pixels[[0]].shape[1:3]
    protocol = found.result.protocol
    facts: dict[str, Any] = {
        "aspect": width / height,
        "subtitle": f"{found.dataset.version}, {protocol.metric} distance",
        "camera_filter": protocol.name != "no_camera_filter",
    }
    light, dark = (
        RankedPictures(found.dataset, found.features, appearance=name, **facts) for name in ("light", "dark")
    )
    given = found.result, found.distances, found.features
    sections = []
    for title, lists in (
        ("Worst queries, hardest first", hardest_lists(*given, count=count)),
        ("Best queries, easiest first", easiest_lists(*given, count=count)),
    ):
        figures = [_figure(light.picture(r), dark.picture(r), r.average_precision) for r in lists]
        sections.append(Lists(title, figures))
    return sections


def _figure(light: Image.Image, dark: Image.Image, average_precision: float) -> Figure:
    words = f"ranked list of a query, average precision {100 * average_precision:.1f} %"
    return Figure(picture_uri(light), words, picture_uri(dark))


def _words(entry: dict) -> str:
    score, place = 100 * float(entry["average_precision"]), int(entry["first_match"])
    return f"{entry['query']}: average precision {score:.1f} %, first match at rank {place:,}"
