"""Augmentation of batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dcs_nas.config import AugmentConfig
from dcs_nas.data.augment import Augment, Normalize

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
OFF = {"flip": 0.0, "pad": 0, "erase": 0.0}


def _augment(**settings: Any) -> Augment:
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


def test_erasing_covers_no_more_than_its_area() -> None:
    images = _images(64)
    for area in (0.1, 0.4):
        changed = (Normalize(MEAN, STD)(images) != _augment(erase=1.0, erase_area=area)(images)).any(1)
        share = changed.flatten(1).float().mean(1)
        assert area / 2 < float(share.max()) < area + 0.1  # whole pixels of 16 x 8


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


def test_erasing_by_noise_fills_the_same_rectangles_with_a_normal_distribution() -> None:
    images = _images(64)
    plain, noisy = Normalize(MEAN, STD)(images), _augment(erase=1.0, erase_fill="noise")(images)
    changed = (plain != noisy).any(1)
    share = changed.flatten(1).float().mean(1)
    assert ((share > 0.005) & (share < 0.45)).all()
    noise = noisy.permute(0, 2, 3, 1)[changed]
    assert abs(float(noise.mean())) < 0.1
    assert abs(float(noise.std()) - 1) < 0.1
    rows, columns = changed[0].any(1).nonzero(), changed[0].any(0).nonzero()
    assert changed[0, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()


def test_translation_crops_an_enlarged_image_for_as_many_as_asked() -> None:
    images = torch.arange(16, dtype=torch.uint8).mul(10).view(1, 1, 16, 1).expand(400, 3, 16, 8)
    plain, moved = Normalize(MEAN, STD)(images), _augment(translate=0.5)(images)
    changed = (plain != moved).flatten(1).any(1)
    assert 0.4 < float(changed.float().mean()) < 0.6
    pixels = (moved[changed] + Normalize(MEAN, STD).shift) / Normalize(MEAN, STD).scale
    larger = torch.nn.functional.interpolate(images[:1].float(), size=(18, 9), mode="bilinear")
    crops = torch.stack([larger[0, :, top : top + 16, :8] for top in range(3)])
    nearest = (pixels[:, None] - crops[None]).abs().flatten(2).amax(2).min(1)
    assert float(nearest.values.max()) < 0.1
    assert nearest.indices.unique().numel() == 3


def test_local_grayscale_takes_the_colours_from_a_rectangle_alone() -> None:
    images = _images(32)
    augment = _augment(local_gray=1.0)
    pixels = (augment(images) + augment.normalize.shift) / augment.normalize.scale
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    gray = (images.float() * weights).sum(1, keepdim=True).expand(-1, 3, -1, -1)
    changed = ((pixels - images.float()).abs() > 0.01).any(1, keepdim=True)
    expected = torch.where(changed, gray, images.float())
    torch.testing.assert_close(pixels, expected, rtol=1e-3, atol=0.01)
    share = changed.flatten(1).float().mean(1)
    assert ((share > 0.005) & (share < 0.45)).all()


def test_random_patches_are_of_other_images_of_the_batch_for_as_many_as_asked() -> None:
    """Image i has the value i all over: what differs from it in an image is a patch of the image of that value."""
    images = torch.arange(200, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 16, 8)
    augment = _augment(random_patch=0.5)
    pixels = ((augment(images) + augment.normalize.shift) / augment.normalize.scale).round()
    changed = (pixels != images).any(1)
    share = changed.flatten(1).float().mean(1)
    assert 0.35 < float((share > 0).float().mean()) < 0.6
    assert 0 < float(share[share > 0].min()) < 0.1
    assert 0.2 < float(share.max()) <= 0.6
    sources: list[int] = []
    turned = 0
    for mask, image in zip(changed, pixels):
        if not mask.any():
            continue
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        assert len(rows) < 16
        assert len(columns) < 8
        values = image[0, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if len(values.unique()) > 1:
            turned += 1
            continue
        sources.append(int(values[0, 0]))
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert 10 < turned < 70, "about half of the patches are turned, and black beyond their corners"
    assert len(set(sources)) > 0.6 * len(sources)


def test_half_of_the_random_patches_are_mirrored() -> None:
    """Each image rises from column to column, so that a patch tells its direction."""
    images = torch.arange(8, dtype=torch.uint8).mul(30).expand(300, 3, 16, 8)
    augment = _augment(random_patch=1.0)
    pixels = ((augment(images) + augment.normalize.shift) / augment.normalize.scale).round()
    mirrored = sum(bool((image.diff(dim=1) == -30).sum() > 2) for image in pixels[:, 0])
    assert 75 < mirrored < 210


def test_a_resized_crop_shows_a_part_of_the_image_of_at_least_the_area_asked_for() -> None:
    """Ramps by rows and by columns: the range of values is the crop's share of the height and width."""
    ramp = torch.arange(16, dtype=torch.uint8).mul(15)
    images = torch.stack([ramp.view(16, 1).expand(16, 8), ramp[:8].expand(16, 8), ramp[:8].expand(16, 8)])
    augment = _augment(resized_crop=0.25)
    drawn = augment(images.expand(200, -1, -1, -1))
    pixels = (drawn + augment.normalize.shift) / augment.normalize.scale
    height = (pixels[:, 0].amax((1, 2)) - pixels[:, 0].amin((1, 2))) / 15 + 1
    width = (pixels[:, 1].amax((1, 2)) - pixels[:, 1].amin((1, 2))) / 15 + 1
    area = height * width / 128
    assert 0.15 < float(area.min()) < 0.5
    assert float(area.max()) <= 1.001
    assert len(area.round(decimals=2).unique()) > 10
    assert drawn.shape == (200, 3, 16, 8)


@pytest.mark.parametrize("policy", ["randaugment", "autoaugment"])
def test_a_policy_changes_the_share_of_images_asked_for_each_by_its_own_draw(policy: str) -> None:
    images = _images(1).expand(200, -1, -1, -1)
    plain = _augment()(images)

    def changed(probability: float) -> torch.Tensor:
        drawn = _augment(policy=policy, policy_probability=probability)(images)
        assert torch.isfinite(drawn).all()
        return drawn[(plain - drawn).abs().flatten(1).amax(1) > 1e-4]

    half, whole = changed(0.5), changed(1.0)
    assert 0.3 < len(half) / len(whole) < 0.7
    assert len(whole) > 60
    assert len({tuple(image.flatten().tolist()) for image in whole}) > 20


def test_the_magnitude_of_randaugment_is_its_strength() -> None:
    images = _images(1).expand(60, -1, -1, -1)

    def change(magnitude: int) -> float:
        torch.manual_seed(0)
        changed = _augment(policy="randaugment", policy_probability=1.0, policy_magnitude=magnitude)(images)
        return float((changed - _augment()(images)).abs().mean())

    assert change(2) != change(28)


@pytest.mark.parametrize(
    "settings",
    [
        {"erase": 0.5, "erase_fill": "noise"},
        {"translate": 0.5},
        {"local_gray": 0.5},
        {"random_patch": 0.5},
        {"resized_crop": 0.3},
        {"policy": "randaugment", "policy_probability": 0.5},
        {"policy": "autoaugment", "policy_probability": 0.5},
    ],
)
def test_every_augmentation_draws_from_the_seed_and_keeps_nothing_to_learn(settings: dict[str, Any]) -> None:
    augment, images = _augment(**settings), _images(16)

    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return augment(images)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert not any(parameter.requires_grad for parameter in augment.parameters())
