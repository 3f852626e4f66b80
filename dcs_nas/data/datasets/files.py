"""Finding a data set's folder and listing what is in it; nothing here opens an image."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from dcs_nas.data.datasets.problems import report
from dcs_nas.errors import InputError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".ppm", ".webp"})
_SEARCH_DEPTH = 2  # data/ and data/market1501/ both lead to data/market1501/Market-1501-v15.09.15/


def existing_folder(root: Path) -> Path:
    """``root`` with ``~`` expanded; ``InputError`` where there is no such folder or nothing in it."""
    root = Path(root).expanduser()
    if not root.exists():
        raise InputError(f"there is no folder {root}; give the folder that holds the data set")
    if not root.is_dir():
        raise InputError(f"{root} is a file, expected the folder that holds the data set")
    if not visible(root):
        raise InputError(f"{root} is empty, expected the folder that holds the data set")
    return root


def find_root(root: Path, *, parts: Sequence[str], title: str, aliases: Sequence[str]) -> Path:
    """The folder that holds ``parts``: ``root`` itself, or a folder below it whose name starts with an alias.

    Names are compared without case and punctuation. A folder with some of the parts is taken too: what is missing in it
    is for the caller to say.

    Raises:
        InputError: no such folder, an empty one, none of the parts, or several folders that would do.
    """
    root = existing_folder(root)
    found = _folders_with(root, parts, [_plain(a) for a in aliases], _SEARCH_DEPTH)
    if len(found) == 1:
        return found[0]
    if found:
        listing = ", ".join(f.relative_to(root).as_posix() for f in found)
        raise InputError(f"{root} holds {title} several times ({listing}); give one of these folders")
    raise InputError(
        f"{root} is not the folder of {title} or its parent: found {listing_of(root)}, expected {', '.join(parts)}"
    )


def list_images(root: Path, folder: str) -> list[str]:
    """Sorted paths, relative to ``root``, of the images in one folder; reports an absent or empty one.

    Hidden files and what does not have an image's suffix (Thumbs.db, readme.txt) are passed over.
    """
    path = root / folder
    if not path.is_dir():
        report("missing part", f"no folder {folder} in {root}; found {listing_of(root)}")
        return []
    with os.scandir(path) as entries:
        names = sorted(e.name for e in entries if is_image_name(e.name) and e.is_file())
    if not names:
        report("missing part", f"{path} holds no images; expected files such as .jpg or .png in it")
    return [f"{folder}/{name}" for name in names]


def read_lines(root: Path, name: str) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers from 1; reports an absent or unreadable file."""
    path = root / name
    if not path.is_file():
        report("missing part", f"no file {name} in {root}; found {listing_of(root)}")
        return []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        report("missing part", f"{path} is not UTF-8 text (byte {error.start}); expected a list of images")
        return []
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def list_folders(path: Path) -> list[str]:
    """Sorted names of the folders in ``path``, hidden ones left out."""
    return sorted(name for name in visible(path) if (path / name).is_dir())


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as an image: not hidden, and an image's suffix."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def inner_path(text: str, *, source: str) -> str | None:
    """A relative path out of a list file with forward slashes, or None (reported) where it leads out of the folder.

    Absolute paths, drive letters and ``..`` are refused. Links inside the folder are followed: who owns the folder made
    them, whereas a list file may come from anywhere.
    """
    path = PurePosixPath(text.replace("\\", "/"))
    if not text or path.is_absolute() or PureWindowsPath(text).drive or ".." in path.parts or "\0" in text:
        report(
            "bad list entry", f"{source}: path {text!r} leads out of the data set; expected a path inside its folder"
        )
        return None
    return path.as_posix()


def absent_images(root: Path, paths: Iterable[str]) -> list[str]:
    """Those of ``paths`` that are no files below ``root``, in the order given; each folder is listed once."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        by_folder[path.rpartition("/")[0]].append(path)
    absent = {p for folder, inside in by_folder.items() for p in _absent_from(root / folder, inside)}
    return [p for inside in by_folder.values() for p in inside if p in absent]


def report_absent(root: Path, paths: Iterable[str], *, source: str) -> set[str]:
    """The listed images that are not there, reported in one line with the first of them."""
    absent = absent_images(root, paths)
    if absent:
        count = "1 image that is" if len(absent) == 1 else f"{len(absent):,} images that are"
        report("missing image", f"{source} lists {count} not in {root}, first {absent[0]}; unpack the images again")
    return set(absent)


def visible(path: Path) -> list[str]:
    """Sorted names in a folder, hidden ones left out."""
    return sorted(name for name in os.listdir(path) if not name.startswith("."))


def listing_of(path: Path, limit: int = 8) -> str:
    """The names in a folder, for an error line: folders first, cut after ``limit``."""
    if not path.is_dir():
        return "no folder"
    names = visible(path)
    names = [n + "/" for n in names if (path / n).is_dir()] + [n for n in names if not (path / n).is_dir()]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "nothing") + more


def _folders_with(root: Path, parts: Sequence[str], aliases: Sequence[str], depth: int) -> list[Path]:
    if any((root / part).exists() for part in parts):
        return [root]
    if depth == 0:
        return []
    children = [root / name for name in list_folders(root) if any(_plain(name).startswith(a) for a in aliases)]
    return [found for child in children for found in _folders_with(child, parts, aliases, depth - 1)]


def _absent_from(folder: Path, paths: Sequence[str]) -> list[str]:
    if not folder.is_dir():
        return list(paths)
    with os.scandir(folder) as entries:
        there = {e.name for e in entries if e.is_file()}
    return [p for p in paths if p.rpartition("/")[2] not in there]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
