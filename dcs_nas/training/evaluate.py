"""The evaluation of a trained run: its network, and with a data set its scores."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from dcs_nas.config import (
    EVALUATION,
    Config,
    DataConfig,
    DataSource,
    EvaluateConfig,
    RetrainConfig,
    make_config,
    split_overrides,
    with_overrides,
)
from dcs_nas.data.datamodule import Images, ReidData
from dcs_nas.data.datasets import check_options, load_dataset
from dcs_nas.data.fingerprint import SourceRecord, at_recorded_roots, read_sources, record_source
from dcs_nas.data.images import Progress
from dcs_nas.data.records import ReidDataset
from dcs_nas.environment import describe_environment
from dcs_nas.errors import InputError, choices, command
from dcs_nas.evaluation import DistanceBlocks, FeatureSet, RankingResult, apply_changes, score
from dcs_nas.evaluation.scoring import require_neighbours
from dcs_nas.models.build import build_fixed
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.runs import RunFolder
from dcs_nas.seeds import seed_everything
from dcs_nas.settings import make_absolute, read_yaml
from dcs_nas.training.checkpoints import load_whole, select_network, weights_file
from dcs_nas.training.error_messages import training_errors
from dcs_nas.training.features import build_feature_set, compute_color_histograms, extract_features
from dcs_nas.training.process_group import process_group
from dcs_nas.training.retraining import as_retraining
from dcs_nas.training.trainer import memory_format

log = logging.getLogger(__name__)
CHECKPOINTS = ("last", "best")
FEATURES = ("network", "color-histogram", "color-histogram-corrected")
_DIVIDING = ("protocol", "split", "seed")  # options of loaders that move identities between training and test


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores, their data and their settings."""

    result: RankingResult
    dataset: ReidDataset
    query: Images
    gallery: Images
    features: FeatureSet
    distances: DistanceBlocks
    report: dict[str, Any]


def evaluate_run(
    folder: Path,
    *,
    data_name: str | None = None,
    root: Path | None = None,
    data_options: Mapping[str, Any] | None = None,
    checkpoint: str = "last",
    features: str = "network",
    overrides: Sequence[str] = (),
    progress: Callable[[str], Progress] | None = None,
    **changes: Any,
) -> Evaluation:
    """Score a trained run on what its configuration tests on, or on another data set (cross-domain).

    ``features`` is ``network``, or one of the baselines that compare only colours: ``color-histogram`` and
    ``color-histogram-corrected`` (colour cast removed). ``changes`` are settings of ``EvaluateConfig`` that replace the
    run's own; so are ``overrides`` such as ``data.test_batch=64``, see ``EVALUATION``. Processes that a launcher has
    started share the images; each has all features and scores in the end.

    Raises:
        InputError: a folder without a trained run, bad data or settings, or test images that were used in training.
    """
    if features not in FEATURES:
        raise InputError(f"unknown features '{features}'; {choices(features, FEATURES)}")
    overrides, own_changes = split_overrides(overrides)
    config, network, path, epoch = open_trained(folder, checkpoint=checkpoint, overrides=overrides)
    trained = at_recorded_roots(RunFolder(folder).config(), folder).data
    settings = _settings(config.evaluate, {**own_changes, **changes}, features)
    network.test_neck = settings.neck
    source = _source(config.data, data_name, root, dict(data_options or {}))
    trainer = config.trainer.model_copy(update={"devices": "auto", "num_nodes": 1})  # not those of the training
    with (
        process_group(config.model_copy(update={"trainer": trainer}), training=False),
        training_errors(config, "evaluate"),
    ):
        _require_folder(source, folder, named=root is not None or bool(overrides))
        with _naming_inherited(source.options, data_options or {}, folder, named=root is not None):
            data = ReidData(config.model_copy(update={"data": config.data.on(source)}), progress=progress)
        dataset, images, of_training = _identify_data(data, folder, trained)
        cameras = of_training and not trained.also
        if network.cameras and not cameras:
            log.info("the cameras of %s are unknown to the network, which takes the mean of its cameras", dataset.name)
        require_neighbours(settings.expand, len(dataset.gallery))
        query, gallery, labelled = _compute_features(
            features, network, data, config, settings, progress, cameras=cameras
        )
    contents = RunFolder(folder).contents()
    origin = {"run": folder.name, "checkpoint": path.stem, "epoch": epoch}
    if epoch is not None and not contents.is_finished:
        log.warning("%s is unfinished: its checkpoint is of epoch %d/%s", folder, epoch, contents.steps_wanted)
    training = {
        "trained_on": "+".join(source.name for source in _list_training_data(trained)),
        "training_data": contents.data or None,
    }
    facts = {"features": features, **origin, "flip": settings.flip, "seed": config.seed}
    return _score(config, settings, dataset, query, gallery, labelled, {**facts, "data": images}, training)


