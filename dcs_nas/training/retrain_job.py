"""The jobs that train a fixed network, a genotype's or a named backbone: retraining, and pretraining before it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

from dcs_nas.config import Config
from dcs_nas.config.idle import pretrain_names
from dcs_nas.data.datamodule import ReidData
from dcs_nas.data.images import Progress
from dcs_nas.errors import InputError, TrainingError
from dcs_nas.extensions import load_extensions
from dcs_nas.files import write_json
from dcs_nas.models.build import build_fixed
from dcs_nas.processes import is_first
from dcs_nas.runs import RunFolder, collect_early_log
from dcs_nas.seeds import seed_everything
from dcs_nas.space import AnyGenotype, find_shipped_file, is_published, load_genotype, load_space
from dcs_nas.training.acceleration import accelerate, require_compilable
from dcs_nas.training.checkpoints import is_damaged, weights_file
from dcs_nas.training.objective import build_objective
from dcs_nas.training.process_group import in_process_group
from dcs_nas.training.retraining import Pretraining, Retraining, as_retraining
from dcs_nas.training.supernet_weights import inherit
from dcs_nas.training.trainer import fit, make_trainer, memory_format, training_job

log = logging.getLogger(__name__)
Job = Literal["retrain", "pretrain"]


@in_process_group
@collect_early_log()
def run_retraining(
    config: Config,
    folder: Path,
    *,
    job: Job = "retrain",
    genotype: str | Path | AnyGenotype | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[str], Progress] | None = None,
) -> None:
    """Train by the section ``job`` of the settings, in the run folder ``folder``.

    Raises:
        InputError: bad settings, data, genotype or folder.
        KeyboardInterrupt: the user has stopped it; ``resume`` continues from the last whole epoch.
    """
    config.section(job)
    unused = ("pretrain",) if job == "retrain" else ("search", "retrain", "tune")
    recorded = config.model_copy(update=dict.fromkeys(unused))
    with _name_settings(job):
        load_extensions(config.extensions)
        architecture = _read_genotype(config, genotype)
        config = as_retraining(recorded)
        settings = config.section("retrain")
        require_compilable(config, "retrain")
        if settings.weights is not None and not settings.weights.exists():
            raise InputError(
                f"retrain.weights {settings.weights} does not exist; expected a file that you have, docs/weights.md "
                "lists public ones: set retrain.weights to its path, or to null to start from scratch"
            )
        RunFolder.require_free(folder)
        data = ReidData(config, progress=progress)
        load = data.load_training_and_validation if job == "retrain" else data.load_classes_and_validation
        if settings.warmup_epochs >= settings.epochs > 1:
            log.warning(
                "the rate rises to the end: %s.warmup_epochs is %d of %d epochs",
                job,
                settings.warmup_epochs,
                settings.epochs,
            )
        images, held = load(share=settings.validation)
        identities = len(set(images.labels.tolist()))
        loader = data.make_identity_loader(images, stream=8)
        seed_everything(config.seed)
        weights = None if settings.weights is None else weights_file(settings.weights)
        loaded = settings.model_copy(update={"weights": weights})
        network = memory_format(build_fixed(loaded, config.data, identities, architecture, config.dcs))
        if 0 < network.cameras < data.num_cameras:
            raise InputError(
                f"{job}.backbone_options.cameras is {network.cameras}, and {data.dataset.name} has {data.num_cameras} "
                f"cameras; set it to {data.num_cameras}, or to 0 for none"
            )
        if settings.inherit is not None:
            if architecture is None:
                raise InputError("retrain.inherit is given without a genotype; give a named backbone retrain.weights")
            inherit(network, architecture, settings.inherit)
        network.test_neck = config.evaluate.neck
        objective = build_objective(
            config.loss, num_identities=identities, features=network.num_features, network=network
        )
        accelerate(network, config)
        if resume and architecture is not None:
            RunFolder(folder).require_genotype(architecture)
        with RunFolder.open(folder, recorded, resume=resume, overwrite=overwrite) as run:
            if run.finished_file.is_file() and not is_damaged(run.checkpoint("last")):
                log.info("%s is finished already", folder)
                return
            if architecture is not None and is_first():
                run.write_genotype(architecture)
            if network.weights_report is not None and is_first():
                write_json(run.weights_file, network.weights_report.facts())
            data.save_labels(run.path)
            loop = Retraining if job == "retrain" else Pretraining
            module = loop(network, objective, config, run=run, data=data, images=images, held=held)
            measured = {} if job == "retrain" else {"retrain.validation": held is not None}
            with training_job(recorded, job, run, network, measured):
                trainer = make_trainer(config, run, epochs=settings.epochs)
                fit(trainer, module, loader, run)
                if trainer.is_global_zero:
                    facts = {"epochs": settings.epochs, "train_people": identities, "train_images": len(images)}
                    run.write_finished(facts)


run_pretraining = partial(run_retraining, job="pretrain")


@contextmanager
def _name_settings(job: Job) -> Iterator[None]:
    """Name settings of the section ``job`` in errors of the context that name those of ``retrain``."""
    try:
        yield
    except (InputError, TrainingError) as error:
        if job == "pretrain":
            error.args = tuple(pretrain_names(str(part)) for part in error.args)
        raise


def _read_genotype(config: Config, genotype: str | Path | AnyGenotype | None) -> AnyGenotype | None:
    """Return the genotype to train; raise ``InputError`` if it does not fit ``search.space``."""
    if genotype is None:
        return None
    space = load_space(find_shipped_file("search_spaces", config.search.space)) if config.search is not None else None
    read = load_genotype(Path(genotype), space=space) if isinstance(genotype, (str, Path)) else genotype
    if space is not None and not (isinstance(genotype, (str, Path)) and is_published(Path(genotype))):
        read.require_space(space, source="the genotype" if read is genotype else str(genotype))
    return read
