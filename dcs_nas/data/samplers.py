"""Batches of identities (P x K) or of shuffled images, halves of a training set, identities held out for validation.

B = P * K images a batch, N images in all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dcs_nas.errors import InputError
from dcs_nas.processes import get_rank, get_world_size
from dcs_nas.seeds import mix_seed


class IdentitySampler:
    """Batches of ``identities_per_batch`` (P) identities with ``images_per_identity`` (K) images each.

    The images of every identity are shuffled and cut into groups of K; an identity with fewer than K images has one
    group, filled up by repetition. A batch holds groups of P different identities. The number of batches is the largest
    B with sum_p min(groups_p, B) >= P * B. It is reached by dealing the groups to the batches in turn: the groups of an
    identity follow each other and are at most B, so no two are in one batch.

    The batches of an epoch depend only on ``seed`` and the epoch. Each of W processes yields its P / W identities of
    every batch.
    """

    most_groups: int | None = None  # of an identity in an epoch

    def __init__(
        self,
        labels: Sequence[int],
        *,
        identities_per_batch: int,
        images_per_identity: int,
        seed: int,
        what: str = "training",
    ) -> None:
        self.P, self.K, self.seed, self.epoch = identities_per_batch, images_per_identity, seed, 0
        self._images = _group_by_label(labels)
        if len(self._images) < self.P:
            count = len(self._images)
            advice = f"lower data.identities_per_batch to {count}" if count > 1 else "add images of further identities"
            raise InputError(
                f"the {what} images show {count} identities, expected at least {self.P} for a batch; {advice}"
            )
        groups = {label: max(1, len(images) // self.K) for label, images in self._images.items()}
        self._groups = {label: min(count, self.most_groups or count) for label, count in groups.items()}
        self._length = _count_batches(list(self._groups.values()), self.P)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches the next iteration yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        first, last = _get_own_share(self.P, "identities", "data.identities_per_batch")
        random = np.random.default_rng(mix_seed(self.seed, self.epoch))
        groups = [g for label in random.permutation(list(self._images)) for g in self._cut(int(label), random)]
        surplus = len(groups) - self.P * len(self)
        dropped = set(random.choice(len(groups), surplus, replace=False).tolist())
        kept = [group for i, group in enumerate(groups) if i not in dropped]
        for batch in random.permutation(len(self)):
            yield [index for group in kept[batch :: len(self)][first:last] for index in group]

    def _cut(self, label: int, random: np.random.Generator) -> list[list[int]]:
        """Return the groups of an identity, at most one for each batch."""
        images = self._shuffle(label, random)
        groups = [images[i * self.K : (i + 1) * self.K].tolist() for i in range(self._groups[label])]
        return groups[: len(self)]

    def _shuffle(self, label: int, random: np.random.Generator) -> np.ndarray:
        images = random.permutation(self._images[label])
        missing = max(0, self.K - len(images))
        return np.concatenate([images, random.choice(images, missing)]) if missing else images


class IdentityOnceSampler(IdentitySampler):
    """P x K batches of an epoch in which every identity appears once, as in RGA's ``RandomIdentitySampler``."""

    most_groups = 1


class CameraBalancedSampler(IdentitySampler):
    """P x K batches in which the K images of an identity are from as many cameras as possible.

    These are all its cameras if they are at most K and each has an image for every group; no image is repeated to reach
    more. The images left out are of the most frequent cameras.
    """

    def __init__(self, labels: Sequence[int], cameras: Sequence[int], **options: Any) -> None:
        super().__init__(labels, **options)
        self._cameras = np.asarray(cameras)

    def _cut(self, label: int, random: np.random.Generator) -> list[list[int]]:
        images, count = self._shuffle(label, random), self._groups[label]
        cameras = self._cameras[images]
        before = np.array([(cameras[:i] == camera).sum() for i, camera in enumerate(cameras)])
        kept = np.argsort(before, kind="stable")[: count * self.K]
        dealt = images[kept[np.argsort(cameras[kept], kind="stable")]]
        groups = [dealt[i::count].tolist() for i in random.permutation(count)]
        return groups[: len(self)]


class ShuffledBatches:
    """All images in a new order every epoch, in batches of ``size``; an incomplete last batch is left out.

    The batches of an epoch depend only on ``seed`` and the epoch. Each of W processes yields its part of every batch.
    """

    def __init__(self, length: int, *, size: int, seed: int, what: str = "training") -> None:
        if length < size:
            raise InputError(
                f"there are {length} {what} images, expected at least {size} for a batch; lower "
                "data.identities_per_batch or data.images_per_identity"
            )
        self.length, self.size, self.seed, self.epoch = length, size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches the next iteration yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length // self.size

    def __iter__(self) -> Iterator[list[int]]:
        first, last = _get_own_share(self.size, "images", "data.identities_per_batch x data.images_per_identity")
        order = np.random.default_rng(mix_seed(self.seed, self.epoch)).permutation(self.length)
        for batch in range(len(self)):
            yield order[batch * self.size : (batch + 1) * self.size][first:last].tolist()


class SequentialBatches:
    """All indices in order, in batches of ``size``; the last may be smaller.

    With ``shard`` (i, n) only the batches i, i + n, ... are yielded; the n shards together have every batch once.
    """

    def __init__(self, length: int, *, size: int, shard: tuple[int, int] = (0, 1)) -> None:
        self.length, self.size = length, size
        self._starts = range(shard[0] * size, length, shard[1] * size)

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[list[int]]:
        for start in self._starts:
            yield list(range(start, min(start + self.size, self.length)))


