"""From image files to features, by a trained run or an exported file. B images, H x W pixels, D features."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from dcs_nas.data.images import Progress, read_image
from dcs_nas.errors import InputError
from dcs_nas.export.metadata import ExportInfo

Decoded = list[np.ndarray | InputError]


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
            raise InputError("there are no images to compute features of; expected at least one")
        rows = []
        for done, pixels in self.decode(paths):
            faults = [image for image in pixels if isinstance(image, InputError)]
            if faults:
                raise faults[0]
            rows.append(self.of_pixels([image for image in pixels if not isinstance(image, InputError)]))
            if progress:
                progress(done, len(paths))
        return np.concatenate(rows)

    def of_pixels(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Return features (B, D) of images (H, W, 3).

        Raises:
            InputError: features that are NaN or infinite.
        """
        features = self.run(np.ascontiguousarray(np.stack(list(pixels)).transpose(0, 3, 1, 2)))
        if not np.isfinite(features).all():
            raise InputError(
                f"the features of {self.info.run} are NaN or infinite: its weights are damaged; export it again"
            )
        return features.astype(np.float32, copy=False)

    def decode(self, paths: Sequence[Path]) -> Iterator[tuple[int, Decoded]]:
        """Yield batches of images (H, W, 3), or the fault of each that does not decode, and how many are done with it.

        The next batch is decoded while one is computed with; no more than two are in memory.
        """
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            waiting: deque[list[Future[np.ndarray | InputError]]] = deque()
            done = 0
            for start in range(0, len(paths), self.batch):
                waiting.append([pool.submit(self._read, path) for path in paths[start : start + self.batch]])
                while len(waiting) == 2 or (waiting and start + self.batch >= len(paths)):
                    pixels = [image.result() for image in waiting.popleft()]
                    done += len(pixels)
                    yield done, pixels

    def _read(self, path: Path) -> np.ndarray | InputError:
        try:
            return read_image(path, height=self.info.height, width=self.info.width)
        except InputError as error:
            return error


def describe_weights(file: Path, *settings: object) -> str:
    """Return a key of a weights file and its settings: path, size, modification time."""
    status = file.stat()
    return " ".join(map(str, (file.resolve(), status.st_size, status.st_mtime_ns, *settings)))
