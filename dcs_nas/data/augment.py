"""Augmentation of whole batches on their device (kornia). Images (B, 3, H, W), uint8 in, normalised float out."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from kornia import augmentation
from kornia.augmentation.auto import AutoAugment, RandAugment
from kornia.color import rgb_to_grayscale
from torch import Tensor, nn

from dcs_nas.config import AugmentConfig, Config

_LEAST_AREA, _GRAY_AREA, _ASPECT = 0.02, 0.4, (0.3, 3.33)


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
    """Flip, pad and crop, translation, a policy, colour jitter, local grayscale, normalisation, random erasing.

    Each image by its own draw, from torch's global generator. Translation: resized to 9/8 of height and width, then
    cropped at random to its size (RGA's code, torchreid's ``Random2DTranslation``). Random erasing (arXiv 1708.04896:
    2 to 40 % of the area, aspect 0.3 to 3.33; timm and torchvision: to a third) comes after normalisation and fills
    with 0, which is the normalised mean, or with normal noise, pixel by pixel (timm). Local grayscale (Gong et al.,
    arXiv 2101.08783) takes the colours from a rectangle of 2 to 40 % of the area, which is ours: its erasing's.
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
        area = (_LEAST_AREA, settings.erase_area)
        erase = augmentation.RandomErasing(area, _ASPECT, value=0.0, p=settings.erase)
        self.erase = erase if settings.erase else None
        self.crop = augmentation.RandomCrop((height, width), padding=settings.pad) if settings.pad else None
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
        for step in (self.mirror, self.crop):
            x = step(x) if step is not None else x
        x = self._translated(x) if self.translate else x
        x = self._by_policy(x) if self.policy is not None else x
        x = self.jitter(x) if self.jitter is not None else x
        x = self._gray_in_places(x) if self.gray is not None else x
        x = self.normalize(x * 255)
        x = self._erased(x) if self.erase is not None else x
        return x.contiguous(memory_format=torch.channels_last)

    def _translated(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        larger = F.interpolate(x, size=(round(height * 9 / 8), round(width * 9 / 8)), mode="bilinear")
        cropped = augmentation.RandomCrop((height, width))(larger)
        chosen = torch.rand(len(x), device=x.device) < self.translate
        return torch.where(chosen[:, None, None, None], cropped, x)

    def _by_policy(self, x: Tensor) -> Tensor:
        """Apply the policy to some images, one by one: for a batch it would draw its operations once."""
        assert self.policy is not None
        chosen = (torch.rand(len(x)) < self.policy_share).tolist()
        return torch.cat([self.policy(image).clamp(0, 1) if use else image for image, use in zip(x.split(1), chosen)])

    def _gray_in_places(self, x: Tensor) -> Tensor:
        assert self.gray is not None
        colored = self.gray(torch.ones_like(x[:, :1]))
        return torch.where(colored == 0, rgb_to_grayscale(x), x)

    def _erased(self, x: Tensor) -> Tensor:
        assert self.erase is not None
        if not self.noise:
            return self.erase(x)
        left = self.erase(torch.ones_like(x[:, :1]))
        return torch.where(left == 0, torch.randn_like(x), x)


def build_augment(config: Config) -> Augment:
    """Return the augmentation of a job, at its image size and with its mean and deviation."""
    data = config.data
    return Augment(config.augment, height=data.height, width=data.width, mean=data.mean, std=data.std)
