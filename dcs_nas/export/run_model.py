"""A trained run, or an exported file, as a model from image files to features. B images, H x W pixels, D features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dcs_nas import __version__
from dcs_nas.config import EXTRACTION, Config
from dcs_nas.data.augment import Normalize
from dcs_nas.errors import InputError
from dcs_nas.export.feature_model import FeatureModel, describe_weights
from dcs_nas.export.metadata import ExportInfo
from dcs_nas.export.onnx_model import OnnxModel
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.runs import RunFolder
from dcs_nas.training.evaluate import open_trained


class Extractor(nn.Module):
    """uint8 RGB images (B, 3, H, W) to features (B, D): (x / 255 - mean) / std per channel, then the network."""

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.normalize(images))


class RunModel(FeatureModel):
    """A trained run in evaluation mode, on the GPU where there is one.

    Args:
        folder: of the run.
        checkpoint: ``last``, or ``best`` where identities were held out.
        overrides: settings in place of the run's own, such as ``evaluate.flip=true``.

    Raises:
        InputError: a folder that holds no trained run, no such checkpoint, or settings that have no effect here.
    """

    def __init__(self, folder: Path, *, checkpoint: str = "last", overrides: Sequence[str] = ()) -> None:
        config, network, weights, _ = open_trained(
            folder, checkpoint=checkpoint, overrides=overrides, allowed=EXTRACTION
        )
        data = config.data
        self.info = describe_run(config, network, folder, checkpoint)
        self.batch = data.test_batch
        self._device = torch.device("cuda" if config.trainer.cuda else "cpu")
        self._flip = config.evaluate.flip
        self._extractor = Extractor(network, data.mean, data.std).eval().to(self._device)
        settings = (data.height, data.width, data.mean, data.std, network.test_neck, self._flip, __version__)
        self.identity = describe_weights(weights, *settings)

    @torch.inference_mode()
    def run(self, images: np.ndarray) -> np.ndarray:
        """Return features (B, D) of images (B, 3, H, W) uint8; with ``evaluate.flip`` plus those of the mirrored."""
        pixels = torch.from_numpy(images).to(self._device)
        features = self._extractor(pixels)
        if self._flip:
            features = features + self._extractor(pixels.flip(3))
        return features.float().cpu().numpy()


def open_model(path: Path, *, checkpoint: str = "last", overrides: Sequence[str] = ()) -> FeatureModel:
    """Return the model of a trained run's folder, or of an ONNX file that ``dcs-nas export`` wrote.

    Raises:
        InputError: as ``RunModel`` and ``OnnxModel``; also settings or a checkpoint for a file, which has its own.
    """
    if path.suffix.lower() == ".pt2":
        raise InputError(f"{path} is for torch.export.load; name model.onnx, or the run's folder")
    if path.suffix.lower() != ".onnx":
        return RunModel(path, checkpoint=checkpoint, overrides=overrides)
    if overrides or checkpoint != "last":
        option = f"-o {overrides[0]}" if overrides else f"--checkpoint {checkpoint}"
        raise InputError(f"{option} is for a run folder, but {path} has settings and weights of its own; leave it out")
    return OnnxModel(path)


def describe_run(config: Config, network: ReidNetwork, folder: Path, checkpoint: str) -> ExportInfo:
    """Return the metadata of the trained network of a run."""
    run, data = RunFolder(folder), config.data
    space = f"genotype of space {run.genotype().space.name}" if run.genotype_file.is_file() else ""
    return ExportInfo(
        height=data.height,
        width=data.width,
        mean=data.mean,
        std=data.std,
        metric=config.evaluate.metric,
        features=network.test_features,
        cameras="unknown" if network.cameras else "unused",
        network=space or str(config.section("retrain").backbone),
        trained_on=run.contents().data.get("version") or data.name,
        run=folder.resolve().name,
        checkpoint=checkpoint,
        seed=config.seed,
        version=__version__,
    )
