"""What turns a backbone's output into a feature and class scores. B images, D features, A people."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from dcs_nas.models.dry_run import dry_run


class Embedding(NamedTuple):
    """What the losses read: ``features`` (B, D) of all branches side by side, ``logits`` (B, A) of each branch."""

    features: Tensor
    logits: list[Tensor]


class BNNeckHead(nn.Module):
    """Batch norm between metric losses and the classifier (Luo et al., arXiv 1903.07071, "BNNeck").

    (B, D) to the normed features (B, D). The batch norm has no shift and the classifier no bias, so that both live
    around the origin.
    """

    def __init__(self, features: int, people: int) -> None:
        super().__init__()
        self.neck = nn.BatchNorm1d(features)
        self.neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(features, people, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, features: Tensor) -> Tensor:
        return self.neck(features)


class ReidNetwork(nn.Module):
    """A backbone and one head for each vector that it gives, for images (B, 3, height, width).

    Training: an ``Embedding`` with the features before the heads' batch norm. Evaluation: features (B, D) after it;
    those of several branches are scaled to length 1 each.
    """

    def __init__(self, backbone: nn.Module, people: int, *, height: int, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.uses_cameras: bool = getattr(backbone, "uses_cameras", False)
        self.widths = _widths(backbone, height, width)
        self.heads = nn.ModuleList(BNNeckHead(width, people) for width in self.widths)

    @property
    def num_features(self) -> int:
        """D: the widths of all branches together."""
        return sum(self.widths)

    def forward(self, images: Tensor, cameras: Tensor | None = None) -> Tensor | Embedding:
        vectors = pool(self.backbone(images, cameras) if self.uses_cameras else self.backbone(images))
        normed = [head(vector) for head, vector in zip(self.heads, vectors)]
        if self.training:
            logits = [cast(BNNeckHead, head).classifier(x) for head, x in zip(self.heads, normed)]
            return Embedding(torch.cat(vectors, dim=1), logits)
        return normed[0] if len(normed) == 1 else torch.cat([nn.functional.normalize(x) for x in normed], dim=1)


def _widths(backbone: nn.Module, height: int, width: int) -> list[int]:
    """The width of every vector that the backbone gives; how many there are only ``vectors`` have to be asked."""
    if getattr(backbone, "kind", "map") != "vectors":
        return [int(backbone.num_features)]  # type: ignore[arg-type]
    return [vector.shape[1] for vector in pool(dry_run(backbone, height, width))]


def pool(output: Tensor | tuple[Tensor, ...] | list[Tensor]) -> list[Tensor]:
    """A backbone's output as vectors: maps (B, D, h, w) are averaged over their places, vectors stay."""
    outputs = output if isinstance(output, (tuple, list)) else [output]
    return [x.mean(dim=(2, 3)) if x.ndim == 4 else x for x in outputs]
