"""Features and distance matrices under the names of torchreid and fast-reid give the scores of our own files."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.command_line import refused, run_command

OURS = ("query_features", "gallery_features", "query_pids", "gallery_pids", "query_camids", "gallery_camids")
TORCHREID = ("qf", "gf", "q_pids", "g_pids", "q_camids", "g_camids")
RERANKING = ("query_f", "gallery_f", "query_label", "gallery_label", "query_cam", "gallery_cam")


@pytest.fixture
def arrays() -> list[np.ndarray]:
    pids = np.repeat(np.arange(1, 6), 2)
    query, gallery = np.random.randn(10, 8).astype("f4"), np.random.randn(10, 8).astype("f4")
    return [query, gallery, pids, pids, np.tile([0, 1], 5), np.tile([1, 0], 5)]


@pytest.fixture
def scores(capsys: pytest.CaptureFixture, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def run(*words: object) -> dict[str, Any]:
        code, _, err = run_command(capsys, "rank", *words, "--json", tmp_path / "scores.json")
        assert code == 0, err
        found = json.loads((tmp_path / "scores.json").read_text())
        return {name: found[name] for name in ("mAP", "mINP", "cmc", "queries", "gallery_size")}

    return run


def _batches(arrays: list[np.ndarray], *, of: type) -> list[dict[str, Any]]:
    """fast-reid's predictions: queries, then gallery, five images at a time."""
    feats, pids, camids = (np.concatenate(arrays[i : i + 2]) for i in (0, 2, 4))
    make = torch.tensor if of is torch.Tensor else np.asarray
    parts = [slice(i, i + 5) for i in range(0, 20, 5)]
    return [{"feats": make(feats[p]), "pids": make(pids[p]), "camids": make(camids[p])} for p in parts]


@pytest.mark.parametrize("names", [TORCHREID, RERANKING, OURS])
@pytest.mark.parametrize("ending", [".npz", ".pt"])
def test_features_under_their_names_score_as_ours(
    names: tuple[str, ...], ending: str, arrays: list[np.ndarray], scores: Callable, tmp_path: Path
) -> None:
    np.savez(tmp_path / "ours.npz", **dict(zip(OURS, arrays)))
    theirs = tmp_path / f"theirs{ending}"
    if ending == ".npz":
        np.savez(theirs, **dict(zip(names, arrays)), distances=np.zeros(3))
    else:  # tensors for features, arrays and lists for labels, as the evaluations hold them
        values = [*map(torch.tensor, arrays[:2]), arrays[2], arrays[3].tolist(), *arrays[4:]]
        torch.save(dict(zip(names, values)), theirs)
    assert scores(theirs) == scores(tmp_path / "ours.npz")


