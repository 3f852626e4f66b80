"""The trained network of a run folder, or an exported file, as a model from image files to features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dcs_nas import __version__
from dcs_nas.errors import InputError
from dcs_nas.export.extractor import Extractor, describe_run
from dcs_nas.export.feature_model import FeatureModel, describe_weights
from dcs_nas.export.onnx_model import OnnxModel
from dcs_nas.runs import RunFolder
from dcs_nas.training.checkpoints import whole_checkpoint
from dcs_nas.training.evaluate import load_trained
from dcs_nas.training.overrides import EXTRACTION


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
        config, network = load_trained(folder, checkpoint=checkpoint, overrides=overrides, allowed=EXTRACTION)
        self.info = describe_run(config, network, folder, checkpoint)
        self.batch = config.data.test_batch
        self._device = torch.device("cuda" if config.trainer.cuda else "cpu")
        self._flip = config.evaluate.flip
        self._extractor = Extractor(network, config.data.mean, config.data.std).eval().to(self._device)
        weights = whole_checkpoint(RunFolder(folder).checkpoint(checkpoint), warn=False)
        data = config.data
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
        raise InputError(f"{option} goes with a run folder; {path} has its settings and weights within")
    return OnnxModel(path)
