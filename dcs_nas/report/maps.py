"""Attention maps of a trained run over test images, for each attention block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from dcs_nas.config import Config
from dcs_nas.data.augment import Normalize
from dcs_nas.data.datamodule import Images, ReidData
from dcs_nas.data.images import Bars
from dcs_nas.errors import InputError
from dcs_nas.models.blocks import RGA, DCSAttention, HardAttention, SoftAttention
from dcs_nas.report.place_names import describe_place
from dcs_nas.training.evaluate import load_trained

KINDS = {
    "dcs": "DCS: share of the channels that each token keeps",
    "soft": "HA: soft mask, mean of its channels",
    "regions": "HA: regions of its hard attention",
    "rga": "RGA: weight of each position",
    "channels": "RGA: weight of each channel, lowest to highest",
}
_MOST_BLOCKS = 12
_HEIGHT = 192  # pixels of a picture
_COVER = 0.62  # opacity of the heat over the image
_REGION_COLOURS = ("#e69f00", "#56b4e9", "#f0e442", "#cc79a7", "#009e73", "#d55e00")


@dataclass(frozen=True)
class BlockMaps:
    """One attention block: a picture for each image, and the range of its colours (None for regions)."""

    block: str
    title: str
    span: tuple[float, float] | None
    pictures: list[Image.Image]


@dataclass(frozen=True)
class AttentionMaps:
    """The images with their names, and the blocks in order of computation; ``left_out`` counts further blocks."""

    names: list[str]
    images: list[Image.Image]
    blocks: list[BlockMaps]
    left_out: int


def draw_attention_maps(folder: Path, *, count: int, progress: Bars | None = None) -> AttentionMaps | None:
    """Return maps of the trained run in ``folder`` over ``count`` of its queries; None without attention.

    Raises:
        InputError: no trained run, absent data, or a count below 1.
    """
    if count < 1:
        raise InputError(f"found {count} images for attention maps, expected at least 1; raise --maps")
    config, network = load_trained(folder)
    if not has_attention(network):
        return None
    queries, _ = ReidData(config, progress=progress).test()
    rows = np.unique(np.linspace(0, len(queries) - 1, min(count, len(queries))).round().astype(int)).tolist()
    return draw_maps(network, config, queries.subset(rows))


def draw_maps(network: nn.Module, config: Config, images: Images) -> AttentionMaps:
    """Return the maps of the attention blocks of ``network`` over ``images``, computed on the network's device."""
    batch = images[list(range(len(images)))]
    device = next(network.parameters()).device
    normalize = Normalize(config.data.mean, config.data.std).to(device)
    was_training = network.training
    with torch.inference_mode(), collect_maps(network.eval()) as seen:
        known = [batch["cameras"].to(device)] if config.data.tests_trained_cameras else []
        network(normalize(batch["images"].to(device)), *known)
    network.train(was_training)
    pixels = batch["images"].permute(0, 2, 3, 1).numpy()
    shown = seen[:_MOST_BLOCKS]
    after = "stage" if any(name.endswith("stages") for name, _ in network.named_modules()) else "cell"
    return AttentionMaps(
        names=[record.path for record in images.records],
        images=[_enlarge(image) for image in pixels],
        blocks=[_block(block, pixels, after) for block in shown],
        left_out=len(seen) - len(shown),
    )


def map_to_colours(values: np.ndarray) -> np.ndarray:
    """Return colours (..., 3) uint8 of values from 0, dark blue, to 1, yellow: cividis, alike in all colour vision."""
    from matplotlib import colormaps

    return colormaps["cividis"](values, bytes=True)[..., :3]


def _block(seen: Seen, pixels: np.ndarray, after: str) -> BlockMaps:
    title, place = KINDS[seen.kind], describe_place(seen.block.removeprefix("backbone."), after=after) or "network"
    if seen.kind == "regions":
        return BlockMaps(place, title, None, [_draw_regions(p, v) for p, v in zip(pixels, seen.values)])
    values = seen.values.numpy()
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / max(high - low, 1e-12)
    if seen.kind == "channels":
        pictures = [_draw_bars(row, pixels.shape[1:3]) for row in np.sort(scaled, axis=1)]
    else:
        pictures = [_overlay(image, heat) for image, heat in zip(pixels, scaled)]
    return BlockMaps(place, title, (low, high), pictures)


