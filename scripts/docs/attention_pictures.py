"""The pictures of docs/concepts/attention.md: python scripts/docs/attention_pictures.py RUN OUT.png [--count 5]."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from dcs_nas.files import atomic_path
from dcs_nas.report.maps import draw_attention_maps

GAP = 6
TITLE = 24


def sheet(run: Path, *, count: int, most: int) -> Image.Image:
    """Test images of a trained run in the first row, and below one row for each of its attention blocks."""
    maps = draw_attention_maps(run, count=count)
    if maps is None:
        raise SystemExit(f"{run} has no attention block with a map to show")
    blocks = maps.blocks[-most:]
    rows = [("test images (synthetic)", maps.images)]
    rows += [(f"{block.block.removeprefix('attention.')}: {block.title}", block.pictures) for block in blocks]
    width, height = maps.images[0].size
    size = (count * (width + GAP) + GAP, len(rows) * (height + TITLE + GAP))
    page = Image.new("RGB", (max(size[0], 560), size[1]), "white")
    pen = ImageDraw.Draw(page)
    for i, (title, pictures) in enumerate(rows):
        top = i * (height + TITLE + GAP)
        pen.text((GAP, top + 4), title, fill="#1f2328", font=ImageFont.load_default(14))
        for k, picture in enumerate(pictures):
            page.paste(picture, (GAP + k * (width + GAP), top + TITLE))
    return page


def main() -> None:
    """Draw the sheet and save it with 128 colours."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=2, help="of the last attention blocks")
    asked = parser.parse_args()
    page = sheet(asked.run, count=asked.count, most=asked.blocks).quantize(128)
    with atomic_path(asked.out) as temporary:
        page.save(temporary, optimize=True)
    print(f"{asked.out}: {asked.out.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main()
