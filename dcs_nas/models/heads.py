"""Heads that turn a backbone's output into a feature and class scores. B images, D features, A identities."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.config import HeadConfig
from dcs_nas.errors import InputError, choices, require_one_each
from dcs_nas.models.flops import dry_run
from dcs_nas.models.pooling import POOLS, StripePool
from dcs_nas.models.weights import WeightsReport


class Embedding(NamedTuple):
    """The input of the losses: ``features`` (B, D) of all branches side by side, ``logits`` (B, A) of each branch.

    ``logits`` is None for identities without a classifier. ``stem`` (B, S, h, w): see ``ReidNetwork.expose_stem``.
    """

    features: Tensor
    logits: list[Tensor] | None
    stem: Tensor | None = None


class ReidHead(nn.Module):
    """Pooling, batch norm between metric losses and classifier ("BNNeck", Luo et al., arXiv 1903.07071), classifier.

    (B, D) to the normed features (B, D). The batch norm has no shift and the linear classifier no bias, so that both
    are centred at the origin. A square matrix before the batch norm is MSINet's. ``retrain.head`` chooses the parts.
    """

    def __init__(self, features: int, identities: int, settings: HeadConfig) -> None:
        super().__init__()
        self.pool: nn.Module = POOLS[settings.pool]()
        self.square = nn.Linear(features, features, bias=False) if settings.square else nn.Identity()
        self.neck = nn.BatchNorm1d(features) if settings.neck else nn.Identity()
        if isinstance(self.neck, nn.BatchNorm1d):
            self.neck.bias.requires_grad_(False)
        linear = CosineClassifier if settings.margin_softmax else nn.Linear
        self.classifier = linear(features, identities, bias=settings.classifier == "biased")
        nn.init.normal_(self.classifier.weight, std=0.001 if self.classifier.bias is None else 0.01)
        if self.classifier.bias is not None:  # as in vimar-gu/MSINet and torchreid's OSNet
            nn.init.zeros_(self.classifier.bias)
        if isinstance(self.square, nn.Linear):
            nn.init.normal_(self.square.weight, std=0.01)  # as in vimar-gu/MSINet

    def forward(self, features: Tensor) -> Tensor:
        return self.neck(self.square(features))


class PartsHead(ReidHead):
    """The head of the stripes of a map (B, ``channels``, h, w), see ``StripePool``."""

    def __init__(self, channels: int, identities: int, settings: HeadConfig) -> None:
        super().__init__(settings.parts * settings.parts_channels, identities, settings)
        self.pool = StripePool(channels, settings.parts_channels, stripes=settings.parts, pool=settings.pool)


class CosineClassifier(nn.Linear):
    """Features (B, D) to their cosines with the weights of A identities (B, A), in float32 under autocast."""

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(F.normalize(features.to(self.weight.dtype)), F.normalize(self.weight))


class ReidNetwork(nn.Module):
    """A backbone, a head for each of its vectors, and a head for stripes; for images (B, 3, height, width).

    Training: an ``Embedding`` with the features before the heads' batch norm, or after it (``head.loss_features``).
    Evaluation: features (B, D) after it, or before it where ``test_neck`` is ``before``; those of several branches are
    scaled to length 1 each, or weighed by ``head.test_weights``. ``weights_report`` lists the loaded weights.
    ``unread`` holds the numbers of branches whose scores no loss reads: no gradient reaches what only they need.

    Raises:
        InputError: a pooling for a backbone that returns vectors; stripes where there is no map, or one of fewer rows;
            a number of test weights other than that of vectors.
    """

    def __init__(
        self, backbone: nn.Module, identities: int, *, height: int, width: int, head: HeadConfig | None = None
    ) -> None:
        super().__init__()
        self.head_settings = head = head or HeadConfig()
        if head.pool != "avg" and getattr(backbone, "kind", "map") != "map":
            raise InputError(
                f"retrain.head.pool is '{head.pool}', but {type(backbone).__name__} returns vectors, not a map; "
                "leave it out"
            )
        self.test_neck: Literal["after", "before"] = "after"
        self.weights_report: WeightsReport | None = None
        self.backbone = backbone
        self.cameras: int = getattr(backbone, "cameras", 0)
        self.widths = _measure_widths(backbone, height, width)
        self.heads = nn.ModuleList(ReidHead(width, identities, head) for width in self.widths)
        self._image_size = (height, width)
        if head.parts:
            self.heads.append(PartsHead(self._require_stripes(), identities, head))
            self.widths.append(head.parts * head.parts_channels)
        require_one_each(head.test_weights, len(self.widths), setting="retrain.head.test_weights")
        self._stem_grid: tuple[int, int] | None = None
        self.unread: frozenset[int] = frozenset()

    @property
    def num_features(self) -> int:
        """D: the widths of all branches together."""
        return sum(self.widths)

    @property
    def test_features(self) -> int:
        """The width of the features in evaluation: D without the branches of test weight 0."""
        weights = self.head_settings.test_weights or [1.0] * len(self.widths)
        return sum(width for width, weight in zip(self.widths, weights) if weight)

    def expose_stem(self, grid: tuple[int, int]) -> int:
        """Add the stem's output, averaged to a grid of (h, w) cells, to embeddings; return its channels S.

        No gradient flows through it: it stands for the input, with which the losses compare the features.

        Raises:
            InputError: a backbone without a stem, see ``find_stem``.
        """
        with record_outputs(find_stem(self.backbone)) as seen:
            dry_run(self.backbone, *self._image_size)
        if not seen or seen[0].ndim != 4:
            raise InputError(
                f"the stem of {type(self.backbone).__name__} returns no map (B, S, H, W); set loss.ib_input to image"
            )
        self._stem_grid = grid
        return seen[0].shape[1]

    def forward(self, images: Tensor, cameras: Tensor | None = None) -> Tensor | Embedding:
        if self.training:
            return self.embed(images, cameras)
        vectors, _ = self._vectors(images, cameras)
        if self.test_neck == "after":
            vectors = [head(vector) for head, vector in zip(self.heads, vectors)]
        weights = self.head_settings.test_weights
        if weights is not None:
            return torch.cat([weight * vector for weight, vector in zip(weights, vectors) if weight], dim=1)
        return vectors[0] if len(vectors) == 1 else torch.cat([F.normalize(x) for x in vectors], dim=1)

    def embed(self, images: Tensor, cameras: Tensor | None = None) -> Embedding:
        """Return the input of the losses, in evaluation as in training."""
        vectors, stem = self._vectors(images, cameras)
        normed = [head(vector) for head, vector in zip(self.heads, vectors)]
        logits = [cast(ReidHead, head).classifier(x) for head, x in zip(self.heads, normed)]
        logits = [x.detach() if n in self.unread else x for n, x in enumerate(logits)]
        compared = normed if self.head_settings.loss_features == "after" else vectors
        return Embedding(torch.cat(compared, dim=1), logits, stem)

    def _vectors(self, images: Tensor, cameras: Tensor | None) -> tuple[list[Tensor], Tensor | None]:
        """Return the vectors of all branches, and the stem's output on its grid if exposed."""
        if self._stem_grid is None:
            return self._pool(self._outputs(images, cameras)), None
        with record_outputs(find_stem(self.backbone)) as seen:
            vectors = self._pool(self._outputs(images, cameras))
        return vectors, F.adaptive_avg_pool2d(seen[0].detach(), self._stem_grid)

    def _outputs(self, images: Tensor, cameras: Tensor | None) -> list[Tensor]:
        """Return the input of each head: the backbone's outputs, then the map of the stripes."""
        parts_from = self.head_settings.parts_from if self.head_settings.parts else None
        if parts_from is not None:
            with record_outputs(_get_last(self.backbone.get_submodule(parts_from))) as seen:
                return [*_as_list(self._features(images, cameras)), self._as_map(seen[-1])]
        outputs = _as_list(self._features(images, cameras))
        return [*outputs, outputs[0]] if self.head_settings.parts else outputs

    def _pool(self, outputs: list[Tensor]) -> list[Tensor]:
        return [cast(ReidHead, head).pool(x) if x.ndim == 4 else x for head, x in zip(self.heads, outputs)]

    def _require_stripes(self) -> int:
        """Return the channels of the map that is cut into stripes.

        Raises:
            InputError: no map, an unknown submodule, or fewer rows than stripes.
        """
        parts, path = self.head_settings.parts, self.head_settings.parts_from
        name, modules = type(self.backbone).__name__, dict(self.backbone.named_modules())
        if path is not None and path not in modules:
            known = [known for known in modules if known.count(".") <= path.count(".") and known]
            raise InputError(f"retrain.head.parts_from is '{path}', no part of {name}; {choices(path, known)}")
        with record_outputs(_get_last(modules[path or ""])) as seen:
            dry_run(self.backbone, *self._image_size)
        output = self._as_map(seen[-1]) if seen else None
        where = f"the output of {path or name}"
        if not isinstance(output, Tensor) or output.ndim != 4:
            raise InputError(
                f"retrain.head.parts is {parts}, but {where} is no map (B, C, h, w) to cut into stripes; leave it out, "
                "or name a part of the network that returns one in retrain.head.parts_from, such as the blocks of a ViT"
            )
        if output.shape[2] < parts:
            raise InputError(
                f"retrain.head.parts is {parts}, but {where} has {output.shape[2]} rows for images of "
                f"{self._image_size[0]} x {self._image_size[1]}; lower it, or name an earlier part in "
                "retrain.head.parts_from"
            )
        return output.shape[1]

    def _as_map(self, output: Any) -> Any:
        """Return the patches of a transformer's tokens (B, N, D) as a map; another output unchanged."""
        patch_map = getattr(self.backbone, "patch_map", None)
        are_tokens = patch_map is not None and isinstance(output, Tensor) and output.ndim == 3
        return patch_map(output) if are_tokens else output  # type: ignore[misc]

    def _features(self, images: Tensor, cameras: Tensor | None) -> Any:
        return self.backbone(images, cameras) if self.cameras else self.backbone(images)


