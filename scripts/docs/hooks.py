"""What MkDocs runs at build time: pages generated from the code, and pages of files that lie outside docs/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from notebook_page import notebook_page
from source_pages import SourcePages

_NOTEBOOK = re.compile(r"(\]\([^):\s]+)\.ipynb([)#])")
_sources: SourcePages | None = None


def on_files(files: Files, config: Any) -> Files:
    """Add the references, a page for every notebook, and one for every file of the repository that a page links to."""
    global _sources
    _sources = SourcePages(Path(config.config_file_path).parent, Path(config.docs_dir))
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            page = file.src_uri.removesuffix(".ipynb") + ".md"
            files.append(File.generated(config, page, content=notebook_page(Path(file.abs_src_path))))
    for uri, content in _sources.pages(file.src_uri for file in files).items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead links to notebooks and out of docs/ to the pages made of their targets."""
    assert _sources is not None
    if files.get_file_from_path(page.file.src_uri.removesuffix(".md") + ".ipynb") is None:
        markdown = _NOTEBOOK.sub(r"\1.md\2", markdown)
    return _sources.rewritten(markdown, page.file.src_uri)
