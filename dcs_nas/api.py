"""The commands as functions: ``search``, ``pretrain``, ``retrain``, ``evaluate``.

    import dcs_nas

    run = dcs_nas.search("configs/demo.yaml", ["data.root=/data/market1501", "search.epochs=5"])
    run.genotype                      # in a notebook: the cells as pictures
    run.genotype.graph("normal")      # a networkx graph, in a notebook its picture
    trained = dcs_nas.retrain("configs/demo.yaml", ["data.root=/data/market1501"], genotype=run.genotype)
    scores = dcs_nas.evaluate(trained, flip=True)
    scores.mAP, scores.rank(1)

The command line calls these functions. Heavy modules are loaded when a function needs them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from dcs_nas import extensions
from dcs_nas.api_features import ExportedModel, Features, Progress
from dcs_nas.api_views import GenotypeView, Scores
from dcs_nas.config import Config, load_config
from dcs_nas.errors import InputError, translate_errors
from dcs_nas.runs import RunFolder, resume_if_requeued
from dcs_nas.space import AnyGenotype, find_shipped_file
from dcs_nas.space import load_genotype as read_genotype

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dcs_nas.export.exporting import Deployable, ExportedFile
    from dcs_nas.models.heads import ReidNetwork
    from dcs_nas.space.table import Table

AnyConfig = str | Path | Config


@dataclass(frozen=True)
class _Run:
    """A run in its folder."""

    folder: Path

    @cached_property
    def config(self) -> Config:
        """The settings of the run."""
        return self._files.config()

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The rows of ``metrics.csv``, one per epoch."""
        return self._files.metrics()

    @property
    def _files(self) -> RunFolder:
        return RunFolder(self.folder)


@dataclass(frozen=True)
class SearchRun(_Run):
    """A search in its run folder."""

    @cached_property
    @translate_errors()
    def genotype(self) -> GenotypeView:
        """The searched genotype; ``InputError`` while the search is unfinished."""
        return GenotypeView(self._files.genotype())

    def _without_network(self, *_arguments: object, **_options: object) -> NoReturn:
        raise InputError(
            f"{self.folder} is a search and has no trained network; train its genotype: "
            "dcs_nas.retrain(config, genotype=run.genotype)"
        )

    evaluate = export = extract = features = find = _without_network
    network = property(_without_network)


@dataclass(frozen=True)
class TrainedRun(_Run, Features):
    """A retraining or pretraining in its run folder."""

    @property
    def source(self) -> Path:
        return self.folder

    @cached_property
    def genotype(self) -> GenotypeView | None:
        """The trained genotype; None for a named backbone."""
        return GenotypeView(self._files.genotype()) if self._files.genotype_file.is_file() else None

    @cached_property
    def network(self) -> ReidNetwork:
        """The trained network in evaluation mode: normalised images (B, 3, H, W) to features (B, D)."""
        from dcs_nas.training.evaluate import load_trained

        return load_trained(self.folder)[1]

    def evaluate(self, **options: Any) -> Scores:
        """Score this run, as ``dcs_nas.evaluate``."""
        return evaluate(self, **options)

    def export(self, formats: Sequence[str] = ("onnx", "pt2"), *, out: str | Path | None = None) -> list[Path]:
        """Write ``model.onnx`` and ``model.pt2``, by default into ``export/`` of the run's folder, checked."""
        return [file.path for file in export(self, formats, out=out)[0]]


@translate_errors()
def load_settings(config: AnyConfig, overrides: Sequence[str] = ()) -> Config:
    """Return the settings of a configuration file, or of the name of one in configs/.

    Args:
        config: a file, a name, or settings, which are returned unchanged.
        overrides: such as ``search.epochs=1``; for a file or a name.

    Raises:
        InputError: no such file, or bad settings.
    """
    if not isinstance(config, Config):
        return load_config(find_shipped_file("configs", config), overrides)
    if overrides:
        raise InputError(
            "overrides are given beside settings, expected beside a configuration file or its name; "
            "change the settings themselves"
        )
    return config


