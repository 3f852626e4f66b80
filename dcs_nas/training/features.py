"""Features of images by a trained network, N images, D features; retrieval by them; the colour-histogram baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from dcs_nas.config import EvaluateConfig
from dcs_nas.data.augment import Normalize
from dcs_nas.data.datamodule import Images, ReidData, file_names
from dcs_nas.data.samplers import find_first_of_each_view
from dcs_nas.errors import TrainingError
from dcs_nas.evaluation import FeatureSet, score
from dcs_nas.training.joint_batch import gather_batches

Progress = Callable[[int, int], None]


@torch.inference_mode()
def extract_features(
    network: nn.Module,
    data: ReidData,
    images: Images,
    *,
    flip: bool = False,
    cameras: bool = True,
    progress: Progress | None = None,
) -> np.ndarray:
    """Return features (N, D) float32 of a split, in its order; ``flip`` adds those of the mirrored image.

    ``cameras`` is false for images of other cameras than the network was trained with: it takes them as unknown.

    Raises:
        TrainingError: features that are not finite; it names their images.
    """

    def compute(pixels: Tensor, numbers: Tensor, _: Tensor) -> Tensor:
        known = (numbers,) if cameras else ()
        features = network(pixels, *known)
        if flip:  # a copy, since a CUDA graph of trainer.compile writes its next output over the last one
            features = features.clone() + network(pixels.flip(3), *known)
        return features.float()

    batches: list[np.ndarray] = []
    for features in compute_batches(network, data, images, compute):
        batches.append(features.cpu().numpy())
        if progress:
            progress(sum(map(len, batches)), len(images))
    all_features = np.concatenate(batches)
    wrong = np.flatnonzero(~np.isfinite(all_features).all(axis=1))
    if len(wrong):
        raise TrainingError(
            f"the features of {len(wrong):,} of {len(images):,} images are NaN or infinite, first of "
            f"{', '.join(file_names(images, wrong[:3]))}: the network's weights or running statistics are damaged; "
            "train with a lower learning rate, or in higher precision"
        )
    return all_features


def compute_batches(
    network: nn.Module, data: ReidData, images: Images, compute: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Iterator[Tensor]:
    """Yield ``compute(pixels, cameras, labels)`` (n, D) of each batch of ``images``, in evaluation mode.

    Of W processes each computes every W-th batch, and all get all: to the bit what one process alone computes. After
    the last batch the network returns to its mode.
    """
    parameter = next(network.parameters())
    device, normalize = parameter.device, Normalize(data.settings.mean, data.settings.std).to(parameter)
    was_training = network.training
    network.eval()
    own = (
        compute(
            normalize(batch["images"].to(device, non_blocking=True)),
            batch["cameras"].to(device),
            batch["labels"].to(device),
        )
        for batch in data.make_test_loader(images)
    )
    yield from gather_batches(own, count=len(images), size=data.settings.test_batch, device=device)
    network.train(was_training)


def compute_color_histograms(images: Images, *, corrected: bool = False) -> np.ndarray:
    """Return the features of the colour baseline, (N, 6 * 512) float32.

    Root histograms of 8 x 8 x 8 RGB bins in six horizontal stripes of the middle of the image (half its width, 8 to
    92 % of its height), so that Euclidean distance is Hellinger's. ``corrected`` first scales the channels of every
    image to the same mean (grey world), which removes a camera's colour cast.
    """
    histograms = []
    for start in range(0, len(images), 256):
        pixels = np.asarray(images.pixels[np.arange(start, min(start + 256, len(images)))])
        histograms.append(_root_histograms(_grey_world(pixels) if corrected else pixels))
    return np.concatenate(histograms)


def _root_histograms(pixels: np.ndarray) -> np.ndarray:
    _, height, width, _ = pixels.shape
    middle = pixels[:, int(0.08 * height) : int(0.92 * height), width // 4 : width - width // 4]
    bins = (middle.astype(np.int64) // 32) @ np.array([64, 8, 1])
    stripes = np.array_split(bins, 6, axis=1)
    counts = [np.stack([np.bincount(b.ravel(), minlength=512) for b in stripe]) for stripe in stripes]
    shares = [c / np.maximum(c.sum(1, keepdims=True), 1) for c in counts]
    return np.sqrt(np.concatenate(shares, axis=1)).astype(np.float32)


def _grey_world(pixels: np.ndarray) -> np.ndarray:
    means = pixels.mean(axis=(1, 2), keepdims=True)
    scaled = pixels * (means.mean(axis=3, keepdims=True) / np.maximum(means, 1))
    return np.clip(scaled, 0, 255).astype(np.uint8)


def build_feature_set(query: Images, gallery: Images, of_query: np.ndarray, of_gallery: np.ndarray) -> FeatureSet:
    """Return features with the identities, cameras and paths of their images, ready to be scored or saved."""
    return FeatureSet(
        query_features=of_query,
        gallery_features=of_gallery,
        query_pids=query.labels,
        gallery_pids=gallery.labels,
        query_camids=query.cameras,
        gallery_camids=gallery.cameras,
        query_paths=np.array([r.path for r in query.records]),
        gallery_paths=np.array([r.path for r in gallery.records]),
    )


def validate(network: nn.Module, data: ReidData, images: Images, *, metric: str) -> float:
    """Return the mAP among identities held out of the training set; the test set is never used for selection.

    The first image of each identity and camera is a query, all images are the gallery. A query's own image is among
    those that the cross-camera protocol removes. Without a camera filter every image is a query, and its own image
    alone is removed: each counts as a camera of its own.
    """
    features = extract_features(network, data, images)
    views = images.cameras if data.camera_filter else np.arange(len(images))
    queries = find_first_of_each_view(images.labels, views)
    query = images.subset(queries.tolist())
    labelled = build_feature_set(query, images, features[queries], features)
    labelled = replace(labelled, query_camids=views[queries], gallery_camids=views)
    return score(labelled, EvaluateConfig(metric=metric), protocol="cross_camera").result.mAP
