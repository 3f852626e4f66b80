"""The kind of network of a weights file, by its names, and the registered backbones that it fits."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dcs_nas.errors import InputError
from dcs_nas.models.backbones import BACKBONES
from dcs_nas.models.weights import PREFERRED, Match, find_second_networks, match_weights
from dcs_nas.models.weights_file import detect_format, read_weights

# The kind of network is the first with a name that occurs; the nest is the prefix before that name.
_FAMILIES = (
    ("a network trained by dcs-nas", r"(network|ema)\.backbone\."),
    ("a supernet of a search", r"\S*\.mixtures\."),
    ("image encoder of CLIP, names of the package transformers", r"vision_model\.embeddings\.class_embedding$"),
    ("image encoder of CLIP, OpenAI's names", r"class_embedding$"),
    ("image encoder of CLIP, timm's names", r"norm_pre\.weight$"),
    ("TransReID", r"b1\.0\.attn\."),
    ("ViT with part tokens (PASS)", r"(part_token1|cls_pos)$"),
    ("ViT with a distillation token (DeiT)", r"dist_token$"),
    ("masked autoencoder with a ViT (MAE)", r"decoder_pos_embed$"),
    ("DINOv2", r"blocks\.(0\.)?0\.ls1\.gamma$"),
    ("ViT, timm's names", r"blocks\.0\.attn\.qkv\.weight$"),
    ("Swin, SOLIDER's names", r"stages\.0\.blocks\.0\.attn\.w_msa\."),
    ("Swin, Microsoft's names", r"layers\.0\.blocks\.0\.attn\.relative_position_bias_table$"),
    ("MSINet", r"cells\.0\.conv1a\."),
    ("HA-CNN, torchreid's names", r"ha1\.soft_attn\."),
    ("OSNet, torchreid's names", r"conv2\.0\.conv2a\."),
    ("MobileNetV2, torchvision's names", r"features\.18\.0\.weight$"),
    ("RGA module", r"g[xg]_(spatial|channel)\.0\.weight$"),
    ("ResNet of bottlenecks, torchvision's names", r"layer1\.0\.conv3\.weight$"),
    ("ResNet of basic blocks, torchvision's names", r"layer1\.0\.conv1\.weight$"),
)
_IBN_NAMES = {"a": "layer1.0.bn1.IN.weight", "b": "layer1.2.IN.weight"}
_PATCHES = ("patch_embed.proj.weight", "patch_embed.projection.weight", "embeddings.patch_embedding.weight")
_POSITIONS = ("pos_embed", "positional_embedding", "vision_model.embeddings.position_embedding.weight")
_WORTH_A_LINE = 0.1


@dataclass(frozen=True, eq=False)
class WeightsFile:
    """A weights file, read.

    Attributes:
        path: the file.
        format: see ``detect_format``.
        family: the kind of network that its names are of, ``unknown`` if of none.
        nest: prefix of these names, such as ``teacher.backbone.``.
        networks: prefixes that distinguish several networks, such as ``teacher`` and ``student``.
        tensors: name to tensor.
    """

    path: Path
    format: str
    family: str
    nest: str
    networks: tuple[str, ...]
    tensors: Mapping[str, Tensor]

    @property
    def numbers(self) -> int:
        """The count of numbers in all tensors."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    def describe(self) -> str:
        """Return one line: format, nest, number of tensors and numbers, family, sizes of a transformer."""
        parts = [
            self.format,
            f"names below {self.nest.rstrip('.')}" if self.nest else "names without a nest",
            f"{len(self.tensors):,} tensors, {self.numbers:,} numbers",
            self.family,
            *_describe_transformer(self.tensors),
        ]
        return "; ".join(parts)


@dataclass(frozen=True, eq=False)
class Fit:
    """The comparison of a file with a registered backbone.

    Attributes:
        backbone: its name.
        options: of the backbone, as the file needs them.
        match: tensors that fit; None if the file is of another kind of network.
        problem: why the file is refused; None if it fits.
    """

    backbone: str
    options: Mapping[str, Any]
    match: Match | None
    problem: str | None

    @property
    def share(self) -> float:
        """The share of the backbone's numbers that the file supplies."""
        return self.match.report.share if self.match else 0.0


