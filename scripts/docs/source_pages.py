"""Pages for files of the repository that documentation links to, such as ../configs/demo.yaml, and their links."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from pathlib import Path

_LINK = re.compile(r"(?<!!)\]\((?P<path>(?:\.\./)+[^)#\s]*)(?P<anchor>#[^)\s]*)?\)")
_FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_LANGUAGES = {".yaml": "yaml", ".yml": "yaml", ".py": "python", ".sh": "bash", ".toml": "toml", ".cff": "yaml"}

_ALWAYS = ("configs", "search_spaces", "genotypes", "CHANGELOG.md", "CONTRIBUTING.md")


class SourcePages:
    """Knows which links lead out of docs/ to which files, and makes a page of each."""

    def __init__(self, repository: Path, docs: Path) -> None:
        self._repository, self._docs = repository, docs.relative_to(repository).as_posix()

    def pages(self, known: Iterable[str]) -> dict[str, str]:
        """URI to Markdown for every target of the written pages in docs/; of a folder, a list of its files."""
        found: dict[str, str] = {}
        for uri in known:
            file = self._repository / self._docs / uri
            if uri.endswith(".md") and file.is_file():
                for target in self._targets(file.read_text(encoding="utf-8"), uri):
                    self._add(target, found)
        for target in _ALWAYS:
            self._add(target, found)
        return found

    def rewritten(self, markdown: str, uri: str) -> str:
        """A page with its links out of docs/ leading to ``pages``; what does not exist is left for MkDocs to refuse."""

        def replace(match: re.Match[str]) -> str:
            target = self._outside(match["path"], uri)
            if target is None:
                return match[0]
            link = posixpath.relpath(self._page(target), posixpath.dirname(uri) or ".")
            return f"]({link}{match['anchor'] or ''})"

        return _outside_of_fences(_LINK, replace, markdown)

    def _targets(self, markdown: str, uri: str) -> list[str]:
        links = _LINK.finditer(_FENCED.sub("", markdown))
        return [target for link in links if (target := self._outside(link["path"], uri)) is not None]

    def _outside(self, path: str, uri: str) -> str | None:
        """The file that a link of page ``uri`` means, within the repository; None for one in docs/ or that is not."""
        target = posixpath.normpath(posixpath.join(self._docs, posixpath.dirname(uri), path))
        inside = target == self._docs or target.startswith((f"{self._docs}/", "../"))
        return None if inside or not (self._repository / target).exists() else target

    def _add(self, target: str, found: dict[str, str]) -> None:
        file, page = self._repository / target, self._page(target)
        if page in found:
            return
        if file.is_file():
            found[page] = self._file_page(file, target)
            return
        members = sorted(p for p in file.iterdir() if p.suffix in _LANGUAGES)
        found[page] = f"# {target}/\n\n" + "".join(
            f"- [{p.name}]({posixpath.basename(self._page(f'{target}/{p.name}'))}){_first_comment(p)}\n"
            for p in members
        )
        for member in members:
            self._add(f"{target}/{member.name}", found)

    def _file_page(self, file: Path, target: str) -> str:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".md":
            return text
        return f"# {target}\n\n````{_LANGUAGES.get(file.suffix, 'text')}\n{text.rstrip()}\n````\n"

    def _page(self, target: str) -> str:
        if not (self._repository / target).is_file():
            return f"source/{target}/index.md"
        return f"source/{target.removesuffix('.md')}.md" if target.endswith(".md") else f"source/{target}.md"


def _first_comment(file: Path) -> str:
    """What a file says of itself in its first line."""
    first = file.read_text(encoding="utf-8").partition("\n")[0]
    text = first.lstrip('#!" ').rstrip('" ') if first.startswith(("#", '"""')) and not first.startswith("#!") else ""
    return f": {text}" if text else ""


def _outside_of_fences(pattern: re.Pattern[str], replace: object, text: str) -> str:
    """``pattern.sub`` on what is not in a fenced block."""
    parts, place = [], 0
    for fence in _FENCED.finditer(text):
        parts += [pattern.sub(replace, text[place : fence.start()]), fence[0]]  # type: ignore[call-overload]
        place = fence.end()
    return "".join([*parts, pattern.sub(replace, text[place:])])  # type: ignore[call-overload]
