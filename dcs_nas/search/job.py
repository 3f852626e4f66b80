"""The search job: configuration in, ``genotype.yaml`` out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

from pytorch_lightning.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader

from dcs_nas.config import Config, SearchConfig
from dcs_nas.config.idle import DCS_BLOCKS, idle_settings
from dcs_nas.data.augment import build_augment
from dcs_nas.data.datamodule import Images, ReidData
from dcs_nas.data.images import Progress
from dcs_nas.errors import InputError
from dcs_nas.extensions import load_extensions
from dcs_nas.files import write_text
from dcs_nas.models.blocks import kept_shares
from dcs_nas.models.build import build_supernet
from dcs_nas.models.kinds import cell_settings
from dcs_nas.runs import RunFolder, early_log, logging_to
from dcs_nas.search.bilevel import BilevelSearch
from dcs_nas.search.derive import derive_by_retrieval
from dcs_nas.search.monitor import Watch
from dcs_nas.search.perturbation import derive_by_perturbation
from dcs_nas.search.record import ArchitectureRecord
from dcs_nas.search.supernet_score import SupernetScore
from dcs_nas.seeds import seed_everything
from dcs_nas.space import AnyGenotype, load_genotype, load_space, require_settings, shipped_file
from dcs_nas.training.acceleration import accelerate, eager, require_compilable
from dcs_nas.training.checkpoints import LAST, is_damaged, load_checkpoint
from dcs_nas.training.error_messages import training_errors
from dcs_nas.training.objective import build_objective
from dcs_nas.training.process_group import jointly, require_alone
from dcs_nas.training.trainer import EpochLog, fit, make_trainer, memory_format, without_known_warnings
from dcs_nas.training.validation import validate

log = logging.getLogger(__name__)


@jointly
@early_log()
def run_search(
    config: Config,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[str], Progress] | None = None,
) -> AnyGenotype:
    """Search as configured, in the run folder ``folder``, and give the genotype found.

    Raises ``InputError`` for bad settings, data or folders; ``KeyboardInterrupt`` where the user stops it, after
    which ``resume`` goes on from the last whole epoch.
    """
    settings = config.section("search")
    load_extensions(config.extensions)
    require_compilable(config.trainer, settings)
    if config.trainer.precision == "16-mixed" and settings.order == 2:
        raise InputError(
            "search.order is 2, which needs gradients that are not scaled, and trainer.precision is 16-mixed; "
            "use trainer.precision=bf16-mixed or search.order=1"
        )
    if settings.strategy != "bilevel":
        from dcs_nas.search.baselines import run_baseline  # NNI's strategies take seconds to import

        require_alone(f"search.strategy {settings.strategy}")
        return run_baseline(settings.strategy, config, folder, resume=resume, overwrite=overwrite, progress=progress)
    RunFolder.require_free(folder)
    space = load_space(shipped_file("search_spaces", settings.space))
    require_settings(space, cell_settings(settings))
    data = ReidData(config, progress=progress)
    halves, held = data.search_halves(
        share=settings.weight_share, overlap=settings.identity_overlap, validation=settings.validation
    )
    loaders = {
        half: data.identity_loader(images, stream=i, what=half) for i, (half, images) in enumerate(halves.items())
    }
    seed_everything(config.seed)
    network = memory_format(build_supernet(space, settings, config.data, data.num_people, config.dcs))
    objective = build_objective(config.loss, people=data.num_people, features=network.num_features, network=network)
    accelerate(network, config)
    with RunFolder.open(folder, config, resume=resume, overwrite=overwrite) as run:
        if resume and (run / "genotype.yaml").is_file() and not is_damaged(run / "checkpoints" / LAST):
            log.info("%s is finished already", folder)
            return load_genotype(run / "genotype.yaml")
        data.save_labels(run.path)
        record = ArchitectureRecord(
            run / "architecture",
            space,
            data=data.dataset.version,
            seed=config.seed,
            method=method(settings),
            max_skips=settings.guard.max_skips if settings.guard.action == "cap" else None,
        )
        validation = partial(validate, network, data, held, metric=config.evaluate.metric) if held is not None else None
        watch = Watch(settings, record, validation)
        augment = build_augment(config)
        module = BilevelSearch(
            network,
            objective,
            augment,
            config,
            halves=halves,
            people=data.num_people,
            epoch_log=EpochLog(run),
            watch=watch,
        )
        with logging_to(run / "log.txt"), without_known_warnings(), training_errors(config, "search"):
            for remark in idle_settings(config, "search", {DCS_BLOCKS: len(kept_shares(network))}):
                log.warning("%s", remark)
            trainer = make_trainer(config, run, epochs=settings.epochs)
            fit(trainer, module, CombinedLoader(loaders, "min_size"), run)
            module.to(trainer.strategy.root_device)
            epoch = load_checkpoint(run / "checkpoints" / LAST)["epoch"]
            with eager(config.trainer):
                genotype = _derive(module, watch, record, loaders, data, held, epoch=epoch)
            if trainer.is_global_zero:
                write_text(run / "genotype.yaml", genotype.to_yaml())
        return genotype


def _derive(
    module: BilevelSearch,
    watch: Watch,
    record: ArchitectureRecord,
    loaders: dict[str, DataLoader],
    data: ReidData,
    held: Images | None,
    *,
    epoch: int,
) -> AnyGenotype:
    """The genotype of a search that is over after ``epoch`` (from 0), as ``search.derivation`` says.

    All that an epoch sets at its start is set here, for a search that was interrupted after its last epoch.
    """
    settings = module.settings
    seed_everything(module.config.seed)
    module.start_epoch(epoch)
    for loader in loaders.values():
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    if settings.derivation == "perturbation":
        return derive_by_perturbation(module, record, loaders)
    if settings.derivation == "retrieval" and held is not None:
        batches = islice(loaders["weights"], settings.retrieval.batches)
        images = [module.augment(batch["images"].to(module.device)) for batch in batches]
        score = SupernetScore(module.network, data, held, images, module.config)
        return derive_by_retrieval(score, record, settings)
    return watch.chosen(module.supernet)


def method(settings: SearchConfig) -> str:
    """How a genotype was found, in words."""
    relaxation = settings.relaxation
    parts = ["darts", f"order {settings.order}" + (f" ({settings.hessian})" if settings.order == 2 else "")]
    parts += [relaxation.kind] if relaxation.kind != "softmax" else []
    parts += [f"1/{relaxation.partial_channels} of the channels"] if relaxation.partial_channels > 1 else []
    parts += [f"derived by {settings.derivation}"] if settings.derivation != "strongest" else []
    return ", ".join(parts)
