"""Data as people have them: names of columns, forms of paths, undivided folders, files that are passed over."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dcs_nas.data.check import check_dataset, find_unmatched_queries
from dcs_nas.data.datasets import DATASETS, load_dataset
from dcs_nas.data.datasets.listing import IMAGE_SUFFIXES
from dcs_nas.data.images import read_image
from dcs_nas.data.records import ReidDataset
from dcs_nas.errors import InputError
from tests.command_line import refused, run_command
from tests.make_datasets import (
    write_csv,
    write_cuhk03_mat,
    write_duke,
    write_folder,
    write_image,
    write_images,
    write_market,
    write_msmt17,
    write_occluded_reid,
    write_veri,
)

ROWS = ["a/1.jpg,id_1,door,train", "a/2.jpg,id_2,hall,train", "b/3.jpg,id_3,hall,query", "b/4.jpg,id_3,door,gallery"]
TREE = {"train/id_1/door": ["1.jpg"], "query/id_3/door": ["1.jpg"], "gallery/id_3/hall": ["1.jpg"]}


def _refusal(name: str, root: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        load_dataset(name, root, **options)
    return str(caught.value)


def _paths(data: ReidDataset) -> list[str]:
    return [r.path for r in data.records]


# Columns

HEADERS = [
    "filename,pid,camid,split",
    "File Name,person-id,Camera,Set",
    "file,identity,cam,subset",
    "image_path,ID,camera_id,partition",
    "img,label,cam_id,part",
    "image,vehicleID,cameraID,split",
    "imgname,identity_id,cam,set",
]


@pytest.mark.parametrize("header", HEADERS)
def test_usual_names_of_columns_are_known(tmp_path: Path, header: str) -> None:
    plain = load_dataset("csv", write_csv(tmp_path, ROWS))
    (tmp_path / "images.csv").write_text("\n".join([header, *ROWS]))
    assert load_dataset("csv", tmp_path) == plain


def test_any_columns_can_be_named_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_csv(tmp_path, ROWS)
    plain = load_dataset("csv", tmp_path)
    (tmp_path / "images.csv").write_text("\n".join(["photo,Who is it,place,fold", *ROWS]))
    named = "columns={path: photo, identity: Who is it, camera: place, split: fold}"
    assert run_command(capsys, "datasets", "csv", "--root", tmp_path, "-o", named)[0] == 0
    columns = {"path": "photo", "identity": "Who is it", "camera": "place", "split": "fold"}
    assert load_dataset("csv", tmp_path, columns=columns) == plain


@pytest.mark.parametrize(
    ("header", "said", "columns"),
    [
        ("photo,person,camera,split", "no column for the path", {"path": "photo"}),
        ("id,path,pid,split", "2 columns for the identity", {"identity": "id"}),
        ("path,person,cam,camid", "2 columns for the camera", {"camera": "cam", "split": "camid"}),
        ("path,person,camera,fold", "no column split", {"split": "fold"}),
    ],
)
def test_columns_that_are_unknown_or_several_are_named_by_the_option(
    tmp_path: Path, header: str, said: str, columns: dict[str, str]
) -> None:
    names = header.split(",")
    value = {"path": "a/1.jpg", "photo": "a/1.jpg", "camid": "train", "split": "train", "fold": "train"}
    write_image(tmp_path / "a" / "1.jpg")
    (tmp_path / "images.csv").write_text("\n".join([header, ",".join(value.get(n, "x") for n in names)]))
    message = _refusal("csv", tmp_path)
    assert said in message
    assert "columns={" in message
    assert len(load_dataset("csv", tmp_path, columns=columns).train) == 1


def test_an_unknown_column_of_the_option_is_refused(tmp_path: Path) -> None:
    write_csv(tmp_path, ROWS)
    assert "columns: unknown 'identty'; did you mean identity?" in _refusal("csv", tmp_path, columns={"identty": "x"})
    assert "no column for the camera" in _refusal("csv", tmp_path, columns={"camera": "x"})


# Paths in lists


def _csv(root: Path, form: Callable[[Path, str], str]) -> None:
    write_csv(root, ROWS)
    lines = (root / "images.csv").read_text().splitlines()
    changed = [",".join([form(root, line.split(",")[0]), *line.split(",")[1:]]) for line in lines[1:]]
    (root / "images.csv").write_text("\n".join([lines[0], *changed]))


def _veri(root: Path, form: Callable[[Path, str], str]) -> None:
    write_veri(root)
    for part in ("train", "query", "test"):
        names = (root / f"name_{part}.txt").read_text().split()
        (root / f"name_{part}.txt").write_text("\n".join(form(root / f"image_{part}", name) for name in names))


def _msmt17(root: Path, form: Callable[[Path, str], str]) -> None:
    write_msmt17(root)
    for file in root.glob("list_*.txt"):
        folder = root / ("train" if file.stem in ("list_train", "list_val") else "test")
        rows = [line.split() for line in file.read_text().splitlines()]
        file.write_text("\n".join(f"{form(folder, path)} {person}" for path, person in rows))


LISTS: dict[str, tuple[Callable, dict[str, Any]]] = {
    "csv": (_csv, {}),
    "veri776": (_veri, {}),
    "msmt17": (_msmt17, {"version": "V1"}),
}
FORMS: dict[str, Callable[[Path, str], str]] = {
    "absolute": lambda folder, path: f"{folder.absolute()}/{path}",
    "through a link": lambda folder, path: f"{folder.resolve()}/{path}",
    "folder repeated": lambda folder, path: f"{folder.name}/{path}",
    "two folders repeated": lambda folder, path: f"{folder.parent.name}/{folder.name}/{path}",
    "dot": lambda folder, path: f"./{path}",
    "backslashes": lambda folder, path: path.replace("/", "\\"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LISTS)
def test_listed_paths_may_be_written_from_elsewhere(
    tmp_path: Path, name: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, options = LISTS[name]
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    monkeypatch.chdir(tmp_path)
    root = Path("link" if form == "through a link" else "disk") / name
    write(root, lambda folder, path: path)
    plain = load_dataset(name, root, **options)
    write(root, FORMS[form])
    assert load_dataset(name, root, **options) == plain


def test_a_path_as_it_stands_comes_before_one_without_the_repeated_folder(tmp_path: Path) -> None:
    root = write_images(tmp_path / "people", ["people/1.jpg", "1.jpg"])
    (root / "images.csv").write_text("path,person,split\npeople/1.jpg,a,train\n1.jpg,b,train\n")
    assert _paths(load_dataset("csv", root)) == ["people/1.jpg", "1.jpg"]


@pytest.mark.parametrize("name", LISTS)
def test_images_that_are_not_there_are_told_from_paths_that_do_not_fit(tmp_path: Path, name: str) -> None:
    write, options = LISTS[name]
    write(tmp_path, lambda folder, path: path)
    kept = load_dataset(name, tmp_path, **options)
    (tmp_path / kept.gallery[0].path).unlink()
    some = _refusal(name, tmp_path, **options)
    if len(kept.gallery) > 1 or name == "csv":
        assert "unpack the images again, or remove them from the list" in some
    write(tmp_path, lambda folder, path: f"elsewhere/{path}")
    message = _refusal(name, tmp_path, **options)
    assert "expected paths relative to that folder, which holds" in message
    assert "unpack" not in message


# Undivided data


def _undivided(root: Path, *, people: int = 10, cameras: int = 2, images: int = 2) -> Path:
    tree = {f"p{p}/c{c}": [f"{i}.jpg" for i in range(images)] for p in range(people) for c in range(cameras)}
    return write_folder(root, tree)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["cameras", "no cameras", "in the name", "csv", "csv without cameras"])
def test_undivided_data_are_divided_by_identity(
    tmp_path: Path, kind: str, share: float, capsys: pytest.CaptureFixture
) -> None:
    name, options = kind.split()[0] if kind.startswith("csv") else "folder", {"split": share}
    files = [(f"p{p}", f"c{c}", i) for p in range(10) for c in range(2) for i in range(2)]
    if kind == "cameras":
        _undivided(tmp_path)
    elif name == "folder":
        write_images(tmp_path, [f"{p}/{p}_{c}_{i}.jpg" for p, c, i in files])
        options |= {"camera": "_(c[01])_"} if kind == "in the name" else {}
    else:
        camera = "," if kind.endswith("cameras") else ",{},"
        rows = [f"{p}_{c}_{i}.jpg{camera.format(c)}{p}" for p, c, i in files]
        write_csv(tmp_path, rows, header="path,camera,person" if "{}" in camera else "path,person")
    data = load_dataset(name, tmp_path, **options)
    people = {part: {r.identity for r in data.split(part)} for part in ("train", "query", "gallery")}
    assert len(people["train"]) == round(10 * share)
    assert not people["train"] & (people["query"] | people["gallery"])
    assert people["query"] == people["gallery"]
    assert len(people["train"] | people["gallery"]) == 10
    assert sorted(Counter(_paths(data)).values()) == [1] * 40
    assert find_unmatched_queries(data) == ()
    per_person = 1 if "no cameras" in kind or "without" in kind else 2
    assert set(Counter(r.identity for r in data.query).values()) == {per_person}
    assert f"split {share:g}, seed 0" in data.version
    assert load_dataset(name, tmp_path, **options) == data
    seeds = {tuple(load_dataset(name, tmp_path, **options, seed=seed).train) for seed in range(5)}
    assert len(seeds) > 1
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value!r}")]
    assert run_command(capsys, "datasets", name, "--root", tmp_path, "--images", *words)[0] == 0


def test_a_division_depends_on_the_names_of_identities_alone(tmp_path: Path) -> None:
    _undivided(tmp_path)
    before = load_dataset("folder", tmp_path, split=0.5)
    assert before.label_map is not None
    train = {name for name, number in before.label_map.items() if number in {r.identity for r in before.train}}
    shutil.rmtree(tmp_path / sorted(train)[0])
    shutil.rmtree(tmp_path / sorted(set(before.label_map) - train)[0])
    after = load_dataset("folder", tmp_path, split=0.5)
    assert after.label_map is not None
    assert {n for n, i in after.label_map.items() if i in {r.identity for r in after.train}} == train - {
        sorted(train)[0]
    }


def test_the_only_image_by_a_camera_stays_in_the_gallery(tmp_path: Path) -> None:
    rows = ["1.jpg,a,door", "2.jpg,a,door", "3.jpg,a,hall", "4.jpg,b,door", "5.jpg,b,hall", "6.jpg,c,door"]
    write_csv(tmp_path, rows, header="path,person,camera")
    sides = {}
    for seed in range(12):
        data = load_dataset("csv", tmp_path, split=0.3, seed=seed)
        sides[data.train[0].identity] = ([r.path for r in data.query], [r.path for r in data.gallery])
    assert sides[3] == (["1.jpg", "4.jpg"], ["2.jpg", "3.jpg", "5.jpg"])
    assert sides[2] == (["1.jpg"], ["2.jpg", "3.jpg", "6.jpg"])


def test_data_that_are_divided_already_or_cannot_be_are_refused_with_advice_that_works(tmp_path: Path) -> None:
    folder, listed = write_folder(tmp_path / "folder", TREE), write_csv(tmp_path / "csv", ROWS)
    for name, root in (("folder", folder), ("csv", listed)):
        assert "leave the option split out" in _refusal(name, root, split=0.5)
        load_dataset(name, root)
    plain = write_folder(tmp_path / "plain", {"id_1": ["1.jpg", "2.jpg"], "id_2": ["1.jpg", "2.jpg"]})
    assert "for one folder for each identity, give the option split=0.5" in _refusal("folder", plain)
    load_dataset("folder", plain, split=0.5)
    write_csv(tmp_path / "list", ["1.jpg,a", "2.jpg,a", "3.jpg,b", "4.jpg,b"], header="path,person")
    assert "divide by identity with the option split=0.5" in _refusal("csv", tmp_path / "list")
    load_dataset("csv", tmp_path / "list", split=0.5)
    assert f"give {folder}" in _refusal("folder", write_folder(tmp_path / "above", {"x": []}).parent)
    (plain / "id_2" / "2.jpg").unlink()
    (plain / "id_1" / "2.jpg").unlink()
    assert "add images, since no identity has two" in _refusal("folder", plain, split=0.5)
    shutil.rmtree(plain / "id_2")
    assert "show 1 identities, expected at least two" in _refusal("folder", plain, split=0.5)


def test_a_test_half_of_single_images_is_told_to_lower_the_split(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {f"p{i}": ["1.jpg"] for i in range(9)} | {"two": ["1.jpg", "2.jpg"]})
    seed = next(s for s in range(20) if _raises(root, 0.5, s))
    assert "lower split, or set another seed" in _refusal("folder", root, split=0.5, seed=seed)
    load_dataset("folder", root, split=0.01, seed=next(s for s in range(20) if not _raises(root, 0.01, s)))


def _raises(root: Path, share: float, seed: int) -> bool:
    try:
        load_dataset("folder", root, split=share, seed=seed)
    except InputError:
        return True
    return False


# Endings, and what is passed over


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_an_image_of_every_ending_is_listed_and_read(tmp_path: Path, suffix: str) -> None:
    pixels = np.zeros((16, 8, 3), np.uint8)
    pixels[8:] = 255
    path = tmp_path / "train" / "id_1" / "door" / f"1{suffix.upper()}"
    path.parent.mkdir(parents=True)
    kind = {".jpx": "JPEG2000", ".jfif": "JPEG", ".jpe": "JPEG"}.get(suffix)
    image = Image.fromarray(pixels)
    image = image.convert({".pgm": "L", ".pbm": "1"}.get(suffix, "RGB"))
    more = {"save_all": True, "append_images": [Image.new("RGB", (8, 16), "red")]} if suffix == ".gif" else {}
    image.save(path, format=kind, **more)
    report = check_dataset("folder", tmp_path, images=True)
    assert report.ok
    assert report.dataset is not None
    read = read_image(tmp_path / report.dataset.train[0].path, height=16, width=8).astype(int)
    assert read[2].max() < 40
    assert read[13].min() > 215


def _market(name: str) -> Callable[[Path], object]:
    return write_duke if "duke" in name else write_market


def _cuhk03(root: Path) -> None:
    write_cuhk03_mat(root / "cuhk-03.mat")
    load_dataset("cuhk03", root, protocol="classic")


CLASSES = {f"{part}/{name}": ["1.jpg", "2.jpg"] for part in ("train", "val") for name in ("cat", "dog")}
LOADERS: dict[str, tuple[Callable[[Path], object], dict[str, Any], str]] = {
    **{n: (_market(n), {}, "query") for n in ("market1501", "synthetic", "dukemtmc", "occluded_duke")},
    "veri776": (lambda root: write_veri(root, lists=False), {}, "image_query"),
    "occluded_reid": (write_occluded_reid, {}, "whole_body_images/001"),
    "cuhk03": (_cuhk03, {"protocol": "classic"}, "images_detected"),
    "folder": (lambda root: write_folder(root, TREE), {}, "query/id_3/door"),
    "class_folders": (lambda root: write_folder(root, CLASSES), {}, "val/dog"),
}
LISTED = {"csv", "msmt17"}
"""Those that take what a list names, whatever else lies in the folder."""


def test_every_loader_that_lists_folders_is_swept_here() -> None:
    assert set(LOADERS) | LISTED == set(DATASETS)


@pytest.mark.parametrize("name", LOADERS)
def test_what_a_loader_passes_over_is_counted_and_named(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write, options, folder = LOADERS[name]
    write(tmp_path)
    whole = check_dataset(name, tmp_path, options=options)
    assert whole.dataset is not None
    assert whole.dataset.passed_over == ()
    assert "  complete; images not read" in whole.lines()
    for file in ("a.heic", "notes.txt", ".hidden", "Thumbs.db", "deep/b.heic"):
        (tmp_path / folder / "deep").mkdir(exist_ok=True)
        (tmp_path / folder / file).write_text("x")
    shutil.copy(tmp_path / whole.dataset.records[-1].path, tmp_path / folder / "deep" / "0001_c1_1.jpg")
    report = check_dataset(name, tmp_path, options=options)
    assert report.ok
    assert report.dataset is not None
    others = f"passed over 3 files without the ending of an image: {folder}/a.heic, {folder}/notes.txt, {folder}/deep/"
    assert any(line.startswith(others) for line in report.remarks)
    deeper = f"passed over 1 images in deeper folders: {folder}/deep/0001_c1_1.jpg"
    read = set(_paths(report.dataset)) - set(_paths(whole.dataset))
    assert (deeper in report.remarks) != (read == {f"{folder}/deep/0001_c1_1.jpg"})
    assert "  complete except for the files passed over; images not read" in report.lines()
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    assert others in run_command(capsys, "datasets", name, "--root", tmp_path, *words)[1]


@pytest.mark.parametrize("name", [n for n in LOADERS if n not in ("folder", "class_folders", "cuhk03")])
def test_a_folder_whose_images_lie_deeper_or_are_of_another_kind_is_told_so(name: str, tmp_path: Path) -> None:
    write, options, folder = LOADERS[name]
    write(tmp_path)
    images = sorted((tmp_path / folder).iterdir())
    (tmp_path / folder / "inner").mkdir()
    for image in images:
        image.rename(tmp_path / folder / "inner" / image.name)
    assert f"{len(images)} lie in folders inside it, first {folder}/inner/" in _refusal(name, tmp_path, **options)
    shutil.rmtree(tmp_path / folder / "inner")
    (tmp_path / folder / "a.heic").write_text("x")
    assert "found a.heic, expected files such as .jpg" in _refusal(name, tmp_path, **options)


def test_a_folder_data_set_reads_deeper_folders_and_counts_what_lies_beside(tmp_path: Path) -> None:
    tree = {
        **TREE,
        "train/id_1/door/monday/early": ["2.jpg"],
        "train/id_1": ["beside.jpg"],
        "train": ["loose.jpg"],
        "docs": ["plan.png"],
        "train_all/id_1": ["1.jpg", "2.jpg"],
        "__MACOSX/train": ["._1.jpg"],
    }
    report = check_dataset("folder", write_folder(tmp_path, tree))
    assert report.ok
    assert report.dataset is not None
    assert [r.path for r in report.dataset.train] == ["train/id_1/door/1.jpg", "train/id_1/door/monday/early/2.jpg"]
    assert report.dataset.passed_over == (
        "passed over 3 folders beside train, query and gallery: __MACOSX/ (0 images), docs/ (1 images), "
        "train_all/ (2 images)",
        "passed over 1 files beside the folders of identities: train/loose.jpg",
        "passed over 1 files beside the folders of cameras: train/id_1/beside.jpg",
    )
    assert load_dataset("folder", tmp_path, camera="none").passed_over == report.dataset.passed_over[:2]


def test_an_undivided_folder_passes_over_what_is_no_person(tmp_path: Path) -> None:
    tree = {"id_1": ["1.jpg", "2.jpg"], "id_2": ["1.jpg", "2.jpg"], ".": ["loose.jpg"], "__MACOSX/id_1": ["._1.jpg"]}
    write_folder(tmp_path, tree)
    (tmp_path / "docs").mkdir()
    data = load_dataset("folder", tmp_path, split=0.5)
    assert data.label_map == {"id_1": 1, "id_2": 2}
    assert data.protocol == "no_camera_filter"
    assert data.passed_over == (
        "passed over 1 files beside the folders of identities: loose.jpg",
        "passed over 2 folders without images: __MACOSX/, docs/",
    )


def test_a_data_set_of_numbered_folders_counts_the_files_beside_them(tmp_path: Path) -> None:
    write_image(write_occluded_reid(tmp_path) / "whole_body_images" / "001_09.tif")
    passed_over = load_dataset("occluded_reid", tmp_path).passed_over
    assert passed_over == ("passed over 1 files beside the folders of identities: whole_body_images/001_09.tif",)


def test_images_that_a_list_of_veri776_leaves_out_are_counted(tmp_path: Path) -> None:
    write_image(write_veri(tmp_path) / "image_query" / "0002_c003_1_0.jpg")
    passed_over = load_dataset("veri776", tmp_path).passed_over
    assert passed_over == ("passed over 1 images that name_query.txt does not list: image_query/0002_c003_1_0.jpg",)


def test_a_linked_folder_is_followed_and_a_circle_of_links_ends(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", TREE)
    write_images(tmp_path / "elsewhere", ["2.jpg"])
    (root / "train" / "id_1" / "door" / "link").symlink_to(tmp_path / "elsewhere")
    (root / "train" / "id_1" / "door" / "circle").symlink_to(root / "train" / "id_1" / "door")
    assert [r.path for r in load_dataset("folder", root).train] == [
        "train/id_1/door/1.jpg",
        "train/id_1/door/link/2.jpg",
    ]


@pytest.mark.parametrize("place", ["train/id_1/door/up", "train/id_1/up", "train/up"])
def test_a_link_to_a_folder_that_holds_it_brings_no_images(tmp_path: Path, place: str) -> None:
    root = write_folder(tmp_path / "data", TREE)
    before = load_dataset("folder", root)
    (root / place).symlink_to(root)
    assert load_dataset("folder", root).records == before.records


def test_what_is_passed_over_is_logged_when_a_job_loads_the_data(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, plain_log: None
) -> None:
    from dcs_nas.config import Config
    from dcs_nas.data.datamodule import load_both

    root = write_folder(tmp_path, {**TREE, "docs": ["1.jpg"]})
    load_both(Config.model_validate({"name": "a", "data": {"name": "folder", "root": root}}).data)
    assert "folder: passed over 1 folders beside train, query and gallery: docs/ (1 images)" in caplog.text


def test_an_unknown_part_is_refused_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_csv(tmp_path, [*ROWS, "b/5.jpg,id_3,hall,test"])
    assert "is not fit for use as csv" in refused(capsys, "datasets", "csv", "--root", tmp_path)