def evaluate_weights(
    backbone: str,
    weights: Path,
    *,
    data_name: str,
    root: Path,
    data_options: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    progress: Callable[[str], Progress] | None = None,
    **changes: Any,
) -> Evaluation:
    """Score the features of a named backbone with a weights file, pooled and without a head, on a data set.

    ``overrides`` are settings such as ``data.height=384`` or ``retrain.weights_partial=true``; ``changes`` are settings
    of ``EvaluateConfig``.

    Raises:
        InputError: an unknown backbone, weights that do not fit, bad data or settings.
    """
    overrides, own_changes = split_overrides(overrides)
    data_section = {"name": data_name, "root": str(root), "options": dict(data_options or {})}
    retrain = {"backbone": backbone, "weights": str(weights_file(weights)), "head": {"neck": False}}
    values = {"name": "weights", "data": data_section, "retrain": retrain}
    config = make_config(values, overrides, source="settings of the evaluation")
    settings = _settings(config.evaluate, {**own_changes, **changes}, "pooled")
    seed_everything(config.seed)
    network = memory_format(build_fixed(config.section("retrain"), config.data, 1, None, config.dcs)).eval()
    with process_group(config, training=False), training_errors(config, "evaluate"):
        data = ReidData(config, progress=progress)
        ((source, dataset),) = data.sources
        require_neighbours(settings.expand, len(dataset.gallery))
        query, gallery, labelled = _compute_features(
            "network", network, data, config, settings, progress, cameras=data.num_cameras == network.cameras
        )
    record = record_source(source, dataset)
    images = {"root": str(record.root), "fingerprint": record.fingerprint, "other_images": None}
    facts = {"features": "network", "backbone": backbone, "weights": str(weights), "flip": settings.flip}
    facts |= {"seed": config.seed, "data": images}
    return _score(config, settings, dataset, query, gallery, labelled, facts)


def evaluate_splits(
    folder: Path, *, splits: int, data_options: Mapping[str, Any], **options: Any
) -> Iterator[Evaluation]:
    """Yield the scores of a run on splits 0, 1, ... of a data set with an option ``split``, such as classic CUHK03.

    Raises:
        InputError: as ``evaluate_run``; also, before the first is scored, where the run was trained on that data set,
            whose splits share identities, and for a data set without numbered splits.
    """
    if "split" in data_options:
        raise InputError(
            f"the data option split={data_options['split']} names one split, --splits {splits} several; give one option"
        )
    overrides, _ = split_overrides(options.get("overrides", ()))
    recorded = at_recorded_roots(RunFolder(folder).config(), folder)
    config = with_overrides(recorded, overrides, EVALUATION)
    source = _source(config.data, options.get("data_name"), options.get("root"), dict(data_options))
    try:
        check_options(source.name, {**source.options, "split": splits - 1})
    except InputError as error:
        raise InputError(
            f"--splits {splits} needs a data set with as many numbered splits, such as cuhk03 with protocol=classic "
            f"(20), found {source.name}: {error}; leave --splits out, or give several runs for their mean"
        ) from None
    first = load_dataset(source.name, source.root or "", **{**source.options, "split": 0})
    if _find_training_data(record_source(source, first), folder, recorded.data):
        raise InputError(
            f"{folder} was trained on one split of {source.name}, whose identities are tested on in the others; "
            "train one run for each split and give them all: dcs-nas evaluate RUN RUN ..."
        )
    return (evaluate_run(folder, data_options={**data_options, "split": i}, **options) for i in range(splits))


