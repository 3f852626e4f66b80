"""P x K batches, and halves of a training set."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcs_nas.config import Config
from dcs_nas.data import samplers
from dcs_nas.data.datamodule import ReidData
from dcs_nas.data.samplers import (
    CameraBalancedSampler,
    IdentityOnceSampler,
    IdentitySampler,
    SequentialBatches,
    ShuffledBatches,
    hold_out_identities,
    split_within_identities,
)
from dcs_nas.errors import InputError

COUNTS = st.lists(st.integers(1, 20), min_size=3, max_size=12)


def _labels(counts: list[int]) -> list[int]:
    return np.repeat(np.arange(len(counts)), counts).tolist()


def _most_batches_by_trial(groups: list[int], people: int) -> int:
    """Take one group of each of the people with most left, as long as there are enough: the greedy optimum."""
    left, batches = list(groups), 0
    while True:
        order = sorted(range(len(left)), key=lambda p: -left[p])[:people]
        if left[order[-1]] == 0:
            return batches
        for p in order:
            left[p] -= 1
        batches += 1


@given(counts=COUNTS, k=st.integers(1, 5), epoch=st.integers(0, 3))
def test_every_batch_has_p_people_with_k_images_and_the_length_is_exact(counts: list[int], k: int, epoch: int) -> None:
    labels = _labels(counts)
    sampler = IdentitySampler(labels, identities_per_batch=3, images_per_identity=k, seed=7)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler) == _most_batches_by_trial([max(1, n // k) for n in counts], 3)
    for batch in batches:
        assert sorted(Counter(labels[i] for i in batch).values()) == [k] * 3


@given(counts=st.lists(st.integers(4, 20), min_size=3, max_size=12))
def test_no_image_comes_twice_in_an_epoch_where_all_have_k_images(counts: list[int]) -> None:
    sampler = IdentitySampler(_labels(counts), identities_per_batch=3, images_per_identity=4, seed=0)
    drawn = [i for batch in sampler for i in batch]
    assert len(set(drawn)) == len(drawn)


@given(counts=COUNTS, k=st.integers(1, 5))
def test_an_epoch_of_identities_shows_each_of_them_once(counts: list[int], k: int) -> None:
    labels = _labels(counts)
    sampler = IdentityOnceSampler(labels, identities_per_batch=3, images_per_identity=k, seed=7)
    drawn = [Counter(labels[i] for i in batch) for batch in sampler]
    assert len(drawn) == len(sampler) == len(counts) // 3
    assert all(sorted(batch.values()) == [k] * 3 for batch in drawn)
    assert len({person for batch in drawn for person in batch}) == 3 * len(drawn)
    assert sum(len(sampler._cut(person, np.random.default_rng(0))) for person in range(len(counts))) == len(counts)


def test_epochs_and_seeds_differ_and_repeat() -> None:
    def draw(seed: int, epoch: int) -> list[list[int]]:
        sampler = IdentitySampler(_labels([8] * 6), identities_per_batch=3, images_per_identity=2, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert draw(0, 1) == draw(0, 1)
    assert draw(0, 1) != draw(0, 2)
    assert draw(0, 1) != draw(1, 1)


def test_too_few_people_for_a_batch_are_refused() -> None:
    with pytest.raises(
        InputError, match="show 2 identities, expected at least 3 for a batch; lower data.identities_per_batch"
    ):
        IdentitySampler(_labels([5, 5]), identities_per_batch=3, images_per_identity=2, seed=0)


@given(counts=COUNTS, share=st.floats(0.2, 0.8))
def test_halves_are_disjoint_cover_everything_and_share_all_people_with_two_images(
    counts: list[int], share: float
) -> None:
    labels = _labels(counts)
    first, second = split_within_identities(labels, share=share, seed=1)
    assert sorted(first + second) == list(range(len(labels)))
    both = {labels[i] for i in first} & {labels[i] for i in second}
    assert both == {p for p, n in enumerate(counts) if n > 1}


def test_held_out_people_are_whole_and_as_many_as_asked() -> None:
    labels = _labels([3] * 20)
    kept, held = hold_out_identities(labels, share=0.2, seed=0)
    people_kept, people_held = {labels[i] for i in kept}, {labels[i] for i in held}
    assert len(people_held) == 4
    assert not people_kept & people_held
    assert len(kept) + len(held) == 60
    assert hold_out_identities(labels, share=0, seed=0) == (list(range(60)), [])


def test_holding_out_nearly_everyone_is_refused() -> None:
    with pytest.raises(InputError, match="leaves too few, expected at least two on each side"):
        hold_out_identities(_labels([2, 2, 2]), share=0.9, seed=0)


def test_sequential_batches_cover_all_in_order() -> None:
    batches = SequentialBatches(10, size=4)
    assert list(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(batches) == 3


CAMERAS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=14), min_size=3, max_size=6)


@given(cameras=CAMERAS, k=st.integers(1, 5), epoch=st.integers(0, 2))
def test_an_identity_shows_as_many_cameras_as_it_can(cameras: list[list[int]], k: int, epoch: int) -> None:
    """Of G groups of K images, a camera with n images can be in min(n, G), and K cameras in each."""
    labels, seen_by = _labels([len(own) for own in cameras]), [camera for own in cameras for camera in own]
    sampler = CameraBalancedSampler(labels, seen_by, identities_per_batch=3, images_per_identity=k, seed=7)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(IdentitySampler(labels, identities_per_batch=3, images_per_identity=k, seed=7))
    for batch in batches:
        assert sorted(Counter(labels[i] for i in batch).values()) == [k] * 3
        for person, own in enumerate(cameras):
            images = [i for i in batch if labels[i] == person]
            counts, groups = Counter(own), max(1, len(own) // k)
            if images and min(counts.values()) >= groups:
                assert len({seen_by[i] for i in images}) == min(k, len(counts))
            assert len(own) < k or len(set(images)) == len(images)


def test_all_groups_of_an_identity_together_show_its_cameras_as_often_as_they_can() -> None:
    """Six images by camera 0 and one each by 1 and 2: two groups of four, each with a second camera."""
    cameras = [0, 0, 0, 1, 2, 0, 0, 0] * 3
    sampler = CameraBalancedSampler(_labels([8] * 3), cameras, identities_per_batch=3, images_per_identity=4, seed=0)
    for batch in sampler:
        assert [sorted(cameras[i] for i in batch[n : n + 4]).count(0) for n in (0, 4, 8)] == [3, 3, 3]


@given(length=st.integers(6, 40), size=st.integers(1, 6), epoch=st.integers(0, 3))
def test_shuffled_batches_take_every_image_once_but_those_left_over(length: int, size: int, epoch: int) -> None:
    sampler = ShuffledBatches(length, size=size, seed=3)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    drawn = [i for batch in batches for i in batch]
    assert len(batches) == len(sampler) == length // size
    assert len(set(drawn)) == len(drawn) == size * len(sampler)
    assert all(0 <= i < length for i in drawn)


@pytest.mark.parametrize("kind", ["camera_balanced", "shuffle"])
def test_epochs_and_seeds_of_every_sampler_differ_and_repeat(kind: str) -> None:
    def draw(seed: int, epoch: int) -> list[list[int]]:
        sampler: CameraBalancedSampler | ShuffledBatches = ShuffledBatches(48, size=6, seed=seed)
        if kind == "camera_balanced":
            options = {"identities_per_batch": 3, "images_per_identity": 2, "seed": seed}
            sampler = CameraBalancedSampler(_labels([8] * 6), [0, 1, 1, 2] * 12, **options)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert draw(0, 1) == draw(0, 1)
    assert draw(0, 1) != draw(0, 2)
    assert draw(0, 1) != draw(1, 1)


def test_fewer_images_than_a_shuffled_batch_takes_are_refused() -> None:
    with pytest.raises(
        InputError,
        match="there are 5 training images, expected at least 6 for a batch; lower data.identities_per_batch",
    ):
        ShuffledBatches(5, size=6, seed=0)


@pytest.mark.parametrize("sampler", ["identity", "camera_balanced", "shuffle"])
def test_processes_share_each_batch_of_every_sampler(monkeypatch: pytest.MonkeyPatch, sampler: str) -> None:
    def draw() -> list[list[int]]:
        if sampler == "shuffle":
            return list(ShuffledBatches(48, size=8, seed=1))
        options: Any = {"identities_per_batch": 4, "images_per_identity": 2, "seed": 1}
        if sampler == "identity":
            return list(IdentitySampler(_labels([8] * 6), **options))
        return list(CameraBalancedSampler(_labels([8] * 6), [0, 1, 1, 2] * 12, **options))

    whole = draw()
    monkeypatch.setattr(samplers, "get_world_size", lambda: 2)
    halves = []
    for rank in range(2):
        monkeypatch.setattr(samplers, "get_rank", lambda rank=rank: rank)
        halves.append(draw())
    assert [a + b for a, b in zip(*halves)] == whole
    monkeypatch.setattr(samplers, "get_world_size", lambda: 3)
    with pytest.raises(InputError, match="does not divide among 3 processes; set data.identities_per_batch"):
        draw()


def test_the_sampler_of_the_settings_draws_the_batches(people: Path, tmp_path: Path) -> None:
    drawn = {}
    for name in ("identity", "camera_balanced", "shuffle"):
        data = {"name": "market1501", "root": people, "height": 32, "width": 16, "cache": tmp_path, "sampler": name}
        config = Config.model_validate(
            {"name": "job", "data": data | {"identities_per_batch": 4, "images_per_identity": 2}}
        )
        reid = ReidData(config)
        images = reid.train()
        drawn[name] = [batch["indices"].tolist() for batch in reid.make_identity_loader(images, stream=8)]
        cameras = images.cameras
        if name == "camera_balanced":
            assert all(cameras[a] != cameras[b] for batch in drawn[name] for a, b in zip(batch[::2], batch[1::2]))
    assert len({str(batches) for batches in drawn.values()}) == 3
