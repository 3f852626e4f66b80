"""People's own images, listed in a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from dcs_nas.data.datasets.files import (
    LARGEST_LIST,
    existing_folder,
    inner_path,
    is_file,
    is_image_name,
    listing_of,
    report_absent,
    require_size,
)
from dcs_nas.data.datasets.labels import LabelledImage, from_labels
from dcs_nas.data.datasets.problems import report
from dcs_nas.data.datasets.registry import DATASETS
from dcs_nas.data.records import SPLITS, ReidDataset
from dcs_nas.errors import InputError, choices

_COLUMNS = ("path", "person", "camera", "split")
_DELIMITERS = ",;\t"


@DATASETS.register("csv")
def csv_list(root: Path, *, file: str = "images.csv") -> ReidDataset:
    """Your own images, listed in one CSV file with a header line.

    ROOT (the folder, or the CSV file itself):
        images.csv       path,person,camera,split
                         a/0001.jpg,anna,door,train
                         b/0002.jpg,ben,hall,query
        a/0001.jpg ...   the images, anywhere in the folder
    Paths are relative to ROOT, or to the CSV file's folder where ROOT is the file, and may not lead out of it. split is
    train, query or gallery. person and camera are any names, numbered in sorted order, and the numbers are kept with
    the run; a person named -1 is junk and left out. Without a column camera, ranking has no camera filter. Further
    columns are passed over; fields may be separated by commas, semicolons or tabs.

    Options:
        file (default images.csv): the CSV file in ROOT
    """
    if is_file(root):
        root, file = Path(root).expanduser().parent, Path(root).name
    root = existing_folder(root)
    if inner_path(file, source="the option file") is None or not is_file(root / file):
        raise InputError(f"no file {file} in {root}; found {listing_of(root)}; name yours with the option file")
    rows, columns = _read(root / file)
    images = list(_images(rows, columns, file))
    absent = report_absent(root, (image.path for image in images), source=file)
    return from_labels(
        [image for image in images if image.path not in absent],
        name="csv",
        root=root,
        version=f"csv {root.name}/{file}",
        protocol="cross_camera" if "camera" in columns else "no_camera_filter",
    )


def _read(path: Path) -> tuple[list[tuple[int, list[str]]], list[str]]:
    """The rows with their line numbers, and the names of the columns."""
    require_size(path, LARGEST_LIST)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(_DELIMITERS, key=header.count), strict=True)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{path} is no valid CSV: {error}") from None
    if not rows:
        raise InputError(f"{path} is empty, expected a header line {','.join(_COLUMNS)}")
    columns = [name.lower() for name in rows[0][1]]
    for column in ("path", "person", "split"):
        if columns.count(column) != 1:
            found = ", ".join(columns)
            raise InputError(f"{path} has the columns {found}, expected one each of {', '.join(_COLUMNS)}")
    return rows[1:], columns


def _images(rows: list[tuple[int, list[str]]], columns: list[str], file: str) -> Iterator[LabelledImage]:
    seen: dict[tuple[str, str], int] = {}
    for number, cells in rows:
        image = _image(cells, columns, f"{file}, line {number}")
        if image is None:
            continue
        first = seen.setdefault((image.path, image.split), number)
        if first == number:
            yield image
        else:
            report(
                "bad list entry",
                f"{file}, line {number}: {image.path} stands in line {first} for {image.split} already",
            )


def _image(cells: list[str], columns: list[str], source: str) -> LabelledImage | None:
    if len(cells) != len(columns):
        report("bad list entry", f"{source} has {len(cells)} fields, expected {len(columns)}: {', '.join(columns)}")
        return None
    row = dict(zip(columns, cells))
    path = inner_path(row["path"], source=source)
    if path is None:
        return None
    if not is_image_name(path.rpartition("/")[2]):
        report("unparsable name", f"{source}: {path} is not the name of an image; expected .jpg, .png or the like")
        return None
    if row["split"].lower() not in SPLITS:
        report("bad list entry", f"{source}: unknown split '{row['split']}'; {choices(row['split'], SPLITS)}")
        return None
    for column in ("person", "camera"):
        if row.get(column) == "":
            report("bad list entry", f"{source}: the field {column} is empty; every image needs one")
            return None
    return LabelledImage(path, row["person"], row.get("camera", "all"), row["split"].lower())
