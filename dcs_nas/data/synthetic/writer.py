"""Write a synthetic data set as a Market-1501 folder."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from dcs_nas.data.synthetic.shot import CAST, TRACK, Shot, SyntheticSettings, take_picture
from dcs_nas.errors import InputError
from dcs_nas.files import atomic_folder
from dcs_nas.processes import count_cores, follow_parent

TRAIN, GALLERY, QUERY = "bounding_box_train", "bounding_box_test", "query"
_DISTRACTOR, _JUNK = 0, -1
_JPEG_QUALITY = 90
_CHUNK = 32  # images that a worker draws before it reports


@dataclass(frozen=True)
class _Entry:
    """An image of the data set: the folder it belongs to, its Market-1501 name and its content."""

    part: str
    name: str
    shot: Shot


def write_synthetic(
    out: Path,
    *,
    settings: SyntheticSettings,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> dict[str, int]:
    """Draw a data set into a new folder, which appears when it is complete.

    Args:
        out: the folder to make; it may exist if it is empty.
        settings: size and seed; the same settings write the same bytes.
        progress: called with images done and images in all.
        workers: number of processes, by default one for each processor; it does not change the bytes.

    Returns:
        The number of images in each of ``bounding_box_train``, ``bounding_box_test`` and ``query``.

    Raises:
        InputError: ``out`` is a file or not empty, ``workers`` is below 1, or one of them has ended early.
        OSError: ``out`` cannot be written.
    """
    out = Path(out).resolve()
    workers = _check(out, workers)
    entries = list(_entries(settings))
    with atomic_folder(out) as whole:
        for part in (TRAIN, GALLERY, QUERY):
            (whole / part).mkdir()
        _draw_all(entries, whole, settings, workers, progress)
    return dict(Counter(entry.part for entry in entries))


def _check(out: Path, workers: int | None) -> int:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: expected a new or empty folder for the data set; name another one")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} is not empty: expected a new or empty folder; name another one, or remove this one")
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}: expected 1 or more; leave it out for one for each processor")
    return workers or count_cores()


def _entries(settings: SyntheticSettings) -> Iterator[_Entry]:
    """Yield all images. Numbers of training and test identities are interleaved, as in Market-1501."""
    identities = settings.train_identities + settings.test_identities
    order = settings.rng(CAST).permutation(identities)
    in_training = {int(identity) + 1 for identity in order[: settings.train_identities]}
    for identity in range(1, identities + 1):
        for shot in _shots(identity, settings):
            part = TRAIN if identity in in_training else QUERY if shot.take == 0 else GALLERY
            yield _entry(part, identity, shot, settings)
    for identity in range(identities + 1, identities + settings.distractor_identities + 1):
        for shot in _shots(identity, settings):
            yield _entry(GALLERY, _DISTRACTOR, shot, settings)
    for number in range(settings.junk_images):
        identity = identities + settings.distractor_identities + 1 + number
        yield _entry(GALLERY, _JUNK, Shot(identity, 1 + number % settings.cameras, 0, junk=True), settings)


def _shots(identity: int, settings: SyntheticSettings) -> Iterator[Shot]:
    """Yield the images of an identity by all cameras but up to two, and by at least two."""
    rng = settings.rng(TRACK, identity)
    passed = rng.integers(max(2, settings.cameras - 2), settings.cameras, endpoint=True)
    for camera in sorted(rng.permutation(settings.cameras)[:passed]):
        for take in range(settings.images_per_camera):
            yield Shot(identity, int(camera) + 1, take)


def _entry(part: str, pid: int, shot: Shot, settings: SyntheticSettings) -> _Entry:
    """Return the entry of an image; no two images of a camera have the same frame number."""
    rng = settings.rng(TRACK, shot.identity, shot.camera, shot.take)
    sequence, box = 1 + shot.identity % 6, int(rng.integers(1, 5))
    frame = 10 * (shot.identity * settings.images_per_camera + shot.take) + int(rng.integers(10))
    identity = "-1" if pid == _JUNK else f"{pid:04d}"
    return _Entry(part, f"{identity}_c{shot.camera}s{sequence}_{frame:06d}_{box:02d}.jpg", shot)


def _draw_all(
    entries: list[_Entry],
    whole: Path,
    settings: SyntheticSettings,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    draw = partial(_draw, whole=whole, settings=settings)
    with contextlib.ExitStack() as stack:
        drawn: Iterator[None] = map(draw, entries)
        if workers > 1 and len(entries) > _CHUNK:
            pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=follow_parent)
            stack.callback(pool.shutdown, cancel_futures=True)
            drawn = pool.map(draw, entries, chunksize=_CHUNK)
        try:
            for done, _ in enumerate(drawn, start=1):
                if progress is not None:
                    progress(done, len(entries))
        except BrokenProcessPool:
            raise InputError(
                "a process that draws images has ended early; draw with workers=1, or, in a script, below the line "
                "if __name__ == '__main__':, since each process runs the script again"
            ) from None


def _draw(entry: _Entry, whole: Path, settings: SyntheticSettings) -> None:
    take_picture(entry.shot, settings).save(whole / entry.part / entry.name, quality=_JPEG_QUALITY)
