"""An index of a large gallery in a file, by faiss (the extra ``index``): exact, or a graph of near neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dcs_nas.errors import InputError
from dcs_nas.evaluation.gallery import Gallery, Progress
from dcs_nas.files import atomic_path

_LINKS = 32  # of an image in the graph (faiss's own example)


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
    faiss = _import_faiss()
    if file.is_file() and file.stat().st_mtime_ns >= gallery.file.stat().st_mtime_ns:
        return _read(faiss, file, gallery, approximate), False
    count, width = gallery.shape
    metric = faiss.METRIC_INNER_PRODUCT if gallery.metric == "cosine" else faiss.METRIC_L2
    index = faiss.IndexHNSWFlat(width, _LINKS, metric) if approximate else faiss.IndexFlat(width, metric)
    done = 0
    for block in gallery.blocks():
        index.add(_rows(block, gallery.metric))
        done += len(block)
        if progress:
            progress(done, count)
    with atomic_path(file) as temporary:
        faiss.write_index(index, str(temporary))
    return index, True


def search_index(index: Any, query: np.ndarray, gallery: Gallery, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return indices (Q, k) and distances (Q, k) as ``gallery.find_nearest`` does, by the index."""
    values, indices = index.search(_rows(query, gallery.metric), min(k, gallery.shape[0]))
    return indices, 1 - values if gallery.metric == "cosine" else np.sqrt(np.maximum(values, 0))


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise InputError("an index needs faiss-cpu, not installed here; pip install 'dcs-nas[index]'") from None
    return faiss


def _read(faiss: Any, file: Path, gallery: Gallery, approximate: bool) -> Any:
    try:
        index = faiss.read_index(str(file))
    except Exception as error:  # faiss raises RuntimeError for any file that it cannot parse
        raise InputError(
            f"{file} is not an index ({str(error).splitlines()[-1][:120]}); remove it, and it is built again"
        ) from None
    if (index.ntotal, index.d) != gallery.shape or not np.allclose(
        index.reconstruct(0), _rows(next(gallery.blocks())[:1], gallery.metric)[0]
    ):
        raise InputError(f"{file} is the index of another gallery than {gallery.file}; remove it, or name another file")
    if isinstance(faiss.downcast_index(index), faiss.IndexHNSW) != approximate:
        kind, option = ("exact", "leave --approximate out") if approximate else ("approximate", "add --approximate")
        raise InputError(f"{file} is an {kind} index; {option}, or name another file")
    return index


def _rows(features: np.ndarray, metric: str) -> np.ndarray:
    """Return rows as the index stores them: normalised to length 1 for cosine."""
    rows = np.ascontiguousarray(features, dtype=np.float32)
    if metric != "cosine":
        return rows
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