def find_stem(backbone: nn.Module) -> nn.Module:
    """Return the first layers of a network, up to the first map of features.

    The submodule that the backbone's ``stem_path`` names, else the first one called ``stem``. Raises ``InputError``
    where there is none.
    """
    modules = dict(backbone.named_modules())
    path = getattr(backbone, "stem_path", None) or next((n for n in modules if n.split(".")[-1] == "stem"), None)
    if path not in modules:
        raise InputError(
            f"{type(backbone).__name__} has no stem: no submodule '{path or 'stem'}'; set loss.ib_input to image, or "
            "name the module that ends its stem in the attribute stem_path"
        )
    return modules[path]


@contextmanager
def record_outputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """Yield a list that collects the outputs of ``module``."""
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        yield seen
    finally:
        handle.remove()


def _get_last(module: nn.Module) -> nn.Module:
    """Return the last module of a list or sequence, which some networks call one by one; another module unchanged."""
    while isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module):
        module = module[-1]
    return module


def _as_list(output: Any) -> list[Tensor]:
    return list(output) if isinstance(output, (tuple, list)) else [output]


def _measure_widths(backbone: nn.Module, height: int, width: int) -> list[int]:
    """Return the width of every vector of the backbone; a backbone of kind ``vectors`` needs a pass for that."""
    if getattr(backbone, "kind", "map") != "vectors":
        return [int(backbone.num_features)]  # type: ignore[arg-type]
    return [vector.shape[1] for vector in dry_run(backbone, height, width)]
