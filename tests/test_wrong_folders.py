"""Every data set, every part of it missing or empty: the command says which in one line, before any training."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcs_nas.cli import main
from dcs_nas.data.check import check_dataset
from dcs_nas.data.datasets import DATASETS, load_dataset
from dcs_nas.errors import InputError
from tests.make_datasets import (
    NEW_PROTOCOL_NAME,
    cuhk03_names,
    write_csv,
    write_cuhk03_mat,
    write_cuhk03_protocol,
    write_duke,
    write_folder,
    write_image,
    write_market,
    write_msmt17,
    write_occluded_reid,
    write_veri,
)


def _market_500k(root: Path) -> None:
    write_image(write_market(root) / "images" / "0000_c1s1_000001_00.jpg")


def _cuhk03(root: Path) -> None:
    write_cuhk03_mat(root / "cuhk-03.mat")
    write_cuhk03_protocol(root, cuhk03_names())


def _csv(root: Path) -> None:
    write_csv(root, ["a/1.jpg,id_1,door,train", "b/3.jpg,id_3,hall,query", "c/4.jpg,id_3,door,gallery"])


def _folder(root: Path) -> None:
    write_folder(root, {"train/a/x": ["1.jpg"], "query/b/x": ["1.jpg"], "gallery/b/y": ["1.jpg"]})


def _class_folders(root: Path) -> None:
    write_folder(root, {f"{part}/{name}": ["1.jpg", "2.jpg"] for part in ("train", "val") for name in ("cat", "dog")})


Case = tuple[Callable[[Path], object], dict[str, Any], tuple[str, ...]]
MARKET = ("bounding_box_train", "query", "bounding_box_test")
LISTS = ("list_train.txt", "list_query.txt", "list_gallery.txt")
CASES: dict[str, Case] = {
    "market1501": (write_market, {}, MARKET),
    "market1501 ": (_market_500k, {"distractors_500k": True}, (*MARKET, "images")),
    "synthetic": (write_market, {}, MARKET),
    "dukemtmc": (write_duke, {}, MARKET),
    "occluded_duke": (write_duke, {}, MARKET),
    "occluded_reid": (write_occluded_reid, {}, ("occluded_body_images", "whole_body_images")),
    "veri776": (write_veri, {}, ("image_train", "image_query", "image_test")),
    "msmt17": (write_msmt17, {"version": "V1"}, ("train", "test", *LISTS)),
    "msmt17 ": (write_msmt17, {"version": "V1", "train": "train+val"}, ("train", "test", *LISTS, "list_val.txt")),
    "cuhk03": (_cuhk03, {}, (NEW_PROTOCOL_NAME.format("detected"), "cuhk-03.mat")),
    "cuhk03 ": (_cuhk03, {"protocol": "classic"}, ("cuhk-03.mat",)),
    "csv": (_csv, {}, ("images.csv", "a", "b", "c")),
    "folder": (_folder, {}, ("query", "gallery")),
    "class_folders": (_class_folders, {}, ("train",)),
}
PARTS = [(name, part) for name, (_, _, parts) in CASES.items() for part in parts]


def _written(case: str, root: Path) -> tuple[str, dict[str, Any]]:
    write, options, _ = CASES[case]
    write(root)
    return case.strip(), options


def _refusal(name: str, root: Path, options: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        load_dataset(name, root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_data_set_is_swept_here() -> None:
    assert {case.strip() for case in CASES} == set(DATASETS)


@pytest.mark.parametrize("case", CASES)
def test_a_whole_folder_is_accepted_and_a_wrong_one_is_named(case: str, tmp_path: Path) -> None:
    name, options = _written(case, tmp_path / "data")
    assert check_dataset(name, tmp_path / "data", options=options, images=True).ok
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong" / "holiday").mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    assert "there is no folder" in _refusal(name, tmp_path / "nowhere", options)
    assert f"{tmp_path / 'empty'} is empty" in _refusal(name, tmp_path / "empty", options)
    assert "found holiday/" in (wrong := _refusal(name, tmp_path / "wrong", options)) or "holds holiday/" in wrong
    assert str(tmp_path / "file") in _refusal(name, tmp_path / "file", options)


@pytest.mark.parametrize(("case", "part"), PARTS)
def test_a_missing_part_is_named(case: str, part: str, tmp_path: Path) -> None:
    name, options = _written(case, tmp_path)
    gone = tmp_path / part
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    message = _refusal(name, tmp_path, options)
    assert part in message or (name == "folder" and "images but no" in message)


@pytest.mark.parametrize(("case", "part"), PARTS)
def test_an_empty_part_is_named_with_where_it_lies(case: str, part: str, tmp_path: Path) -> None:
    name, options = _written(case, tmp_path)
    emptied = tmp_path / part
    if emptied.is_dir():
        shutil.rmtree(emptied)
        emptied.mkdir()
    else:
        emptied.write_bytes(b"")
    assert part in _refusal(name, tmp_path, options)


@pytest.mark.parametrize("case", CASES)
def test_the_command_says_it_in_one_line_and_exits_with_1(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    name, options = _written(case, tmp_path)
    part = CASES[case][2][-1]
    gone = tmp_path / part
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    given = [text for key, value in options.items() for text in ("-o", f"{key}={str(value).replace('True', 'true')}")]
    with pytest.raises(SystemExit) as stopped:
        main(["datasets", name, "--root", str(tmp_path), *given])
    out, err = capsys.readouterr()
    assert stopped.value.code == 1
    assert f"{tmp_path} is not fit for use as {name}" in err.strip().splitlines()[-1]
    assert "Traceback" not in err
    assert part in out or "images but no" in out
