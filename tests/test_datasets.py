"""Data sets as such: Market-1501's layout, people's own images, finding folders, combining, checking."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dcs_nas.data.check import check_dataset
from dcs_nas.data.datasets import DATASETS, describe, load_dataset
from dcs_nas.data.datasets.loaders import Facts
from dcs_nas.data.records import Record, ReidDataset, combine
from dcs_nas.errors import InputError
from tests.make_datasets import write_csv, write_duke, write_folder, write_image, write_market, write_veri


def triples(records):
    return [(r.path.rpartition("/")[2], r.identity, r.camera) for r in records]


def refusal(name: str, root: Path, **options) -> str:
    with pytest.raises(InputError) as caught:
        load_dataset(name, root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Market-1501 layout


def test_market1501_drops_junk_keeps_distractors_counts_cameras_from_0_and_sorts(tmp_path):
    data = load_dataset("market1501", write_market(tmp_path))
    assert triples(data.train)[0] == ("0002_c1s1_000451_03.jpg", 2, 0)
    assert triples(data.query) == [("0001_c1s1_001051_00.jpg", 1, 0), ("0003_c2s1_000151_00.jpg", 3, 1)]
    assert [r.identity for r in data.gallery] == [0, 0, 1, 1, 3]
    assert [r.camera for r in data.gallery] == [2, 3, 0, 1, 5]
    assert data.train[0].path == "bounding_box_train/0002_c1s1_000451_03.jpg"
    assert (data.root / data.train[0].path).is_file()
    assert [r.path for r in data.train] == sorted(r.path for r in data.train)
    assert (data.version, data.protocol, data.statistics()["train"]["people"], data.cameras) == (
        "Market-1501",
        "cross_camera",
        2,
        5,
    )


def test_statistics_count_distractors_apart_from_people(tmp_path):
    counts = load_dataset("synthetic", write_market(tmp_path)).statistics()
    assert counts["train"] == {"people": 2, "images": 4, "cameras": 3}
    assert counts["gallery"] == {"people": 2, "images": 5, "cameras": 5, "distractors": 2}
    assert counts["cameras"] == 5


def test_deviations_from_the_published_facts_become_notes_but_a_synthetic_set_has_none(tmp_path):
    write_market(tmp_path)
    notes = load_dataset("market1501", tmp_path).notes
    assert "train identities: 2 found, 751 published" in notes
    assert "gallery images: 5 found, 15,913 published" in notes
    assert load_dataset("synthetic", tmp_path).notes == ()


def test_the_500k_distractors_join_the_gallery_on_request(tmp_path):
    write_market(tmp_path)
    assert "no folder images in" in refusal("market1501", tmp_path, distractors_500k=True)
    write_image(tmp_path / "images" / "0000_c1s1_000001_00.jpg")
    data = load_dataset("market1501", tmp_path, distractors_500k=True)
    assert data.gallery[-1] == Record("images/0000_c1s1_000001_00.jpg", 0, 0)
    assert data.version == "Market-1501 + 500k distractors"
    assert "images of the 500k distractors: 1 found, 500,000 published" in data.notes
    assert len(load_dataset("market1501", tmp_path).gallery) == 5


def test_files_that_are_no_images_are_passed_over(tmp_path):
    write_market(tmp_path)
    for name in ("Thumbs.db", ".DS_Store", "._0002_c1s1_000451_03.jpg", "readme.txt"):
        (tmp_path / "query" / name).write_text("x")
    assert len(load_dataset("market1501", tmp_path).query) == 2


@pytest.mark.parametrize("name", ["person1.jpg", "0002-c1.jpg", "0002_c0s1_000001_00.jpg", "-2_c1s1_000001_00.jpg"])
def test_an_image_name_that_does_not_parse_is_named_with_the_expected_pattern(tmp_path, name):
    write_market(tmp_path)
    write_image(tmp_path / "bounding_box_train" / name)
    message = refusal("market1501", tmp_path)
    assert f"bounding_box_train/{name} does not parse" in message
    assert "IDENTITY_cCAMERA" in message
    assert "0002_c1s1_000451_03.jpg" in message


# Finding the folder


def test_the_parent_of_the_data_set_folder_will_do_two_levels_up(tmp_path):
    inner = write_market(tmp_path / "data" / "market1501" / "Market-1501-v15.09.15")
    for root in (inner, inner.parent, inner.parent.parent):
        assert load_dataset("market1501", root).root == inner


def test_a_parent_that_holds_another_data_set_of_the_same_layout_is_not_mistaken(tmp_path):
    write_duke(tmp_path / "DukeMTMC-reID")
    message = refusal("market1501", tmp_path)
    assert "is not the folder of Market-1501 or its parent" in message
    assert "found DukeMTMC-reID/" in message
    assert load_dataset("dukemtmc", tmp_path).root == tmp_path / "DukeMTMC-reID"


def test_two_copies_below_one_parent_are_refused(tmp_path):
    write_market(tmp_path / "market1501")
    write_market(tmp_path / "Market-1501-v15.09.15")
    assert "several times (Market-1501-v15.09.15, market1501)" in refusal("market1501", tmp_path)


def test_missing_empty_and_wrong_folders_give_one_line_each(tmp_path):
    assert "there is no folder" in refusal("market1501", tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    assert "is a file, expected the folder" in refusal("market1501", tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "is empty" in refusal("market1501", tmp_path / "empty")


def test_a_missing_part_is_named_with_what_was_found(tmp_path):
    write_market(tmp_path)
    (tmp_path / "query").rename(tmp_path / "queries")
    message = refusal("market1501", tmp_path)
    assert f"no folder query in {tmp_path}" in message
    assert "bounding_box_test/, bounding_box_train/, queries/" in message


def test_an_empty_part_is_named(tmp_path):
    write_market(tmp_path)
    for image in (tmp_path / "query").iterdir():
        image.unlink()
    assert f"{tmp_path / 'query'} holds no images" in refusal("market1501", tmp_path)


# Names and options


def test_an_unknown_data_set_or_option_lists_the_known_ones(tmp_path):
    assert "did you mean market1501?" in refusal("market1502", tmp_path)
    message = refusal("msmt17", tmp_path, version="V1", trian="train")
    assert "unknown key 'trian'; did you mean train? known: version, train" in message
    assert "data set 'dukemtmc' takes no options, found split" in refusal("dukemtmc", tmp_path, split=1)


def test_a_wrong_value_of_an_option_lists_the_right_ones(tmp_path):
    assert "version: Input should be 'V1' or 'V2', found 'V3'" in refusal("msmt17", tmp_path, version="V3")


@pytest.mark.parametrize("name", list(DATASETS))
def test_every_data_set_describes_its_folder_and_its_options(name):
    text = describe(name)
    assert "ROOT" in text
    assert "Options:" in text
    for option in DATASETS[name].__kwdefaults__ or {}:
        assert option in text.partition("Options:")[2]


def test_loading_imports_neither_torch_nor_a_file_format(tmp_path):
    write_market(tmp_path)
    code = (
        f"import sys; from dcs_nas.data.datasets import load_dataset; load_dataset('market1501', {str(tmp_path)!r}); "
        "print([m for m in ('torch', 'h5py', 'scipy', 'PIL', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Folder


TREE = {
    "train/id_1/door": ["1.jpg", "2.jpg"],
    "train/id_2/hall": ["1.jpg"],
    "query/id_3/door": ["1.jpg"],
    "gallery/id_3/hall": ["1.png"],
    "gallery/-1/hall": ["9.jpg"],
}


def test_a_folder_data_set_numbers_people_and_cameras_in_sorted_order_and_keeps_the_map(tmp_path):
    data = load_dataset("folder", write_folder(tmp_path / "mine", TREE))
    assert data.label_map == {"id_1": 1, "id_2": 2, "id_3": 3}
    assert data.camera_map == {"door": 0, "hall": 1}
    assert data.train[2] == Record("train/id_2/hall/1.jpg", 2, 1)
    assert triples(data.query + data.gallery) == [("1.jpg", 3, 0), ("1.png", 3, 1)]
    assert (data.protocol, data.version) == ("cross_camera", "folder mine")


def test_a_folder_data_set_reads_the_camera_from_the_name(tmp_path):
    write_folder(tmp_path, {"train/17": ["17_c2_1.jpg", "17_c10_1.jpg"]})
    data = load_dataset("folder", tmp_path, camera=r"_c(\d+)_")
    assert data.camera_map == {"10": 0, "2": 1}
    assert (data.query, data.gallery) == ((), ())
    write_image(tmp_path / "train" / "17" / "x.jpg")
    assert "no camera in the image name train/17/x.jpg" in refusal("folder", tmp_path, camera=r"_c(\d+)_")


def test_a_folder_data_set_without_cameras_has_no_camera_filter(tmp_path):
    data = load_dataset("folder", write_folder(tmp_path, {"query/a": ["1.jpg"], "gallery/a": ["2.jpg"]}), camera="none")
    assert (data.protocol, data.cameras, data.train) == ("no_camera_filter", 1, ())


def test_faulty_folder_data_sets_are_refused(tmp_path):
    misspelt = write_folder(tmp_path / "a", {"trian/p/c": ["1.jpg"]})
    assert "expected the folders train, query and gallery" in refusal("folder", misspelt)
    lone = write_folder(tmp_path / "b", {"query/p/c": ["1.jpg"]})
    assert "has query images but no gallery images" in refusal("folder", lone)
    flat = write_folder(tmp_path / "c", {"train/p": ["1.jpg"]})
    assert "holds 1.jpg, expected a folder for each camera" in refusal("folder", flat)
    assert "has 0 groups" in refusal("folder", flat, camera="c1")
    assert "is not a regular expression" in refusal("folder", flat, camera="(")
    (tmp_path / "d" / "train" / "p").mkdir(parents=True)
    assert "holds nothing, expected a folder for each camera" in refusal("folder", tmp_path / "d")
    (tmp_path / "d" / "train" / "p").rmdir()
    assert "holds no folders; expected one for each identity" in refusal("folder", tmp_path / "d")


# CSV


ROWS = ["a/1.jpg,id_1,door,train", "a/2.jpg,id_2,hall,train", "b/3.jpg,id_3,hall,query", "b/4.jpg,id_3,door,gallery"]


def test_a_csv_data_set_is_read_and_its_maps_kept(tmp_path):
    data = load_dataset("csv", write_csv(tmp_path, ROWS))
    assert data.label_map == {"id_1": 1, "id_2": 2, "id_3": 3}
    assert data.train == (Record("a/1.jpg", 1, 0), Record("a/2.jpg", 2, 1))
    assert (data.query, data.gallery) == ((Record("b/3.jpg", 3, 1),), (Record("b/4.jpg", 3, 0),))


def test_a_csv_file_may_be_the_root_may_use_semicolons_and_a_byte_order_mark(tmp_path):
    rows = [row.replace(",", ";") + ";more" for row in ROWS]
    write_csv(tmp_path, rows, name="x.csv", header="Path;person;camera;SPLIT;remark")
    file = tmp_path / "x.csv"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert load_dataset("csv", file) == load_dataset("csv", tmp_path, file="x.csv")
    assert load_dataset("csv", file).statistics()["train"]["people"] == 2


def test_a_csv_without_a_camera_column_has_no_camera_filter(tmp_path):
    rows = [r.replace("door,", "").replace("hall,", "") for r in ROWS]
    assert load_dataset("csv", write_csv(tmp_path, rows, header="path,person,split")).protocol == "no_camera_filter"


@pytest.mark.parametrize("path", ["../s.jpg", "/etc/s.jpg", "a/../../s.jpg", "C:/s.jpg", "a\\..\\..\\s.jpg"])
def test_a_csv_path_that_leads_out_of_the_folder_is_refused(tmp_path, path):
    message = refusal("csv", write_csv(tmp_path, [*ROWS, f"{path},dan,door,train"]))
    assert "images.csv, line 6" in message
    assert "leads out of the data set" in message


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a/9.jpg,dan,door,tran", "line 6: unknown split 'tran'; did you mean train?"),
        ("a/9.jpg,,door,train", "line 6: the field identity is empty"),
        ("a/9.jpg,dan,,train", "line 6: the field camera is empty"),
        ("a/9.jpg,dan,door", "line 6 has 3 fields, expected 4"),
        ("a/9.txt,dan,door,train", "line 6: a/9.txt is not the name of an image"),
        ("a/1.jpg,dan,door,train", "a/1.jpg is listed with the identities id_1 and dan, expected one"),
        ("a/1.jpg,id_1,hall,train", "a/1.jpg is listed twice in train; remove an entry"),
        ('"a/9.jpg,dan,door,train', "is no valid CSV"),
    ],
)
def test_faulty_csv_lines_are_named(tmp_path, row, message):
    assert message in refusal("csv", write_csv(tmp_path, [*ROWS, row]))


def test_faulty_csv_files_are_refused(tmp_path):
    write_csv(tmp_path, ROWS)
    assert "no file people.csv in" in refusal("csv", tmp_path, file="people.csv")
    (tmp_path / "a" / "2.jpg").unlink()
    assert "images.csv lists 1 image that is not in" in refusal("csv", tmp_path)
    (tmp_path / "images.csv").write_text("")
    assert "is empty, expected a header line path,identity,camera,split" in refusal("csv", tmp_path)
    (tmp_path / "images.csv").write_text("photo,person,split\n")
    assert "has the columns photo, person, split: no column for the path, expected one, such as" in refusal(
        "csv", tmp_path
    )
    (tmp_path / "images.csv").write_bytes(b"path,person,split\n\xff")
    assert "is not UTF-8 text" in refusal("csv", tmp_path)
    (tmp_path / "images.csv").write_text("path,person,split\n")
    assert "holds no images with an identity" in refusal("csv", tmp_path)


# Combining


def test_combining_keeps_people_and_cameras_of_two_data_sets_apart_and_paths_resolvable(tmp_path):
    market = load_dataset("synthetic", write_market(tmp_path / "market"))
    duke = load_dataset("dukemtmc", write_duke(tmp_path / "deep" / "duke"))
    both = combine([market, duke])
    assert (
        both.statistics()["train"]["people"]
        == market.statistics()["train"]["people"] + duke.statistics()["train"]["people"]
        == 3
    )
    assert len({r.camera for r in both.train}) == 3 + 2
    assert all((both.root / r.path).is_file() for r in both.train)
    assert (both.root, both.query, both.gallery) == (tmp_path, (), ())
    assert (both.name, both.version) == ("synthetic+dukemtmc", "synthetic + DukeMTMC-reID (train)")
    assert any(note.startswith("dukemtmc: train identities") for note in both.notes)


def test_combine_all_trains_on_test_people_too_but_not_on_distractors(tmp_path):
    market = load_dataset("synthetic", write_market(tmp_path))
    every = combine([market], splits=("train", "query", "gallery"))
    assert every.statistics()["train"]["people"] == 2 + 2
    assert len(every.train) == 4 + 2 + 3
    assert every.root == tmp_path
    person = {r.path.rpartition("/")[2]: r.identity for r in every.train}
    assert person["0001_c1s1_001051_00.jpg"] == person["0001_c2s1_001053_00.jpg"] != person["0003_c2s1_000151_00.jpg"]


def test_combined_classes_keep_their_images_to_validate_on(tmp_path):
    tree = {f"{part}/{name}": ["1.jpg"] for part in ("train", "val") for name in ("cat", "dog")}
    sets = [load_dataset("class_folders", write_folder(tmp_path / place, tree)) for place in ("north", "south")]
    both = combine(sets)
    assert [(r.path, r.identity) for r in both.val[1:3]] == [("north/val/dog/1.jpg", 2), ("south/val/cat/1.jpg", 3)]
    assert [r.identity for r in both.val] == [r.identity for r in both.train]


def test_combined_data_sets_keep_the_names_of_people_and_cameras_by_folder(tmp_path):
    sets = [
        load_dataset(
            "folder", write_folder(tmp_path / place, {"train/id_1/door": ["1.jpg"], f"train/{place}/door": ["1.jpg"]})
        )
        for place in ("north", "south")
    ]
    both = combine(sets)
    assert both.label_map == {"north/id_1": 1, "north/north": 2, "south/id_1": 3, "south/south": 4}
    assert both.camera_map == {"north/door": 0, "south/door": 1}
    assert both.train[2] == Record("south/train/id_1/door/1.jpg", 3, 1)
    assert combine([load_dataset("synthetic", write_market(tmp_path / "m"))]).label_map is None


def test_impossible_combinations_are_refused(tmp_path):
    market = load_dataset("synthetic", write_market(tmp_path))
    with pytest.raises(InputError, match="no data set to combine"):
        combine([])
    with pytest.raises(InputError, match="is listed twice"):
        combine([market, market])
    with pytest.raises(InputError, match="unknown split 'test'"):
        combine([market], splits=("test",))
    with pytest.raises(InputError, match="unknown split 'val'"):
        market.split("val")


# Facts and checking


def test_a_fact_with_two_published_counts_accepts_either(tmp_path):
    data = ReidDataset("x", tmp_path, (Record("a.jpg", 1, 0),), (), (), "x")
    assert Facts(train=((1, 2), (3, 4)), cameras=1).deviations(data) == ("train images: 1 found, 3 or 4 published",)


def test_a_check_collects_every_fault_instead_of_stopping_at_the_first(tmp_path):
    write_market(tmp_path)
    (tmp_path / "query").rename(tmp_path / "queries")
    for name in ("x.jpg", "y.jpg"):
        write_image(tmp_path / "bounding_box_train" / name)
    report = check_dataset("market1501", tmp_path)
    assert [p.kind for p in report.problems] == ["unparsable name", "unparsable name", "missing part"]
    assert not report.ok
    assert report.dataset is not None
    assert len(report.dataset.train) == 4
    text = "\n".join(report.lines(limit=1))
    assert "unparsable name: 1 more" in text
    assert "missing part: no folder query" in text


def test_a_check_of_a_wrong_folder_reports_it_but_a_wrong_option_raises(tmp_path):
    report = check_dataset("market1501", tmp_path / "nowhere")
    assert report.dataset is None
    assert not report.ok
    assert "there is no folder" in report.problems[0].message
    assert report.lines()[0] == "market1501: not loaded"
    with pytest.raises(InputError, match="needs the option 'version'"):
        check_dataset("msmt17", tmp_path)


def test_a_check_reads_every_image_and_names_the_truncated_ones(tmp_path):
    write_market(tmp_path)
    cut = tmp_path / "query" / "0001_c1s1_001051_00.jpg"
    cut.write_bytes(cut.read_bytes()[:-40])
    (tmp_path / "bounding_box_test" / "0003_c6s1_000152_00.jpg").write_text("no image")
    seen = []
    report = check_dataset("synthetic", tmp_path, images=True, progress=lambda done, total: seen.append((done, total)))
    assert report.unreadable is not None
    assert [u.partition(":")[0] for u in report.unreadable] == [
        "bounding_box_test/0003_c6s1_000152_00.jpg",
        "query/0001_c1s1_001051_00.jpg",
    ]
    assert "cannot identify image file 'the file'" in report.unreadable[0]
    assert "truncated" in report.unreadable[1].lower()
    assert seen[-1] == (11, 11)
    assert not report.ok


def test_a_check_counts_queries_without_a_match_by_cause(tmp_path):
    write_market(tmp_path)
    for name in ("0000_c3s1_000009_00.jpg", "0009_c1s1_000001_00.jpg", "0010_c1s1_000001_00.jpg"):
        write_image(tmp_path / "query" / name)
    write_image(tmp_path / "bounding_box_test" / "0010_c1s1_000009_00.jpg")
    report = check_dataset("synthetic", tmp_path)
    assert {u.cause: [q.identity for q in u.queries] for u in report.unmatched} == {
        "the identity has no image in the gallery": [9],
        "the identity's gallery images all come from the query's own camera": [10],
    }
    assert any(remark.startswith("1 queries of identity 0, a distractor") for remark in report.remarks)
    assert report.ok


def test_a_camera_does_not_matter_where_the_protocol_filters_none(tmp_path):
    tree = {"query/a": ["1.jpg"], "gallery/a": ["2.jpg"]}
    assert check_dataset("folder", write_folder(tmp_path, tree), options={"camera": "none"}).unmatched == ()


def test_a_check_remarks_on_people_of_one_camera_single_images_and_overlap(tmp_path):
    folders = ("train/a/c1", "train/a/c2", "train/b/c1", "query/b/c1", "gallery/b/c2")
    tree = {folder: ["1.jpg"] for folder in folders}
    assert check_dataset("folder", write_folder(tmp_path, tree)).remarks == (
        "1 identity in both training and test images: scores will be too good",
        "1 identity of the 2 to train on seen by one camera only: they have no match across cameras",
        "1 identity of the 2 to train on with a single image: they have no positive pair",
    )


def test_distractors_among_the_training_images_are_remarked(tmp_path):
    write_market(tmp_path)
    write_image(tmp_path / "bounding_box_train" / "0000_c1s1_000001_00.jpg")
    remarks = check_dataset("synthetic", tmp_path).remarks
    assert "1 training images of identity 0, a distractor in the gallery, will be one class" in remarks


def test_a_query_image_that_finds_itself_is_remarked(tmp_path):
    rows = ["a/1.jpg,id_1,query", "a/1.jpg,id_1,gallery"]
    write_csv(tmp_path, rows, header="path,person,split")
    assert "1 query images are gallery images too" in check_dataset("csv", tmp_path).remarks[0]


def test_a_report_of_a_whole_data_set_prints_its_counts(tmp_path):
    lines = check_dataset("veri776", write_veri(tmp_path), images=True).lines()
    assert lines[0] == "veri776: VeRi-776"
    assert lines[2] == "  protocol: cross_camera, 4 cameras"
    assert "train         1 identities         2 images    2 cameras" in lines[3]
    assert any("train identities: 1 found, 575 or 576 published" in line for line in lines)
    assert lines[-1] == "  complete; 0 unreadable images"
