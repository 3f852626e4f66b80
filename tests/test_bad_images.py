"""Other people's images: every kind is converted as documented, or refused in one line that names the file."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from dcs_nas.data.check import check_dataset
from dcs_nas.data.datasets import load_dataset
from dcs_nas.data.images import find_image_fault, open_image_cache, read_image
from dcs_nas.errors import InputError

GOOD = ("0001_c1.jpg", "0001_c2.jpg")


def _pixels(height: int = 40, width: int = 20) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _read(path: Path, size: tuple[int, int] = (40, 20)) -> np.ndarray:
    return read_image(path, height=size[0], width=size[1])


def _refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        _read(path)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    assert find_image_fault(path) is not None
    return message


def _market(root: Path) -> Path:
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (root / folder).mkdir(parents=True)
        for name in GOOD:
            Image.fromarray(_pixels()).save(root / folder / name)
    return root


# What is converted


def test_grey_stays_grey_in_all_three_channels(tmp_path: Path) -> None:
    grey = _pixels()[:, :, 0]
    Image.fromarray(grey).save(tmp_path / "a.png")
    np.testing.assert_array_equal(_read(tmp_path / "a.png"), np.repeat(grey[:, :, None], 3, axis=2))


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_are_rounded_to_eight_over_their_whole_range(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 65535, 800).astype(np.uint16).reshape(40, 20)
    path = tmp_path / f"a.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 20 40 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)
    found = _read(path)[:, :, 0]
    np.testing.assert_array_equal(found, np.round(values.astype(float) / 257).astype(np.uint8))


def test_a_dark_sixteen_bit_image_stays_dark(tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 20), 255, dtype=np.uint16)).save(tmp_path / "a.png")
    assert _read(tmp_path / "a.png").max() == 1


def test_thirty_two_bits_of_unknown_range_are_refused(tmp_path: Path) -> None:
    for i, dtype in enumerate((np.int32, np.float32)):
        Image.fromarray(np.ones((40, 20), dtype=dtype)).save(tmp_path / f"{i}.tif")
        assert "32 bits a pixel, in an unknown range" in _refusal(tmp_path / f"{i}.tif")


def test_cmyk_has_the_colours_that_it_prints(tmp_path: Path) -> None:
    ink = np.zeros((40, 20, 4), dtype=np.uint8)
    ink[:20, :, 1:3] = 255  # magenta and yellow: red
    ink[20:, :, 3] = 255  # black
    Image.fromarray(ink, "CMYK").save(tmp_path / "a.jpg", quality=95)
    found = _read(tmp_path / "a.jpg").astype(int)
    assert np.abs(found[5, 5] - (255, 0, 0)).max() < 12
    assert found[35, 5].max() < 12


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(tmp_path: Path, mode: str) -> None:
    pixels = np.zeros((40, 20, 4), dtype=np.uint8)
    pixels[20:, :, 3] = 255  # above transparent black, below opaque black
    image = Image.fromarray(pixels)
    image = image.convert("LA") if mode == "LA" else image.quantize(4) if mode == "P" else image
    image.save(tmp_path / "a.png")
    found = _read(tmp_path / "a.png")
    assert found[5, 5].tolist() == [255, 255, 255]
    assert found[35, 5].tolist() == [0, 0, 0]


def test_half_transparent_pixels_are_mixed_with_white(tmp_path: Path) -> None:
    Image.new("RGBA", (20, 40), (200, 0, 0, 128)).save(tmp_path / "a.png")
    assert np.abs(_read(tmp_path / "a.png")[9, 9].astype(int) - (227, 127, 127)).max() <= 1


@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (-1, -1)), (6, (0, -1)), (8, (-1, 0))])
def test_the_exif_orientation_is_applied(tmp_path: Path, orientation: int, corner: tuple[int, int]) -> None:
    pixels = np.zeros((400, 800, 3), dtype=np.uint8)
    pixels[:100, :100] = 255  # where the stored image begins
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    found = _read(tmp_path / "a.jpg", size=(64, 64))
    assert found[corner].min() > 240
    others = [(y, x) for y in (0, -1) for x in (0, -1) if (y, x) != corner]
    assert max(found[place].max() for place in others) < 15


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_every_orientation_is_that_of_pillow(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(_pixels()).save(path, exif=exif)
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    np.testing.assert_array_equal(_read(path, size=(upright.height, upright.width)), upright)


@pytest.mark.parametrize(
    "entry",
    [
        struct.pack("<HHIi", 0x128, 9, 1, -5),
        struct.pack("<HHI4s", 0x100, 2, 2, b"x"),
        struct.pack("<HHII", 0x10F, 2, 1000, 100_000),
        struct.pack("<HHII", 0x11A, 5, 1, 4000),
    ],
)
def test_damaged_exif_data_cost_neither_the_image_nor_a_word(tmp_path: Path, entry: bytes) -> None:
    upright = struct.pack("<HHIHH", 0x112, 3, 1, 6, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + upright + entry + bytes(4)
    Image.fromarray(_pixels()).save(tmp_path / "a.jpg", exif=exif)
    code = "import sys; from dcs_nas.data.images import *; print(find_image_fault(Path(sys.argv[1])))"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.jpg"], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("None\n", "")


def test_a_turned_photograph_is_decoded_at_the_scale_that_it_is_needed_at(tmp_path: Path) -> None:
    fine = np.zeros((128, 1024, 3), dtype=np.uint8)
    fine[:, ::16] = fine[:, 1::16] = 255  # stripes that a decoding at a sixteenth would lose
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(fine).save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert np.ptp(_read(tmp_path / "a.jpg", size=(512, 32))[:, 16, 0].astype(int)) > 60


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_the_content_counts_and_not_the_ending(tmp_path: Path, format: str) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(_pixels()).save(path, format=format)
    assert _read(path).std() > 30


# What is refused


def test_empty_truncated_and_foreign_files_are_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jpg"
    Image.fromarray(_pixels(400, 200)).save(whole)
    for name, content, message in [
        ("empty.jpg", b"", "it has 0 bytes"),
        ("cut.jpg", whole.read_bytes()[:3000], "truncated"),
        ("header.jpg", whole.read_bytes()[:25], "does not decode as an image"),
        ("text.png", b"<html><script>alert(1)</script></html>", "cannot identify image file"),
        ("postscript.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "cannot identify"),
    ]:
        (tmp_path / name).write_bytes(content)
        assert message in _refusal(tmp_path / name)


def _png(width: int, height: int) -> bytes:
    """A PNG whose header promises a size that its few bytes do not hold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_a_decompression_bomb_is_refused_from_its_header_whatever_the_warnings(tmp_path: Path) -> None:
    for width, height in ((10_000, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)):
        (tmp_path / "bomb.png").write_bytes(_png(width, height))
        assert "limit" in _refusal(tmp_path / "bomb.png")
    code = f"""
import resource
from pathlib import Path
from dcs_nas.data.images import find_image_fault
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
(path := Path({str(tmp_path)!r}) / "middle.png").write_bytes(bytes.fromhex({_png(10_000, 10_000).hex()!r}))
print(find_image_fault(path))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    message, growth = done.stdout.splitlines()
    assert "its 10,000 x 10,000 pixels are over the limit of 89,478,485" in message
    assert int(growth) < 30_000  # KiB; decoded it would be 300,000


def _pipe(path: Path) -> str:
    os.mkfifo(path)
    return "is a pipe, socket or device"


def _socket(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))
    return "is a pipe, socket or device"


def _folder(path: Path) -> str:
    path.mkdir()
    return "is a folder"


def _circle(path: Path) -> str:
    path.symlink_to(path.name)
    return "Too many levels of symbolic links"


def _nowhere(path: Path) -> str:
    path.symlink_to("no/such/file.jpg")
    return "No such file or directory"


def _device(path: Path) -> str:
    path.symlink_to("/dev/zero")
    return "is a pipe, socket or device"


@pytest.mark.parametrize("make", [_pipe, _socket, _folder, _circle, _nowhere, _device])
def test_what_has_an_images_name_and_is_none_is_named_and_never_waited_for(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = _market(tmp_path / "data")
    reason = make(root / "query" / "0001_c3.jpg")
    with pytest.raises(InputError, match=r"query/0001_c3.jpg has the name of an image but is .*; remove it") as caught:
        load_dataset("market1501", root)
    assert reason.removeprefix("is ") in str(caught.value)
    with pytest.raises(InputError, match=r"0001_c3.jpg") as caught:
        _read(root / "query" / "0001_c3.jpg")
    with pytest.raises(InputError, match=r"0001_c3.jpg"):
        open_image_cache(root, ["query/0001_c3.jpg"], height=8, width=8, folder=tmp_path / "cache")
    report = check_dataset("market1501", root, images=True)
    assert [p.kind for p in report.problems] == ["unparsable name"]
    assert report.unreadable == ()


def test_a_link_to_an_image_is_followed(tmp_path: Path) -> None:
    root = _market(tmp_path / "data")
    Image.fromarray(_pixels()).save(tmp_path / "elsewhere.png")
    (root / "query" / "0001_c3.jpg").symlink_to(tmp_path / "elsewhere.png")
    assert len(load_dataset("market1501", root).query) == 3


def test_folders_linked_in_a_circle_are_passed_over_or_end(tmp_path: Path) -> None:
    root = _market(tmp_path / "market1501")
    (root / "market").symlink_to(root)
    assert len(load_dataset("market1501", tmp_path).query) == 2
    own = tmp_path / "own"
    for split in ("query", "gallery"):
        (own / split / "id_1" / "door").mkdir(parents=True)
        Image.fromarray(_pixels()).save(own / split / "id_1" / "door" / "a.jpg")
        (own / split / "id_1" / "loop").symlink_to(own / split / "id_1" / "loop")
    assert len(load_dataset("folder", own).query) == 1


# Odd names

ODD = [
    "日本語",
    "é",
    "e\u0301",
    '"quoted"',
    "it's",
    "<script>alert(1)<",
    "&amp;",
    "%s{0}",
    "-rf",
    "a b",
    "💃",
    "$(id)",
    "`id`",
]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_names_like_others(tmp_path: Path, name: str) -> None:
    root = tmp_path / "data"
    for split in ("train", "query", "gallery"):
        folder = root / split / name / name
        folder.mkdir(parents=True)
        Image.fromarray(_pixels()).save(folder / f"{name}.jpg", format="JPEG")
    report = check_dataset("folder", root, images=True)
    assert ([p.kind for p in report.problems], report.unreadable) == (["no match"], ())  # one camera
    assert report.dataset is not None
    assert report.dataset.label_map == {name: 1}
    pixels = open_image_cache(
        root, [r.path for r in report.dataset.query], height=8, width=4, folder=tmp_path / "cache"
    )
    assert pixels.std() > 10


@pytest.mark.parametrize("name", [b"0001_c1\n.jpg", b"0001_c1\x1b[2J.jpg", b"0001_c1\xff\xfe.jpg", b"0001_c1\x7f.jpg"])
def test_names_that_cannot_be_printed_are_refused_in_one_printable_line(tmp_path: Path, name: bytes) -> None:
    root = _market(tmp_path / "data")
    Image.fromarray(_pixels()).save(root / "query" / "a.jpg")
    os.rename(root / "query" / "a.jpg", os.fsencode(root / "query") + b"/" + name)
    with pytest.raises(InputError, match="cannot be printed; expected UTF-8 without control characters") as caught:
        load_dataset("market1501", root)
    assert str(caught.value).isprintable()
    assert check_dataset("market1501", root).problems[0].kind == "unparsable name"


@pytest.mark.parametrize("name", ["9999999999_c1.jpg", "0001_c10000.jpg", "0001_c" + "1" * 200 + ".jpg", "٣_c1.jpg"])
def test_absurd_numbers_in_names_do_not_parse(tmp_path: Path, name: str) -> None:
    root = _market(tmp_path / "data")
    (root / "query" / name).touch()
    with pytest.raises(InputError, match="does not parse; expected IDENTITY_cCAMERA"):
        load_dataset("market1501", root)


def test_a_folder_that_cannot_be_looked_up_is_one_line(tmp_path: Path) -> None:
    for root in (tmp_path / ("x" * 300), Path("~nobody-of-this-name/data"), tmp_path / "loop"):
        if root.name == "loop":
            root.symlink_to(root)
        for name in ("market1501", "csv", "folder"):
            with pytest.raises(InputError, match="cannot be read|there is no folder"):
                load_dataset(name, root)
