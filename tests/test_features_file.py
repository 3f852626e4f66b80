"""The features file: what is written is read, and every way it can be wrong gives one clear line."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcs_nas.errors import InputError
from dcs_nas.evaluation import FEATURE_KEYS, FeatureSet, load_features, rank, save_features


def arrays(**changes: np.ndarray | None) -> dict[str, Any]:
    random = np.random.default_rng(0)
    values = {
        "query_features": random.normal(size=(4, 3)).astype(np.float32),
        "gallery_features": random.normal(size=(6, 3)).astype(np.float32),
        "query_pids": np.array([1, 2, 1, 2]),
        "gallery_pids": np.array([1, 2, 0, -1, 1, 2]),
        "query_camids": np.array([0, 0, 1, 1]),
        "gallery_camids": np.array([1, 1, 1, 1, 0, 0]),
    }
    return {key: value for key, value in (values | changes).items() if value is not None}


def test_saved_features_are_read_back_and_can_be_ranked(tmp_path: Path) -> None:
    path = tmp_path / "new" / "features.npz"
    save_features(path, FeatureSet(**arrays()))
    read = load_features(path)
    for key, value in arrays().items():
        np.testing.assert_array_equal(getattr(read, key), value)
    assert rank(**read.arrays(), metric="cosine").gallery_junk_dropped == 1
    assert [file.name for file in path.parent.iterdir()] == ["features.npz"]


def test_other_arrays_in_the_file_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "features.npz"
    np.savez_compressed(path, **arrays(), names=np.array([{"pickled": 1}]))
    assert set(load_features(path).arrays()) == set(FEATURE_KEYS)


def test_an_interrupted_save_keeps_the_old_file_and_leaves_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "features.npz"
    save_features(path, FeatureSet(**arrays()))
    before = path.read_bytes()

    def interrupted(file: Path, **values: object) -> None:
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_features(path, FeatureSet(**arrays()))
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


NAN = np.ones((6, 3))
NAN[5] = np.nan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query_camids": None}, r"features.npz lacks query_camids; it holds query_features, "),
        ({"query_pids": np.arange(3)}, "features.npz: 3 query_pids for 4 images"),
        ({"gallery_camids": np.zeros(6)}, "gallery_camids has shape .* dtype float64; expected a vector of integers"),
        ({"gallery_features": np.ones((6, 2))}, "query_features have 3 channels and gallery_features 2"),
        ({"gallery_features": NAN}, "gallery_features: 1 of 6 rows hold NaN or infinity, the first is row 5"),
        ({"query_features": np.array([None] * 4)}, "cannot be read as an .npz file of plain arrays: Object arrays"),
    ],
)
def test_a_file_with_wrong_arrays_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    path = tmp_path / "features.npz"
    np.savez(path, **arrays(**changes))
    with pytest.raises(InputError, match=message) as caught:
        load_features(path)
    assert "\n" not in str(caught.value)


def test_what_is_no_npz_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "features.npz"
    with pytest.raises(InputError, match=r"features file .*features.npz does not exist"):
        load_features(path)
    with pytest.raises(InputError, match="cannot be read"):
        load_features(tmp_path)
    np.savez(path, **arrays())
    whole = path.read_bytes()
    for content in (b"", b"text, not arrays\n", whole[: len(whole) // 2], pickle.dumps({"a": 1})):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"cannot be read as an \.npz file") as caught:
            load_features(path)
        assert "\n" not in str(caught.value)
    with open(path, "wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(InputError, match="holds a single array"):
        load_features(path)


def test_a_name_without_npz_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"features.bin does not end in .npz"):
        save_features(tmp_path / "features.bin", FeatureSet(**arrays()))


@pytest.mark.parametrize("text", ["", "{", "3", "{}", '{"settings": {"metric": "manhattan"}}', '{"settings": 1}'])
def test_damaged_facts_of_an_evaluation_are_one_clear_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "features.npz"
    np.savez(path, **arrays(), evaluated=np.array(text))
    with pytest.raises(InputError, match=r"features.npz: (evaluated is damaged|metric: Input should be 'cosine')"):
        load_features(path)
    np.savez(path, **arrays(), evaluated=np.arange(3))
    with pytest.raises(InputError, match="evaluated is damaged"):
        load_features(path)
