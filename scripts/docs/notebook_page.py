"""A notebook as a Markdown page: its text, code and saved outputs, nothing is run."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PICTURES = ("image/svg+xml", "image/png", "image/jpeg")


def notebook_page(path: Path) -> str:
    """The page of a notebook file."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = [f"[This page as a notebook]({path.name}){{: download }}"]
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            lines.append(source)
        elif cell["cell_type"] == "code" and source.strip():
            lines.append(f"```python\n{source}\n```")
            for output in cell["outputs"]:
                lines += _output(output)
    title = next((i for i, line in enumerate(lines) if line.startswith("# ")), None)
    if title is not None:
        lines[0], lines[title] = lines[title], lines[0]
    return "\n\n".join(lines) + "\n"


def _output(output: dict[str, Any]) -> Iterator[str]:
    """One output as Markdown or HTML: its richest form that a page can hold."""
    if output["output_type"] == "stream":
        yield _text("".join(output["text"]))
        return
    data = output.get("data", {})
    picture = next((kind for kind in _PICTURES if kind in data), None)
    if "text/html" in data:
        yield f'<div class="notebook-output">{_one_block("".join(data["text/html"]))}</div>'
    elif picture == "image/svg+xml":
        yield f'<div class="notebook-output">{_one_block("".join(data[picture]))}</div>'
    elif picture is not None:
        content = "".join(data[picture]).replace("\n", "")
        yield f'<div class="notebook-output"><img alt="output" src="data:{picture};base64,{content}"></div>'
    elif "text/plain" in data:
        yield _text("".join(data["text/plain"]))


def _text(text: str) -> str:
    """Plain text as it was printed, apart from code to read."""
    return f'<pre class="notebook-output">{html.escape(_without_blank(text))}</pre>'


def _one_block(markup: str) -> str:
    """Markup without blank lines, at which Markdown would end it."""
    return "\n".join(line.strip() for line in markup.splitlines() if line.strip() and not line.startswith("<?xml"))


def _without_blank(text: str) -> str:
    return "\n".join(line if line.strip() else " " for line in text.rstrip().splitlines())
