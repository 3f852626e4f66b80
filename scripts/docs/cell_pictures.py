"""Draw pictures for docs/images: what the demo's search derived, a cell with a custom operation, MSINet's genotype."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from dcs_nas.report.graphs import draw
from dcs_nas.space import load_genotype, load_space
from dcs_nas.space.architectures import decode

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
_NORMAL = "sep_conv_3x3~0&avg_pool_3x3~1|dil_conv_5x5~0&max_pool_3x3~1|dil_conv_3x3~2&max_pool_3x3~3+dcs"
_REDUCE = "sep_conv_5x5~0&sep_conv_5x5~1|avg_pool_3x3~0&avg_pool_3x3~2|max_pool_3x3~1&dil_conv_3x3~2+none"
_OWN = "shuffle_conv~0&skip_connect~1|sep_conv_3x3~2&skip_connect~1|shuffle_conv~2&max_pool_3x3~0+dcs"


def main() -> None:
    """Draw each picture where the pages show it."""
    demo = ROOT / "search_spaces" / "demo_cells.yaml", f"{_NORMAL};{_REDUCE}"
    own = ROOT / "docs" / "samples" / "own_space.yaml", f"{_OWN};{_OWN}"
    pictures = [("demo_cell", demo, "normal"), ("demo_network", demo, "network"), ("own_operation", own, "normal")]
    for name, (space, text), part in pictures:
        with tempfile.TemporaryDirectory() as folder:
            draw(decode(text, load_space(space), 64, 32), Path(folder), formats=("png",))
            shutil.copy(Path(folder) / f"{part}.png", IMAGES / f"{name}.png")
    with tempfile.TemporaryDirectory() as folder:
        draw(load_genotype(ROOT / "genotypes" / "msinet_msmt.yaml"), Path(folder), formats=("png",))
        shutil.copy(Path(folder) / "msi.png", IMAGES / "msinet.png")


if __name__ == "__main__":
    main()
