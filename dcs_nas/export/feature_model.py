"""From image files to features, by a trained run or an exported file. B images, H x W pixels, D features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from dcs_nas.data.images import Progress, read_image
from dcs_nas.errors import InputError
from dcs_nas.export.metadata import ExportInfo
from dcs_nas.processes import count_cores


class FeatureModel(ABC):
    """A map from pixels to features; ``info`` holds its image size and the distance of its features.

    ``identity`` changes with the weights and with every setting that changes features.
    """

    info: ExportInfo
    identity: str
    batch: int = 64

    @abstractmethod
    def run(self, images: np.ndarray) -> np.ndarray:
        """Return features (B, D) float32 of images (B, 3, H, W) uint8."""

    def features(self, paths: Sequence[Path], *, progress: Progress | None = None) -> np.ndarray:
        """Return features (N, D) float32 of N image files, which are resized as in training.

        Raises:
            InputError: no file, or one that is missing or does not decode.
        """
        if not paths:
            raise InputError("there are no images to compute features of, expected at least one; name an image")
        rows, done = [], 0
        for images, faults in self.decode(paths):
            if faults:
                raise faults[0]
            rows.append(self.of_pixels(list(images.values())))
            done += len(images)
            if progress:
                progress(done, len(paths))
        return np.concatenate(rows)

    def of_pixels(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Return features (B, D) of images (H, W, 3).

        Raises:
            InputError: features that are NaN or infinite, or not as many as ``info`` states.
        """
        features = self.run(np.ascontiguousarray(np.stack(pixels).transpose(0, 3, 1, 2)))
        if features.shape[1] != self.info.features:
            raise InputError(
                f"{self.info.run} returns {features.shape[1]} features, but its metadata state {self.info.features}; "
                "export the run again"
            )
        if not np.isfinite(features).all():
            raise InputError(
                f"the features of {self.info.run} are NaN or infinite: its weights are damaged; export it again"
            )
        return features.astype(np.float32, copy=False)

    def decode(self, paths: Sequence[Path]) -> Iterator[tuple[dict[int, np.ndarray], list[InputError]]]:
        """Yield batches: images (H, W, 3) by their index in ``paths``, and the faults of those that do not decode.

        The next batch is decoded while the caller computes with one; no more than two are in memory.
        """
        with ThreadPoolExecutor(count_cores()) as pool:

            def start(first: int) -> list[Future[np.ndarray | InputError]]:
                return [pool.submit(self._read, path) for path in paths[first : first + self.batch]]

            coming = start(0)
            for first in range(0, len(paths), self.batch):
                images, coming = [image.result() for image in coming], start(first + self.batch)
                yield (
                    {first + i: image for i, image in enumerate(images) if not isinstance(image, InputError)},
                    [image for image in images if isinstance(image, InputError)],
                )

    def _read(self, path: Path) -> np.ndarray | InputError:
        try:
            return read_image(path, height=self.info.height, width=self.info.width)
        except InputError as error:
            return error


def describe_weights(file: Path, *settings: object) -> str:
    """Return a key of a weights file and its settings: path, size, modification time."""
    status = file.stat()
    return " ".join(map(str, (file.resolve(), status.st_size, status.st_mtime_ns, *settings)))
