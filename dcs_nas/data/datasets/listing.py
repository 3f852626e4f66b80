"""Find a data set's folder and list its files; no image is opened here."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from dcs_nas.data.datasets.loaders import pass_over, report
from dcs_nas.errors import InputError
from dcs_nas.settings import read_text

LARGEST_LIST = 2**28  # bytes of a list file: several million images
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".avif"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx"}
)
_OF_SYSTEMS = ("thumbs.db", "desktop.ini")  # hidden files of Windows
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u0080-\u009f\ud800-\udfff]")
_SEARCH_DEPTH = 2  # data/ and data/market1501/ both lead to data/market1501/Market-1501-v15.09.15/


def require_folder(root: Path) -> Path:
    """Return ``root`` with ``~`` expanded; raise ``InputError`` if it is absent, empty or no folder."""
    try:
        root = Path(root).expanduser()
        if not root.exists():
            raise InputError(f"there is no folder {root}; give the folder that holds the data set")
        if not root.is_dir():
            raise InputError(f"{root} is a file, expected the folder that holds the data set; give that")
        if not list_visible(root):
            raise InputError(f"{root} is empty, expected the folder that holds the data set; give that")
    except (OSError, RuntimeError) as error:  # a name too long, a folder that may not be read, ~ of nobody
        raise InputError(f"the folder {root} cannot be read ({get_reason(error)}); check the path") from None
    return root


def find_root(root: Path, *, parts: Sequence[str], title: str, aliases: Sequence[str]) -> Path:
    """Return the folder that holds ``parts``: ``root`` itself, or a folder below it whose name starts with an alias.

    Names are compared without case and punctuation. A folder with some of the parts is returned too; the caller reports
    the missing ones.

    Raises:
        InputError: no such folder, an empty one, none of the parts, or several folders that fit.
    """
    root = require_folder(root)
    fitting = _find_folders(root, parts, [_simplify(a) for a in aliases], _SEARCH_DEPTH)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        listing = ", ".join(f.relative_to(root).as_posix() for f in fitting)
        raise InputError(f"{root} holds {title} several times ({listing}); give one of these folders")
    raise InputError(
        f"{root} is not the folder of {title} or its parent: found {describe_content(root)}, expected "
        f"{', '.join(parts)}; give another folder"
    )


def list_images(root: Path, folder: str, *, deeper: bool = False) -> list[str]:
    """List the images in one folder, with ``deeper`` also in the folders inside it, as sorted paths below ``root``.

    An absent or empty folder is reported. Hidden files are left out. Files without an image's suffix (readme.txt) and,
    without ``deeper``, images in folders inside are counted as passed over. Names with control characters or not in
    UTF-8 are reported, and so is anything else with an image's name: a folder, a pipe, a broken link.
    """
    path = root / folder
    if not path.is_dir():
        report("missing part", f"no folder {folder} in {root}; found {describe_content(root)}")
        return []
    images, foreign = list_images_below(path)
    inside = [p for p in images if "/" in p and not deeper]
    kept = [p for p in images if deeper or "/" not in p]
    if not kept:
        report("missing part", f"{path} holds no images; {_describe_missing_images(folder, inside, foreign)}")
    pass_over("images in deeper folders", (f"{folder}/{p}" for p in inside))
    pass_over("files without the ending of an image", (f"{folder}/{p}" for p in foreign))
    return [f"{folder}/{p}" for p in kept if _is_plain(p, path)]


def pass_over_files(root: Path, folder: str, what: str) -> None:
    """Count the files that lie in ``folder`` itself as passed over."""
    files = (root / folder / name for name in list_visible(root / folder))
    pass_over(what, (file.relative_to(root).as_posix() for file in files if not file.is_dir()))


def pass_over_folders(root: Path, folders: Iterable[str], what: str) -> None:
    """Count these folders of ``root``, with the number of images below each, as passed over."""
    counts = ((name, len(list_images_below(root / name)[0])) for name in folders)
    pass_over(what, (f"{name}/ ({count:,} images)" for name, count in counts))


def list_images_below(path: Path, above: tuple[str, ...] = ()) -> tuple[list[str], list[str]]:
    """Return the paths relative to ``path``, at any depth, of files with an image's name, and of other visible files.

    Each folder is sorted and comes before the folders inside it. A link to a folder that holds it, or in a circle, is
    not followed.
    """
    real = os.path.realpath(path)
    images: list[str] = []
    foreign: list[str] = []
    folders: list[str] = []
    for name in list_visible(path):
        kind = images if is_image_name(name) else folders if os.path.isdir(path / name) else foreign
        kind.append(name)
    for name in folders:
        if os.path.realpath(path / name) in above or _leads_up(path / name):
            continue
        try:
            inner = list_images_below(path / name, (real, *above))
        except (OSError, RecursionError):  # a folder that may not be read
            foreign.append(f"{name}/")
            continue
        for own, inside in zip((images, foreign), inner):
            own += [f"{name}/{p}" for p in inside]
    return images, foreign


def read_lines(root: Path, name: str) -> list[tuple[int, str]]:
    """Return the lines of a text file that are not blank, with their numbers from 1; report an absent file."""
    path = root / name
    if not path.is_file():
        report("missing part", f"no file {name} in {root}; found {describe_content(root)}")
        return []
    lines = enumerate(read_text(path, largest=LARGEST_LIST).splitlines(), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def list_folders(path: Path) -> list[str]:
    """List the folders in ``path``, sorted, without hidden ones and links to a folder that holds them.

    A name that cannot be printed is reported.
    """
    names = [name for name in list_visible(path) if (path / name).is_dir() and not _leads_up(path / name)]
    return [name for name in names if is_printable(name, path)]


def _leads_up(folder: Path) -> bool:
    """Return whether a folder is a link to one that holds the link: its images would be found twice."""
    return folder.is_symlink() and Path(os.path.realpath(folder.parent)).is_relative_to(os.path.realpath(folder))


def is_image_name(name: str) -> bool:
    """Return whether a file of this name counts as an image: not hidden, and an image's suffix."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_file(path: Path) -> bool:
    """Return whether there is such a file; ``~`` is expanded, and a path that cannot be looked up is no file."""
    try:
        return Path(path).expanduser().is_file()
    except (OSError, RuntimeError):  # a name too long, ~ of nobody
        return False


