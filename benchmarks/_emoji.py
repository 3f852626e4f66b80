"""Emoji as a data set in the folder layout of Market-1501: real pictures of many identities, made by nobody here.

An identity is an emoji, a camera is one of four designers of emoji. The pictures come from npm packages (MIT for the
packages; the designs are their owners', so no picture is part of this project):

    npm install --prefix FOLDER emoji-datasource-{apple,google,twitter,facebook}@16.0.0
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from pathlib import Path

from PIL import Image

from dcs_nas.files import atomic_folder

CAMERAS = ("apple", "google", "twitter", "facebook")
TRAIN, TEST = 400, 300  # identities


def write_emoji(folder: Path, packages: Path) -> None:
    """Write 400 identities to train and 300 to test, each seen once by every camera; camera 1 has the queries.

    Emoji that a designer draws as he draws another, such as the flags of two territories, are left out.

    Args:
        folder: of the data set; it must not exist.
        packages: folder with ``node_modules``.

    Raises:
        SystemExit: a package is missing.
    """
    roots = [packages / "node_modules" / f"emoji-datasource-{camera}" for camera in CAMERAS]
    for root in roots:
        if not (root / "emoji.json").is_file():
            raise SystemExit(f"no {root.name} in {root.parent}: {(__doc__ or '').strip().splitlines()[-1].strip()}")
    known = json.loads((roots[0] / "emoji.json").read_text(encoding="utf-8"))
    files = sorted(each["image"] for each in known if all(each[f"has_img_{camera}"] for camera in CAMERAS))
    folders = [root / "img" / maker / "64" for maker, root in zip(CAMERAS, roots)]
    chosen = random.Random(0).sample(_without_doubles(files, folders), TRAIN + TEST)
    with atomic_folder(folder) as whole:
        for part in ("bounding_box_train", "query", "bounding_box_test"):
            (whole / part).mkdir()
        for identity, name in enumerate(chosen, 1):
            for camera, pictures in enumerate(folders, 1):
                test = "query" if camera == 1 else "bounding_box_test"
                part = "bounding_box_train" if identity <= TRAIN else test
                image = whole / part / f"{identity:04d}_c{camera}s1_{identity:06d}_00.jpg"
                _on_white(pictures / name).save(image, quality=95)


def _without_doubles(files: list[str], folders: list[Path]) -> list[str]:
    """Return the files whose picture is that of no other file in any folder."""
    doubles = set()
    for folder in folders:
        names = defaultdict(list)
        for name in files:
            names[_on_white(folder / name).tobytes()].append(name)
        doubles |= {name for several in names.values() if len(several) > 1 for name in several}
    return [name for name in files if name not in doubles]


def _on_white(file: Path) -> Image.Image:
    with Image.open(file) as picture:
        cut = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", cut.size, "white"), cut).convert("RGB")
