"""Features of any number of images in one file, gathered batch by batch on disk, so that an interruption loses none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dcs_nas.data.datasets.listing import (
    describe_content,
    get_status,
    is_file,
    is_printable,
    list_images_below,
    require_folder,
)
from dcs_nas.data.images import Progress
from dcs_nas.errors import InputError
from dcs_nas.evaluation.features import require_npz
from dcs_nas.evaluation.gallery import write_gallery
from dcs_nas.export.feature_model import FeatureModel
from dcs_nas.files import write_text
from dcs_nas.runs.lock import lock_folder

_NAMED = 20  # faulty images in an error line


def list_image_files(images: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the image files named, and of a folder all in it and below, sorted, without hidden files; each once.

    Raises:
        InputError: no such file or folder, a folder without images, or a name that cannot be printed.
    """
    named = [images] if isinstance(images, (str, Path)) else list(images)
    files: list[Path] = []
    for path in (Path(each).expanduser() for each in named):
        if is_file(path):
            files.append(path)
            continue
        inside, _ = list_images_below(require_folder(path))
        if not inside:
            raise InputError(
                f"{path} holds no images, found {describe_content(path)}; expected files such as .jpg or .png"
            )
        files += [path / name for name in inside]
    if not files:
        raise InputError("no image is named, expected at least one; name a file or a folder of images")
    each_once = {path.absolute(): path for path in files}.values()
    return [path for path in each_once if is_printable(str(path), path.parent)]


def extract(model: FeatureModel, paths: Sequence[Path], out: Path, *, progress: Progress | None = None) -> int:
    """Write the features of images into ``out`` (.npz, see ``Gallery``); return the number computed before this call.

    Rows are gathered in the folder ``OUT.part``. After an interruption the same call resumes there: images that have
    not changed are not computed again. ``out`` itself is replaced at the end, at once.

    Raises:
        InputError: images that do not decode, once all others are computed.
    """
    require_npz(out)
    folder = out.with_name(f"{out.name}.part")
    with lock_folder(folder):
        part = _Part(folder, model)
        keys = [_key(path) for path in paths]
        todo = {key: path for key, path in zip(keys, paths) if key not in part.rows}
        before = len(set(keys)) - len(todo)
        faults = _compute(model, todo, part, before, progress)
        if faults:
            several = f"{len(faults):,} images do not decode: " if len(faults) > 1 else ""
            named = "; ".join(map(str, faults[:_NAMED]))
            more = f"; and {len(faults) - _NAMED:,} more" if len(faults) > _NAMED else ""
            raise InputError(f"{several}{named}{more}; then repeat the command, which keeps the others in {folder}")
        names, facts = [path.as_posix() for path in paths], model.info.model_dump(mode="json")
        write_gallery(out, part.gather(keys), names, metric=model.info.metric, folder=Path.cwd(), model=facts)
        shutil.rmtree(folder)
    return before


def _compute(
    model: FeatureModel, todo: Mapping[str, Path], part: _Part, before: int, progress: Progress | None
) -> list[InputError]:
    """Append the features of images to ``part``; return the faults of those that do not decode."""
    keys, all_faults, done = list(todo), [], before
    for images, faults in model.decode(list(todo.values())):
        if images:
            part.append([keys[i] for i in images], model.of_pixels(list(images.values())))
        all_faults += faults
        done += len(images) + len(faults)
        if progress:
            progress(done, before + len(todo))
    return all_faults


class _Part:
    """Rows of features in a folder, and the key of each row's image, one a line.

    Rows are written before their keys, so that a row that an interruption left incomplete has no key and is cut off.
    Rows of another model are removed.
    """

    def __init__(self, folder: Path, model: FeatureModel) -> None:
        self._features, self._keys = folder / "features.f32", folder / "images.jsonl"
        self._width = model.info.features
        known = self._keys.read_text("utf-8") if self._keys.is_file() else ""
        first, *lines = known.split("\n")[:-1] or [""]
        size = self._features.stat().st_size if self._features.is_file() else 0
        kept = lines[: size // (4 * self._width)] if first == json.dumps(model.identity) else []
        keys = "".join(f"{line}\n" for line in (json.dumps(model.identity), *kept))
        if keys != known:
            write_text(self._keys, keys)
        with self._features.open("ab") as file:
            file.truncate(len(kept) * 4 * self._width)
        self.rows = {json.loads(line): row for row, line in enumerate(kept)}

    def append(self, keys: Sequence[str], features: np.ndarray) -> None:
        """Add the features (n, D) of n images."""
        with self._features.open("ab") as file:
            file.write(np.ascontiguousarray(features, dtype="<f4").tobytes())
        with self._keys.open("a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(key)}\n" for key in keys)
        self.rows |= {key: len(self.rows) + i for i, key in enumerate(keys)}

    def gather(self, keys: Sequence[str]) -> np.ndarray:
        """Return the features of the images in order (N, D), as a memory map."""
        rows = np.array([self.rows[key] for key in keys])
        source = np.memmap(self._features, dtype="<f4", mode="r", shape=(len(self.rows), self._width))
        if np.array_equal(rows, np.arange(len(source))):
            return source
        target = self._features.with_name("ordered.f32")
        features = np.memmap(target, dtype="<f4", mode="w+", shape=(len(rows), self._width))
        np.take(source, rows, axis=0, out=features, mode="clip")  # other modes copy all of it to memory first
        return features


def _key(path: Path) -> str:
    """Return a key of an image file that changes with its path, size or modification time."""
    status = get_status(path)
    return f"{path.absolute().as_posix()} {status.st_size} {status.st_mtime_ns}"
