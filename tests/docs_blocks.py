"""Fenced blocks of the documentation: found, checked and run in a folder of their own, on tiny data."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from dcs_nas import config
from dcs_nas.cli import app, main
from dcs_nas.space import SpaceSpec, find_shipped_file, load_space

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARKET = "/data/Market-1501-v15.09.15"
_MARK = re.compile(r"<!-- not run: *(?P<reason>.*?) *-->\s*$")
_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>```+) *(?P<language>\w*)[^\n]*\n(?P<body>.*?)^(?P=indent)(?P=fence) *$", re.M | re.S
)

# What makes a job of the documentation tiny, after its own settings were accepted as they are.
_TINY = (
    "data.height=32", "data.width=16", "data.identities_per_batch=4", "data.images_per_identity=4", "augment.pad=2",
    "trainer.accelerator=cpu", "trainer.devices=1", "trainer.precision=32-true", "trainer.threads=1",
    "trainer.loggers=[]",
)  # fmt: skip
_TINY_SEARCH = ("search.epochs=1", "search.warmup_epochs=0", "search.trials.trials=1")
_NO_GUARD = ("search.guard.eigenvalue_iterations=0", "search.guard.gap=false")
_TINY_RETRAIN = ("retrain.epochs=1", "retrain.warmup_epochs=0")
_TINY_GENOTYPE = ("retrain.channels=4", "retrain.cells=2")
TINY_SPACE = """
cells: 2
channels: 4
nodes: 1
reductions: [1]
stem: stride4
operations: [none, skip_connect, max_pool_3x3, sep_conv_3x3]
attention: [none, dcs]
"""
# Options added to a command, so that it is over in a moment.
_ADDED = {
    "export": "--format onnx",
    "synth": "--train-identities 8 --test-identities 6 --distractor-identities 1 --junk-images 2 --cameras 2 "
    "--height 48",
    "profile": "-o data.height=32 -o data.width=16 --device cpu",
}
# Commands that are checked and not run, and why.
CHECKED = {
    "tune": "every trial is a process of many seconds; tests/test_tune.py runs it",
    "retrain dcs_fb_vit": "86 million parameters",
    "retrain dcs_fb_resnet50": "24 million parameters, and weights that are not here",
    "search dcs_dnas_market1501": "a supernet of 19 blocks of 14 widths",
    "retrain dcs_dnas_market1501": "its search is not run",
    "search osnet_ain_msmt17": "a supernet of 24 blocks, and data that are not here",
    "retrain osnet_ain_msmt17": "data that are not here",
    "search msinet_search": "identities of both halves fill no batch; tests/test_msi_space.py runs such a search",
    "retrain msinet_retrain": "its search is not run",
}
# Other programs: what their lines begin with.
_OTHERS = (". .venv/bin/activate", "tensorboard --logdir", "ruff ", "mypy", "pytest ")


@dataclass(frozen=True)
class Block:
    """A fenced block: ``reason`` is why it is marked not to be run, None where it is not marked."""

    page: Path
    line: int
    language: str
    body: str
    reason: str | None

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, with their marks."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        mark = _MARK.search(text[: match.start()])
        indent = len(match["indent"])
        body = "".join(line[indent:] if line.strip() else line for line in match["body"].splitlines(keepends=True))
        line = text[: match.start()].count("\n") + 1
        found.append(Block(page, line, match["language"], body, mark["reason"] if mark else None))
    return found


def command_lines(block: Block) -> Iterator[list[str]]:
    """The words of every command of a bash block, comments left out and continued lines joined."""
    for line in block.body.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while "&&" in words:
            yield words[: words.index("&&")]
            words = words[words.index("&&") + 1 :]
        if words:
            yield words


def is_known(words: Sequence[str]) -> bool:
    """Whether a command is ours, a target of the Makefile, or one of the programs that need no check."""
    if words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
        return all(word in targets or "=" in word for word in words[1:])
    return words[0] == "dcs-nas" or f"{' '.join(words)} ".startswith(_OTHERS)


def own_words(words: Sequence[str]) -> list[str] | None:
    """What ``dcs-nas`` is given by a command that starts it, by itself or through a launcher; None for others."""
    for start in (["dcs-nas"], ["-m", "dcs_nas"]):
        for i in range(len(words)):
            if list(words[i : i + len(start)]) == start:
                return list(words[i + len(start) :])
    return None


def parse(words: Sequence[str]) -> dict[str, Any]:
    """The arguments of a ``dcs-nas`` command by name, parsed and not run; an unknown option or command raises."""
    command, context, rest = typer.main.get_command(app), None, list(words)
    if rest in (["--help"], ["--version"]):
        return {}
    while hasattr(command, "commands"):
        context = command.make_context("dcs-nas", rest, parent=context)
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
    return command.make_context(name, rest, parent=context).params


def check(words: Sequence[str]) -> None:
    """Raise where a ``dcs-nas`` command does not parse, or a shipped configuration refuses its overrides."""
    given = parse(words)
    name = given.get("config") or given.get("target")
    if name and shipped(Path(str(name))):
        settings = config.load_config(find_shipped_file("configs", str(name)), given.get("override") or [])
        if settings.search is not None:
            load_space(find_shipped_file("search_spaces", settings.search.space))


def shipped(path: Path) -> bool:
    """Whether a path is the name of a shipped configuration."""
    return len(path.parts) == 1 and (ROOT / "configs" / f"{path.stem}.yaml").is_file()


def reason_not_to_run(words: Sequence[str]) -> str | None:
    """Why a ``dcs-nas`` command is checked alone."""
    start = f"{' '.join(words)} "
    return next((reason for begin, reason in CHECKED.items() if start.startswith(f"{begin} ")), None)


class Runner:
    """Runs a page's blocks in the current folder: commands in this process, Python in one namespace."""

    def __init__(self, data: Path, patch: pytest.MonkeyPatch, output: pytest.CaptureFixture) -> None:
        self._data, self._output = data, output
        self._names: dict[str, Any] = {"__name__": "__main__"}
        space = Path("tiny_space.yaml").resolve()
        space.write_text(TINY_SPACE)
        plain = config.parse

        def tiny(model: type[Any], data: dict[str, Any], *, source: str, **rest: Any) -> Any:
            for change in _tiny(plain(model, data, source=source), space):
                config._apply(data, change)
            return plain(model, data, source=source)

        # Not load_config itself: a module imported meanwhile would keep the replacement.
        patch.setattr(config, "parse", tiny)

    def run(self, block: Block) -> None:
        """Run what can be run; a command that fails, or an exception, fails the test with the block's place."""
        if block.language == "python":
            exec(compile(self._local(block.body), block.place, "exec"), self._names)
            return
        for words in command_lines(block):
            given = own_words(words)
            if given and not reason_not_to_run(given):
                self._command(given, block)

    def _command(self, given: list[str], block: Block) -> None:
        with pytest.raises(SystemExit) as done:
            main([self._local(word) for word in [*given, *_ADDED.get(given[0], "").split(), *_smaller_cells(given)]])
        said = self._output.readouterr()
        assert not done.value.code, f"{block.place}: dcs-nas {shlex.join(given)}\n{said.out[-2000:]}{said.err[-2000:]}"

    def _local(self, text: str) -> str:
        return text.replace(MARKET, str(self._data))


def _smaller_cells(given: Sequence[str]) -> list[str]:
    """Options that make the supernet of cells small whose configuration is profiled."""
    small = given[0] == "profile" and "demo_chain" not in " ".join(given)
    return ["-o", "search.channels=4", "-o", "search.cells=3"] if small else []


def _tiny(settings: config.Config, space: Path) -> list[str]:
    """Overrides for the settings of a job; a space of cells is replaced by ``space``."""
    changes, search, retrain = [*_TINY], settings.search, settings.retrain
    if search is not None:
        cells = isinstance(load_space(find_shipped_file("search_spaces", search.space)), SpaceSpec)
        changes += [*_TINY_SEARCH, *([f"search.space={space}"] if cells else [])]
        changes += _NO_GUARD if search.guard.action == "log" else ()
    if retrain is not None:
        changes += [*_TINY_RETRAIN, *(_TINY_GENOTYPE if retrain.channels is not None else ())]
    return changes


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ +(.*?) *$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: Path) -> list[str]:
    """The targets of a page's links and pictures that are not on the web."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return [t for t in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", t)]
