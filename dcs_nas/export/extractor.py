"""A trained run as one module from pixels to features. B images, H x W pixels, D features."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dcs_nas import __version__
from dcs_nas.config import Config
from dcs_nas.data.augment import Normalize
from dcs_nas.data.datasets import load_dataset
from dcs_nas.data.images import read_image
from dcs_nas.errors import InputError
from dcs_nas.export.metadata import ExportInfo
from dcs_nas.models.blocks import DCSAttention
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.runs import RunFolder
from dcs_nas.training.evaluate import load_trained

_ROUNDING = 1e-5  # of float32 logits, as a share of the largest


class Extractor(nn.Module):
    """uint8 RGB images (B, 3, H, W) to features (B, D): (x / 255 - mean) / std per channel, then the network."""

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.normalize(images))


@torch.no_grad()
def at_a_step(extractor: Extractor, images: Tensor) -> Tensor:
    """Return which images have a DCS-Attention logit T that is 0 up to rounding: boolean (B,).

    There the mask 1[T > 0] may fall out differently under another runtime, as between any two devices: the network
    itself jumps, by one channel of one token.
    """
    mask = torch.zeros(len(images), dtype=torch.bool)

    def look(_module: nn.Module, _inputs: object, logits: Tensor) -> None:
        sizes = logits.abs().flatten(1)
        mask.logical_or_(sizes.amin(1) <= _ROUNDING * sizes.amax(1))

    blocks = [module for module in extractor.modules() if isinstance(module, DCSAttention)]
    handles = [block.selector.register_forward_hook(look) for block in blocks]
    try:
        extractor(images)
    finally:
        for handle in handles:
            handle.remove()
    return mask


@dataclass(frozen=True, eq=False)
class Deployable:
    """An extractor in evaluation mode, what is to be said of it, and some images of its data (n, 3, H, W) uint8."""

    extractor: Extractor
    info: ExportInfo
    samples: Tensor
    notes: tuple[str, ...]


def deployable(folder: Path, *, checkpoint: str = "last", samples: int = 8) -> Deployable:
    """Return the feature extractor of a trained run.

    Raises:
        InputError: a folder that holds no trained run, or no such checkpoint.
    """
    config, network = load_trained(folder, checkpoint=checkpoint)
    notes = []
    if network.uses_cameras:
        notes.append("the network knows cameras; the file takes all cameras as unknown, as evaluation on new ones does")
    images, missing = _samples(config, samples)
    notes += [missing] if missing else []
    info = describe_run(config, network, folder, checkpoint)
    extractor = Extractor(network, config.data.mean, config.data.std).eval()
    return Deployable(extractor, info, images, tuple(notes))


def describe_run(config: Config, network: ReidNetwork, folder: Path, checkpoint: str) -> ExportInfo:
    """Return what the trained network of a run says of itself."""
    data = config.data
    return ExportInfo(
        height=data.height,
        width=data.width,
        mean=data.mean,
        std=data.std,
        metric=config.evaluate.metric,
        features=network.test_features,
        cameras="unknown" if network.uses_cameras else "unused",
        network=_network_name(config, folder),
        trained_on=_describe_training_data(config, folder),
        run=folder.resolve().name,
        checkpoint=checkpoint,
        seed=config.seed,
        version=__version__,
    )


def _samples(config: Config, count: int) -> tuple[Tensor, str]:
    """Return up to ``count`` query images of the run's own data, and why there are none."""
    data = config.data
    size = {"height": data.height, "width": data.width}
    source = data.test or data.own
    try:
        if source.root is None:
            raise InputError("data.root is not set")
        tested = load_dataset(source.name, source.root.expanduser(), **source.options)
        images = [read_image(tested.root / record.path, **size) for record in (tested.query or tested.train)[:count]]
    except (InputError, OSError) as error:
        return torch.empty(0, 3, data.height, data.width, dtype=torch.uint8), f"no real images to check on: {error}"
    return torch.stack([torch.tensor(image) for image in images]).permute(0, 3, 1, 2).contiguous(), ""


def _network_name(config: Config, folder: Path) -> str:
    run = RunFolder(folder)
    if run.genotype_file.is_file():
        return f"genotype of space {run.genotype().space.name}"
    return str(config.section("retrain").backbone)


def _describe_training_data(config: Config, folder: Path) -> str:
    """Return the version of the training data as the run noted it, or the name that its settings give."""
    path = RunFolder(folder).data_file
    if not path.is_file():
        return config.data.name
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["version"])
    except (ValueError, KeyError) as error:
        raise InputError(f"{path} is damaged ({error}); remove it, or train the run again") from None
