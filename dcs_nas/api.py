"""The commands as functions: ``search``, ``retrain``, ``evaluate``; and runs and genotypes that show themselves.

    import dcs_nas

    run = dcs_nas.search("configs/demo.yaml", ["data.root=/data/people", "search.epochs=5"])
    run.genotype                      # in a notebook: the cells as pictures
    run.genotype.graph("normal")      # a networkx graph, in a notebook its picture
    trained = dcs_nas.retrain("configs/demo.yaml", ["data.root=/data/people"], genotype=run.genotype)
    scores = dcs_nas.evaluate(trained, flip=True)
    scores.mAP, scores.rank(1)

Heavy modules are loaded when a function needs them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcs_nas.api_views import GenotypeView, Scores
from dcs_nas.config import Config, load_config
from dcs_nas.errors import InputError
from dcs_nas.extensions import load_extensions as import_extensions
from dcs_nas.files import write_text
from dcs_nas.runs import RunFolder, read_metrics
from dcs_nas.space import AnyGenotype, shipped_file
from dcs_nas.space import load_genotype as read_genotype
from dcs_nas.space.table import Table

if TYPE_CHECKING:
    from dcs_nas.models.heads import ReidNetwork

Progress = Callable[[str], Callable[[int, int], None]]
AnyConfig = str | Path | Config


@dataclass(frozen=True)
class SearchRun:
    """A search in its run folder."""

    folder: Path

    @cached_property
    def config(self) -> Config:
        """The settings that it began with."""
        return RunFolder(self.folder).config()

    @cached_property
    def genotype(self) -> GenotypeView:
        """What it found; ``InputError`` while it is unfinished."""
        return load_genotype(self.folder / "genotype.yaml")

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """A row of figures per epoch."""
        return read_metrics(self.folder / "metrics.csv")


@dataclass(frozen=True)
class TrainedRun:
    """A retraining in its run folder."""

    folder: Path

    @cached_property
    def config(self) -> Config:
        """The settings that it began with."""
        return RunFolder(self.folder).config()

    @cached_property
    def genotype(self) -> GenotypeView | None:
        """What was trained; None for a named backbone."""
        path = self.folder / "genotype.yaml"
        return load_genotype(path) if path.is_file() else None

    @cached_property
    def network(self) -> ReidNetwork:
        """The trained network in evaluation mode: normalised images (B, 3, H, W) to features (B, D)."""
        from dcs_nas.training.evaluate import load_trained

        return load_trained(self.folder)[1]

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """A row of figures per epoch."""
        return read_metrics(self.folder / "metrics.csv")

    def evaluate(self, **options: Any) -> Scores:
        """The same as ``evaluate(run, ...)``."""
        return evaluate(self, **options)

    def export(self, formats: Sequence[str] = ("onnx", "pt2"), *, out: str | Path | None = None) -> list[Path]:
        """Write ``model.onnx`` and ``model.pt2``, by default into ``export/`` of the run's folder, checked."""
        from dcs_nas.export.exporting import export_run

        target = self.folder / "export" if out is None else Path(out)
        return [file.path for file in export_run(self.folder, target, formats=formats)[0]]


def search(
    config: AnyConfig,
    overrides: Sequence[str] = (),
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> SearchRun:
    """Search an architecture, as ``dcs-nas search``.

    Args:
        config: a configuration file, the name of one in configs/, or settings.
        overrides: such as ``search.epochs=1``; for a file or a name.
        out: run folder, by default ``results/NAME/search``.
        resume: go on after an interruption.
        overwrite: replace the run that the folder holds.
        progress: called with a label; gives what is called with (done, total).

    Raises:
        InputError: bad settings, data or folder.
    """
    from dcs_nas.search.job import run_search

    settings = _settings(config, overrides)
    folder = Path(out) if out is not None else settings.results / settings.name / "search"
    run_search(settings, folder, resume=resume, overwrite=overwrite, progress=progress)
    return SearchRun(folder)


def retrain(
    config: AnyConfig,
    overrides: Sequence[str] = (),
    *,
    genotype: str | Path | AnyGenotype | GenotypeView | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> TrainedRun:
    """Train a genotype, or the backbone that the settings name, as ``dcs-nas retrain``.

    Args:
        config: as for ``search``, and so are the other arguments.
        genotype: a file, or a genotype; by default that of the search of the same name.

    Raises:
        InputError: bad settings, data, genotype or folder.
    """
    from dcs_nas.training.retrain_job import run_retraining

    settings = _settings(config, overrides)
    folder = Path(out) if out is not None else settings.results / settings.name / "retrain"
    if settings.section("retrain").backbone is None and genotype is None:
        genotype = settings.results / settings.name / "search" / "genotype.yaml"
    with _as_file(genotype) as path:
        run_retraining(settings, folder, genotype=path, resume=resume, overwrite=overwrite, progress=progress)
    return TrainedRun(folder)


def evaluate(run: TrainedRun | str | Path, **options: Any) -> Scores:
    """Score a trained run, as ``dcs-nas evaluate``; nothing is written.

    Args:
        run: what ``retrain`` gave, or its folder.
        options: those of ``dcs_nas.training.evaluate.evaluate_run``, e.g. ``flip=True``, ``rerank=True``,
            ``data_name="msmt17", root="/data/MSMT17_V1"``.

    Raises:
        InputError: a folder that holds no trained run, bad data or settings.
    """
    from dcs_nas.training.evaluate import evaluate_run

    if options.get("root") is not None:
        options["root"] = Path(options["root"])
    return Scores(evaluate_run(run.folder if isinstance(run, TrainedRun) else Path(run), **options))


def load_run(folder: str | Path) -> SearchRun | TrainedRun:
    """A run that exists: of a search, or of a retraining where the folder holds one.

    Raises:
        InputError: a folder that holds neither.
    """
    path = Path(folder)
    RunFolder(path).config()
    if (path / "finished.yaml").is_file():
        return TrainedRun(path)
    if (path / "genotype.yaml").is_file():
        return SearchRun(path)
    raise InputError(f"{path} holds an unfinished run; finish it with --resume")


def load_genotype(path: str | Path) -> GenotypeView:
    """A genotype file, or the record of an epoch, to look at and to train."""
    return GenotypeView(read_genotype(Path(path)))


def tabular(name: str, path: str | Path | None = None) -> Table:
    """Return the table of a small space whose architectures are all trained, see docs/bench.md.

    Args:
        name: of the table.
        path: a file of ``benchmarks/bench_table.py``; by default the table that ships with the package.

    Raises:
        InputError: an unknown name, or a file that is no such table.
    """
    return Table.read(name, None if path is None else Path(path))


def load_extensions(*files: str | Path) -> None:
    """Import Python files of one's own operations, data sets and the like, as ``--extension`` does.

    Settings name them in ``extensions``; this is for runs and genotypes without settings at hand.

    Raises:
        InputError: no such file, a name that is taken, or an error in the file, with its line.
    """
    import_extensions(files, given=True)


def _settings(config: AnyConfig, overrides: Sequence[str]) -> Config:
    if not isinstance(config, Config):
        return load_config(shipped_file("configs", config), overrides)
    if overrides:
        raise InputError("overrides go with a configuration file or its name; change the settings given themselves")
    return config


@contextmanager
def _as_file(genotype: str | Path | AnyGenotype | GenotypeView | None) -> Iterator[Path | None]:
    """The genotype as a file, which the retraining reads."""
    if genotype is None or isinstance(genotype, (str, Path)):
        yield None if genotype is None else Path(genotype)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "genotype.yaml"
        write_text(path, genotype.to_yaml())
        yield path
