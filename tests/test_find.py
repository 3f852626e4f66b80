"""Features of any images into a file, and the images nearest to one: by a trained run and by its ONNX file."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dcs_nas
from dcs_nas.data.images import read_image
from dcs_nas.errors import InputError
from dcs_nas.evaluation.gallery import Gallery, find_nearest, write_gallery
from dcs_nas.export.run_model import RunModel
from tests.command_line import refused, run_command
from tests.run_folders import trained


@pytest.fixture(scope="module")
def run(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("find") / "retrain", people)


@pytest.fixture(scope="module")
def model(run: Path) -> Path:
    dcs_nas.load_run(run).export(["onnx"])
    return run / "export" / "model.onnx"


def _features(run: dcs_nas.TrainedRun, path: Path, *, flip: bool = False) -> np.ndarray:
    """One image's features, by the network itself."""
    data = run.config.data
    pixels = torch.tensor(read_image(path, height=data.height, width=data.width)).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (data.mean, data.std))
    images = (pixels - mean) / std
    with torch.inference_mode():
        found = run.network(images)
        return ((found + run.network(images.flip(3))) if flip else found)[0].numpy()


def test_features_are_those_of_the_network_image_by_image_in_the_order_of_the_files(run: Path, people: Path) -> None:
    trained_run = dcs_nas.load(run)
    paths = dcs_nas.image_files(people / "query")
    assert paths == sorted((people / "query").glob("*.jpg"))
    found = trained_run.features(people / "query", overrides=["data.test_batch=5"])
    assert found.dtype == np.float32
    expected = np.stack([_features(trained_run, path) for path in paths])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    mirrored = trained_run.features(paths[:2], overrides=["evaluate.flip=true"])
    np.testing.assert_allclose(
        mirrored, [_features(trained_run, p, flip=True) for p in paths[:2]], rtol=1e-4, atol=1e-5
    )


def test_an_exported_file_gives_the_features_of_its_run(run: Path, model: Path, people: Path) -> None:
    exported = dcs_nas.load(model)
    assert isinstance(exported, dcs_nas.ExportedModel)
    own = dcs_nas.load(run).features(people / "query")
    np.testing.assert_allclose(exported.features(people / "query"), own, rtol=1e-3, atol=1e-3)
    assert repr(exported).startswith(f"{model}: genotype of space tiny")
    with pytest.raises(InputError, match="has settings and weights of its own"):
        exported.features(people / "query", overrides=["evaluate.flip=true"])


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_distances_are_those_of_a_loop(metric: str) -> None:
    a, b = np.random.randn(3, 5).astype("f4"), np.random.randn(4, 5).astype("f4")
    for i, row in enumerate(dcs_nas.distances(a, b, metric)):
        for j, value in enumerate(row):
            cosine = 1 - a[i] @ b[j] / np.linalg.norm(a[i]) / np.linalg.norm(b[j])
            assert value == pytest.approx(cosine if metric == "cosine" else np.linalg.norm(a[i] - b[j]), abs=1e-5)