def read_weights_file(path: str | Path) -> WeightsFile:
    """Return a weights file and the kind of network that its names belong to.

    Raises:
        InputError: a file that is missing, damaged, unsafe or no state dict.
    """
    path = Path(path)
    tensors = read_weights(path)
    parts = {part for name in tensors for part in name.split(".")[:3]}
    pairs = [(first, second) for first, second in PREFERRED.items() if {first, second} <= parts]
    second = find_second_networks(tensors)
    for family, pattern in _FAMILIES:
        for name in (name for name in tensors if name not in second):
            match = re.search(rf"(^|\.)({pattern})", name)
            if match:
                nest = name[: match.start(2)]
                return WeightsFile(path, detect_format(path), family, nest, sum(pairs, ()), tensors)
    return WeightsFile(path, detect_format(path), "unknown kind of network", "", sum(pairs, ()), tensors)


def fit_backbone(
    file: WeightsFile,
    name: str,
    *,
    height: int = 256,
    width: int = 128,
    key: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Fit:
    """Compare a file with a registered backbone for height x width images; nothing is loaded.

    Args:
        file: see ``read_weights_file``.
        name: of the backbone.
        height: of the images.
        width: of the images.
        key: see ``load_weights``.
        options: of the backbone; by default the numbers of registers and cameras that the file has.

    Raises:
        InputError: an unknown backbone or option, or images that it does not take.
    """
    factory = BACKBONES[name]
    chosen = dict(options or {}) or _find_options(file.tensors, factory)
    with torch.device("meta"):
        network = factory(height=height, width=width, **chosen)
    try:
        match = match_weights(network, file.tensors, file.path, key=key)
    except InputError as error:
        return Fit(name, chosen, None, str(error))
    return Fit(name, chosen, match, match.problem)


def fitting_backbones(file: WeightsFile, *, height: int = 256, width: int = 128, key: str | None = None) -> list[Fit]:
    """Return how the file fits each registered backbone of which it supplies a tenth or more, the best first."""
    fits = [fit_backbone(file, name, height=height, width=width, key=key) for name in BACKBONES]
    worth = [fit for fit in fits if fit.problem is None or fit.share >= _WORTH_A_LINE]
    return sorted(worth, key=lambda fit: (fit.problem is not None, -fit.share, fit.backbone))


def _find_options(tensors: Mapping[str, Tensor], factory: Any) -> dict[str, Any]:
    """Return the options of a backbone that fit the tokens and norms of the file."""
    known = inspect.signature(factory).parameters
    sizes = {"registers": ("register_tokens", 1), "cameras": ("sie_embed", 0)}
    options: dict[str, Any] = {}
    for option, (leaf, dimension) in sizes.items():
        held = [tensor for name, tensor in tensors.items() if name.split(".")[-1] == leaf and tensor.ndim == 3]
        if held and option in known:
            options[option] = held[0].shape[dimension]
    norms = {kind for kind, leaf in _IBN_NAMES.items() if any(name.endswith(leaf) for name in tensors)}
    if norms and "ibn" in known:
        options["ibn"] = min(norms)
    return options


def _describe_transformer(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield patch and width, and the number of positions, of a transformer of images."""
    for name, tensor in tensors.items():
        if name.endswith(_PATCHES) and tensor.ndim == 4:
            yield f"patches of {tensor.shape[-1]}, width {tensor.shape[0]}"
            break
    for name, tensor in tensors.items():
        if name.endswith(_POSITIONS) and tensor.ndim in (2, 3):
            count = tensor.shape[-2]
            grids = [
                f"{h} x {h}" for extra in (0, 1, 2) if (h := math.isqrt(max(0, count - extra))) ** 2 == count - extra
            ]
            yield f"{count} positions" + (f" ({grids[0]} patches)" if grids else "")
            break
