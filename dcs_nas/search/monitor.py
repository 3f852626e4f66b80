"""What a search looks at after every epoch, writes down, and chooses its genotype by."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from dcs_nas.config import SearchConfig
from dcs_nas.models.supernet import MixedNetwork, frozen_statistics, recalibrated_statistics
from dcs_nas.processes import rank, world
from dcs_nas.search.gradients import dominant_eigenvalue
from dcs_nas.search.guard import CollapseGuard
from dcs_nas.search.passes import Pass, SearchLoss
from dcs_nas.search.record import ArchitectureRecord, alpha_entropy
from dcs_nas.space import AnyGenotype
from dcs_nas.training.joint_batch import average_buffers, sum_over_processes
from dcs_nas.training.nonfinite import NonFiniteError
from dcs_nas.training.validation import validation_is_due

log = logging.getLogger(__name__)


class Watch:
    """Records the architecture, guards against collapse and validates by retrieval.

    Args:
        settings: of the search.
        record: where alphas and genotypes go.
        validate: mAP of the network on people held out, or None.
    """

    def __init__(
        self, settings: SearchConfig, record: ArchitectureRecord, validate: Callable[[], float] | None = None
    ) -> None:
        self.settings, self.record, self._validate = settings, record, validate
        self.guard = CollapseGuard(settings.guard)
        self.best: tuple[float, int] | None = None

    @property
    def stopped(self) -> bool:
        """Whether the guard has ended the search."""
        return self.guard.stopped

    def after_epoch(self, epoch: int, loss: SearchLoss, recent: Pass | None) -> dict[str, float]:
        """Figures of the epoch to log; ``recent`` is its last architecture pass."""
        supernet = loss.supernet
        genotype = self.record.genotype(supernet, epoch)
        entropy = self.record.space.grouped(alpha_entropy(supernet.mixture_weights()))
        figures = {f"entropy/{name}": value for name, value in entropy.items()}
        skips = genotype.skips()
        figures |= {f"skips/{kind}": float(count) for kind, count in skips.items()}
        moving = recent is not None and epoch >= self.settings.warmup_epochs
        if moving and recent is not None:
            for measure in (self._curvature, self._gap):
                try:
                    figures |= measure(loss, recent, genotype)
                except NonFiniteError as error:
                    log.warning("a figure of epoch %d is left out: %s", epoch + 1, error)
            reason = self.guard.judge(epoch, skips.get("normal", 0), figures.get("guard/eigenvalue"))
            if reason is not None:
                log.warning("collapse in epoch %d: %s", epoch + 1, reason)
        s = self.settings
        if self._validate is not None and validation_is_due(epoch, s.validate_every, s.epochs):
            figures |= self._retrieval(epoch, loss, genotype, recent)
        if rank() == 0:
            self.record.write(supernet, epoch)
        return figures

    def chosen(self, supernet: MixedNetwork) -> AnyGenotype:
        """The genotype that the search ends with: of the best epoch, the last good one, or the last."""
        if self.settings.choose == "best" and self.best is not None:
            return self.record.read(self.best[1])
        if self.stopped and self.guard.last_good is not None:
            return self.record.read(self.guard.last_good)
        return self.record.genotype(supernet, self.settings.epochs - 1)

    def state(self) -> dict[str, Any]:
        """Plain data to go on from."""
        return {"guard": self.guard.state(), "best": self.best}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from ``state()``."""
        self.guard.load(state["guard"])
        self.best = tuple(state["best"]) if state["best"] else None

    def _curvature(self, loss: SearchLoss, recent: Pass, genotype: AnyGenotype) -> dict[str, float]:
        """The dominant eigenvalue of the architecture loss's Hessian over the alphas, on some images."""
        guard, alphas = self.settings.guard, list(loss.supernet.alphas().values())
        if not guard.eigenvalue_iterations:
            return {}
        part = recent.first(max(2, guard.eigenvalue_images // world()))
        with frozen_statistics(loss.network):
            value = dominant_eigenvalue(
                lambda: part.loss(expected=True),
                alphas,
                iterations=guard.eigenvalue_iterations,
                reduce=sum_over_processes,
            )
        return {"guard/eigenvalue": value}

    @torch.no_grad()
    def _gap(self, loss: SearchLoss, recent: Pass, genotype: AnyGenotype) -> dict[str, float]:
        """How much higher the loss of the one-hot supernet is than the mixture's, on the same images."""
        if not self.settings.guard.gap:
            return {}
        with frozen_statistics(loss.network):
            recent.loss(expected=True)
            mixture = float(recent.terms["loss"])
            with loss.supernet.fixed_to(genotype):
                recent.loss(expected=True)
        return {"guard/gap": float(recent.terms["loss"]) - mixture}

    def _retrieval(self, epoch: int, loss: SearchLoss, genotype: AnyGenotype, recent: Pass | None) -> dict[str, float]:
        """mAP of the mixture and of the derived network with the supernet's weights; the latter chooses."""
        assert self._validate is not None
        found = {"validation/mAP": self._validate()}
        if recent is not None:
            run = partial(_averaged, recent, loss)
            with loss.supernet.fixed_to(genotype), recalibrated_statistics(loss.network, run):
                found["validation/mAP_derived"] = self._validate()
        score = found.get("validation/mAP_derived", found["validation/mAP"])
        if epoch >= self.settings.warmup_epochs and (self.best is None or score > self.best[0]):
            self.best = (score, epoch)
        return found


def _averaged(recent: Pass, loss: SearchLoss) -> None:
    """A pass whose batch statistics are the mean over all processes."""
    recent.loss()
    average_buffers(loss.network)
