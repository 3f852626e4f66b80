"""Every benchmark in its real file format, and the real protocol files where they are at hand."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcs_nas.data.check import check_dataset
from dcs_nas.data.datasets import load_dataset
from dcs_nas.data.datasets.cuhk03 import extract_images, is_extracted, read_protocol, read_test_sets
from dcs_nas.data.records import Record, combine
from dcs_nas.errors import InputError
from tests.make_datasets import (
    MARKET_FOLDERS,
    NEW_PROTOCOL_NAME,
    cuhk03_names,
    cuhk03_pixels,
    write_csv,
    write_cuhk03_mat,
    write_cuhk03_protocol,
    write_duke,
    write_folder,
    write_image,
    write_images,
    write_msmt17,
    write_occluded_reid,
    write_veri,
)

METADATA = Path(__file__).parents[2] / "shared" / "metadata"
needs_metadata = pytest.mark.skipif(not METADATA.is_dir(), reason="the real protocol files are not here")


def refusal(name: str, root: Path, **options) -> str:
    with pytest.raises(InputError) as caught:
        load_dataset(name, root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# DukeMTMC-reID, Occluded-Duke, Occluded-REID, VeRi-776


@pytest.mark.parametrize(("name", "title"), [("dukemtmc", "DukeMTMC-reID"), ("occluded_duke", "Occluded-Duke")])
def test_duke_names_are_read(tmp_path, name, title):
    data = load_dataset(name, write_duke(tmp_path))
    assert data.train[0] == Record("bounding_box_train/0001_c2_f0046182.jpg", 1, 1)
    assert (data.query[0].identity, data.gallery[0].camera, data.version) == (5, 7, title)
    assert "cameras: 3 found, 8 published" in data.notes
    write_image(tmp_path / "query" / "five.jpg")
    assert "query/five.jpg does not parse" in refusal(name, tmp_path)


def test_occluded_reid_takes_occluded_images_as_queries_and_whole_ones_as_the_gallery(tmp_path):
    data = load_dataset("occluded_reid", write_occluded_reid(tmp_path / "Occluded_REID"))
    assert data.query[0] == Record("occluded_body_images/001/001_01.tif", 1, 0)
    assert {(r.identity, r.camera) for r in data.gallery} == {(1, 1), (2, 1)}
    assert data.train == ()
    assert check_dataset("occluded_reid", tmp_path, images=True).ok


def test_faulty_occluded_reid_folders_are_refused(tmp_path):
    write_occluded_reid(tmp_path)
    (tmp_path / "whole_body_images" / "id_1").mkdir()
    assert "the folder name whole_body_images/id_1 does not parse" in refusal("occluded_reid", tmp_path)
    (tmp_path / "whole_body_images").rename(tmp_path / "whole")
    assert "no folder whole_body_images" in refusal("occluded_reid", tmp_path)
    (tmp_path / "whole_body_images").mkdir()
    assert "holds no numbered folders" in refusal("occluded_reid", tmp_path)


@pytest.mark.parametrize("lists", [True, False])
def test_veri776_is_read_with_and_without_its_list_files(tmp_path, lists):
    data = load_dataset("veri776", write_veri(tmp_path, lists=lists))
    assert data.query == (Record("image_query/0002_c002_00030600_0.jpg", 2, 1),)
    assert [r.camera for r in data.gallery] == [0, 19]


def test_veri776_lists_that_do_not_fit_the_folder_are_refused(tmp_path):
    write_veri(tmp_path)
    with (tmp_path / "name_test.txt").open("a") as file:
        file.write("0003_c001_00000001_0.jpg\n")
    assert "name_test.txt lists 1 image that is not in" in refusal("veri776", tmp_path)
    (tmp_path / "name_test.txt").write_text("../../0003_c001_00000001_0.jpg\n")
    assert "leads out of the data set" in refusal("veri776", tmp_path)


# MSMT17


def test_msmt17_keeps_training_and_test_people_apart_though_both_lists_count_from_0(tmp_path):
    data = load_dataset("msmt17", write_msmt17(tmp_path / "MSMT17_V1"), version="V1")
    assert data.train == (
        Record("train/0000/0000_045_12_0303morning_0006_2.jpg", 0, 11),
        Record("train/0001/0001_000_02_0303morning_0015_1.jpg", 1, 1),
    )
    assert data.query == (Record("test/0000/0000_002_01_0303morning_0016_1.jpg", 10_000, 0),)
    assert [r.identity for r in data.gallery] == [10_000, 10_001]
    assert data.version == "MSMT17_V1, train"
    assert "train images: 2 found, 30,248 published" in data.notes
    assert combine([data], splits=("train", "query", "gallery")).statistics()["train"]["people"] == 4


def test_msmt17_adds_the_validation_images_on_request_and_says_so(tmp_path):
    data = load_dataset("msmt17", write_msmt17(tmp_path), version="V1", train="train+val")
    assert (len(data.train), data.statistics()["train"]["people"], data.version) == (3, 2, "MSMT17_V1, train+val")
    assert "train images: 3 found, 32,621 published" in data.notes


def test_msmt17_never_guesses_its_version(tmp_path):
    write_msmt17(tmp_path / "MSMT17_V2", folders=("mask_train_v2", "mask_test_v2"))
    assert "needs the option 'version' (V1 or V2)" in refusal("msmt17", tmp_path)
    assert load_dataset("msmt17", tmp_path, version="V2").train[0].path.startswith("mask_train_v2/0000/")
    message = refusal("msmt17", tmp_path / "MSMT17_V2", version="V1")
    assert "is not the folder of MSMT17_V1" in message
    assert "mask_test_v2/" in message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0000/0000_045.jpg 0", "list_query.txt, line 2: '0000/0000_045.jpg 0' does not parse"),
        ("0000/0000_002_01_0303morning_0016_1.jpg", "does not parse; expected PATH IDENTITY"),
        ("0000/0000_002_01_0303morning_0016_1.jpg x", "does not parse; expected PATH IDENTITY"),
        ("0000/0000_002_00_0303morning_0016_1.jpg 0", "does not parse"),
        ("../0000/0000_002_01_0303morning_0016_1.jpg 0", "leads out of the data set"),
        ("0000/0000_003_01_0303morning_0016_1.jpg 0", "list_query.txt lists 1 image that is not in"),
        ("0005/0000_003_01_0303morning_0016_1.jpg 0", "test, first 0005/0000_003_01_0303morning_0016_1.jpg"),
    ],
)
def test_faulty_msmt17_lists_are_refused(tmp_path, line, message):
    write_msmt17(tmp_path)
    with (tmp_path / "list_query.txt").open("a") as file:
        file.write(line + "\n")
    assert message in refusal("msmt17", tmp_path, version="V1")


@pytest.mark.parametrize(
    ("identity", "message"), [(0, "listed with the identities 1 and 0, expected one"), (1, "listed twice in train")]
)
def test_an_image_that_msmt17_lists_twice_is_refused(tmp_path, identity, message):
    write_msmt17(tmp_path)
    with (tmp_path / "list_train.txt").open("a") as file:
        file.write(f"0001/0001_000_02_0303morning_0015_1.jpg {identity}\n")
    assert message in refusal("msmt17", tmp_path, version="V1")


def test_missing_empty_and_unreadable_msmt17_lists_are_refused(tmp_path):
    write_msmt17(tmp_path)
    (tmp_path / "list_gallery.txt").write_bytes(b"\xff\xfe")
    assert "list_gallery.txt is not UTF-8 text" in refusal("msmt17", tmp_path, version="V1")
    (tmp_path / "list_gallery.txt").write_text("\n")
    assert "list_gallery.txt is empty" in refusal("msmt17", tmp_path, version="V1")
    (tmp_path / "list_gallery.txt").unlink()
    assert "no file list_gallery.txt in" in refusal("msmt17", tmp_path, version="V1")


# CUHK03


@pytest.fixture
def cuhk03_root(tmp_path):
    write_cuhk03_mat(tmp_path / "cuhk03_release" / "cuhk-03.mat")
    write_cuhk03_protocol(tmp_path, cuhk03_names())
    return tmp_path


def test_cuhk03_images_come_out_of_the_mat_file_pixel_by_pixel(cuhk03_root):
    data = load_dataset("cuhk03", cuhk03_root)
    assert (len(data.train), len(data.query), len(data.gallery)) == (29, 4, 15)
    assert data.train[0] == Record("images_detected/1_001_1_01.png", 1, 0)
    assert data.query[1] == Record("images_detected/2_001_2_06.png", 4, 1)
    assert (data.version, data.protocol) == ("CUHK03 detected, new protocol (767/700)", "cross_camera")
    for record in data.train + data.query + data.gallery:
        pair, person, _, image = map(int, Path(record.path).stem.split("_"))
        with Image.open(data.root / record.path) as picture:
            np.testing.assert_array_equal(np.asarray(picture), cuhk03_pixels(pair, person, image))


def test_cuhk03_empty_cells_are_skipped_and_everything_else_is_extracted(tmp_path):
    mat = write_cuhk03_mat(tmp_path / "cuhk-03.mat")
    steps = []
    count = extract_images(mat, "labeled", tmp_path / "out", progress=lambda done, total: steps.append((done, total)))
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == cuhk03_names()
    assert (count, steps[-1]) == (48, (50, 50))
    assert is_extracted(tmp_path / "out")


def test_an_interrupted_cuhk03_extraction_goes_on_and_leaves_whole_files_alone(tmp_path):
    mat, out = write_cuhk03_mat(tmp_path / "cuhk-03.mat"), tmp_path / "out"

    def interrupt(done, total):
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_images(mat, "detected", out, progress=interrupt)
    assert not is_extracted(out)
    whole, empty = out / "1_001_1_01.png", out / "1_001_1_02.png"
    empty.write_bytes(b"")  # as a crash of the machine leaves it
    os.utime(whole, ns=(1, 1))
    extract_images(mat, "detected", out)
    assert whole.stat().st_mtime_ns == 1
    with Image.open(empty) as picture:
        np.testing.assert_array_equal(np.asarray(picture), cuhk03_pixels(1, 1, 2))
    assert is_extracted(out)


def test_cuhk03_needs_no_mat_file_where_the_images_are_there(tmp_path):
    write_cuhk03_protocol(tmp_path, cuhk03_names(), labels="labeled")
    write_images(tmp_path / "images_labeled", cuhk03_names())
    assert len(load_dataset("cuhk03", tmp_path, labels="labeled").train) == 29
    (tmp_path / "images_labeled" / "1_002_1_03.png").unlink()
    message = refusal("cuhk03", tmp_path, labels="labeled")
    assert "lists 1 image that is not in" in message
    assert "images_labeled/1_002_1_03.png" in message


def test_cuhk03_classic_splits_hold_the_test_people_of_the_mat_file(cuhk03_root):
    first = load_dataset("cuhk03", cuhk03_root, protocol="classic")
    assert {r.identity for r in first.query} == {1001}
    assert {r.identity for r in first.train} == {1002, 1003, 2001, 2002}
    assert first.query == first.gallery
    assert {r.camera for r in first.query} == {0, 1}
    assert (first.protocol, first.version) == (
        "single_gallery_shot",
        "CUHK03 detected, classic protocol, split 0 of 20",
    )
    other = load_dataset("cuhk03", cuhk03_root, protocol="classic", split=19, labels="labeled")
    assert {r.identity for r in other.query} == {1002}
    assert len(read_test_sets(cuhk03_root / "cuhk03_release" / "cuhk-03.mat")) == 20


def test_cuhk03_options_that_do_not_fit_are_refused(cuhk03_root):
    assert "is for protocol=classic" in refusal("cuhk03", cuhk03_root, split=3)
    assert "split" in refusal("cuhk03", cuhk03_root, protocol="classic", split=20)
    assert "labels: Input should be 'detected' or 'labeled'" in refusal("cuhk03", cuhk03_root, labels="labelled")


def test_cuhk03_missing_files_are_named(cuhk03_root):
    config = cuhk03_root / NEW_PROTOCOL_NAME.format("detected")
    config.unlink()
    assert f"needs {config.name} in" in refusal("cuhk03", cuhk03_root)
    (cuhk03_root / "cuhk03_release" / "cuhk-03.mat").unlink()
    assert "the classic protocol of CUHK03 needs cuhk-03.mat" in refusal("cuhk03", cuhk03_root, protocol="classic")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.95])
def test_a_damaged_cuhk03_mat_file_is_named(cuhk03_root, share):
    mat = cuhk03_root / "cuhk03_release" / "cuhk-03.mat"
    content = mat.read_bytes()
    mat.write_bytes(content[: int(len(content) * share)])
    assert f"{mat} cannot be read" in refusal("cuhk03", cuhk03_root, protocol="classic")


def test_another_hdf5_file_is_not_taken_for_cuhk03(cuhk03_root):
    import h5py

    mat = cuhk03_root / "cuhk03_release" / "cuhk-03.mat"
    with h5py.File(mat, "w") as file:
        file["features"] = np.zeros(3)
    assert "holds features, expected 'testsets'" in refusal("cuhk03", cuhk03_root, protocol="classic")
    with h5py.File(mat, "w") as file:
        file["testsets"] = np.zeros(3)
    assert "expected a cell array; unpack" in refusal("cuhk03", cuhk03_root, protocol="classic")


@pytest.mark.parametrize("length", [0, 10, 200, 400, 700])
def test_a_damaged_cuhk03_protocol_file_is_named(cuhk03_root, length):
    config = cuhk03_root / NEW_PROTOCOL_NAME.format("detected")
    config.write_bytes(config.read_bytes()[:length])
    assert str(config) in refusal("cuhk03", cuhk03_root)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query_idx": None}, "expected filelist, labels, camId, train_idx, query_idx, gallery_idx"),
        ({"query_idx": np.array([[99]])}, "query_idx of"),
        ({"camId": np.full((48, 1), 2)}, "lists '1_001_1_01.png', expected PAIR_IDENTITY_VIEW_IMAGE.png of view 2"),
        ({"labels": np.ones((3, 1))}, "holds 48 names, 3 labels and 48 cameras"),
    ],
)
def test_a_cuhk03_protocol_file_that_contradicts_itself_is_refused(cuhk03_root, changes, message):
    write_cuhk03_protocol(cuhk03_root, cuhk03_names(), changes=changes)
    assert message in refusal("cuhk03", cuhk03_root)


# The real files


@needs_metadata
def test_real_market1501_names_and_labels_agree_with_the_published_facts(tmp_path, monkeypatch):
    labels = np.load(METADATA / "market1501_test_labels.npz")
    names = {"bounding_box_train": gzip.decompress((METADATA / "market1501_train_names.txt.gz").read_bytes()).decode()}
    for folder, part in (("query", "query"), ("bounding_box_test", "test")):
        rows = enumerate(zip(labels[f"{part}_pids"], labels[f"{part}_cams"]))
        names[folder] = " ".join(f"{'-1' if p < 0 else f'{p:04d}'}_c{c}s1_{i:06d}_00.jpg" for i, (p, c) in rows)
    for folder in MARKET_FOLDERS:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "placeholder").touch()
    listing = "dcs_nas.data.datasets.market1501.list_images"
    monkeypatch.setattr(listing, lambda _, folder: [f"{folder}/{name}" for name in names[folder].split()])
    report = check_dataset("market1501", tmp_path)
    assert (report.ok, report.dataset.notes, report.unmatched) == (True, (), ())
    assert report.dataset is not None
    gallery = report.dataset.statistics()["gallery"]
    assert gallery == {"people": 750, "images": 15_913, "cameras": 6, "distractors": 2_798}


@needs_metadata
@pytest.mark.parametrize(
    ("labels", "counts"), [("detected", (7_365, 1_400, 5_332)), ("labeled", (7_368, 1_400, 5_328))]
)
def test_real_cuhk03_protocol_files_agree_with_the_published_facts(tmp_path, monkeypatch, labels, counts):
    config = METADATA / NEW_PROTOCOL_NAME.format(labels)
    assert tuple(map(len, read_protocol(config, f"images_{labels}"))) == counts
    (tmp_path / config.name).write_bytes(config.read_bytes())
    (tmp_path / f"images_{labels}").mkdir()
    monkeypatch.setattr("dcs_nas.data.datasets.cuhk03.report_absent", lambda *_, **__: set())
    report = check_dataset("cuhk03", tmp_path, options={"labels": labels})
    assert (report.ok, report.dataset.notes, report.unmatched) == (True, (), ())


# Checking broken folders


def _append(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line + "\n")


def test_a_check_goes_on_after_faults_of_every_format(tmp_path):
    msmt17 = write_msmt17(tmp_path / "msmt17")
    _append(msmt17 / "list_train.txt", "nonsense")
    _append(msmt17 / "list_train.txt", "../0000_000_01_0_0_0.jpg 3")
    (msmt17 / "list_query.txt").unlink()
    (msmt17 / "test" / "0001" / "0001_000_01_0113noon_0018_0.jpg").unlink()
    report = check_dataset("msmt17", msmt17, options={"version": "V1"})
    kinds = ["unparsable name", "bad list entry", "missing part", "missing image"]
    assert [p.kind for p in report.problems] == kinds
    assert report.dataset is not None
    assert (len(report.dataset.train), len(report.dataset.gallery)) == (2, 1)

    veri = write_veri(tmp_path / "veri")
    (veri / "image_query" / "0002_c002_00030600_0.jpg").unlink()
    report = check_dataset("veri776", veri)
    assert [p.kind for p in report.problems] == ["missing part", "missing image"]

    reid = write_occluded_reid(tmp_path / "occluded_reid")
    (reid / "whole_body_images").rename(reid / "whole")
    (reid / "occluded_body_images" / "id_1").mkdir()
    report = check_dataset("occluded_reid", reid)
    assert [p.kind for p in report.problems] == ["unparsable name", "missing part"]

    rows = ["a.jpg,p,c,train", "../a.jpg,p,c,train", "b.jpg,p,c", "b.jpg,p,,train", "c.txt,,,"]
    report = check_dataset("csv", write_csv(tmp_path / "csv", rows))
    assert len(report.problems) == 4
    assert report.dataset is not None
    assert [r.path for r in report.dataset.train] == ["a.jpg"]

    folder = write_folder(tmp_path / "folder", {"train/p": ["1_c1_.jpg", "x.jpg"], "query/p": ["2_c2_.jpg"]})
    report = check_dataset("folder", folder, options={"camera": "_c([0-9])_"})
    assert [p.kind for p in report.problems] == ["unparsable name", "missing part"]

    cuhk03 = write_images(tmp_path / "cuhk03", ["images_detected/1_001_1_01.png"])
    assert [p.kind for p in check_dataset("cuhk03", cuhk03).problems] == ["unusable folder"]


def test_a_stray_file_among_extracted_cuhk03_images_is_named(cuhk03_root):
    load_dataset("cuhk03", cuhk03_root, protocol="classic")
    write_image(cuhk03_root / "images_detected" / "holiday.jpg")
    assert "images_detected/holiday.jpg does not parse" in refusal("cuhk03", cuhk03_root, protocol="classic")


def test_cuhk03_needs_no_permission_to_write_where_all_images_are_there(cuhk03_root):
    first = load_dataset("cuhk03", cuhk03_root, protocol="classic")
    marker = cuhk03_root / "images_detected" / ".extracted"
    marker.write_bytes(b"\xff")
    assert load_dataset("cuhk03", cuhk03_root, protocol="classic") == first
    marker.unlink()
    marker.mkdir()  # so that no file of that name can be written, even by root
    assert load_dataset("cuhk03", cuhk03_root, protocol="classic") == first


def test_cuhk03_images_that_cannot_be_written_are_refused(cuhk03_root):
    (cuhk03_root / "images_detected").write_text("in the way")
    assert "cannot write images into" in refusal("cuhk03", cuhk03_root, protocol="classic")
