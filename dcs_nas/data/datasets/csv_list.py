"""User-supplied images, listed in a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from dcs_nas.data.datasets.labels import LabelledImage, Seed, Share, from_labels
from dcs_nas.data.datasets.listing import (
    LARGEST_LIST,
    describe_content,
    is_file,
    is_image_name,
    locate,
    require_folder,
    resolve_inner_path,
)
from dcs_nas.data.datasets.loaders import DATASETS, report
from dcs_nas.data.records import SPLITS, ReidDataset
from dcs_nas.errors import InputError, choices
from dcs_nas.former_keys import rename_former_keys
from dcs_nas.settings import read_text

_COLUMNS = {
    "path": "file filename filepath image imagename imagepath imagefile img imgname imgpath",
    "identity": "person personid pid id identityid label subject subjectid vehicle vehicleid",
    "camera": "cameraid cam camid",
    "split": "set subset part partition",
}
"""Column to its other names, without case and punctuation."""
_DELIMITERS = ",;\t"
_Row = tuple[int, list[str]]


@DATASETS.register("csv")
def csv_list(
    root: Path,
    *,
    file: str = "images.csv",
    columns: dict[str, str] | None = None,
    split: Share = None,
    seed: Seed = 0,
) -> ReidDataset:
    """Your own images, listed in one CSV file with a header line.

    ROOT (the folder, or the CSV file itself):
        images.csv       path,identity,camera,split
                         a/0001.jpg,id_1,door,train
                         b/0002.jpg,id_2,hall,query
        a/0001.jpg ...   the images, anywhere in the folder
    Paths are relative to ROOT, or to the CSV file's folder where ROOT is the file; they may begin with the name of that
    folder, or be absolute, but not lead out of it. split is train, query or gallery. identity and camera are any names,
    numbered in sorted order, and the numbers are kept with the run; an identity named -1 is junk and left out. Without
    a column camera, ranking has no camera filter. Other usual names of columns are known, such as filename, pid, camid
    and subset. Further columns are ignored; fields may be separated by commas, semicolons or tabs.

    Options:
        file (default images.csv): the CSV file in ROOT
        columns (no default): your names of columns, such as {path: photo, identity: who, camera: place, split: fold}
        split (0 to 1, no default): where there is no column split, the share of the identities to train on; of each
                                    other identity the first image by every camera is a query, the rest the gallery
        seed (default 0): which identities are used for training
    """
    if is_file(root):
        root, file = Path(root).expanduser().parent, Path(root).name
    root = require_folder(root)
    if resolve_inner_path(file, source="the option file", root=root) is None or not is_file(root / file):
        raise InputError(f"no file {file} in {root}; found {describe_content(root)}; name yours with the option file")
    header, rows = _read(root / file)
    places = _places(header, columns or {}, root / file)
    _check_split(places, split, root / file)
    images = list(_images(rows, header, places, root, file))
    protocol = "cross_camera" if "camera" in places else "no_camera_filter"
    version = f"csv {root.name}/{file}"
    return from_labels(images, name="csv", root=root, version=version, protocol=protocol, share=split, seed=seed)


def _read(path: Path) -> tuple[list[str], list[_Row]]:
    """Return the names of the columns, and the rows with their line numbers."""
    lines = list(io.StringIO(read_text(path, largest=LARGEST_LIST), newline=""))
    if lines and lines[0].startswith("sep="):  # Excel's own first line, which names the delimiter
        lines[0] = "\n"
    header = next((line for line in lines if line.strip()), "")
    try:
        reader = csv.reader(lines, delimiter=max(_DELIMITERS, key=header.count), strict=True)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except csv.Error as error:
        raise InputError(f"{path} is no valid CSV ({error}); save it as CSV again") from None
    if not rows:
        raise InputError(f"{path} is empty, expected a header line {','.join(_COLUMNS)}")
    return [name.lower() for name in rows[0][1]], rows[1:]


def _places(header: list[str], columns: Mapping[str, str], path: Path) -> dict[str, int]:
    """Return the index of each column in a row, by the option ``columns``, by its own name, or by a usual one."""
    columns = rename_former_keys("columns", columns, "options of data set 'csv'")
    for column in columns:
        if column not in _COLUMNS:
            raise InputError(f"options of data set 'csv': columns: unknown '{column}'; {choices(column, _COLUMNS)}")
    places = {}
    for column, usual in _COLUMNS.items():
        names = [columns[column].lower()] if column in columns else [column, *usual.split()]
        own = ("identity", "person") if column == "identity" and column not in columns else names[:1]
        exact = [i for i, name in enumerate(header) if name in own]
        fitting = exact or [i for i, name in enumerate(header) if _plain(name) in names]
        if len(fitting) == 1:
            places[column] = fitting[0]
        elif fitting or column in ("path", "identity") or column in columns:
            what, example = (f"{len(fitting)} columns", header[fitting[0]]) if fitting else ("no column", "NAME")
            raise InputError(
                f"{path} has the columns {', '.join(header)}: {what} for the {column}, expected one, such as "
                f"{', '.join(names[:4])}; name yours by the option columns, e.g. columns={{{column}: {example}}}"
            )
    return places


def _plain(name: str) -> str:
    return "".join(letter for letter in name if letter.isalnum())


def _check_split(places: Mapping[str, int], split: float | None, path: Path) -> None:
    if split is not None and "split" in places:
        raise InputError(f"{path} has a column split, which divides it already; leave the option split out")
    if split is None and "split" not in places:
        raise InputError(
            f"{path} has no column split, expected train, query or gallery for each image; name yours by the option "
            "columns, e.g. columns={split: fold}, or divide by identity with the option split=0.5"
        )


def _images(
    rows: list[_Row], header: list[str], places: Mapping[str, int], root: Path, file: str
) -> Iterator[LabelledImage]:
    parsed = (_image(cells, header, places, root, f"{file}, line {number}") for number, cells in rows)
    listed = [image for image in parsed if image is not None]
    where = locate(root, (image.path for image in listed), source=file)
    for image in listed:
        if image.path in where:
            yield replace(image, path=where[image.path])


def _image(
    cells: list[str], header: list[str], places: Mapping[str, int], root: Path, source: str
) -> LabelledImage | None:
    if len(cells) != len(header):
        report(
            "bad list entry",
            f"{source} has {len(cells)} fields, expected {len(header)}: {', '.join(header)}; correct the line",
        )
        return None
    row = {column: cells[i] for column, i in places.items()}
    path = resolve_inner_path(row["path"], source=source, root=root)
    if path is None:
        return None
    if not is_image_name(path.rpartition("/")[2]):
        report(
            "unparsable name",
            f"{source}: {path} is not the name of an image; expected .jpg, .png or the like: correct it",
        )
        return None
    split = row.get("split", "").lower()
    if "split" in row and split not in SPLITS:
        report("bad list entry", f"{source}: unknown split '{row['split']}'; {choices(row['split'], SPLITS)}")
        return None
    for column in ("identity", "camera"):
        if row.get(column) == "":
            report("bad list entry", f"{source}: the field {column} is empty; every image needs one")
            return None
    return LabelledImage(path, row["identity"], row.get("camera", "all"), split)
