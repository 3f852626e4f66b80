"""Who is who, seen by which camera: the pairs of images that a protocol scores or removes.

Shapes: Q queries, G gallery images, H pairs (query, gallery image of the same person).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dcs_nas.errors import InputError
from dcs_nas.evaluation.inputs import Integers, as_labels
from dcs_nas.evaluation.ragged import ragged_ranges

JUNK = -1
"""The person id of junk images (Market-1501: bad detections): they count neither for nor against a query."""

SKIP_CAUSES = ("no_match_in_gallery", "only_same_camera", "junk")
"""Why a query has no score: its person is not in the gallery, only under the query's own camera, or is junk."""


@dataclass(frozen=True, eq=False)
class Labels:
    """Person and camera of every query (Q,) and gallery image (G,), int64."""

    query_pids: np.ndarray
    gallery_pids: np.ndarray
    query_camids: np.ndarray
    gallery_camids: np.ndarray

    @classmethod
    def checked(
        cls, query_pids: Integers, gallery_pids: Integers, query_camids: Integers, gallery_camids: Integers
    ) -> Labels:
        """The labels as int64 vectors.

        Raises:
            InputError: not vectors of integers, or persons and cameras of different lengths.
        """
        labels = cls(
            as_labels("query_pids", query_pids),
            as_labels("gallery_pids", gallery_pids),
            as_labels("query_camids", query_camids),
            as_labels("gallery_camids", gallery_camids),
        )
        for side, pids, camids in (
            ("query", labels.query_pids, labels.query_camids),
            ("gallery", labels.gallery_pids, labels.gallery_camids),
        ):
            if len(pids) != len(camids):
                raise InputError(f"{len(pids)} {side}_pids but {len(camids)} {side}_camids; one of each per image")
        return labels

    def expect(self, queries: int, gallery: int, what: str) -> None:
        """Raises ``InputError`` unless there are labels for ``queries`` x ``gallery`` images."""
        if (len(self.query_pids), len(self.gallery_pids)) != (queries, gallery):
            raise InputError(
                f"{what} for {queries} queries and {gallery} gallery images, but labels for "
                f"{len(self.query_pids)} and {len(self.gallery_pids)}"
            )

    @cached_property
    def junk(self) -> np.ndarray:
        """Gallery indices of junk images."""
        return np.flatnonzero(self.gallery_pids == JUNK)

    @cached_property
    def _by_person(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self.gallery_pids, kind="stable")
        return order, self.gallery_pids[order]

    def same_person(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of a query and a gallery image of its person: positions in ``queries`` (H,), gallery indices (H,)."""
        order, sorted_pids = self._by_person
        pids = self.query_pids[queries]
        first = np.searchsorted(sorted_pids, pids, side="left")
        counts = np.searchsorted(sorted_pids, pids, side="right") - first
        return np.repeat(np.arange(len(queries)), counts), order[ragged_ranges(first, counts)]

    def skipped(self, *, camera_filter: bool) -> np.ndarray:
        """The cause (one of ``SKIP_CAUSES``) why a query cannot be scored, or "" where it can; (Q,) strings."""
        images = _images_in_gallery(self.query_pids[:, None], self.gallery_pids[:, None])
        causes = np.full(len(self.query_pids), "", dtype="<U32")
        if camera_filter:
            query = np.stack([self.query_pids, self.query_camids], axis=1)
            gallery = np.stack([self.gallery_pids, self.gallery_camids], axis=1)
            causes[images == _images_in_gallery(query, gallery)] = "only_same_camera"
        causes[images == 0] = "no_match_in_gallery"
        causes[self.query_pids == JUNK] = "junk"
        return causes


def _images_in_gallery(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """How often each row of ``query`` (Q, n) occurs among the rows of ``gallery`` (G, n)."""
    _, codes = np.unique(np.concatenate([gallery, query]), axis=0, return_inverse=True)
    codes = codes.ravel()
    return np.bincount(codes[: len(gallery)], minlength=codes.max() + 1)[codes[len(gallery) :]]
