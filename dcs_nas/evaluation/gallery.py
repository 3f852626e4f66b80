"""Features of any images in a file, without labels, and the search for the nearest. N images, D features, k nearest.

The file is an uncompressed ``.npz`` of ``paths`` (N,), ``features`` (N, D) float32 and ``metric``, which is read and
written in blocks of rows, so that it may be larger than memory. A large gallery may have an index in another file, by
faiss (the extra ``index``): exact, or a graph of near neighbours.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from dcs_nas.errors import InputError, choices
from dcs_nas.evaluation.distances import METRICS, FeatureDistances
from dcs_nas.evaluation.features import require_npz
from dcs_nas.files import atomic_path, require_file

_ROWS = 16384  # of a block
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_SMALL = ("paths", "metric", "folder", "model")
_OURS = "a features file of dcs-nas extract"
_LINKS = 32  # of an image in the graph of an approximate index (faiss' own example)
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Gallery:
    """A features file of ``dcs-nas extract``: its metadata; ``blocks`` reads the features.

    Attributes:
        file: the file itself.
        paths: of the images, as passed to ``extract``: (N,).
        shape: N and D.
        metric: the distance to compare by, ``cosine`` or ``euclidean``.
        folder: to which relative paths refer.
        model: that computed the features, see ``ExportInfo``.
    """

    file: Path
    paths: np.ndarray
    shape: tuple[int, int]
    metric: str
    folder: Path
    model: Mapping[str, Any]

    @classmethod
    def open(cls, file: Path) -> Gallery:
        """Read everything except the features; pickled arrays are never read.

        Raises:
            InputError: no such file, a damaged one, or one of other arrays.
        """
        require_file(file, what="features file")
        try:
            with zipfile.ZipFile(file) as archive:
                names = {name.removesuffix(".npy") for name in archive.namelist()}
                missing = [name for name in (*_SMALL, "features") if name not in names]
                if missing:
                    raise InputError(f"{file} lacks {', '.join(missing)}; expected {_OURS}")
                with archive.open("features.npy") as member:
                    shape = _read_shape(member, file)
                small = {name: _read_small(archive, name, file) for name in _SMALL}
            model = json.loads(str(small["model"]))
        except InputError:
            raise
        except Exception as error:  # a damaged file leads the parsers to exceptions of any kind
            raise InputError(f"{file} cannot be read ({error}); expected {_OURS}: write it again") from None
        paths, metric = small["paths"], str(small["metric"])
        if paths.dtype.kind != "U" or paths.shape != shape[:1] or not isinstance(model, dict):
            raise InputError(f"{file} holds {len(paths):,} paths for {shape[0]:,} features; write it again")
        if metric not in METRICS:
            raise InputError(f"{file} has the unknown metric '{metric}'; {choices(metric, METRICS)}")
        return cls(file, paths, shape, metric, Path(str(small["folder"])), model)

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the features in order, (n, D) at a time."""
        count, width = self.shape
        with zipfile.ZipFile(self.file) as archive, archive.open("features.npy") as member:
            _read_shape(member, self.file)
            for start in range(0, count, _ROWS):
                rows = min(_ROWS, count - start)
                content = member.read(rows * width * 4)
                if len(content) < rows * width * 4:
                    raise InputError(f"{self.file} is cut off after {start:,} of {count:,} features; write it again")
                yield np.frombuffer(content, dtype="<f4").reshape(rows, width)

    def image(self, index: int) -> Path:
        """Return the path of an image, valid in any working directory."""
        path = Path(str(self.paths[index]))
        inside = self.folder / path
        return inside if inside.exists() else path


def write_gallery(
    file: Path, features: np.ndarray, paths: list[str], *, metric: str, folder: Path, model: Mapping[str, Any]
) -> None:
    """Write a features file atomically; ``features`` (N, D) may be a memory map larger than memory.

    Raises:
        InputError: the name does not end in .npz.
    """
    require_npz(file)
    texts = {"paths": paths, "metric": metric, "folder": str(folder), "model": json.dumps(dict(model))}
    with atomic_path(file) as temporary:
        arrays = {name: np.array(text, dtype=np.str_) for name, text in texts.items()}
        np.savez(temporary, allow_pickle=False, **arrays, features=features)


