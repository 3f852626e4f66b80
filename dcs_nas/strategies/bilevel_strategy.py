"""The strategy ``bilevel``: a supernet of cells or of a chain is searched, and a genotype derived from it."""

from __future__ import annotations

from itertools import islice

from pytorch_lightning.utilities.combined_loader import CombinedLoader

from dcs_nas.config import Config, SearchConfig
from dcs_nas.data.datamodule import ReidData
from dcs_nas.errors import InputError
from dcs_nas.models.build import build_supernet
from dcs_nas.models.space_kinds import cell_settings
from dcs_nas.runs import RunFolder
from dcs_nas.seeds import seed_everything
from dcs_nas.space import AnyGenotype, require_settings
from dcs_nas.strategies.base import ReadProgress, Strategy
from dcs_nas.strategies.bilevel import BilevelSearch
from dcs_nas.strategies.derive import SupernetScore, derive_by_retrieval
from dcs_nas.strategies.perturbation import derive_by_perturbation
from dcs_nas.strategies.record import ArchitectureRecord
from dcs_nas.training.acceleration import accelerate, eager
from dcs_nas.training.checkpoints import load_checkpoint
from dcs_nas.training.objective import build_objective
from dcs_nas.training.trainer import fit, make_trainer, memory_format


class Bilevel(Strategy):
    """Bilevel search of a supernet."""

    def __init__(self, config: Config, progress: ReadProgress) -> None:
        super().__init__(config)
        settings = self.settings
        require_settings(self.space, cell_settings(settings))
        if settings.memory.levels == "both" and not config.loss.identity_weight:
            raise InputError(
                "search.memory.levels is 'both', but loss.identity_weight is 0, which is the weight of its loss; raise "
                "it, e.g. to 1, or leave search.memory out"
            )
        self.data = data = ReidData(config, progress=progress)
        self.halves, self.held = data.load_search_halves(
            share=settings.weight_share, overlap=settings.identity_overlap, validation=settings.validation
        )
        self.loaders = {
            half: data.make_identity_loader(images, stream=i, what=half)
            for i, (half, images) in enumerate(self.halves.items())
        }
        seed_everything(config.seed)
        network = memory_format(build_supernet(self.space, settings, config.data, data.num_identities, config.dcs))
        self.network = network
        self.objective = build_objective(
            config.loss, num_identities=data.num_identities, features=network.num_features, network=network
        )
        accelerate(network, config)

    def search(self, run: RunFolder) -> AnyGenotype:
        assert self.data is not None
        assert self.network is not None
        config, settings = self.config, self.settings
        record = ArchitectureRecord(
            run,
            self.space,
            data=self.data.dataset.version,
            seed=config.seed,
            method=method(settings),
            max_skips=settings.guard.max_skips if settings.guard.action == "cap" else None,
        )
        module = BilevelSearch(
            self.network, self.objective, config, run=run, data=self.data, held=self.held, halves=self.halves,
            record=record,
        )  # fmt: skip
        trainer = make_trainer(config, run, epochs=settings.epochs)
        fit(trainer, module, CombinedLoader(self.loaders, "min_size"), run)
        module.to(trainer.strategy.root_device)
        epoch = load_checkpoint(run.checkpoint("last"))["epoch"]
        with eager(config.trainer):
            return self._derive(module, record, epoch)

    def _derive(self, module: BilevelSearch, record: ArchitectureRecord, epoch: int) -> AnyGenotype:
        """Return the genotype of a search that is over after ``epoch`` (from 0), as ``search.derivation`` says.

        All that an epoch sets at its start is set here, for a search that was interrupted after its last epoch.
        """
        assert self.data is not None
        settings = self.settings
        seed_everything(self.config.seed)
        module.start_epoch(epoch)
        for loader in self.loaders.values():
            loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        if settings.derivation == "perturbation":
            return derive_by_perturbation(module, record, self.loaders)
        if settings.derivation == "retrieval" and self.held is not None:
            batches = islice(self.loaders["weights"], settings.retrieval.batches)
            images = [module.augment(batch["images"].to(module.device)) for batch in batches]
            score = SupernetScore(module.network, self.data, self.held, images, self.config)
            return derive_by_retrieval(score, record, settings)
        return module.monitor.choose_genotype(module.supernet, epoch)


def method(settings: SearchConfig) -> str:
    """Return how a genotype was found, in words."""
    relaxation = settings.relaxation
    parts = ["darts", f"order {settings.order}" + (f" ({settings.hessian})" if settings.order == 2 else "")]
    parts += [relaxation.kind] if relaxation.kind != "softmax" else []
    parts += [f"1/{relaxation.partial_channels} of the channels"] if relaxation.partial_channels > 1 else []
    parts += [f"derived by {settings.derivation}"] if settings.derivation != "strongest" else []
    return ", ".join(parts)
