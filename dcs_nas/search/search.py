"""The search job: configuration in, ``genotype.yaml`` out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from pytorch_lightning.utilities.combined_loader import CombinedLoader

from dcs_nas.config import Config
from dcs_nas.data.augment import build_augment
from dcs_nas.data.cache import Progress
from dcs_nas.data.datamodule import ReidData
from dcs_nas.files import write_text
from dcs_nas.models.build import build_supernet
from dcs_nas.runs import RunFolder, logging_to, seed_everything
from dcs_nas.search.bilevel import BilevelSearch
from dcs_nas.search.record import ArchitectureRecord
from dcs_nas.space import Genotype, read_space, shipped_file
from dcs_nas.training.objective import build_objective
from dcs_nas.training.trainer import EpochLog, fit, make_trainer, memory_format, without_known_warnings

log = logging.getLogger(__name__)


def run_search(
    config: Config,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[str], Progress] | None = None,
) -> Genotype:
    """Search as configured, in the run folder ``folder``, and give the genotype found.

    Raises ``InputError`` for bad settings, data or folders; ``KeyboardInterrupt`` where the user stops it, after
    which ``resume`` goes on from the last whole epoch.
    """
    settings = config.section("search")
    space = read_space(shipped_file("search_spaces", settings.space))
    data = ReidData(config, progress=progress)
    halves = dict(zip(("weights", "architecture"), data.search_halves(share=settings.weight_share)))
    loaders = {
        half: data.identity_loader(images, stream=i, what=half) for i, (half, images) in enumerate(halves.items())
    }
    seed_everything(config.seed)
    network = memory_format(build_supernet(space, settings, config.data, data.num_people))
    objective = build_objective(config.loss, people=data.num_people, features=network.num_features)
    run = RunFolder.start(folder, config, resume=resume, overwrite=overwrite)
    if (run / "genotype.yaml").is_file():
        log.info("%s is finished already", folder)
        return Genotype.read(run / "genotype.yaml")
    data.save_labels(run.path)
    record = ArchitectureRecord(run / "architecture", space, data=data.dataset.version, seed=config.seed)
    augment = build_augment(config)
    module = BilevelSearch(network, objective, augment, config, halves=halves, record=record, epoch_log=EpochLog(run))
    with logging_to(run / "log.txt"), without_known_warnings():
        trainer = make_trainer(config, run, epochs=settings.epochs)
        fit(trainer, module, CombinedLoader(loaders, "min_size"), run)
        genotype = record.genotype(module.supernet, settings.epochs - 1)
        if trainer.is_global_zero:
            write_text(run / "genotype.yaml", genotype.to_yaml())
    return genotype
