"""Augmentation of whole batches on their device (kornia). Images (B, 3, H, W), uint8 in, normalised float out."""

from __future__ import annotations

import torch
from kornia import augmentation
from torch import Tensor, nn

from dcs_nas.config import AugmentConfig, Config


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


class Augment(nn.Module):
    """Flip, pad and crop, colour jitter, normalisation, random erasing, each image by its own draw.

    Random erasing (arXiv 1708.04896: 2 to 40 % of the area, aspect 0.3 to 3.33) comes after normalisation and fills
    with 0, which is the normalised mean. The draws come from torch's global generator.
    """

    def __init__(
        self,
        settings: AugmentConfig,
        *,
        height: int,
        width: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        jitter = augmentation.ColorJiggle(0.2, 0.15, 0.15, 0.05, p=settings.color_jitter)
        self.jitter = jitter if settings.color_jitter else None
        self.normalize = Normalize(mean, std)
        erase = augmentation.RandomErasing((0.02, 0.4), (0.3, 3.33), value=0.0, p=settings.erase)
        self.erase = erase if settings.erase else None
        self.crop = augmentation.RandomCrop((height, width), padding=settings.pad) if settings.pad else None
        self.mirror = augmentation.RandomHorizontalFlip(p=settings.flip) if settings.flip else None

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        x = images.float() / 255
        for step in (self.mirror, self.crop, self.jitter):
            x = step(x) if step is not None else x
        x = self.normalize(x * 255)
        x = self.erase(x) if self.erase is not None else x
        return x.contiguous(memory_format=torch.channels_last)


def build_augment(config: Config) -> Augment:
    """Return the augmentation of a job, at its image size and with its mean and deviation."""
    data = config.data
    return Augment(config.augment, height=data.height, width=data.width, mean=data.mean, std=data.std)
