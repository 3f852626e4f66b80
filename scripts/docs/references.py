"""Write the pages of docs/reference/ that are made from the code: python scripts/docs/references.py"""

from __future__ import annotations

from pathlib import Path

from cli_reference import cli_page
from config_reference import config_page, spaces_page
from names_reference import names_page

PAGES = {"cli.md": cli_page, "configuration.md": config_page, "spaces.md": spaces_page, "names.md": names_page}
FOLDER = Path(__file__).parents[2] / "docs" / "reference"


def main() -> None:
    """Write every page anew."""
    for name, make in PAGES.items():
        (FOLDER / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