def _overlay(image: np.ndarray, heat: np.ndarray) -> Image.Image:
    """Return an image (h, w, 3) in grey under the colours of a map (H, W), a rectangle for each position."""
    below = _enlarge(image)
    above = Image.fromarray(map_to_colours(heat)).resize(below.size, Image.Resampling.NEAREST)
    grey = below.convert("L").convert("RGB")
    return Image.blend(grey, above, _COVER)


def _draw_regions(image: np.ndarray, centres: Tensor) -> Image.Image:
    """Return an image with T boxes of full width and 1 / T of the height, which may lie partly outside."""
    picture = _enlarge(image)
    width, height = picture.size
    draw = ImageDraw.Draw(picture)
    count = len(centres)
    for i, (x, y) in enumerate(centres.tolist()):
        colour = _REGION_COLOURS[i % len(_REGION_COLOURS)]
        left, middle = x * width / 2, (y + 1) * height / 2
        inset = 2 * i
        top, bottom = middle - height / count / 2, middle + height / count / 2
        box = (left + inset, top + 1, left + width - 1 - inset, bottom - 1)
        draw.rectangle(box, outline=colour, width=3)
        label = (max(0.0, left) + inset + 3, min(max(0.0, top) + 3, height - 19))
        draw.rectangle((*label, label[0] + 13, label[1] + 16), fill="#14171c")
        draw.text((label[0] + 3, label[1]), str(i + 1), fill=colour, font=ImageFont.load_default(14))
    return picture


def _draw_bars(values: np.ndarray, size: Sequence[int]) -> Image.Image:
    """Return sorted values (C,) from 0 to 1 as colours from top to bottom, in an image's proportions."""
    return Image.fromarray(map_to_colours(values[:, None])).resize(_scale_size(size), Image.Resampling.NEAREST)


def _enlarge(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image).resize(_scale_size(image.shape[:2]), Image.Resampling.BICUBIC)


def _scale_size(size: Sequence[int]) -> tuple[int, int]:
    """Return width and height of the picture of an image of (h, w) pixels."""
    return max(1, round(_HEIGHT * size[1] / size[0])), _HEIGHT


@dataclass(frozen=True)
class Seen:
    """The values of one block for a batch.

    Attributes:
        block: its name in the network.
        kind: ``dcs``: (B, H, W) share of the channels that each token keeps. ``soft``: (B, H, W) Harmonious Attention's
            mask, the mean of its channels. ``rga``: (B, H, W) weights of the positions. ``channels``: (B, C) weights of
            RGA's channels. ``regions``: (B, T, 2) centres (x, y) of Harmonious Attention's regions, from -1 to 1.
        values: of that shape.
    """

    block: str
    kind: str
    values: Tensor


@contextmanager
def collect_maps(network: nn.Module) -> Iterator[list[Seen]]:
    """Collect in a list, pass by pass and in order of computation, the values of the attention blocks of ``network``.

    A block is recorded under the name of the module that holds all of it.
    """
    seen: list[Seen] = []
    handles = []

    def record(module: nn.Module, block: str, kind: str, reduce: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
        def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen.append(Seen(block, kind, reduce(module, inputs[0], output).detach().float().cpu()))

        handles.append(module.register_forward_hook(note))

    for name, module in network.named_modules():
        if isinstance(module, DCSAttention):
            record(module, name, "dcs", lambda block, x, _: block.mask(x).float().mean(1))
        elif isinstance(module, SoftAttention):
            record(module, name.rpartition(".")[0], "soft", lambda _block, _x, y: y.float().mean(1))
        elif isinstance(module, HardAttention):
            record(module, name.rpartition(".")[0], "regions", lambda _block, _x, y: y)
        elif isinstance(module, RGA):
            size = (-(-module.height // module.stride), -(-module.width // module.stride))
            if module.spatial is not None:  # logits (B, 1, M) of positions, pooled as the block pools
                record(module.spatial, name, "rga", partial(_gate_positions, size=size))
            if module.channel is not None:
                record(module.channel, name, "channels", lambda _block, _x, y: torch.sigmoid(y[:, 0].float()))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _gate_positions(_block: nn.Module, _x: Tensor, logits: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.sigmoid(logits[:, 0].float()).unflatten(1, size)


def has_attention(network: nn.Module) -> bool:
    """Return whether any block of the network has a map to show."""
    return any(isinstance(m, (DCSAttention, SoftAttention, HardAttention, RGA)) for m in network.modules())