def _get_own_share(count: int, what: str, setting: str) -> tuple[int, int]:
    """Return the start and end of this process's part of a batch of ``count``."""
    if count % get_world_size():
        raise InputError(
            f"a batch of {count} {what} does not divide among {get_world_size()} processes; "
            f"set {setting} to a multiple of {get_world_size()}"
        )
    share = count // get_world_size()
    return get_rank() * share, (get_rank() + 1) * share


def split_within_identities(labels: Sequence[int], *, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Return two disjoint sets of indices: about ``share`` of each identity's images, and the rest.

    An identity of two or more images is in both sets, a single image in the first. Indices are sorted.
    """
    random = np.random.default_rng(mix_seed(seed, 1))
    first: list[int] = []
    second: list[int] = []
    for _, images in sorted(_group_by_label(labels).items()):
        shuffled = random.permutation(images).tolist()
        cut = min(max(1, round(share * len(images))), max(1, len(images) - 1))
        first += shuffled[:cut]
        second += shuffled[cut:]
    return sorted(first), sorted(second)


def split_identities(labels: Sequence[int], *, share: float, overlap: float, seed: int) -> tuple[list[int], list[int]]:
    """Return two disjoint sets of indices; a share ``overlap`` of the identities is in both.

    Those identities are split by ``split_within_identities``. Of the others about ``share`` are only in the first set,
    the rest only in the second. Indices are sorted.
    """
    if overlap == 1:
        return split_within_identities(labels, share=share, seed=seed)
    by_label = _group_by_label(labels)
    identities = np.random.default_rng(mix_seed(seed, 3)).permutation(sorted(by_label)).tolist()
    both = round(overlap * len(identities))
    cut = both + min(max(1, round(share * (len(identities) - both))), max(1, len(identities) - both - 1))
    shared = [i for identity in identities[:both] for i in by_label[identity]]
    first, second = split_within_identities([labels[i] for i in shared], share=share, seed=seed)
    return (
        sorted([shared[i] for i in first] + [i for identity in identities[both:cut] for i in by_label[identity]]),
        sorted([shared[i] for i in second] + [i for identity in identities[cut:] for i in by_label[identity]]),
    )


def _group_by_label(labels: Sequence[int]) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        groups[int(label)].append(index)
    return groups


def _count_batches(groups: list[int], identities: int) -> int:
    counts = np.asarray(groups)
    batches = int(counts.sum()) // identities
    while int(np.minimum(counts, batches).sum()) < identities * batches:
        batches -= 1
    return batches


def hold_out_identities(
    labels: Sequence[int], *, share: float, seed: int, setting: str = "retrain.validation"
) -> tuple[list[int], list[int]]:
    """Return indices of images to train on, and of about ``share`` of the identities, which are held out.

    At least two identities are held out where ``share`` is above 0.
    """
    identities = sorted(set(labels))
    if not share:
        return list(range(len(labels))), []
    count = max(2, round(share * len(identities)))
    if count > len(identities) - 2:
        most = (len(identities) - 2) / max(1, len(identities))
        enough = most * len(identities) >= 2
        advice = f"lower {setting} to {int(100 * most) / 100:g}" if enough else _advise_without(setting)
        raise InputError(
            f"holding out {count} of {len(identities)} identities leaves too few, expected at least two on each side; "
            f"{advice}"
        )
    held = set(np.random.default_rng(mix_seed(seed, 2)).permutation(identities)[:count].tolist())
    return [i for i, p in enumerate(labels) if p not in held], [i for i, p in enumerate(labels) if p in held]


def find_first_of_each_view(identities: np.ndarray, views: np.ndarray) -> np.ndarray:
    """Return sorted indices of the first image of every (identity, view), of identities with two views or more."""
    pairs, first = np.unique(np.stack([identities, views]), axis=1, return_index=True)
    identity, count = np.unique(pairs[0], return_counts=True)
    return np.sort(first[np.isin(pairs[0], identity[count > 1])])


def require_queries(
    identities: np.ndarray, cameras: np.ndarray, held: Sequence[int], *, camera_filter: bool, setting: str
) -> None:
    """Raise ``InputError`` that names the cause where no identity held out has two views.

    Args:
        identities: (N,) of all training images, as ``cameras``.
        held: indices of the images held out.
        camera_filter: a view is a camera; without the filter, an image.
        setting: turns the validation on; named in errors.
    """
    views = cameras if camera_filter else np.arange(len(identities))
    if len(find_first_of_each_view(identities[held], views[held])):
        return
    lacks = "is seen by two cameras" if camera_filter else "has two images"
    able = len(np.unique(identities[find_first_of_each_view(identities, views)]))
    total, out = len(np.unique(identities)), len(np.unique(identities[held]))
    unfiltered = "evaluate.protocol=no_camera_filter"
    if able:
        more = f" or set {unfiltered}" if camera_filter else ""
        raise InputError(
            f"none of the {out} identities held out {lacks}, but {able} of {total} do; raise {setting}{more}"
        )
    if total == len(identities):
        raise InputError(
            f"each of the {total} identities to train on has a single image, so none held out has a match; "
            f"{_advise_without(setting)}, or add images"
        )
    count = len(np.unique(cameras))
    seen = "all come from one camera" if count == 1 else f"come from {count} cameras"
    raise InputError(
        f"none of the {total} identities to train on {lacks} (their images {seen}), so none held out has a match "
        f"across cameras; set {unfiltered}"
    )


def _advise_without(setting: str) -> str:
    overrides = {
        "retrain.validation": "retrain.validation=0",
        "search.validation": "search.validation=0, search.derivation=strongest and search.choose=last",
        "search.trials.validation": "search.strategy=bilevel",
    }
    return f"set {overrides[setting]} to train without validation"
