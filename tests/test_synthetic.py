"""Synthetic pedestrians: a Market-1501 folder whose bytes depend on the settings alone."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic
from dcs_nas.data.synthetic.clothes import make_cloth
from dcs_nas.data.synthetic.identity import COLOURS, Garment, sample_looks
from dcs_nas.data.synthetic.pose import View, make_skeleton, sample_pose
from dcs_nas.data.synthetic.shot import Shot, make_camera, take_picture
from dcs_nas.data.synthetic.tiles import sample_panel
from dcs_nas.errors import InputError

PARTS = ("bounding_box_train", "bounding_box_test", "query")
Written = tuple[Path, dict[str, int]]
NAME = re.compile(r"(-1|\d{4})_c(\d)s(\d)_(\d{6})_(\d{2})\.jpg")
SMALL = SyntheticSettings(
    train_identities=4, test_identities=3, distractor_identities=1, junk_images=8, cameras=3, images_per_camera=2,
    width=32, height=64, seed=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    root = tmp_path_factory.mktemp("synthetic") / "set"
    return root, write_synthetic(root, settings=SMALL, workers=1)


def people(root: Path, part: str) -> dict[int, set[int]]:
    """The cameras of every person id in a part."""
    cameras: dict[int, set[int]] = defaultdict(set)
    for file in (root / part).iterdir():
        match = NAME.fullmatch(file.name)
        assert match, file.name
        cameras[int(match[1])].add(int(match[2]))
    return cameras


def contents(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*.jpg"))}


def test_the_folder_has_market_1501_parts_names_and_the_counts_returned(written: Written) -> None:
    root, counts = written
    assert sorted(p.name for p in root.iterdir()) == sorted(PARTS)
    assert counts == {part: len(list((root / part).iterdir())) for part in PARTS}
    assert set().union(*(people(root, part).keys() for part in PARTS)) == {-1, 0, *range(1, 8)}


def test_tiles_are_another_subject_and_difficulty_is_a_setting(written: Written) -> None:
    shot = Shot(1, 1, 0)
    pictures = {
        what: np.asarray(take_picture(shot, replace(SMALL, **changes)), dtype=float)
        for what, changes in {
            "people": {}, "tiles": {"subject": "tiles"}, "hidden": {"occlusion": 100}, "off": {"misalignment": 400},
        }.items()
    }  # fmt: skip
    assert all(np.abs(pictures[what] - pictures["people"]).mean() > 1 for what in ("tiles", "off"))
    again = np.asarray(take_picture(shot, replace(SMALL, subject="tiles")), dtype=float)
    assert np.array_equal(again, pictures["tiles"])
    with pytest.raises(InputError, match="unknown subject 'tile'; did you mean tiles"):
        replace(SMALL, subject="tile")
    with pytest.raises(InputError, match="occlusion is 101: expected a whole number from 0 to 100"):
        replace(SMALL, occlusion=101)


@pytest.mark.parametrize(("percent", "share"), [(0, 0), (100, 1)])
def test_so_many_percent_of_the_images_are_occluded(percent: int, share: int, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    monkeypatch.setattr("dcs_nas.data.synthetic.shot.draw_occluder", lambda *_: drawn.append(1))
    for take in range(6):
        take_picture(Shot(2, 1, take), replace(SMALL, occlusion=percent, images_per_camera=6))
    assert len(drawn) == 6 * share


def test_tiles_of_an_identity_are_alike_and_those_of_others_differ() -> None:
    panels = [sample_panel(np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert panels[0] == panels[1] != panels[2]


def test_training_and_test_people_are_disjoint_and_as_many_as_asked_for(written: Written) -> None:
    root, _ = written
    train, query, gallery = (people(root, part).keys() for part in (PARTS[0], PARTS[2], PARTS[1]))
    assert len(train) == 4
    assert len(query) == 3
    assert not train & query
    assert gallery == query | {-1, 0}


def test_every_person_and_camera_has_one_query_and_a_match_in_another_camera(written: Written) -> None:
    root, counts = written
    query, gallery = people(root, "query"), people(root, "bounding_box_test")
    assert counts["query"] == sum(len(cameras) for cameras in query.values())
    for person, cameras in query.items():
        assert gallery[person] == cameras
        assert len(cameras) >= 2


def test_junk_and_distractors_are_in_the_gallery_only(written: Written) -> None:
    root, _ = written
    names = [file.name for file in (root / "bounding_box_test").iterdir()]
    assert sum(name.startswith("-1_") for name in names) == 8
    assert sum(name.startswith("0000_") for name in names) in (4, 6)


def test_images_are_rgb_jpegs_of_the_size_asked_for(written: Written) -> None:
    for file in written[0].rglob("*.jpg"):
        with Image.open(file) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (32, 64))


def test_the_same_settings_give_the_same_bytes_with_any_number_of_workers(written: Written, tmp_path: Path) -> None:
    root, _ = written
    write_synthetic(tmp_path / "again", settings=SMALL, workers=2)
    assert contents(tmp_path / "again") == contents(root)


def test_another_seed_gives_other_pictures(written: Written) -> None:
    shot = Shot(identity=1, camera=1, take=0)
    other = SyntheticSettings(width=32, height=64, seed=6)
    same = SyntheticSettings(width=32, height=64, seed=5)
    first, again, changed = (np.asarray(take_picture(shot, s)) for s in (SMALL, same, other))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, changed)


def test_a_picture_shows_more_than_its_background() -> None:
    """A wide shot of one track varies more between takes where the person walks than at the upper corners."""
    settings = SyntheticSettings(width=48, height=96)
    takes = np.stack([np.asarray(take_picture(Shot(3, 1, k), settings), dtype=float).mean(2) for k in range(12)])
    spread = takes.std(axis=0)
    assert spread[20:80, 12:36].mean() > 1.2 * spread[:12, :8].mean()


def test_progress_ends_at_the_number_of_images(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    counts = write_synthetic(
        tmp_path / "set", settings=SMALL, progress=lambda done, total: calls.append((done, total)), workers=1
    )
    total = sum(counts.values())
    assert calls[-1] == (total, total)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_an_empty_folder_is_filled_and_a_missing_parent_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "a" / "b"):
        write_synthetic(out, settings=SMALL, workers=1)
        assert (out / "query").is_dir()
        assert [p.name for p in out.parent.iterdir() if p.name.startswith(".")] == []


def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path / "set", settings=SMALL, progress=stop, workers=1)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_a_file_and_no_workers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty: expected a new or empty folder"):
        write_synthetic(tmp_path, settings=SMALL)
    with pytest.raises(InputError, match=r"note\.txt is a file: expected a new or empty folder"):
        write_synthetic(tmp_path / "note.txt", settings=SMALL)
    with pytest.raises(OSError, match=r"note\.txt"):
        write_synthetic(tmp_path / "note.txt" / "set", settings=SMALL)
    with pytest.raises(InputError, match="workers is 0: expected 1 or more"):
        write_synthetic(tmp_path / "set", settings=SMALL, workers=0)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("cameras", 1, "cameras is 1: expected a whole number from 2 to 9"),
        ("train_identities", 1, "train_identities is 1: expected a whole number from 2 to"),
        ("test_identities", 0, "test_identities is 0: expected a whole number from 2 to"),
        ("images_per_camera", 1, "images_per_camera is 1: expected a whole number from 2 to"),
        ("junk_images", -1, "junk_images is -1: expected a whole number from 0 to"),
        ("height", 64.5, "height is 64.5: expected a whole number from 32 to"),
        ("seed", True, "seed is True: expected a whole number from 0 to"),
    ],
)
def test_settings_out_of_bounds_are_refused(setting: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SyntheticSettings(**cast(Any, {setting: value}))


def test_clothing_colours_repeat_among_people() -> None:
    people_drawn = [sample_looks(np.random.default_rng(k)) for k in range(200)]
    outfits = {(p.upper.colour, p.lower.colour) for p in people_drawn}
    assert len(outfits) <= 20
    assert {p.upper.colour for p in people_drawn} <= set(COLOURS.values())


def test_the_lower_foot_stands_on_the_ground_in_every_pose() -> None:
    for k in range(50):
        rng = np.random.default_rng(k)
        looks = sample_looks(rng)
        skeleton = make_skeleton(looks.build, sample_pose(rng, 0.0))
        assert max(leg.end[1] for leg in skeleton.legs.values()) == pytest.approx(0.98)


def test_turning_a_body_by_a_half_turn_mirrors_it_and_swaps_near_and_far() -> None:
    front, back = View(0.4, 0.0, 0.0), View(0.4 + np.pi, 0.0, 0.0)
    point = (0.1, 0.5, -0.2)
    assert back.project(point) == pytest.approx((-front.project(point)[0], 0.5))
    assert back.depth(point) == pytest.approx(-front.depth(point))
    assert View(0.0, 0.0, 0.0).half_width(0.2, 0.1) == pytest.approx(0.2)
    assert View(np.pi / 2, 0.0, 0.0).half_width(0.2, 0.1) == pytest.approx(0.1)


def test_every_seed_has_cameras() -> None:
    for seed in range(110):  # seed 2 has a row of panes thinner than their frame, and 8 % of all seeds
        for number in range(1, 6):
            make_camera(number, SyntheticSettings(width=16, height=32, seed=seed))


def test_a_garment_whose_middle_lies_below_the_picture_has_one_colour() -> None:
    garment = Garment("shirt", (10, 20, 30), "colour block", (200, 0, 0), 0.1, 0.5)
    cloth = make_cloth(garment, (8, 8), (4, 12), scale=20, squeeze=1)
    assert isinstance(cloth, Image.Image)
    assert cloth.getcolors() == [(64, (10, 20, 30))]


def test_a_script_that_its_workers_run_again_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "draw.py"
    script.write_text(
        "from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic\n"
        "from dcs_nas.errors import InputError\n"
        "settings = SyntheticSettings(train_identities=4, test_identities=4, width=16, height=32)\n"
        "try:\n"
        f"    write_synthetic({str(tmp_path / 'set')!r}, settings=settings, workers=2)\n"
        "except InputError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert "draw with workers=1, or, in a script, below the line if __name__" in done.stdout
    assert not (tmp_path / "set").exists()
