"""Identities held out of a training set for validation, and their queries. N images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dcs_nas.errors import InputError
from dcs_nas.seeds import mix_seed

_WITHOUT = {
    "retrain.validation": "retrain.validation=0",
    "search.validation": "search.validation=0, search.derivation=strongest and search.choose=last",
    "search.trials.validation": "search.strategy=bilevel",
}
"""How to do without validation, by the setting that asks for it."""


def hold_out_people(
    labels: Sequence[int], *, share: float, seed: int, setting: str = "retrain.validation"
) -> tuple[list[int], list[int]]:
    """Return indices of the people kept and of about ``share`` of them held out, at least two where it is above 0."""
    people = sorted(set(labels))
    if not share:
        return list(range(len(labels))), []
    count = max(2, round(share * len(people)))
    if count > len(people) - 2:
        most = (len(people) - 2) / max(1, len(people))
        advice = f"lower {setting} to {int(100 * most) / 100:g}" if most * len(people) >= 2 else _without(setting)
        raise InputError(
            f"holding out {count} of {len(people)} identities leaves too few to train on, expected two at least on "
            f"either side; {advice}"
        )
    held = set(np.random.default_rng(mix_seed(seed, 2)).permutation(people)[:count].tolist())
    return [i for i, p in enumerate(labels) if p not in held], [i for i, p in enumerate(labels) if p in held]


def first_of_each_view(people: np.ndarray, views: np.ndarray) -> np.ndarray:
    """Return sorted indices of the first image of every (identity, view), of identities with two views or more."""
    pairs, first = np.unique(np.stack([people, views]), axis=1, return_index=True)
    identity, count = np.unique(pairs[0], return_counts=True)
    return np.sort(first[np.isin(pairs[0], identity[count > 1])])


def require_queries(
    people: np.ndarray, cameras: np.ndarray, held: Sequence[int], *, camera_filter: bool, setting: str
) -> None:
    """Raise ``InputError`` naming the cause where no identity held out has two views.

    Args:
        people: (N,) of all training images, as ``cameras``.
        held: indices of the images held out.
        camera_filter: a view is a camera; without the filter each image is one.
        setting: what asks for the validation.
    """
    views = cameras if camera_filter else np.arange(len(people))
    if len(first_of_each_view(people[held], views[held])):
        return
    lacks = "is seen by two cameras" if camera_filter else "has two images"
    able = len(np.unique(people[first_of_each_view(people, views)]))
    total, out = len(np.unique(people)), len(np.unique(people[held]))
    unfiltered = "evaluate.protocol=no_camera_filter"
    if able:
        others = f"none of the {out} identities held out {lacks}, of all {total} to train on {able}; raise {setting}"
        raise InputError(others + (f" or set {unfiltered}" if camera_filter else ""))
    if total == len(people):
        raise InputError(
            f"each of the {total} identities to train on has a single image, so none held out has a match; "
            f"{_without(setting)}, or add images"
        )
    count = len(np.unique(cameras))
    seen = "all come from one camera" if count == 1 else f"come from {count} cameras"
    raise InputError(
        f"none of the {total} identities to train on {lacks} (their images {seen}), so none held out has a match "
        f"across cameras; set {unfiltered}"
    )


def _without(setting: str) -> str:
    return f"set {_WITHOUT[setting]} to do without validation"
