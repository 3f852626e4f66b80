"""NNI 3.0's own strategies on the space, data and loss of a search.

Its one-shot strategies build their own supernet of our ``CellSpace`` and take their own steps. Its multi-trial ones run
in this process by its sequential engine: no experiment manager, no port, nothing written outside the run folder. Its
samples may let a node read one state twice. E edges of a cell, O candidates that compute something, A candidates of
attention.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning.utilities.combined_loader import CombinedLoader
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from dcs_nas.config import Config, SearchConfig
from dcs_nas.data.datamodule import HALVES, Batch, Images, ReidData, file_names
from dcs_nas.errors import InputError
from dcs_nas.losses import Objective
from dcs_nas.models.cell_space import CellSpace
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.models.nni_imports import (
    DARTS,
    DifferentiableMixedCell,
    DifferentiableMixedLayer,
    Evaluator,
    ExecutableModelSpace,
    GumbelDARTS,
    LightningModule,
    Random,
    RegularizedEvolution,
    SequentialExecutionEngine,
    SimplifiedModelSpace,
    report_final_result,
)
from dcs_nas.runs import RunFolder
from dcs_nas.seeds import seed_everything
from dcs_nas.space import AnyGenotype, require_settings
from dcs_nas.strategies.base import ReadProgress, Strategy, on_one_device
from dcs_nas.strategies.trial_strategy import TrialStrategy
from dcs_nas.strategies.trials import Proposal, TrialFolder
from dcs_nas.training.loop import TrainingLoop
from dcs_nas.training.nonfinite import require_finite
from dcs_nas.training.objective import (
    batch_terms,
    build_objective,
    center_groups,
    restore_center_rate,
    update_objective,
)
from dcs_nas.training.trainer import fit, make_trainer

log = logging.getLogger(__name__)


class NniOneShot(Strategy):
    """NNI's DARTS or GumbelDARTS."""

    def __init__(self, config: Config, progress: ReadProgress) -> None:
        super().__init__(on_one_device(config))
        _require_cells(self)
        settings = self.settings
        self.data = data = ReidData(self.config, progress=progress)
        self.halves, self.held = data.load_search_halves(share=settings.weight_share, validation=settings.validation)
        self.loaders = {
            name: data.make_identity_loader(self.halves[half], stream=i, what=half)
            for i, (name, half) in enumerate(zip(("train", "val"), HALVES))
        }
        seed_everything(config.seed)
        self.nni = {"nni.darts": DARTS, "nni.gumbel": GumbelDARTS}[settings.strategy](
            arc_learning_rate=settings.arch_lr,
            gradient_clip_val=settings.grad_clip,
            warmup_epochs=settings.warmup_epochs,
        )
        self.network = self.with_heads(self.nni.mutate_model(_nni_space(self)), data.num_identities)
        self.objective = build_objective(
            config.loss, num_identities=data.num_identities, features=self.network.num_features
        )

    def search(self, run: RunFolder) -> AnyGenotype:
        assert self.data is not None
        assert self.network is not None

        def record(epoch: int) -> None:
            write_architecture(run, supernet, genotype(epoch), epoch)

        def genotype(epoch: int) -> AnyGenotype:
            origin = self.origin("one-shot", epoch)
            return self.kind.genotype_of(module.export(), self.space, self.spec, origin=origin)

        supernet: Any = self.network.backbone
        training = OneShotTraining(
            self.network, self.objective, self.config, run=run, data=self.data, held=self.held, halves=self.halves,
            record=record,
        )  # fmt: skip
        module = self.nni.configure_oneshot_module(training)
        alphas = _in_fixed_order(module)
        module.arch_parameters = lambda: alphas
        epochs = self.settings.epochs
        fit(make_trainer(self.config, run, epochs=epochs), module, CombinedLoader(self.loaders, "min_size"), run)
        return genotype(epochs - 1)


class OneShotTraining(TrainingLoop, LightningModule):
    """The module that NNI's strategies train: the loss of a batch and the optimizer of the weights.

    NNI's own module wraps this one. It calls ``training_step`` with even numbers for the architecture's half of the
    images and odd ones for the weights', steps both optimizers, and hands the hooks of an epoch on. ``record`` is
    called with each epoch (from 0) once it is over.
    """

    shown = ("weights/loss", "architecture/loss", "weights/ib", "validation/mAP")

    def __init__(
        self,
        network: ReidNetwork,
        objective: Objective,
        config: Config,
        *,
        run: RunFolder,
        data: ReidData,
        held: Images | None,
        halves: dict[str, Images],
        record: Callable[[int], None],
    ) -> None:
        super().__init__(network, objective, config, run=run, data=data, held=held)
        self.automatic_optimization = True  # as NNI's module demands, which takes the steps
        self._halves, self._record = halves, record

    @property
    def model(self) -> nn.Module:
        """The supernet, under the name that NNI reads."""
        return self.network.backbone

    @property
    def settings(self) -> SearchConfig:
        return self.config.section("search")

    def configure_optimizers(self) -> tuple[list[Optimizer], list[Any]]:
        """NNI takes the alphas out of this optimizer and adds its own for them."""
        s = self.settings
        centers = set(self.objective.parameters())
        parameters = [p for p in self.parameters() if p.requires_grad and p not in centers]
        groups = [{"params": parameters}, *center_groups(self.objective)]
        weights = SGD(groups, lr=s.lr, momentum=s.momentum, weight_decay=s.weight_decay)
        return [weights], [CosineAnnealingLR(weights, T_max=s.epochs, eta_min=s.lr_min)]

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        restore_center_rate(self.optimizer_list()[0])
        self._rates = super().rates()  # NNI's module lowers the rate before the epoch's end

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        half = HALVES[1 - batch_idx % 2]
        seed_everything(self.config.seed, self.current_epoch, batch_idx)
        images, labels = self.augment(batch["images"]), batch["labels"]
        embedding = self.network(images)
        terms = batch_terms(self.objective, embedding, labels, images)
        place = f"the {half} step {batch_idx // 2 + 1} of epoch {self.current_epoch + 1}"
        require_finite(terms, where=place, files=file_names(self._halves[half], batch["indices"]), skippable=False)
        if half == "weights":
            update_objective(self.objective, embedding, labels, images)
        self._means.add(terms, f"{half}/")
        return terms["loss"]

    def rates(self) -> dict[str, float]:
        return self._rates

    def after_epoch(self) -> dict[str, float]:
        self.objective.end_epoch()
        figures = {"validation/mAP": self.validate()} if self.validation_is_due() else {}
        self._record(self.current_epoch)
        return figures