@pytest.mark.parametrize("of", [torch.Tensor, np.ndarray])
def test_predictions_of_fast_reid_are_divided_into_queries_and_gallery(
    of: type, arrays: list[np.ndarray], scores: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    np.savez(tmp_path / "ours.npz", **dict(zip(OURS, arrays)))
    torch.save(_batches(arrays, of=of), tmp_path / "predictions.pth")
    expected = scores(tmp_path / "ours.npz")
    assert scores(tmp_path / "predictions.pth", "--queries", 10) == expected
    line = refused(capsys, "rank", tmp_path / "predictions.pth")
    assert "holds 20 images, queries first; give their number with --queries N" in line


def test_a_folder_of_vectors_is_read_by_the_names_of_its_files(
    arrays: list[np.ndarray], scores: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arrays[:2] = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in arrays[:2]]
    np.savez(tmp_path / "ours.npz", **dict(zip(OURS, arrays)))
    for side, name in enumerate(("query", "gallery")):
        (tmp_path / name).mkdir()
        for i in range(10):
            file = f"{arrays[2 + side][i]:04d}_c{arrays[4 + side][i] + 1}s1_{i:06d}.npy"
            np.save(tmp_path / name / file, arrays[side][i : i + 1])
    np.save(tmp_path / "gallery" / "-1_c1s1_000001.npy", np.ones((1, 8)))
    found = scores(tmp_path / "query", "--gallery", tmp_path / "gallery")
    expected = scores(tmp_path / "ours.npz", "--metric", "cosine")
    assert (found["mAP"], found["gallery_size"]) == (pytest.approx(expected["mAP"]), 10)
    assert "--gallery DIR" in refused(capsys, "rank", tmp_path / "query")


def test_a_distance_matrix_scores_as_the_features_that_it_is_of(
    arrays: list[np.ndarray], scores: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    np.savez(tmp_path / "ours.npz", **dict(zip(OURS, arrays)))
    distances = np.linalg.norm(arrays[0][:, None] - arrays[1][None], axis=2)
    labels = dict(zip(TORCHREID[2:], arrays[2:]))
    np.save(tmp_path / "distmat.npy", distances)
    np.savez(tmp_path / "labels.npz", **labels)
    np.savez(tmp_path / "both.npz", distmat=distances, **labels)
    torch.save({"distmat": torch.tensor(distances), **labels}, tmp_path / "both.pt")
    expected = scores(tmp_path / "ours.npz")
    assert scores(tmp_path / "distmat.npy", "--labels", tmp_path / "labels.npz") == expected
    assert scores(tmp_path / "both.npz") == expected
    assert scores(tmp_path / "both.pt") == expected
    assert "holds no labels; give --labels" in refused(capsys, "rank", tmp_path / "distmat.npy")
    assert "--rerank needs features" in refused(capsys, "rank", tmp_path / "both.npz", "--rerank")
    assert "--labels goes with a distance matrix" in refused(
        capsys, "rank", tmp_path / "ours.npz", "--labels", tmp_path / "labels.npz"
    )


def test_bad_arrays_are_one_line_that_names_their_file(
    arrays: list[np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for feats in (np.float32(1), np.ones((6, 3))):
        np.savez("f.npz", feats=feats, pids=np.arange(3), camids=np.arange(3))
        assert "f.npz holds feats and pids and camids of the shapes (" in refused(
            capsys, "rank", "f.npz", "--queries", 1
        )
    Path("query").mkdir()
    Path("gallery").mkdir()
    np.save("gallery/0001_c2.npy", np.ones(3))
    np.savez("a.npz", a=np.ones(3))
    Path("a.npz").rename("query/0001_c1.npy")
    words = ("rank", "query", "--gallery", "gallery")
    assert "query/0001_c1.npy holds a; expected one array of numbers" in refused(capsys, *words)
    np.save("query/0001_c1.npy", np.array(["a"]))
    assert "query/0001_c1.npy holds <U1; expected one array of numbers" in refused(capsys, *words)
    Path("query/0001_c1.npy").unlink()
    np.save("query/-1_c1.npy", np.ones(3))
    assert "query and gallery, without junk (identity -1): query_features has" in refused(capsys, *words)
    np.savez("d.npz", distmat=np.ones((10, 10)), **dict(zip(TORCHREID[2:], [arrays[2].astype("f4"), *arrays[3:]])))
    assert "d.npz: query_pids has shape (10,) and dtype float32" in refused(capsys, "rank", "d.npz")


def test_junk_is_in_no_list_of_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    values = [np.ones((1, 3)), np.eye(3)[[0, 1, 2, 0]], [1], [-1, 1, 2, 3], [0], [1, 1, 1, 1]]
    np.savez(tmp_path / "f.npz", **dict(zip(OURS, values)))
    for options in ([], ["--rerank", "--k1", 2, "--k2", 1]):
        code, out, _ = run_command(capsys, "rank", tmp_path / "f.npz", "--top", 4, *options)
        assert code == 0
        assert sorted(line.split(",")[2] for line in out.splitlines()[1:]) == ["1", "2", "3"]
    assert "expand is 9; expected at most 3, the images of the gallery without junk" in refused(
        capsys, "rank", tmp_path / "f.npz", "--expand", 9
    )


class _Runs:
    def __reduce__(self) -> Any:
        return (open, ("ran", "w"))


def test_nothing_is_unpickled_and_the_line_tells_how_to_convert(
    arrays: list[np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("f.pkl").write_bytes(pickle.dumps({"query_f": _Runs()}))
    torch.save({"qf": _Runs()}, "f.pth")
    np.save("f.npy", np.array([_Runs()], dtype=object))
    assert "numpy.savez('f.npz', **pickle.load(open('f.pkl', 'rb')))" in refused(capsys, "rank", "f.pkl")
    for file in ("f.pth", "f.npy"):
        assert "cannot be read as plain arrays" in refused(capsys, "rank", file)
    assert not Path("ran").exists()
    torch.save({"weights": torch.zeros(3)}, "w.pth")
    assert "holds weights; expected the arrays qf gf q_pids" in refused(capsys, "rank", "w.pth")
