"""The bilevel search as a Lightning module.

min over alpha of L_val(w*(alpha), alpha), w*(alpha) = argmin over w of L_train(w, alpha), by alternating steps (DARTS,
arXiv 1806.09055, algorithm 1): alphas on one half of the training images, weights on the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from dcs_nas.config import Config, SearchConfig
from dcs_nas.data.datamodule import Batch, Images, ReidData
from dcs_nas.losses import Objective, PrototypeMemory
from dcs_nas.models.blocks import set_temperature
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.models.supernet import Supernet, frozen_statistics
from dcs_nas.runs import RunFolder
from dcs_nas.strategies.gradients import WeightStep, second_order
from dcs_nas.strategies.monitor import EpochMonitor
from dcs_nas.strategies.passes import Pass, SearchLoss
from dcs_nas.strategies.record import ArchitectureRecord
from dcs_nas.training.acceleration import choose_fused, eager
from dcs_nas.training.joint_batch import sum_gradients, sum_over_processes
from dcs_nas.training.loop import TrainingLoop
from dcs_nas.training.memory import StepMemory, measure_step
from dcs_nas.training.objective import center_groups, refresh_objective, restore_center_rate


class BilevelSearch(TrainingLoop):
    """Trains a supernet's weights and alphas in turn; a batch is ``{"weights": ..., "architecture": ...}``.

    Without a half for the architecture (``search.weight_share`` 1) the alphas stay.

    Every pass seeds the random generators from (seed, epoch, step, half), so that the passes of a second-order step
    draw the same. The architecture step computes no gradients of weights (order 1), the weight step none of alphas.

    The arguments are those of ``TrainingLoop``, and:

    Args:
        halves: images by half.
        record: where alphas and genotypes go.

    Attributes:
        weights: what the lower level optimizes, the supernet's weights and the heads.
        alphas: what the upper level optimizes.
        monitor: measures every epoch.
    """

    shown = ("weights/loss", "architecture/loss", "weights/ib", "entropy/normal", "skips/normal", "validation/mAP")

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
        record: ArchitectureRecord,
    ) -> None:
        super().__init__(network, objective, config, run=run, data=data, held=held)
        self.memory: PrototypeMemory | None = None
        self.weight_memory: PrototypeMemory | None = None
        if self.settings.has_memory:
            self.memory = _memory(self.settings, data.num_identities, network)
        if self.settings.memory.levels == "both":
            self.weight_memory = _memory(self.settings, data.num_identities, network)
            network.unread = frozenset(range(len(network.heads)))
        memories = {"architecture": self.memory, "weights": self.weight_memory}
        self.loss = SearchLoss(network, objective, memories, config, halves=halves)
        self.monitor = EpochMonitor(self.settings, record, self.validate)
        self.recent: Pass | None = None
        self.alphas = list(self.supernet.alphas().values())
        upper = {id(alpha) for alpha in self.alphas}
        lower = [(n, p) for n, p in network.named_parameters() if p.requires_grad and id(p) not in upper]
        self.weights = [p for _, p in lower]
        self.checked = [(lower, self.settings.grad_clip), (list(self.supernet.alphas().items()), None)]

    @property
    def settings(self) -> SearchConfig:
        return self.config.section("search")

    @property
    def supernet(self) -> Supernet:
        return self.network.backbone  # type: ignore[return-value]

    def configure_optimizers(self) -> tuple[list[Optimizer], list[Any]]:
        s = self.settings
        groups = [{"params": self.weights}, *center_groups(self.objective)]
        weights = SGD(groups, lr=s.lr, momentum=s.momentum, weight_decay=s.weight_decay)
        fused = choose_fused(self)
        alphas = Adam(self.alphas, s.arch_lr, s.arch_betas, weight_decay=s.arch_weight_decay, fused=fused)
        return [weights, alphas], [CosineAnnealingLR(weights, T_max=s.epochs, eta_min=s.lr_min)]

    def on_train_epoch_start(self) -> None:
        restore_center_rate(self.optimizer_list()[0])
        self.start_epoch(self.current_epoch)

    def start_epoch(self, epoch: int) -> None:
        """Set the temperatures of an epoch (from 0), whose number seeds the random draws."""
        s, self._epoch = self.settings, epoch
        set_temperature(self.network, self.config.dcs.temperature(epoch))
        self.supernet.set_temperature(s.relaxation.at(epoch, s.epochs))

    def step(self, batch: dict[str, Batch], batch_idx: int) -> None:
        passes = {half: self.prepare(half, images, batch_idx) for half, images in batch.items()}
        weight_optimizer, alpha_optimizer = self.optimizer_list()
        if "architecture" in passes and self.current_epoch >= self.settings.warmup_epochs:
            self._architecture_step(passes, weight_optimizer, alpha_optimizer)
        elif self.weight_memory is not None:
            self._fill_memory(passes["architecture"])
        self._weight_step(passes["weights"], weight_optimizer)
        self.recent = passes.get("architecture")

    def prepare(self, half: str, batch: Batch, step: int) -> Pass:
        """Return a batch of one half, augmented, on the module's device."""
        place = f"the {half} step {step + 1} of epoch {self._epoch + 1}"
        key = (self.config.seed, self._epoch, step)
        return Pass(self.loss, half, batch, self.augment(batch["images"]), key=key, place=place)

    def _architecture_step(self, passes: dict[str, Pass], weight_optimizer: Any, optimizer: Any) -> None:
        alphas = self.alphas
        optimizer.zero_grad(set_to_none=True)
        if self.settings.order == 1:
            with without_gradients(self.weights):
                self.manual_backward(passes["architecture"].loss())
            sum_gradients(alphas)
        else:
            step = WeightStep.of(weight_optimizer, self.weights)
            with frozen_statistics(self.network):
                both_terms = second_order(
                    passes["weights"].loss,
                    passes["architecture"].loss,
                    self.weights,
                    alphas,
                    step,
                    hessian=self.settings.hessian,
                    reduce=sum_over_processes,
                )
            for alpha, gradient in zip(alphas, both_terms):
                alpha.grad = gradient
        self._finish(passes["architecture"], optimizer)

    @torch.no_grad()
    def _fill_memory(self, current: Pass) -> None:
        """Update the alphas' own memory while they rest: it would be empty in their first step."""
        assert self.memory is not None
        with frozen_statistics(self.network):
            current.loss()
        self.memory.update(current.features, current.labels)

    def _weight_step(self, current: Pass, optimizer: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        with without_gradients(self.alphas):
            loss = current.loss()
            learns = loss.requires_grad  # not where every path drawn is ``none``, and no term has weights of its own
            if learns:
                self.manual_backward(loss)
                sum_gradients([*self.weights, *self.objective.parameters()])
        self._finish(current, optimizer, step=learns)

    def _finish(self, current: Pass, optimizer: Any, *, step: bool = True) -> None:
        """Step the optimizer, log the terms of the pass and learn the statistics of its identities."""
        self._place, self._files = current.place, current.files
        if step:
            optimizer.step()
        self._means.add(current.terms, f"{current.half}/")
        if current.half == "weights" or self.memory is not None:
            self.objective.update(current.features, current.labels, current.inputs)
        memory = self.weight_memory if current.half == "weights" and self.weight_memory is not None else self.memory
        if memory is not None:
            memory.update(current.features, current.labels)

    def rates(self) -> dict[str, float]:
        temperature = self.settings.relaxation.at(self.current_epoch, self.settings.epochs)
        return {**super().rates(), "relaxation_temperature": temperature}

    def after_epoch(self) -> dict[str, float]:
        self.lr_schedulers().step()  # type: ignore[union-attr]
        learned = [images for half, images in self.loss.halves.items() if half == "weights" or self.memory is not None]
        with self.supernet.hold_draw(expected=True):
            refresh_objective(self.objective, self.network, learned, self.config)
        with eager(self.config.trainer):
            figures = self.monitor.measure(
                self.current_epoch, self.loss, self.recent, validate=self.validation_is_due()
            )
        self.recent = None
        self._stop_if_collapsed()
        return figures

    def on_train_start(self) -> None:
        super().on_train_start()
        self._stop_if_collapsed()  # where a search is resumed after its end

    def _stop_if_collapsed(self) -> None:
        if self.monitor.guard.stopped:
            self.trainer.should_stop = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["watch"] = self.monitor.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.monitor.load(checkpoint["watch"])


def _memory(settings: SearchConfig, identities: int, network: ReidNetwork) -> PrototypeMemory:
    options = settings.memory.model_dump(exclude={"levels"})
    return PrototypeMemory(num_identities=identities, feature_dim=network.num_features, **options)


def measure_search(network: ReidNetwork, config: Config, *, device: torch.device | None = None) -> StepMemory:
    """Return what a step of a bilevel search keeps: ``measure_step`` of its most expensive pass."""
    settings: SearchConfig = config.section("search")

    def step(network: ReidNetwork, loss: Callable[[], Tensor]) -> None:
        supernet = cast(Supernet, network.backbone)
        alphas = list(supernet.alphas().values())

        def draw_step() -> Tensor:
            with supernet.hold_draw(whole=supernet.shares_weights):
                return loss()

        if settings.order == 2:
            upper = {id(alpha) for alpha in alphas}
            weights = [p for p in network.parameters() if p.requires_grad and id(p) not in upper]
            coming = WeightStep(settings.lr, settings.momentum, settings.weight_decay)
            second_order(draw_step, draw_step, weights, alphas, coming, hessian=settings.hessian)
        else:
            with without_gradients(alphas):
                draw_step().backward()

    return measure_step(network, config, states=1, step=step, device=device)


@contextmanager
def without_gradients(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Exclude these parameters from backward passes within the context."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