class NniTrials(TrialStrategy):
    """NNI's Random or RegularizedEvolution: it asks for scores itself, so a resumed search answers from disk."""

    def __init__(self, config: Config, progress: ReadProgress) -> None:
        super().__init__(config, progress)
        _require_cells(self)

    def search(self, run: RunFolder) -> AnyGenotype:
        trials = self.open_trials(run)

        def score(model: ExecutableModelSpace) -> float:
            assert model.sample is not None
            genotype = self.kind.genotype_of(model.sample, self.space, self.spec, origin=self.trial_origin)
            return self._score(Proposal(genotype=self.fit(genotype)), trials)

        with _without_echoes():
            model = SimplifiedModelSpace.from_model(_nni_space(self), _TrialEvaluator(score))
            self._strategy()(model, _Engine(trials))
        if trials.may_begin():
            log.warning("%s found no more new genotypes after %d trials", self.settings.strategy, len(trials.done))
        return self.best().genotype

    def _strategy(self) -> Any:
        settings, seed = self.settings.trials, self.config.seed
        if self.settings.strategy == "nni.random":
            return Random(seed=seed)
        return RegularizedEvolution(population_size=settings.population, sample_size=settings.sample, seed=seed)

    def _score(self, proposal: Proposal, trials: TrialFolder) -> float:
        """Return the score of the next trial, from disk or by training."""
        number = len(trials.done)
        trial = trials.read(number)
        if trial is None:
            trial = trials.write(number, proposal, self.evaluate(number, proposal, trials))
        elif trial.genotype != proposal.genotype:
            raise InputError(
                f"{trials.folder(number).path} holds another genotype than this trial now has; "
                "was it begun with other versions? start again with --overwrite"
            )
        trials.end(trial)
        self.observe(trial)
        return trial.score


class _TrialEvaluator(Evaluator):
    """Hands NNI's samples to our trials and their scores back to NNI."""

    def __init__(self, score: Callable[[ExecutableModelSpace], float]) -> None:
        self._score = score

    def _execute(self, model: ExecutableModelSpace) -> None:
        """Evaluate without building NNI's network, whose weights would have an unknown seed."""
        report_final_result(self._score(model))


class _Engine(SequentialExecutionEngine):
    """NNI's engine that runs in this process, with the budget of our trials."""

    def __init__(self, trials: TrialFolder) -> None:
        super().__init__()
        self._trials = trials

    def budget_available(self) -> bool:
        return self._trials.may_begin()


@contextmanager
def _without_echoes() -> Iterator[None]:
    """Silence NNI's log of exceptions, which it raises too, within the context."""
    loggers = [logging.getLogger(f"nni.nas.{name}") for name in ("execution.sequential", "strategy")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def _require_cells(strategy: Strategy) -> None:
    require_settings(strategy.space, {f"strategy {strategy.settings.strategy}": True})


def _nni_space(strategy: Strategy) -> CellSpace:
    """Return the space as NNI is given it: without ``none``, as in its own DARTS space.

    NNI's one-shot cells have a path of zero weight anyway, and no genotype that we derive holds it.
    """
    space: Any = strategy.space
    return CellSpace(space.model_copy(update={"operations": tuple(space.computing)}), strategy.spec)


def _in_fixed_order(module: Any) -> list[nn.Parameter]:
    """Return NNI's alphas in the modules' order: its own is a set's; checkpoints need a fixed one."""
    alphas = {id(alpha) for alpha in module.arch_parameters()}
    return [parameter for parameter in module.parameters() if id(parameter) in alphas]


def write_architecture(run: RunFolder, supernet: nn.Module, genotype: AnyGenotype, epoch: int) -> None:
    """Write the record of an epoch as our own search does; NNI's weight of no edge stands under ``none``.

    NNI's alphas are (E, O + 1) of a kind of cell, whose last column stands for no edge, and (1, A) of attention.
    """
    alphas: dict[str, Tensor] = {}
    for module in supernet.modules():
        if isinstance(module, (DifferentiableMixedCell, DifferentiableMixedLayer)):
            alphas[str(module.label)] = torch.stack([alpha.detach() for alpha in module.arch_parameters()])
    columns = [*genotype.space.computing, "none"]
    ours = [op for op in genotype.space.operations if op in columns]
    ours += [op for op in columns if op not in ours]  # ``none`` where the space has it, else last
    order = [columns.index(op) for op in ours]
    alphas = {name: rows if name.endswith("_attention") else rows[:, order] for name, rows in alphas.items()}
    weights = {name: torch.softmax(rows, dim=-1) for name, rows in alphas.items()}
    names = {"operations": ours, "attention": list(genotype.space.attention)}
    run.write_epoch(epoch, genotype, names=names, weights=weights, alphas=alphas)