def is_printable(name: str, folder: Path) -> bool:
    """Return whether a name is UTF-8 without control characters; report it if not."""
    if _CONTROL.search(name) is None:
        return True
    expected = "expected UTF-8 without control characters: rename it"
    report("unparsable name", f"the name {name!r} in {folder} cannot be printed; {expected}")
    return False


def get_status(path: Path) -> os.stat_result:
    """Return the status of a listed file; raise ``InputError`` where it is absent or cannot be looked up."""
    try:
        return path.stat()
    except FileNotFoundError:
        raise InputError(f"{path} is listed, but there is no such file; list the folder again") from None
    except OSError as error:  # links in a circle, no permission
        raise InputError(f"{path} cannot be read ({get_reason(error)}); replace or remove it") from None


def get_reason(error: BaseException) -> str:
    """Return the system's message, such as "Permission denied"."""
    return getattr(error, "strerror", None) or str(error)


def resolve_inner_path(text: str, *, source: str, root: Path) -> str | None:
    """Return a path from a list file, relative to ``root``, or None (reported) where it leads out of that folder.

    Absolute paths out of the folder, drive letters and ``..`` are refused. Links inside the folder are followed: the
    owner of the folder made them, whereas a list file may come from anywhere.
    """
    path = PurePosixPath(text.replace("\\", "/"))
    if _CONTROL.search(text):
        report("bad list entry", f"{source}: path {text!r} holds a control character; rename the image")
        return None
    if path.is_absolute() and ".." not in path.parts:
        folders = (os.path.abspath(root), os.path.realpath(root))
        inside = next((folder for folder in folders if path.is_relative_to(folder)), None)
        path = path.relative_to(inside) if inside else path
    if not text or path.is_absolute() or PureWindowsPath(text).drive or ".." in path.parts:
        report(
            "bad list entry",
            f"{source}: path {text!r} leads out of the data set; expected a path inside {root}, or relative to it",
        )
        return None
    return path.as_posix()