def find_nearest(
    query: np.ndarray, gallery: Gallery, k: int, *, progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest images of a gallery by exact search: indices (Q, k) and distances (Q, k).

    Equal distances keep the gallery's order. k is at most N.

    Args:
        query: (Q, D).
        gallery: read block by block.
        k: number of images to find for each query.
        progress: called with (done, total) images.

    Raises:
        InputError: features of other networks, or NaN or infinite ones.
    """
    count, width = gallery.shape
    if query.shape[1] != width:
        raise InputError(
            f"{gallery.file} holds {width} numbers for an image, and the query {query.shape[1]}: they come "
            "from different networks; extract the features of the gallery again"
        )
    k = min(k, count)
    best = [np.zeros((len(query), 0), dtype=dtype) for dtype in (np.int64, np.float64)]
    done = 0
    for block in gallery.blocks():
        far = FeatureDistances(query, block.copy(), metric=gallery.metric).matrix().numpy()
        indices = np.hstack([best[0], np.broadcast_to(np.arange(done, done + len(block)), far.shape)])
        distances = np.hstack([best[1], far])
        order = np.stack([np.lexsort((i, d))[:k] for i, d in zip(indices, distances)])  # of equal distances by index
        best = [np.take_along_axis(values, order, axis=1) for values in (indices, distances)]
        done += len(block)
        if progress:
            progress(done, count)
    return best[0], best[1]


def open_index(
    file: Path, gallery: Gallery, *, approximate: bool = False, progress: Progress | None = None
) -> tuple[Any, bool]:
    """Return a faiss index of a gallery's features, and whether it was built by this call.

    The index is read from ``file``, or built and written there if the file is missing or older than the gallery. An
    exact index compares with every image; an ``approximate`` one is a graph (HNSW, arXiv 1603.09320), which may miss
    some of the nearest.

    Raises:
        InputError: faiss is not installed, a damaged file, or an index of another kind or gallery.
    """
    try:
        import faiss
    except ImportError:
        raise InputError("an index needs faiss-cpu, not installed here; pip install faiss-cpu") from None
    if file.is_file():
        present = _read_index(faiss, file)
        if file.stat().st_mtime_ns >= gallery.file.stat().st_mtime_ns:
            _require_index_of(faiss, present, file, gallery, approximate)
            return present, False
    count, width = gallery.shape
    metric = faiss.METRIC_INNER_PRODUCT if gallery.metric == "cosine" else faiss.METRIC_L2
    index = faiss.IndexHNSWFlat(width, _LINKS, metric) if approximate else faiss.IndexFlat(width, metric)
    done = 0
    for block in gallery.blocks():
        index.add(_normalise(block, gallery.metric))
        done += len(block)
        if progress:
            progress(done, count)
    with atomic_path(file) as temporary:
        faiss.write_index(index, str(temporary))
    return index, True


def search_index(index: Any, query: np.ndarray, gallery: Gallery, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return indices (Q, k) and distances (Q, k) as ``find_nearest`` does, by the index."""
    values, indices = index.search(_normalise(query, gallery.metric), min(k, gallery.shape[0]))
    return indices, 1 - values if gallery.metric == "cosine" else np.sqrt(np.maximum(values, 0))


def _read_index(faiss: Any, file: Path) -> Any:
    try:
        return faiss.read_index(str(file))
    except Exception as error:  # faiss raises RuntimeError for any file that it cannot parse
        raise InputError(
            f"{file} is not an index ({str(error).splitlines()[-1][:120]}); name another file, or remove it, and it is "
            "built again"
        ) from None


def _require_index_of(faiss: Any, index: Any, file: Path, gallery: Gallery, approximate: bool) -> None:
    if (index.ntotal, index.d) != gallery.shape or not np.allclose(
        index.reconstruct(0), _normalise(next(gallery.blocks())[:1], gallery.metric)[0]
    ):
        raise InputError(f"{file} is the index of another gallery than {gallery.file}; remove it, or name another file")
    if isinstance(faiss.downcast_index(index), faiss.IndexHNSW) != approximate:
        kind, option = ("exact", "leave --approximate out") if approximate else ("approximate", "add --approximate")
        raise InputError(f"{file} is an {kind} index; {option}, or name another file")


def _normalise(features: np.ndarray, metric: str) -> np.ndarray:
    """Return features as the index stores them: of unit length for cosine."""
    rows = np.ascontiguousarray(features, dtype=np.float32)
    if metric != "cosine":
        return rows
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _read_shape(member: IO[bytes], file: Path) -> tuple[int, int]:
    """Read the header of an array of features, and leave the member at its first row."""
    version = np.lib.format.read_magic(member)
    if version not in _HEADERS:
        raise InputError(f"{file}: features have the unknown array format {version}; write the file again")
    shape, columns_first, dtype = _HEADERS[version](member)
    if len(shape) != 2 or 0 in shape or columns_first or dtype != np.dtype("<f4"):
        raise InputError(f"{file} holds features of shape {shape} and dtype {dtype}; expected rows of float32")
    return int(shape[0]), int(shape[1])


def _read_small(archive: zipfile.ZipFile, name: str, file: Path) -> np.ndarray:
    info = archive.getinfo(f"{name}.npy")
    if info.file_size > 50 * max(info.compress_size, 2**20):
        raise InputError(
            f"{file}: {name} unpacks to {info.file_size:,} bytes, more than 50 times its size; do not trust the file"
        )
    with archive.open(info) as member:
        return np.lib.format.read_array(member, allow_pickle=False)
