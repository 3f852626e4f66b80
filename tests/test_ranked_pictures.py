"""Pictures of ranked lists and CMC curves: what they show, and that colours are never all that tells things apart."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcs_nas.data.records import Record, ReidDataset
from dcs_nas.errors import InputError
from dcs_nas.evaluation import FeatureDistances, FeatureSet, rank
from dcs_nas.report.charts import CmcCurve, Series, draw_cmc, draw_line_chart, paint_cmc
from dcs_nas.report.palette import get_theme
from dcs_nas.report.ranked_pictures import Cell, RankedPictures, Row, draw_sheet
from dcs_nas.report.retrieval import RankedList, find_hardest_lists
from tests.make_datasets import write_images

QUERIES = [("q/a.jpg", 1, 0), ("q/b.jpg", 2, 0)]
GALLERY = [("g/a.jpg", 1, 1), ("g/own.jpg", 1, 0), ("g/b.jpg", 2, 1), ("g/c.jpg", 3, 1), ("g/d.jpg", 0, 1)]


@pytest.fixture
def dataset(tmp_path: Path) -> ReidDataset:
    write_images(tmp_path, [path for path, _, _ in QUERIES + GALLERY])
    query, gallery = (tuple(Record(*row) for row in rows) for rows in (QUERIES, GALLERY))
    return ReidDataset("x", tmp_path, (), query, gallery, "x")


def _features(places: list[float]) -> FeatureSet:
    """Gallery features on a line, both queries at 0."""
    line = np.stack([np.array(places), np.zeros(len(places))], axis=1).astype(np.float32)
    labels = [np.array([row[i] for row in rows]) for i in (1, 2) for rows in (QUERIES, GALLERY)]
    paths = [np.array([row[0] for row in rows]) for rows in (QUERIES, GALLERY)]
    return FeatureSet(np.zeros((2, 2), dtype=np.float32), line, *labels, *paths)


def _lists(features: FeatureSet, top: int, protocol: str = "cross_camera") -> list[RankedList]:
    result = rank(**features.arrays(), protocol=protocol)
    return find_hardest_lists(
        result, FeatureDistances(features.query_features, features.gallery_features), features, count=9, top=top
    )


def test_ranked_lists_begin_with_the_hardest_query_and_leave_out_what_the_protocol_removes() -> None:
    first, second = _lists(_features([5, 1, 4, 2, 3]), top=2)
    assert (first.query, first.difficulty, first.matches) == (0, 1, 1)
    assert first.average_precision == pytest.approx(1 / 4)
    assert [image.index for image in first.images] == [3, 4]
    assert [image.distance for image in first.images] == [2.0, 3.0]
    assert (first.first_match.index, first.first_match.place, first.first_match.match) == (0, 4, True)
    assert second.average_precision == pytest.approx(1 / 4)
    assert [image.index for image in second.images] == [1, 3]


def test_lists_agree_with_a_sort_of_every_query() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        features = _features(generator.permutation(np.arange(1.0, 6)).tolist())
        for ranked in _lists(features, top=3):
            person, camera, _ = (int(x[ranked.query]) for x in (features.query_pids, features.query_camids, [0, 0]))
            order = np.argsort(features.gallery_features[:, 0])
            left = [g for g in order if not (GALLERY[g][1] == person and GALLERY[g][2] == camera)]
            assert [image.index for image in ranked.images] == left[:3]
            assert [image.match for image in ranked.images] == [GALLERY[g][1] == person for g in left[:3]]
            assert ranked.first_match.place == 1 + next(i for i, g in enumerate(left) if GALLERY[g][1] == person)


def test_a_drawn_gallery_has_lists_of_the_whole_gallery_across_cameras() -> None:
    ranked = _lists(_features([5, 1, 4, 2, 3]), top=9, protocol="single_gallery_shot")
    assert {len(one.images) for one in ranked} == {4, 5}
    assert all(one.first_match.match for one in ranked)


def test_pictures_are_named_by_difficulty_and_precision_and_old_ones_go(dataset: ReidDataset, tmp_path: Path) -> None:
    features, folder = _features([5, 1, 4, 2, 3]), tmp_path / "ranked"
    pictures = RankedPictures(dataset, features, aspect=0.5, subtitle="x")
    (folder).mkdir()
    (folder / "007_ap_0.123.png").touch()
    (folder / "mine.png").touch()
    steps: list[tuple[int, int]] = []
    files = pictures.write(_lists(features, top=2), folder, progress=lambda done, total: steps.append((done, total)))
    assert [file.name for file in files] == ["001_ap_0.250.png", "002_ap_0.250.png", "overview.png"]
    assert {file.name for file in folder.iterdir()} == {*(file.name for file in files), "ranked.json", "mine.png"}
    assert steps == [(1, 2), (2, 2)]
    for file in files:
        with Image.open(file) as picture:
            assert min(picture.size) > 150
    with pytest.raises(InputError, match="there is no ranked list to draw"):
        pictures.write([], folder)


def test_lists_of_before_stay_until_all_new_ones_are_drawn(dataset: ReidDataset, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    before, folder = _features([5, 1, 4, 2, 3]), tmp_path / "ranked"
    files = RankedPictures(dataset, before).write(_lists(before, top=2), folder)
    after = _features([1, 5, 2, 3, 4])
    with pytest.raises(KeyboardInterrupt):
        RankedPictures(dataset, after).write(_lists(after, top=2), folder, progress=interrupt)
    assert all(file.is_file() for file in files)
    assert [entry["file"] for entry in json.loads((folder / "ranked.json").read_text())] == [f.name for f in files[:-1]]


@pytest.mark.parametrize("appearance", ["light", "dark"])
def test_right_and_wrong_differ_by_stroke_and_mark_not_by_colour_alone(appearance: str) -> None:
    colours, pixels = get_theme(appearance), np.full((192, 96, 3), 128, dtype=np.uint8)
    sheets = [
        draw_sheet(("x",), [Row((), None, [Cell(pixels, kind, ("", ""))])], "", colours) for kind in ("right", "wrong")
    ]
    assert sheets[0].size == sheets[1].size
    right, wrong = (np.asarray(sheet.convert("L")).astype(int) for sheet in sheets)
    differing = np.abs(right - wrong) > 60  # between dashes, and in the mark
    assert differing.sum() > 300
    rows = np.flatnonzero(differing.any(axis=1))
    assert np.ptp(rows) > 150
    assert 0.2 < differing.any(axis=1)[rows[0] : rows[-1]].mean() < 0.9


def test_cameras_carry_their_own_names_and_long_ones_are_cut(dataset: ReidDataset) -> None:
    features = _features([5, 1, 4, 2, 3])
    named = replace(dataset, camera_map={"door": 0, "a hall with a very long name" * 9: 1})
    pictures = RankedPictures(named, features)
    assert pictures._name_camera(0) == "camera door"
    assert RankedPictures(dataset, features)._name_camera(3) == "camera 4"
    ranked = _lists(features, top=3)[0]
    assert pictures.picture(ranked).size == RankedPictures(dataset, features).picture(ranked).size


def test_cmc_curves_of_several_runs_share_one_picture(tmp_path: Path) -> None:
    ranks = np.arange(1, 51)
    curves = [CmcCurve(f"run {i}", 1 - 0.5 * np.exp(-ranks / (3 + i)), 0.4) for i in range(6)]
    curves[0] = replace(curves[0], interval=np.stack([curves[0].cmc - 0.05, curves[0].cmc], axis=1))
    files = draw_cmc(curves, tmp_path, title="x")
    assert [file.name for file in files] == ["cmc.png", "cmc.svg"]
    before = files[1].read_bytes()
    assert draw_cmc(curves, tmp_path, title="x")[1].read_bytes() == before
    with Image.open(files[0]) as picture:
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50
    with pytest.raises(InputError, match="there is no curve to draw"):
        draw_cmc([], tmp_path)
    assert b"one: mAP 100.0 %" in paint_cmc([CmcCurve("one", [1.0], 1.0)], "svg")
    assert b"_one: mAP 100.0 %" in paint_cmc([CmcCurve("_one", [1.0], 1.0)], "svg")
    chart = draw_line_chart("loss", [Series(name, [1, 2], [0.5, 0.4]) for name in ("_one", "two")])
    assert chart is not None
    assert b">_one<" in base64.b64decode(chart.picture.light.partition(",")[2])


def test_characters_without_a_glyph_are_drawn_without_a_warning() -> None:
    name = "行人 \U00010fff"  # the last has no glyph anywhere
    assert paint_cmc([CmcCurve(name, [1.0], 1.0)], "png")
    pixels = np.full((192, 96, 3), 128, dtype=np.uint8)
    assert draw_sheet((name,), [Row((), None, [Cell(pixels, "right", (name, ""))])], "", get_theme("light"))
