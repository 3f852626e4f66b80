"""Augmentation of batches."""

from __future__ import annotations

import torch

from dcs_nas.config import AugmentConfig
from dcs_nas.data.augment import Augment, Normalize

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
OFF = {"flip": 0.0, "pad": 0, "erase": 0.0}


def _augment(**settings: float) -> Augment:
    return Augment(AugmentConfig(**{**OFF, **settings}), height=16, width=8, mean=MEAN, std=STD)


def _images(n: int = 8) -> torch.Tensor:
    return torch.randint(0, 256, (n, 16, 8, 3), dtype=torch.uint8).permute(0, 3, 1, 2)


def test_normalisation_follows_the_formula() -> None:
    images = _images()
    expected = (images.double() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(Normalize(MEAN, STD)(images), expected.float())
    torch.testing.assert_close(_augment()(images), expected.float())


def test_flip_mirrors_every_image() -> None:
    images = _images()
    torch.testing.assert_close(_augment(flip=1.0)(images), Normalize(MEAN, STD)(images.flip(3)))


def test_erasing_fills_with_the_normalised_mean() -> None:
    images = _images(32)
    plain, erased = Normalize(MEAN, STD)(images), _augment(erase=1.0)(images)
    changed = (plain != erased).any(1)
    assert (erased.permute(0, 2, 3, 1)[changed] == 0).all()
    share = changed.flatten(1).float().mean(1)
    assert ((share > 0.005) & (share < 0.45)).all()


def test_pad_and_crop_shifts_by_at_most_the_pad() -> None:
    images = torch.full((64, 3, 16, 8), 255, dtype=torch.uint8)
    cropped = _augment(pad=2)(images)
    black = (cropped < 0).all(1)
    assert black.any(2).sum(1).max() == 16  # a black column beside some
    assert black.all(2).sum(1).max() <= 2
    assert black.all(1).sum(1).max() <= 2


def test_the_same_seed_draws_the_same_and_another_differs() -> None:
    augment, images = _augment(flip=0.5, pad=2, erase=0.5, color_jitter=1.0), _images()

    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return augment(images)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert draw(1).is_contiguous(memory_format=torch.channels_last)