class TrainedNetwork(NamedTuple):
    """Settings and network of a trained run, the checkpoint that was read, and its epoch from 1, if it has one."""

    config: Config
    network: ReidNetwork
    checkpoint: Path
    epoch: int | None


def load_trained(
    folder: Path, *, checkpoint: str = "last", overrides: Sequence[str] = (), allowed: Sequence[str] = EVALUATION
) -> tuple[Config, ReidNetwork]:
    """Return the settings and the network of ``open_trained``."""
    trained = open_trained(folder, checkpoint=checkpoint, overrides=overrides, allowed=allowed)
    return trained.config, trained.network


def open_trained(
    folder: Path, *, checkpoint: str = "last", overrides: Sequence[str] = (), allowed: Sequence[str] = EVALUATION
) -> TrainedNetwork:
    """Return a trained run's network, in evaluation mode, from ``checkpoints/{checkpoint}.ckpt``.

    ``overrides`` replace some of the ``allowed`` settings; ``trainer.threads`` takes effect at once.
    """
    run = RunFolder(folder)
    config = as_retraining(with_overrides(at_recorded_roots(run.config(), folder), overrides, allowed))
    if config.trainer.threads and any(item.strip().startswith("trainer.threads") for item in overrides):
        torch.set_num_threads(config.trainer.threads)
    if config.retrain is None:
        raise InputError(
            f"{folder} is no retraining run: its config.yaml has no section 'retrain'{_advise_training(folder)}"
        )
    if run.contents().searched:
        advice = _advise_training(folder) or "; finish it with --resume, then train what it finds"
        raise InputError(f"{folder} is a search and has no trained network{advice}")
    run.load_extensions()
    path, content = load_whole(_checkpoint(run, config.retrain, checkpoint))
    state = select_network(content, prefix="network." if config.retrain.ema_decay is None else "ema.")
    classifier = state.get("heads.0.classifier.weight")
    if classifier is None or any(".mixtures." in key for key in state):
        raise InputError(f"{path} holds no trained network{_advise_training(folder)}")
    genotype = run.genotype() if run.genotype_file.is_file() else None
    settings = config.retrain.model_copy(update={"weights": None})
    network = build_fixed(settings, config.data, len(classifier), genotype, config.dcs)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        whose = f"its run's settings with -o {' -o '.join(overrides)}" if overrides else "its run's settings"
        raise InputError(f"{path} does not fit {whose}: {str(error).splitlines()[-1].strip()}") from None
    network.test_neck = config.evaluate.neck
    epoch = content.get("epoch")
    return TrainedNetwork(config, memory_format(network).eval(), path, None if epoch is None else epoch + 1)


def _checkpoint(run: RunFolder, settings: RetrainConfig, name: str) -> Path:
    """Return the path of the checkpoint ``name``; raise ``InputError`` saying why there is no best one."""
    if name not in CHECKPOINTS:
        raise InputError(f"unknown checkpoint '{name}'; {choices(name, CHECKPOINTS)}")
    path = run.checkpoint(name)
    if name == "best" and not path.is_file():
        if not settings.validation:
            raise InputError(
                f"{run.path} held out no identities (retrain.validation is 0): no best checkpoint; use --checkpoint "
                "last, or train with retrain.validation above 0, e.g. 0.1"
            )
        raise InputError(
            f"{run.path} has no best checkpoint yet: it is validated after every {settings.validate_every} epochs and "
            "after the last; use --checkpoint last, or train on with --resume"
        )
    return path