@translate_errors()
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
        resume: continue after an interruption. A job that SLURM has started again always continues.
        overwrite: replace the run that the folder holds.
        progress: called with a label; returns a function of (done, total).

    Raises:
        InputError: bad settings, data or folder.
    """
    from dcs_nas.strategies.job import run_search

    settings = load_settings(config, overrides)
    folder = RunFolder.default(settings, "search").path if out is None else Path(out)
    resume, overwrite = resume_if_requeued(folder, resume=resume, overwrite=overwrite)
    run_search(settings, folder, resume=resume, overwrite=overwrite, progress=progress)
    return SearchRun(folder)


@translate_errors()
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
    settings = load_settings(config, overrides)
    if settings.section("retrain").backbone is None and genotype is None:
        genotype = _find_genotype(settings, out, resume=resume)
    return _train("retrain", settings, genotype, out, resume=resume, overwrite=overwrite, progress=progress)


def _find_genotype(settings: Config, out: str | Path | None, *, resume: bool) -> Path:
    """Return the file of the genotype that a training began with, else of the search of the same name."""
    own = RunFolder(Path(out)) if out is not None else RunFolder.default(settings, "retrain")
    searched = RunFolder.default(settings, "search").genotype_file
    if resume and own.genotype_file.is_file() and not searched.is_file():
        return own.genotype_file
    if not searched.is_file():
        raise InputError(
            f"there is no genotype to train: {searched} is missing; search for one by dcs-nas search, or name a file "
            "by --genotype, or a backbone by retrain.backbone"
        )
    return searched


@translate_errors()
def pretrain(
    config: AnyConfig,
    overrides: Sequence[str] = (),
    *,
    genotype: str | Path | AnyGenotype | GenotypeView | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> TrainedRun:
    """Train a genotype, or the backbone that the settings name, by classes of images, as ``dcs-nas pretrain``.

    Another training starts from it by ``retrain.weights``, the folder of this run.

    Args:
        config: as for ``search``, and so are the other arguments.
        genotype: a file, or a genotype.

    Raises:
        InputError: bad settings, data, genotype or folder.
    """
    settings = load_settings(config, overrides)
    return _train("pretrain", settings, genotype, out, resume=resume, overwrite=overwrite, progress=progress)


def _train(
    job: Literal["retrain", "pretrain"],
    settings: Config,
    genotype: str | Path | AnyGenotype | GenotypeView | None,
    out: str | Path | None,
    *,
    resume: bool,
    overwrite: bool,
    progress: Progress | None,
) -> TrainedRun:
    from dcs_nas.training.retrain_job import run_retraining

    folder = RunFolder.default(settings, job).path if out is None else Path(out)
    resume, overwrite = resume_if_requeued(folder, resume=resume, overwrite=overwrite)
    if isinstance(genotype, GenotypeView):
        genotype = genotype.genotype
    if not isinstance(genotype, (str, Path, AnyGenotype, type(None))):
        advice = "; pass run.genotype" if isinstance(genotype, _Run) else ""
        raise InputError(f"genotype is a {type(genotype).__name__}, expected a genotype or its file{advice}")
    run_retraining(settings, folder, job=job, genotype=genotype, resume=resume, overwrite=overwrite, progress=progress)
    return TrainedRun(folder)


@translate_errors()
def evaluate(
    run: TrainedRun | str | Path,
    *,
    data_name: str | None = None,
    root: str | Path | None = None,
    data_options: Mapping[str, Any] | None = None,
    checkpoint: str = "last",
    features: str = "network",
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
    **settings: Any,
) -> Scores:
    """Score a trained run, as ``dcs-nas evaluate``; nothing is written.

    Args:
        run: what ``retrain`` returned, or its folder.
        data_name: another data set than the run's own.
        root: its folder.
        data_options: options of its loader, e.g. ``{"version": "V1"}``.
        checkpoint: ``last``, or ``best`` where identities were held out.
        features: ``network``, ``color-histogram`` or ``color-histogram-corrected``.
        overrides: settings that replace the run's own, such as ``data.test_batch=64``.
        progress: called with a label; returns a function of (done, total).
        settings: settings of ``EvaluateConfig`` that replace the run's own, e.g. ``flip=True``, ``rerank=True``.

    Raises:
        InputError: a folder that holds no trained run, bad data or settings.
    """
    from dcs_nas.training.evaluate import evaluate_run

    evaluation = evaluate_run(
        _folder(run),
        data_name=data_name,
        root=None if root is None else Path(root),
        data_options=data_options,
        checkpoint=checkpoint,
        features=features,
        overrides=overrides,
        progress=progress,
        **settings,
    )
    return Scores(evaluation)


@translate_errors()
def evaluate_weights(backbone: str, weights: str | Path, *, root: str | Path, **options: Any) -> Scores:
    """Score a named backbone with a weights file on the data set in ``root``, as ``dcs-nas evaluate --backbone``.

    ``options`` are those of ``dcs_nas.training.evaluate.evaluate_weights``.
    """
    from dcs_nas.training.evaluate import evaluate_weights as run

    return Scores(run(backbone, Path(weights), root=Path(root), **options))


@translate_errors()
def evaluate_splits(
    run: TrainedRun | str | Path, splits: int, *, data_options: Mapping[str, Any] | None = None, **options: Any
) -> list[Scores]:
    """Score a trained run on splits 0 to ``splits`` - 1 of a data set such as classic CUHK03.

    Raises:
        InputError: as ``evaluate``; also a data set without numbered splits.

    ``options`` are those of ``evaluate``.
    """
    from dcs_nas.training.evaluate import evaluate_splits as run_on_splits

    evaluations = run_on_splits(_folder(run), splits=splits, data_options=data_options or {}, **options)
    return [Scores(evaluation) for evaluation in evaluations]


@translate_errors()
def export(
    run: TrainedRun | str | Path,
    formats: Sequence[str] = ("onnx", "pt2"),
    *,
    out: str | Path | None = None,
    checkpoint: str = "last",
) -> tuple[list[ExportedFile], Deployable]:
    """Write the feature extractor of a trained run as ``model.onnx`` and ``model.pt2``, as ``dcs-nas export``.

    Args:
        run: what ``retrain`` returned, or its folder.
        formats: some of ``onnx`` and ``pt2``.
        out: by default ``export/`` in the run's folder.
        checkpoint: ``last``, or ``best`` where identities were held out.

    Raises:
        InputError: an unknown format, missing packages, or a folder that holds no trained run.
    """
    from dcs_nas.export.exporting import export_run

    files = RunFolder(_folder(run))
    target = files.exported if out is None else Path(out)
    return export_run(files.path, target, formats=formats, checkpoint=checkpoint)


@translate_errors()
def load(path: str | Path) -> SearchRun | TrainedRun | ExportedModel:
    """Return the finished run in a folder, or the model of an ONNX file that ``dcs-nas export`` wrote.

    Raises:
        InputError: a folder without a finished run, or a file that another program wrote.
    """
    return ExportedModel(path) if Path(path).suffix.lower() in (".onnx", ".pt2") else load_run(path)


@translate_errors()
def load_run(folder: str | Path) -> SearchRun | TrainedRun:
    """Return the finished search, pretraining or retraining in a folder.

    Raises:
        InputError: a folder without one.
    """
    run = RunFolder(Path(folder))
    run.config()
    contents = run.contents()
    if contents.kind == "tune":
        raise InputError(f"{run.path} is a tuning, expected a search or a training; train its {run.best_file.name}")
    if not contents.is_finished or contents.kind not in ("search", "pretrain", "retrain"):
        raise InputError(f"{run.path} holds an unfinished run; finish it with --resume")
    return SearchRun(run.path) if contents.kind == "search" else TrainedRun(run.path)


@translate_errors()
def load_genotype(path: str | Path) -> GenotypeView:
    """Return the genotype of a file, or of the record of an epoch."""
    return GenotypeView(read_genotype(Path(path)))


@translate_errors()
def load_published(name: str, state: Mapping[str, Tensor], **options: Any) -> nn.Module:
    """Return the network of a published state dict, in evaluation mode: ``rga``, ``hacnn``, ``msinet``, ``transreid``.

    Args:
        name: the name of the network.
        state: tensors by their published names.
        options: facts that the state does not show, see ``dcs_nas.models.published.load_published``.

    Raises:
        InputError: an unknown name or option, or a state of another network.
    """
    from dcs_nas.models.published import load_published as build

    return build(name, state, **options)


@translate_errors()
def tabular(name: str, path: str | Path | None = None) -> Table:
    """Return the table of a small space whose architectures are all trained, see docs/bench.md.

    Args:
        name: the name of the table.
        path: a file of ``benchmarks/bench_table.py``; by default the table that ships with the package.

    Raises:
        InputError: an unknown name, or a file without such a table.
    """
    from dcs_nas.space.table import Table

    return Table.read(name, None if path is None else Path(path))


@translate_errors()
def load_extensions(*files: str | Path) -> None:
    """Import Python files that register operations, attention blocks, backbones or data sets, as ``--extension`` does.

    Use it for runs and genotypes; settings name their files in ``extensions``. A file replaces the one of the same name
    that a run folder recorded.

    Raises:
        InputError: no such file, a name that is taken, or an error in the file, with its line.
    """
    extensions.load_extensions(files, replace_recorded=True)


def _folder(run: TrainedRun | str | Path) -> Path:
    """Return the folder of a trained run."""
    if isinstance(run, SearchRun):
        run.evaluate()
    if not isinstance(run, (TrainedRun, str, Path)):
        raise InputError(
            f"run is a {type(run).__name__}, expected a trained run or its folder; pass what dcs_nas.retrain returned"
        )
    return run.folder if isinstance(run, TrainedRun) else Path(run)
