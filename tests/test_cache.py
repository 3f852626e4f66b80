"""The cache of decoded images, and what it makes of odd files."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dcs_nas.data import images as decoding
from dcs_nas.data.images import open_image_cache, read_image
from dcs_nas.errors import InputError


def _image(path: Path, mode: str = "RGB", size: tuple[int, int] = (20, 40), **options: object) -> Path:
    pixels = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


def _cache(root: Path, names: list[str], folder: Path, **changes: int) -> np.ndarray:
    return open_image_cache(root, names, **{"height": 16, "width": 8, **changes}, folder=folder)


def test_the_cache_holds_the_images_as_they_are_read_one_by_one(tmp_path: Path) -> None:
    names = [_image(tmp_path / f"{i}.png").name for i in range(3)]
    images = _cache(tmp_path, names, tmp_path / "cache")
    assert images.shape == (3, 16, 8, 3)
    assert images.dtype == np.uint8
    for i, name in enumerate(names):
        np.testing.assert_array_equal(images[i], read_image(tmp_path / name, height=16, width=8))


def test_a_second_call_decodes_nothing(tmp_path: Path) -> None:
    names = [_image(tmp_path / "a.png").name]
    calls: list[tuple[int, int]] = []
    for _ in range(2):
        open_image_cache(
            tmp_path, names, height=16, width=8, folder=tmp_path / "cache", progress=lambda *c: calls.append(c)
        )
    assert calls == [(1, 1)]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_no_more_images_are_decoded_ahead_of_the_disk_than_a_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [f"{i}.png" for i in range(20)]
    for path in paths:
        Image.new("RGB", (4, 4)).save(tmp_path / path)
    begun, most = [], []
    read = decoding.read_image

    def count(*arguments: Any, **options: Any) -> np.ndarray:
        begun.append(1)
        return read(*arguments, **options)

    def note(done: int, total: int) -> None:
        time.sleep(0.01)  # a slow disk
        most.append(len(begun) - done)

    monkeypatch.setattr(decoding, "read_image", count)
    monkeypatch.setattr(decoding, "_AHEAD", 3)
    pixels = open_image_cache(tmp_path, paths, height=2, width=2, folder=tmp_path / "cache", progress=note)
    assert (len(pixels), len(begun), len(most)) == (20, 20, 20)
    assert max(most) <= 3


def test_another_size_or_a_changed_file_makes_another_cache(tmp_path: Path) -> None:
    path = _image(tmp_path / "a.png")
    _cache(tmp_path, ["a.png"], tmp_path / "cache")
    _cache(tmp_path, ["a.png"], tmp_path / "cache", height=32)
    os.utime(path, ns=(1, 1))
    _cache(tmp_path, ["a.png"], tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_other_images_of_the_same_names_sizes_and_times_have_another_cache_and_moved_ones_the_same(
    tmp_path: Path,
) -> None:
    for folder, value in (("one", 0), ("other", 255)):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (4, 4), (value, 0, 0)).save(tmp_path / folder / "a.bmp")
        os.utime(tmp_path / folder / "a.bmp", ns=(1, 1))
    values = [_cache(tmp_path / folder, ["a.bmp"], tmp_path / "cache")[0, 0, 0, 0] for folder in ("one", "other")]
    assert values == [0, 255]
    (tmp_path / "one").rename(tmp_path / "moved")
    _cache(tmp_path / "moved", ["a.bmp"], tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P", "1", "LA", "I;16"])
def test_images_of_every_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    if mode == "I;16":
        Image.fromarray(np.linspace(0, 65535, 800, dtype=np.uint16).reshape(40, 20)).save(path)
    else:
        _image(path, mode)
    pixels = read_image(path, height=16, width=8)
    assert pixels.shape == (16, 8, 3)
    assert pixels.max() > 100


def test_a_rotated_photograph_stands_upright(tmp_path: Path) -> None:
    left_white = np.zeros((20, 40, 3), dtype=np.uint8)
    left_white[:, :20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    Image.fromarray(left_white).save(tmp_path / "a.jpg", exif=exif)
    pixels = read_image(tmp_path / "a.jpg", height=40, width=20)
    assert pixels[2].mean() > 200
    assert pixels[-3].mean() < 50


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_a_file_that_does_not_decode_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = _image(tmp_path / "broken.jpg", size=(64, 128))
    path.write_bytes(path.read_bytes()[:900] if content is None else content)
    with pytest.raises(InputError, match=r"broken\.jpg does not decode as an image .* replace or remove it"):
        _cache(tmp_path, ["broken.jpg"], tmp_path / "cache")
    assert not any((tmp_path / "cache").iterdir())


def test_a_listed_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.jpg is listed, but there is no such file"):
        _cache(tmp_path, ["gone.jpg"], tmp_path / "cache")


def test_an_image_of_absurd_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _image(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="exceeds limit"):
        read_image(path, height=16, width=8)