def _advise_training(folder: Path) -> str:
    """Return the end of an error line: how to train the genotype of the search in ``folder``, if it is finished."""
    genotype, config = RunFolder(folder).genotype_file, RunFolder(folder).config_file
    if not genotype.is_file():
        return ""
    section = [] if "retrain" in read_yaml(config) and read_yaml(config)["retrain"] else ["-o", "retrain.epochs=120"]
    words = [config, *section, "--genotype", genotype, "--out", folder.with_name(f"{folder.name}-retrain")]
    return f"; train what the search found: {command('retrain', *words)}"


def _settings(own: EvaluateConfig, changes: Mapping[str, Any], features: str) -> EvaluateConfig:
    """Return the run's settings with ``changes``; baselines compare by Euclidean distance, without mirrored images."""
    baseline = {} if features in ("network", "pooled") else {"metric": "euclidean", "flip": False}
    settings = apply_changes(own.model_copy(update=baseline), changes)
    if settings.flip and baseline:
        raise InputError(f"flip adds the network's features of mirrored images; {features} has none, leave it out")
    if "neck" in changes and features != "network":
        raise InputError(f"neck chooses features of a run's head; {features} features have none, leave it out")
    return settings


def _source(data: DataConfig, name: str | None, root: Path | None, options: dict[str, Any]) -> DataSource:
    """Return the data set to test on, with folder and options of the configuration if it lists ``name``."""
    own = data.test or data.own
    known = next((s for s in (own, data.own, *data.also) if name in (None, s.name)), None)
    if name is not None and root is None and (known is None or known.root is None):
        raise InputError(f"--data {name} needs --root, the folder of that data set")
    base = known or DataSource(name=str(name))
    return DataSource(name=base.name, root=root or base.root, options={**base.options, **options})


def _require_folder(source: DataSource, folder: Path, *, named: bool) -> None:
    """Raise ``InputError`` if the folder recorded in the run does not exist."""
    if not named and source.root is not None and not make_absolute(source.root).exists():
        raise InputError(
            f"there is no folder {source.root}, where {folder} has read {source.name}; give the folder where the "
            f"images lie now: {command('evaluate', folder)} --root DIR"
        )


@contextmanager
def _naming_inherited(
    options: Mapping[str, Any], replaced: Mapping[str, Any], folder: Path, *, named: bool
) -> Iterator[None]:
    """Name, in an error on the data in a ``named`` folder, the loader's options that come from the run."""
    inherited = [f"{key}={value}" for key, value in options.items() if key not in replaced]
    try:
        yield
    except InputError as error:
        if not named or not inherited:
            raise
        raise InputError(
            f"{error}; the options {', '.join(inherited)} are those of {folder}: --data-option KEY=VALUE changes one, "
            "KEY=null unsets it"
        ) from None


def _identify_data(data: ReidData, folder: Path, trained: DataConfig) -> tuple[ReidDataset, dict[str, Any], bool]:
    """Return the data set to test on, the facts that identify its images, and whether it is of the training data.

    Where the run has recorded the data set of that name with other images, the version says so.

    Raises:
        InputError: the images were trained on (``data.combine_all``), in any folder.
    """
    ((source, dataset),) = data.sources
    now, recorded = record_source(source, dataset), read_sources(folder)
    training = _find_training_data(now, folder, trained)
    if trained.combine_all and training:
        raise InputError(
            f"the run was trained on the test images of {now.name} too (data.combine_all), so it cannot be tested "
            "on them; name another data set by data.test, or by --data and --root"
        )
    for own in training:
        if _read_division(own) != _read_division(now):
            raise InputError(
                f"{folder} was trained on {own.name} divided with the options {dict(own.options)}, and with "
                f"{dict(now.options)} identities of its training are tested on; leave the options "
                f"{', '.join(_DIVIDING[:-1])} and {_DIVIDING[-1]} out"
            )
    same_name = [r for r in recorded if (r.name, r.options) == (now.name, now.options)]
    facts = {"root": str(now.root), "fingerprint": now.fingerprint, "other_images": None}
    if not same_name:
        if not recorded and source.name in {
            own.name for own in (*_list_training_data(trained), trained.test or trained.own)
        }:
            log.info(
                "%s keeps no fingerprint of its images, so they are not compared with those of %s", folder, now.root
            )
        return dataset, facts, bool(training)
    other = not any(now.is_same(record) for record in same_name)
    if other:
        then = next((record for record in same_name if not record.trained), same_name[0])
        log.warning(
            "%s holds other images of %s (%s) than %s began with (%s, in %s)",
            *(now.root, now.name, now, folder, then, then.root),
        )
        dataset = replace(dataset, version=f"{dataset.version}, other images ({now.short})")
    return dataset, {**facts, "other_images": other}, bool(training)


