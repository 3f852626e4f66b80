"""P x K batches, and halves of a training set."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcs_nas.data.samplers import IdentitySampler, SequentialBatches, hold_out_people, split_within_people
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
    sampler = IdentitySampler(labels, people_per_batch=3, images_per_person=k, seed=7)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler) == _most_batches_by_trial([max(1, n // k) for n in counts], 3)
    for batch in batches:
        assert sorted(Counter(labels[i] for i in batch).values()) == [k] * 3


@given(counts=st.lists(st.integers(4, 20), min_size=3, max_size=12))
def test_no_image_comes_twice_in_an_epoch_where_all_have_k_images(counts: list[int]) -> None:
    sampler = IdentitySampler(_labels(counts), people_per_batch=3, images_per_person=4, seed=0)
    drawn = [i for batch in sampler for i in batch]
    assert len(set(drawn)) == len(drawn)


def test_epochs_and_seeds_differ_and_repeat() -> None:
    def draw(seed: int, epoch: int) -> list[list[int]]:
        sampler = IdentitySampler(_labels([8] * 6), people_per_batch=3, images_per_person=2, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert draw(0, 1) == draw(0, 1)
    assert draw(0, 1) != draw(0, 2)
    assert draw(0, 1) != draw(1, 1)


def test_too_few_people_for_a_batch_are_refused() -> None:
    with pytest.raises(InputError, match="show 2 people, a batch takes 3; lower data.people_per_batch"):
        IdentitySampler(_labels([5, 5]), people_per_batch=3, images_per_person=2, seed=0)


@given(counts=COUNTS, share=st.floats(0.2, 0.8))
def test_halves_are_disjoint_cover_everything_and_share_all_people_with_two_images(
    counts: list[int], share: float
) -> None:
    labels = _labels(counts)
    first, second = split_within_people(labels, share=share, seed=1)
    assert sorted(first + second) == list(range(len(labels)))
    both = {labels[i] for i in first} & {labels[i] for i in second}
    assert both == {p for p, n in enumerate(counts) if n > 1}


def test_held_out_people_are_whole_and_as_many_as_asked() -> None:
    labels = _labels([3] * 20)
    kept, held = hold_out_people(labels, share=0.2, seed=0)
    people_kept, people_held = {labels[i] for i in kept}, {labels[i] for i in held}
    assert len(people_held) == 4
    assert not people_kept & people_held
    assert len(kept) + len(held) == 60
    assert hold_out_people(labels, share=0, seed=0) == (list(range(60)), [])


def test_holding_out_nearly_everyone_is_refused() -> None:
    with pytest.raises(InputError, match="leaves too few to train on"):
        hold_out_people(_labels([2, 2, 2]), share=0.9, seed=0)


def test_sequential_batches_cover_all_in_order() -> None:
    batches = SequentialBatches(10, size=4)
    assert list(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(batches) == 3
