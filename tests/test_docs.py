"""The documentation is true: commands and Python run, links lead somewhere, the site builds, nothing is left out."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from dcs_nas.cli import app
from dcs_nas.config import Config
from tests.docs_blocks import (
    CHECKED,
    PAGES,
    ROOT,
    Block,
    Runner,
    blocks,
    check,
    command_lines,
    headings,
    is_known,
    links,
    own_words,
    parse,
    reason_not_to_run,
)
from tests.docs_folders import sorted_images, weights_and_classes
from tests.own_code import new_process
from tests.run_folders import searched, trained

SITE = pytest.mark.skipif(
    any(importlib.util.find_spec(p) is None for p in ("mkdocs", "material", "mkdocstrings")),
    reason="the extra 'docs' is not installed; make test installs it",
)
# Folders that a page expects, made in an instant: page to {folder: how}.
PREPARED = {
    "docs/own_data.md": {".": sorted_images},
    "docs/weights.md": {".": weights_and_classes},
    "docs/formats.md": {"results/first/retrain": trained},
    "docs/find.md": {"results/first/retrain": trained},
    "docs/machines.md": {"results/market1501/search": searched},
    "docs/faq.md": {
        "results/market1501/search": searched,
        "results/market1501/retrain": trained,
        "results/market1501/retrain_1": trained,
        "results/market1501/retrain_2": trained,
    },
}
RUN = ("bash", "python")
ALL = [block for page in PAGES for block in blocks(page)]
SHELL = [block for block in ALL if block.language == "bash"]


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(autouse=True)
def _own_code(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
    yield
    new_process()


@pytest.mark.parametrize("block", [b for b in ALL if b.reason is not None], ids=lambda b: b.place)
def test_a_block_that_is_not_run_says_why(block: Block) -> None:
    assert len(block.reason or "") > 8, f"{block.place}: give a reason, <!-- not run: needs a cluster -->"
    assert block.language in RUN


@pytest.mark.parametrize("block", SHELL, ids=lambda b: b.place)
def test_every_command_parses_and_its_configuration_accepts_its_settings(
    block: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT / "docs" / "samples")
    for words in command_lines(block):
        given = own_words(words)
        if given is not None:
            check(given)
        assert block.reason is not None or is_known(words), f"{block.place}: {words[0]} is not run here; mark the block"


def test_a_wrong_option_command_or_setting_would_be_found() -> None:
    for wrong in (["search", "demo", "--epochs", "3"], ["serach", "demo"], ["runs", "compare", "--no"]):
        with pytest.raises(Exception, match=r"[Nn]o such (option|command)"):
            parse(wrong)
    with pytest.raises(Exception, match="unknown key 'search.epoch'"):
        check(["search", "demo", "-o", "search.epoch=3"])


def test_what_is_checked_and_not_run_is_still_in_the_documentation() -> None:
    given = [own_words(words) or [] for block in SHELL for words in command_lines(block)]
    reasons = {reason_not_to_run(words) for words in given}
    assert set(CHECKED.values()) <= reasons


@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(b.language in ("bash", "python") for b in blocks(p))], ids=_name
)
def test_the_blocks_of_a_page_run_in_order(
    page: Path,
    people: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    market = tmp_path / "Market-1501-v15.09.15"
    market.symlink_to(people)
    _prepare(page, people, tmp_path)
    runner = Runner(market, monkeypatch, capsys)
    for block in blocks(page):
        if block.reason is None and block.language in RUN:
            runner.run(block)


def _prepare(page: Path, people: Path, folder: Path) -> None:
    for name, make in PREPARED.get(_name(page), {}).items():
        make(folder / name, people)
    if _name(page) == "docs/tune.md":  # as a tuning leaves it, which is not run here
        (folder / "results/demo/tune").mkdir(parents=True)
        shutil.copy(ROOT / "configs" / "tune_demo.yaml", folder / "results/demo/tune/best.yaml")
    if _name(page) == "docs/formats.md":
        shutil.copy(folder / "results/first/retrain/genotype.yaml", folder)
    for sample in (ROOT / "docs" / "samples").iterdir():
        shutil.copy(sample, folder)
    for name in ("people", "results/demo/data"):
        if name == "people" and "dcs-nas synth people" in page.read_text(encoding="utf-8"):
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(people)


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=_name)
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{_name(page)} links to {link}"
        if anchor:
            assert anchor in headings(target), f"{_name(page)} links to {link}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; any warning ends the build."""
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "WARNING" not in done.stderr
    return out


@SITE
def test_the_site_builds_without_warnings_and_needs_no_network(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    loaded = re.compile(r'<(?:script|link|img|iframe)\b[^>]*?(?:src|href)="(?:https?:)?//[^"]*"')
    for page in pages:
        found = [tag for tag in loaded.findall(page.read_text(encoding="utf-8")) if 'rel="canonical"' not in tag]
        assert not found, f"{page.name} loads {found[0]}"


@SITE
def test_every_command_and_option_is_in_the_reference(site: Path) -> None:
    text = (site / "reference" / "cli.html").read_text(encoding="utf-8")

    def walk(group: object, path: str) -> None:
        for name, command in group.commands.items():  # type: ignore[attr-defined]
            assert f"{path} {name}<" in text, f"{path} {name}"
            for parameter in command.params:
                for option in parameter.opts if parameter.param_type_name == "option" and not parameter.hidden else ():
                    assert option in text, f"{path} {name} {option}"
            if hasattr(command, "commands"):
                walk(command, f"{path} {name}")

    walk(typer.main.get_command(app), "dcs-nas")


@SITE
def test_every_section_and_key_of_a_configuration_is_in_the_reference(site: Path) -> None:
    text = (site / "reference" / "configuration.html").read_text(encoding="utf-8")
    for name, field in Config.model_fields.items():
        assert f"<code>{name}</code>" in text
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if hasattr(part, "model_fields"):
                assert f'id="{name}"' in text
                assert all(f"<code>{key}</code>" in text for key in part.model_fields), name


@SITE
def test_the_site_has_every_page_that_is_written(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        built = site / page.relative_to(ROOT / "docs").with_suffix(".html")
        built = built.with_name("index.html") if page.name == "README.md" else built
        assert built.is_file(), built.name