def _list_training_data(data: DataConfig) -> tuple[DataSource, ...]:
    return (data.own, *data.also)


def _find_training_data(now: SourceRecord, folder: Path, data: DataConfig) -> list[DataSource | SourceRecord]:
    """Return those training data of a run whose identities ``now`` holds: the same folder, or the same images anywhere.

    The images of CUHK03 have other labels in its other protocol, and so another fingerprint: its name alone counts.
    """
    own = [source for source in _list_training_data(data) if _same(now, source) or now.name == source.name == "cuhk03"]
    return [*own, *(r for r in read_sources(folder) if r.trained and r.fingerprint == now.fingerprint)]


def _read_division(source: DataSource | SourceRecord) -> list[Any]:
    """Return the options that divide the identities, with the loader's defaults; one that divides nothing is 0."""
    options = check_options(source.name, source.options)
    return [options.get(key) or 0 for key in _DIVIDING]


def _same(a: DataSource | SourceRecord, b: DataSource) -> bool:
    return a.name == b.name and os.path.realpath(a.root or "") == os.path.realpath(b.root or "")


def _compute_features(
    kind: str,
    network: nn.Module,
    data: ReidData,
    config: Config,
    settings: EvaluateConfig,
    progress: Callable[[str], Progress] | None,
    *,
    cameras: bool,
) -> tuple[Images, Images, FeatureSet]:
    """Return the queries and the gallery of the test set, and their features of a kind; see ``extract_features``."""
    query, gallery = data.test()
    if kind == "network":
        network.to(_device(config))
        bars = [progress(f"features of the {part}") if progress else None for part in ("queries", "gallery")]
        features = [
            extract_features(network, data, images, flip=settings.flip, cameras=cameras, progress=bar)
            for images, bar in zip((query, gallery), bars)
        ]
    else:
        corrected = kind == "color-histogram-corrected"
        features = [compute_color_histograms(images, corrected=corrected) for images in (query, gallery)]
    return query, gallery, build_feature_set(query, gallery, *features)


def _score(
    config: Config,
    settings: EvaluateConfig,
    dataset: ReidDataset,
    query: Images,
    gallery: Images,
    features: FeatureSet,
    facts: dict[str, Any],
    further: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Return the scores of features; the report states the facts, their file all but the ``further`` ones."""
    scored = score(features, settings, protocol=dataset.protocol, device=_device(config))
    facts["data"] = {**dataset.statistics(), "deviations": list(dataset.notes), **facts["data"]}
    report = {**scored.report(), **facts, **(further or {}), **describe_environment()}
    used = settings.model_copy(update={"protocol": scored.result.protocol.name}).model_dump(mode="json")
    features = replace(features, evaluated={"settings": used, "facts": facts})
    return Evaluation(scored.result, dataset, query, gallery, features, scored.distances, report)


def _device(config: Config) -> torch.device:
    return torch.device("cuda" if config.trainer.cuda else "cpu")
