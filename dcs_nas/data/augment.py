"""Augmentation of whole batches on their device (kornia). Images (B, 3, H, W), uint8 in, normalised float out."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from kornia import augmentation
from kornia.augmentation.auto import AutoAugment, RandAugment
from kornia.color import rgb_to_grayscale
from kornia.geometry.transform import rotate
from torch import Tensor, nn

from dcs_nas.config import AugmentConfig, Config

_LEAST_AREA, _GRAY_AREA, _ASPECT = 0.02, 0.4, (0.3, 3.33)
_CROP_ASPECT = (3 / 4, 4 / 3)
_TRIES = 100


class Normalize(nn.Module):
    """uint8 images to float32 of zero mean and unit deviation: (x / 255 - mean) / std per channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("scale", 1 / (255 * torch.tensor(std)).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", (torch.tensor(mean) / torch.tensor(std)).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return images.float() * self.scale - self.shift


_POLICIES: dict[str, Callable[[int], nn.Module | None]] = {
    "none": lambda _: None,
    "randaugment": lambda magnitude: RandAugment(n=2, m=magnitude),
    "autoaugment": lambda _: AutoAugment("imagenet"),
}


class Augment(nn.Module):
    """Flip, crops, translation, random patches, a policy, colour jitter, local grayscale, normalisation, erasing.

    Each image has its own draw, from torch's global generator. A resized crop has ``resized_crop`` to all of the area
    and an aspect of 3/4 to 4/3 (torchvision's ``RandomResizedCrop``). Translation: resized to 9/8 of height and width,
    then cropped at random to its size (RGA's code, torchreid's ``Random2DTranslation``). Erasing (arXiv 1708.04896:
    2 to 40 % of the area, aspect 0.3 to 3.33; timm and torchvision: to a third) comes after normalisation and fills
    with 0, which is the normalised mean, or with normal noise, pixel by pixel (timm). Local grayscale (Gong et al.,
    arXiv 2101.08783) removes the colours from a rectangle of 2 to 40 % of the area; the range is ours.
    """

    def __init__(
        self, settings: AugmentConfig, *, height: int, width: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        jitter = augmentation.ColorJiggle(0.2, 0.15, 0.15, 0.05, p=settings.color_jitter)
        self.jitter = jitter if settings.color_jitter else None
        self.normalize = Normalize(mean, std)
        area = (_LEAST_AREA, settings.erase_area)
        erase = augmentation.RandomErasing(area, _ASPECT, value=0.0, p=settings.erase)
        self.erase = erase if settings.erase else None
        self.crop = augmentation.RandomCrop((height, width), padding=settings.pad) if settings.pad else None
        scale = (settings.resized_crop, 1.0)
        zoom = augmentation.RandomResizedCrop((height, width), scale=scale, ratio=_CROP_ASPECT)
        self.zoom = zoom if settings.resized_crop else None
        self.patch = RandomPatch(settings.random_patch) if settings.random_patch else None
        self.translate, self.noise = settings.translate, settings.erase_fill == "noise"
        self.policy = _POLICIES[settings.policy](settings.policy_magnitude)
        if self.policy is not None:
            self.policy.requires_grad_(False)  # kornia's probabilities and magnitudes are parameters
        self.policy_share = settings.policy_probability
        area = (_LEAST_AREA, _GRAY_AREA)
        gray = augmentation.RandomErasing(area, _ASPECT, value=0.0, p=settings.local_gray)
        self.gray = gray if settings.local_gray else None
        self.mirror = augmentation.RandomHorizontalFlip(p=settings.flip) if settings.flip else None

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        x = images.float() / 255
        for step in (self.mirror, self.zoom, self.crop, self._translate_images, self.patch, self._apply_policy):
            x = step(x) if step is not None else x
        x = self._gray_rectangles(self.jitter(x) if self.jitter is not None else x)
        return self._erase_images(self.normalize(x * 255)).contiguous(memory_format=torch.channels_last)

    def _translate_images(self, x: Tensor) -> Tensor:
        if not self.translate:
            return x
        height, width = x.shape[2:]
        larger = F.interpolate(x, size=(round(height * 9 / 8), round(width * 9 / 8)), mode="bilinear")
        cropped = augmentation.RandomCrop((height, width))(larger)
        chosen = torch.rand(len(x), device=x.device) < self.translate
        return torch.where(chosen[:, None, None, None], cropped, x)

    def _apply_policy(self, x: Tensor) -> Tensor:
        """Apply the policy to some images one by one, since it draws its operations once per call."""
        if self.policy is None:
            return x
        chosen = (torch.rand(len(x)) < self.policy_share).tolist()
        return torch.cat([self.policy(image).clamp(0, 1) if use else image for image, use in zip(x.split(1), chosen)])

    def _gray_rectangles(self, x: Tensor) -> Tensor:
        if self.gray is None:
            return x
        colored = self.gray(torch.ones_like(x[:, :1]))
        return torch.where(colored == 0, rgb_to_grayscale(x), x)

    def _erase_images(self, x: Tensor) -> Tensor:
        if self.erase is None:
            return x
        if not self.noise:
            return self.erase(x)
        left = self.erase(torch.ones_like(x[:, :1]))
        return torch.where(left == 0, torch.randn_like(x), x)


class RandomPatch(nn.Module):
    """Paste a patch of one image of a batch (B, 3, H, W) into another with ``probability``.

    A patch has 1 to 50 % of the area and an aspect of 0.1 to 10, and is smaller than the image in height and width; it
    is mirrored with probability 1/2, turned by -10 to 10 whole degrees, black beyond its corners, with probability 1/2,
    and pasted at a random place. Source: torchreid, data/transforms.py at f8cd150, ``RandomPatch`` (Zhou et al., ICCV
    2019 and TPAMI 2021), whose pool is the last 50,000 patches that a worker has seen. Here the pool is one patch of
    each image of the batch, before any is pasted, so that a step depends only on its seed and its images.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        pasted = x.clone()
        for i in (torch.rand(len(x)) < self.probability).nonzero().flatten().tolist():
            size = _draw_patch_size(height, width)
            if size is None:
                continue
            rows, columns = size
            source = int(torch.randint(len(x), ()))
            top, left = _draw_place(height - rows), _draw_place(width - columns)
            patch = x[source : source + 1, :, top : top + rows, left : left + columns]
            mirrored, turned, angle = torch.rand(3).tolist()
            if mirrored < 0.5:
                patch = patch.flip(3)
            if turned < 0.5:
                patch = rotate(patch, torch.full((1,), float(math.floor(21 * angle) - 10), device=x.device))
            top, left = _draw_place(height - rows), _draw_place(width - columns)
            pasted[i, :, top : top + rows, left : left + columns] = patch[0]
        return pasted


def _draw_patch_size(height: int, width: int) -> tuple[int, int] | None:
    """Draw the rows and columns of a patch, at least 1 and fewer than the image's; None after 100 failed draws."""
    for _ in range(_TRIES):
        area, aspect = torch.rand(2).tolist()
        area, aspect = (0.01 + 0.49 * area) * height * width, 0.1 + 9.9 * aspect
        rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < rows < height and 0 < columns < width:
            return rows, columns
    return None


def _draw_place(room: int) -> int:
    return int(torch.randint(room + 1, ()))


def build_augment(config: Config) -> Augment:
    """Return the augmentation of a job, at its image size and with its mean and deviation."""
    data = config.data
    return Augment(config.augment, height=data.height, width=data.width, mean=data.mean, std=data.std)