def test_extract_writes_paths_features_and_metric(
    run: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "sub" / "features.npz"
    code, shown, _ = run_command(capsys, "extract", run, people / "query", "--out", out, "-o", "data.test_batch=3")
    assert (code, shown) == (0, f"{out}\n")
    with np.load(out, allow_pickle=False) as held:
        assert held["paths"].tolist() == [p.as_posix() for p in dcs_nas.image_files(people / "query")]
        assert str(held["metric"]) == "cosine"
        np.testing.assert_array_equal(held["features"], dcs_nas.load(run).features(people / "query"))
    assert [path.name for path in out.parent.iterdir()] == ["features.npz"]


def _all(file: Path) -> np.ndarray:
    """All features of a gallery, (N, D)."""
    return np.concatenate(list(Gallery.open(file).blocks()))


class _Counting(RunModel):
    """A run's model that counts its images and is interrupted before some batch."""

    def __init__(self, run: Path, *, stop_at: int = -1) -> None:
        super().__init__(run, overrides=["data.test_batch=4"])
        self.images, self._stop_at = 0, stop_at

    def run(self, images: np.ndarray) -> np.ndarray:
        if self._stop_at == 0:
            raise KeyboardInterrupt
        self._stop_at -= 1
        self.images += len(images)
        return super().run(images)


def test_an_interrupted_extraction_continues_and_leaves_the_old_file_whole(
    run: Path, people: Path, tmp_path: Path
) -> None:
    from dcs_nas.export.extraction import extract

    paths, out = dcs_nas.image_files(people / "query"), tmp_path / "f.npz"
    out.write_bytes(b"what was there before")
    with pytest.raises(KeyboardInterrupt):
        extract(_Counting(run, stop_at=2), paths, out)
    assert out.read_bytes() == b"what was there before"
    part = tmp_path / "f.npz.part"
    with (part / "features.f32").open("ab") as file:
        file.write(b"half a row")  # as a killed process leaves it
    with (part / "images.jsonl").open("a") as file:
        file.write('"half a key')
    again = _Counting(run)
    assert extract(again, paths, out) == 8
    assert again.images == len(paths) - 8
    np.testing.assert_allclose(_all(out), _Counting(run).features(paths), rtol=1e-5, atol=1e-6)
    assert not part.exists()


def test_a_full_disk_costs_no_features(
    run: Path, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dcs_nas.export import extraction

    def fail(path: Path, *_: object, **__: object) -> None:
        path.write_bytes(b"")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    paths, out = dcs_nas.image_files(people / "query"), tmp_path / "f.npz"
    with pytest.raises(KeyboardInterrupt):
        extraction.extract(_Counting(run, stop_at=2), paths, out)
    with (tmp_path / "f.npz.part" / "images.jsonl").open("a") as file:
        file.write('"half a key')
    with monkeypatch.context() as full:
        full.setattr(Path, "write_text", fail)
        with pytest.raises(OSError, match="No space"):
            extraction.extract(_Counting(run), paths, out)
    assert extraction.extract(_Counting(run), paths, out) == 8


def test_images_that_changed_or_came_are_computed_and_other_settings_start_over(
    run: Path, people: Path, tmp_path: Path
) -> None:
    from dcs_nas.export.extraction import extract

    shutil.copytree(people / "query", tmp_path / "q")
    paths, out = dcs_nas.image_files(tmp_path / "q"), tmp_path / "f.npz"
    with pytest.raises(KeyboardInterrupt):
        extract(_Counting(run, stop_at=2), paths, out)
    Image.new("RGB", (16, 32), "red").save(paths[1])
    Image.new("RGB", (16, 32), "blue").save(tmp_path / "q" / "0000.png")
    paths[2].unlink()
    paths = dcs_nas.image_files(tmp_path / "q")
    assert extract(_Counting(run), paths, out) == 6
    np.testing.assert_allclose(_all(out), _Counting(run).features(paths), rtol=1e-5, atol=1e-6)
    with pytest.raises(KeyboardInterrupt):
        extract(_Counting(run, stop_at=2), paths, out)
    flipped = RunModel(run, overrides=["evaluate.flip=true"])
    assert extract(flipped, paths, out) == 0
    np.testing.assert_array_equal(_all(out), flipped.features(paths))


def test_images_that_do_not_decode_are_named_at_the_end_and_the_others_kept(
    run: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(people / "query", tmp_path / "q")
    for name in ("0001_a.jpg", "0002_b.jpg"):
        (tmp_path / "q" / name).write_bytes(b"no image")
    out = tmp_path / "f.npz"
    line = refused(capsys, "extract", run, tmp_path / "q", "--out", out)
    assert f"2 images do not decode: {tmp_path / 'q' / '0001_a.jpg'}" in line
    assert f"; {tmp_path / 'q' / '0002_b.jpg'}" in line
    assert not out.exists()
    for name in ("0001_a.jpg", "0002_b.jpg"):
        (tmp_path / "q" / name).unlink()
    _, _, err = run_command(capsys, "extract", run, tmp_path / "q", "--out", out)
    assert "12 were there from an interrupted run" in err


def test_find_lists_the_nearest_images_of_a_folder_and_draws_them(
    run: Path, model: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    query = dcs_nas.image_files(people / "query")[3]
    gallery = dcs_nas.image_files(people / "bounding_box_test")
    trained_run = dcs_nas.load(run)
    of_query = _features(trained_run, query)
    far = [
        1 - of_query @ other / np.linalg.norm(of_query) / np.linalg.norm(other)
        for other in (_features(trained_run, path) for path in gallery)
    ]
    expected = [gallery[i] for i in np.argsort(far, kind="stable")[:5]]
    for target in (run, model):
        code, shown, _ = run_command(
            capsys, "find", target, query, people / "bounding_box_test", "--top", 5, "--csv", "list.csv"
        )
        assert code == 0
        assert f"nearest_{query.stem}.png" in shown
        with open("list.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [Path(row["image"]) for row in rows] == expected
        np.testing.assert_allclose([float(row["distance"]) for row in rows], sorted(far)[:5], atol=1e-4)
        with Image.open(f"nearest_{query.stem}.png") as picture:
            assert picture.width > 6 * 96


def test_find_in_a_features_file_gives_the_same_list_and_leaves_the_query_out(
    run: Path, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_run = dcs_nas.load(run)
    monkeypatch.chdir(people)
    file = trained_run.extract("bounding_box_test", tmp_path / "g.npz")
    monkeypatch.chdir(tmp_path)  # relative paths are found from any folder
    query = dcs_nas.image_files(people / "bounding_box_test")[4]
    listed = trained_run.find(query, file, top=3)
    folder = trained_run.find(query, people / "bounding_box_test", top=3)
    assert [one.path for one in listed.images] == [one.path for one in folder.images]
    assert query not in [one.path for one in listed.images]
    assert listed.notes == folder.notes == (f"{query} itself is in the gallery and left out of the list",)
    assert [one.rank for one in listed.images] == [1, 2, 3]


def test_nearest_reads_blocks_and_keeps_the_order_of_ties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcs_nas.evaluation.gallery._ROWS", 7)
    features = np.random.randint(-2, 3, size=(40, 3)).astype("f4")  # many ties
    write_gallery(
        tmp_path / "g.npz", features, [f"{i}.jpg" for i in range(40)], metric="euclidean", folder=tmp_path, model={}
    )
    query = np.random.randint(-2, 3, size=(4, 3)).astype("f4")
    indices, distances = find_nearest(query, Gallery.open(tmp_path / "g.npz"), 11)
    exact = np.linalg.norm(query[:, None] - features[None], axis=2)
    order = np.argsort(exact, axis=1, kind="stable")[:, :11]
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_allclose(distances, np.take_along_axis(exact, order, 1), atol=1e-5)


def test_images_are_those_of_the_folder_that_was_extracted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("there", "here"):
        (tmp_path / folder / "g").mkdir(parents=True)
        (tmp_path / folder / "g/0.png").touch()
    write_gallery(
        tmp_path / "g.npz",
        np.ones((1, 2), np.float32),
        ["g/0.png"],
        folder=tmp_path / "there",
        metric="cosine",
        model={},
    )
    monkeypatch.chdir(tmp_path / "here")
    gallery = Gallery.open(tmp_path / "g.npz")
    assert gallery.image(0) == tmp_path / "there/g/0.png"
    (tmp_path / "there/g/0.png").unlink()
    assert gallery.image(0) == Path("g/0.png")


def test_names_of_images_are_expanded_and_printable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "0.png").touch()
    assert dcs_nas.image_files("~") == dcs_nas.image_files(["~/0.png"]) == [tmp_path / "0.png"]
    (tmp_path / "a\nb.png").touch()
    with pytest.raises(InputError, match="cannot be printed"):
        dcs_nas.image_files("~")
    folder = tmp_path / os.fsdecode(b"bad\xff")
    folder.mkdir()
    (folder / "0.png").touch()
    with pytest.raises(InputError, match="cannot be printed"):
        dcs_nas.image_files(folder)


def test_an_image_that_is_named_twice_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("0.png", "1.png"):
        (tmp_path / name).touch()
    assert [path.name for path in dcs_nas.image_files(["1.png", tmp_path, tmp_path / "1.png"])] == ["1.png", "0.png"]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_an_index_finds_what_comparing_finds(tmp_path: Path, metric: str) -> None:
    pytest.importorskip("faiss", reason="the extra 'index' is not installed")
    from dcs_nas.evaluation.gallery import open_index, search_index

    features = np.random.randn(300, 16).astype("f4")
    names = [f"{i}.jpg" for i in range(300)]
    write_gallery(tmp_path / "g.npz", features, names, metric=metric, folder=tmp_path, model={})
    gallery, query = Gallery.open(tmp_path / "g.npz"), np.random.randn(5, 16).astype("f4")
    exact = find_nearest(query, gallery, 10)
    for approximate in (False, True):
        file = tmp_path / f"{approximate}.faiss"
        for is_new in (True, False):
            index, made = open_index(file, gallery, approximate=approximate)
            assert made is is_new
            indices, distances = search_index(index, query, gallery, 10)
            if not approximate:
                np.testing.assert_array_equal(indices, exact[0])
                np.testing.assert_allclose(distances, exact[1], atol=1e-4)
            assert np.mean([len(set(a) & set(b)) for a, b in zip(indices, exact[0])]) >= 8
        with pytest.raises(InputError, match="name another file"):
            open_index(file, gallery, approximate=not approximate)
    write_gallery(tmp_path / "h.npz", features[::-1], names, metric=metric, folder=tmp_path, model={})
    (tmp_path / "False.faiss").touch()
    with pytest.raises(InputError, match="is the index of another gallery"):
        open_index(tmp_path / "False.faiss", Gallery.open(tmp_path / "h.npz"))
    (tmp_path / "bad.faiss").write_bytes(b"no index")
    os.utime(tmp_path / "bad.faiss", (1, 1))  # older than the gallery, yet not replaced
    with pytest.raises(InputError, match="is not an index"):
        open_index(tmp_path / "bad.faiss", gallery)


def test_without_faiss_one_line_says_what_to_install(
    run: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    file = dcs_nas.load(run).extract(people / "query", tmp_path / "g.npz")
    query = dcs_nas.image_files(people / "query")[0]
    line = refused(capsys, "find", run, query, file, "--index", tmp_path / "i.faiss")
    assert line.endswith("an index needs faiss-cpu, not installed here; pip install faiss-cpu")


def test_features_of_another_network_are_refused(
    run: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    query = dcs_nas.image_files(people / "query")[0]
    file = dcs_nas.load(run).extract(people / "query", tmp_path / "g.npz", overrides=["evaluate.flip=true"])
    assert "was made by another network" in refused(capsys, "find", run, query, file)
    with np.load(file) as held:
        arrays = dict(held)
    np.savez(tmp_path / "other.npz", **{**arrays, "features": arrays["features"][:, :-1]})
    assert "was made by another network" in refused(capsys, "find", run, query, tmp_path / "other.npz")


def test_damaged_features_files_are_refused_in_one_line(run: Path, people: Path, tmp_path: Path) -> None:
    file = dcs_nas.load(run).extract(people / "query", tmp_path / "g.npz")
    content = file.read_bytes()
    with np.load(file) as held:
        arrays = dict(held)
    changes = {
        "lacks paths": {name: value for name, value in arrays.items() if name != "paths"},
        "holds 3 paths for": {**arrays, "paths": arrays["paths"][:3]},
        "expected rows of float32": {**arrays, "features": arrays["features"].astype("f8")},
        "unknown metric 'manhattan'": {**arrays, "metric": np.array("manhattan")},
        "cannot be read": {**arrays, "paths": np.array([{}] * len(arrays["paths"]), dtype=object)},
    }
    for message, changed in changes.items():
        np.savez(tmp_path / "bad.npz", **changed)
        with pytest.raises(InputError, match=message):
            Gallery.open(tmp_path / "bad.npz")
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        Gallery.open(tmp_path / "cut.npz")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["extract", "RUN", "/no/such"], "there is no folder /no/such"),
        (["extract", "RUN", "PEOPLE", "--out", "features.txt"], "features.txt does not end in .npz"),
        (["extract", "RUN", "PEOPLE", "-o", "search.epochs=3"], "has no effect on a trained run"),
        (["extract", "RUN", "PEOPLE", "-o", "data.test_bach=3"], "did you mean data.test_batch?"),
        (["extract", "RUN", "PEOPLE", "-o", "evaluate.rerank=true"], "has no effect"),
        (["extract", "/no/such", "PEOPLE"], "/no/such is not a run folder"),
        (["find", "RUN", "/no/such.jpg", "PEOPLE"], "/no/such.jpg"),
        (["find", "RUN", "PEOPLE", "PEOPLE"], "is a folder, expected an image file"),
        (["find", "RUN", "QUERY", "PEOPLE", "--out", "a.svg"], "should be a picture named *.png"),
        (["find", "RUN", "QUERY", "PEOPLE", "--approximate"], "name its file by --index FILE"),
        (["find", "RUN", "QUERY", "PEOPLE", "--index", "a.faiss"], "an index needs a features file"),
        (["find", "RUN", "QUERY", "/no/such.npz"], "/no/such.npz does not exist"),
        (["find", "model.pt2", "QUERY", "PEOPLE"], "is for torch.export.load; name model.onnx"),
    ],
)
def test_bad_input_is_one_line(
    run: Path, people: Path, capsys: pytest.CaptureFixture, words: list[str], message: str
) -> None:
    places = {"RUN": run, "PEOPLE": people / "query", "QUERY": dcs_nas.image_files(people / "query")[0]}
    assert message in refused(capsys, *(places.get(word, word) for word in words))


def test_evaluate_takes_settings_that_an_evaluation_reads(
    run: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["-o", "data.test_batch=7", "-o", f"data.root={people}", "-o", "trainer.threads=1"]
    code, _, said = run_command(
        capsys, "evaluate", run, *words, "-o", "evaluate.rerank=true", "--json", tmp_path / "a.json"
    )
    assert code == 0, said
    assert run_command(capsys, "evaluate", run, "--rerank", "--json", tmp_path / "b.json")[0] == 0
    found, plain = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert (found["mAP"], found["protocol"]) == (pytest.approx(plain["mAP"], abs=1e-4), plain["protocol"])
    assert (run / "evaluation_rerank.json").is_file()
    assert "has no effect on a trained run" in refused(capsys, "evaluate", run, "-o", "retrain.epochs=3")
    said = refused(capsys, "evaluate", run, "-o", "data.rot=x")
    assert "-o data.rot=x has no effect on a trained run, which keeps the settings it began with; did you mean" in said
    assert "rerank_k1 given, but re-ranking is off" in refused(capsys, "evaluate", run, "-o", "evaluate.rerank_k1=5")
    assert run_command(capsys, "evaluate", run, "-o", "data.height=48")[0] == 0
    assert (run / "evaluation_height-48.json").is_file()