def find_absent_images(root: Path, paths: Iterable[str]) -> list[str]:
    """Return the ``paths`` that are no files below ``root``, in their order."""
    return [path for path in paths if not os.path.isfile(root / path)]


def report_absent(root: Path, paths: Iterable[str], *, source: str) -> set[str]:
    """Return the listed images that are absent; report their number and the first one."""
    paths = list(paths)
    absent = find_absent_images(root, paths)
    if absent:
        count = "1 image that is" if len(absent) == 1 else f"{len(absent):,} images that are"
        advice = "unpack the images again, or remove them from the list"
        if len(absent) == len(paths):
            advice = f"expected paths relative to that folder, which holds {describe_content(root, 3)}"
        report("missing image", f"{source} lists {count} not in {root}, first {absent[0]}; {advice}")
    return set(absent)


def locate(root: Path, paths: Iterable[str], *, source: str) -> dict[str, str]:
    """Return the path below ``root`` of each listed path; absent files are reported and left out.

    A path may begin with the last folders of ``root``, as in a list that was written above it.
    """
    where = {path: path for path in paths}
    for path in find_absent_images(root, where):
        where[path] = _strip_folder(root, path)
    absent = report_absent(root, where.values(), source=source)
    return {path: place for path, place in where.items() if place not in absent}


def list_visible(path: Path) -> list[str]:
    """Return sorted names in a folder, hidden ones left out."""
    return sorted(n for n in os.listdir(path) if not n.startswith(".") and n.lower() not in _OF_SYSTEMS)


def describe_content(path: Path, limit: int = 8) -> str:
    """Return the names in a folder, for an error line: folders first, cut after ``limit``."""
    if not path.is_dir():
        return "no folder"
    names = list_visible(path)
    names = [n + "/" for n in names if (path / n).is_dir()] + [n for n in names if not (path / n).is_dir()]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "nothing") + more


def _find_folders(root: Path, parts: Sequence[str], aliases: Sequence[str], depth: int) -> list[Path]:
    if any((root / part).exists() for part in parts):
        return [root]
    if depth == 0:
        return []
    children = [root / name for name in list_folders(root) if any(_simplify(name).startswith(a) for a in aliases)]
    return [folder for child in children for folder in _find_folders(child, parts, aliases, depth - 1)]


def _strip_folder(root: Path, path: str) -> str:
    """Return ``path`` without the longest start that repeats the end of ``root``."""
    parts, folder = path.split("/"), os.path.abspath(root).split(os.sep)
    repeated = next((n for n in range(len(parts) - 1, 0, -1) if parts[:n] == folder[-n:]), 0)
    return "/".join(parts[repeated:])


def _describe_missing_images(folder: str, inside: Sequence[str], foreign: Sequence[str]) -> str:
    """Describe the content of a folder without images, and how to fix it."""
    if inside:
        return f"{len(inside):,} lie in folders inside it, first {folder}/{inside[0]}: move them up"
    if foreign:
        return f"found {foreign[0]}, expected files such as .jpg or .png in it: convert or unpack the files"
    return "expected files such as .jpg or .png in it"


def _is_plain(name: str, folder: Path) -> bool:
    if not is_printable(name, folder):
        return False
    path = os.path.join(folder, name)
    try:
        kind = os.stat(path).st_mode
        if stat.S_ISREG(kind):
            return True
        what = "a folder" if stat.S_ISDIR(kind) else "a pipe, socket or device"
    except OSError as error:
        what = f"a broken link ({get_reason(error)})" if os.path.islink(path) else get_reason(error)
    report("unparsable name", f"{path} has the name of an image but is {what}; remove it")
    return False


def _simplify(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
