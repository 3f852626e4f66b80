"""The figures of every epoch of a search (collapse, entropy of the alphas, retrieval), which choose the genotype."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from dcs_nas.config import GuardConfig, SearchConfig
from dcs_nas.models.supernet import Supernet, frozen_statistics, recalibrate_statistics
from dcs_nas.processes import get_rank, get_world_size
from dcs_nas.space import AnyGenotype
from dcs_nas.strategies.gradients import dominant_eigenvalue
from dcs_nas.strategies.passes import Pass, SearchLoss
from dcs_nas.strategies.record import ArchitectureRecord, alpha_entropy
from dcs_nas.training.joint_batch import average_buffers, sum_over_processes
from dcs_nas.training.nonfinite import NonFiniteError

log = logging.getLogger(__name__)


class EpochMonitor:
    """Records the architecture, guards against collapse and validates by retrieval.

    Args:
        settings: of the search.
        record: where alphas and genotypes go.
        validate: returns the mAP of the network on identities held out.
    """

    def __init__(self, settings: SearchConfig, record: ArchitectureRecord, validate: Callable[[], float]) -> None:
        self.settings, self.record, self._validate = settings, record, validate
        self.guard = CollapseGuard(settings.guard)
        self.best: tuple[float, int] | None = None

    def measure(self, epoch: int, loss: SearchLoss, recent: Pass | None, *, validate: bool) -> dict[str, float]:
        """Return the figures of an epoch and write its architecture; ``recent`` is its last architecture pass."""
        supernet = loss.supernet
        genotype = self.record.genotype(supernet, epoch)
        entropy = self.record.space.group(alpha_entropy(supernet.mixture_weights()))
        skips = genotype.skips()
        figures = {f"entropy/{name}": value for name, value in entropy.items()}
        figures |= {f"skips/{kind}": float(count) for kind, count in skips.items()}
        if recent is not None and epoch >= self.settings.warmup_epochs:
            figures |= self._collapse(epoch, loss, recent, genotype, skips.get("normal", 0))
        if validate:
            figures |= self._retrieval(epoch, loss, genotype, recent)
        if get_rank() == 0:
            self.record.write(supernet, epoch)
        return figures

    def choose_genotype(self, supernet: Supernet, epoch: int) -> AnyGenotype:
        """Return the genotype of a search that ends after ``epoch``: of the best one, the last good one, or this."""
        if self.settings.choose == "best" and self.best is not None:
            return self.record.read(self.best[1])
        if self.guard.stopped and self.guard.last_good is not None:
            return self.record.read(self.guard.last_good)
        return self.record.genotype(supernet, epoch)

    def state(self) -> dict[str, Any]:
        """Return plain data to resume from."""
        return {"guard": self.guard.state(), "best": self.best}

    def load(self, state: dict[str, Any]) -> None:
        """Resume from ``state()``."""
        self.guard.load(state["guard"])
        self.best = tuple(state["best"]) if state["best"] else None

    def _collapse(
        self, epoch: int, loss: SearchLoss, recent: Pass, genotype: AnyGenotype, skips: int
    ) -> dict[str, float]:
        figures: dict[str, float] = {}
        before = [(buffer, buffer.clone()) for buffer in loss.network.buffers()]
        for measure in (self._curvature, self._gap):
            try:
                figures |= measure(loss, recent, genotype)
            except NonFiniteError as error:
                log.warning("a figure of epoch %d is left out: %s", epoch + 1, error)
                for buffer, value in before:  # a momentum of 0 times infinity is NaN
                    buffer.copy_(value)
        reason = self.guard.judge(epoch, skips, figures.get("guard/eigenvalue"))
        if reason is not None:
            log.warning("collapse in epoch %d: %s", epoch + 1, reason)
        return figures

    def _curvature(self, loss: SearchLoss, recent: Pass, genotype: AnyGenotype) -> dict[str, float]:
        """Return the dominant eigenvalue of the architecture loss's Hessian over the alphas, on some images."""
        guard, alphas = self.settings.guard, list(loss.supernet.alphas().values())
        if not guard.eigenvalue_iterations:
            return {}
        part = recent.first(max(2, guard.eigenvalue_images // get_world_size()))
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
        """Return how much higher the loss of the one-hot supernet is than the mixture's, on the same images."""
        if not self.settings.guard.gap:
            return {}
        with frozen_statistics(loss.network):
            recent.loss(expected=True)
            mixture = float(recent.terms["loss"])
            with loss.supernet.fix_to(genotype):
                recent.loss(expected=True)
        return {"guard/gap": float(recent.terms["loss"]) - mixture}

    def _retrieval(self, epoch: int, loss: SearchLoss, genotype: AnyGenotype, recent: Pass | None) -> dict[str, float]:
        """Return the mAP of the mixture and of the derived network with the supernet's weights; the latter chooses."""
        figures = {"validation/mAP": self._validate()}
        if recent is not None:
            run = partial(_average_buffers, recent, loss)
            with loss.supernet.fix_to(genotype), recalibrate_statistics(loss.network, run):
                figures["validation/mAP_derived"] = self._validate()
        score = figures.get("validation/mAP_derived", figures["validation/mAP"])
        if epoch >= self.settings.warmup_epochs and (self.best is None or score > self.best[0]):
            self.best = (score, epoch)
        return figures


def _average_buffers(recent: Pass, loss: SearchLoss) -> None:
    """Run a pass, and average the batch statistics over all processes."""
    recent.loss()
    average_buffers(loss.network)


class CollapseGuard:
    """Judges an epoch by its genotype and eigenvalue, and remembers the last epoch that was good.

    Skips: more than ``max_skips`` in the normal cell (DARTS+, arXiv 1909.06035, criterion 1). Eigenvalue: with m(t) the
    mean over the ``window`` epochs up to t, m(t - window) / m(t) < ``ratio``; the last good epoch is then t - window
    (RobustDARTS, arXiv 1909.09656, section 4.3).
    """

    def __init__(self, settings: GuardConfig) -> None:
        self.settings = settings
        self.eigenvalues: dict[int, float] = {}
        self.last_good: int | None = None
        self.reason: str | None = None

    @property
    def stopped(self) -> bool:
        """True if the search has to stop."""
        return self.reason is not None and self.settings.action == "stop"

    def judge(self, epoch: int, skips: int, eigenvalue: float | None = None) -> str | None:
        """Return why this epoch (from 0) has collapsed, or None; ``skips`` are those of the normal cell."""
        if eigenvalue is not None:
            self.eigenvalues[epoch] = eigenvalue
        if (grown := self._growth(epoch)) is not None:
            self.last_good = epoch - self.settings.window
            self.reason = f"the dominant eigenvalue grew {grown:.3g} times in {self.settings.window} epochs"
        elif self.settings.max_skips is not None and skips > self.settings.max_skips:
            self.reason = f"the normal cell has {skips} skip connections, more than {self.settings.max_skips}"
        else:
            self.last_good, self.reason = epoch, None
        return self.reason

    def state(self) -> dict[str, Any]:
        """Return plain data to resume from."""
        return {"eigenvalues": dict(self.eigenvalues), "last_good": self.last_good, "reason": self.reason}

    def load(self, state: dict[str, Any]) -> None:
        """Resume from ``state()``."""
        self.eigenvalues = {int(epoch): float(value) for epoch, value in state["eigenvalues"].items()}
        self.last_good, self.reason = state["last_good"], state["reason"]

    def _growth(self, epoch: int) -> float | None:
        window = self.settings.window
        means = [
            [abs(self.eigenvalues[e]) for e in range(end - window + 1, end + 1) if e in self.eigenvalues]
            for end in (epoch - window, epoch)
        ]
        if any(len(values) < window for values in means):
            return None
        before, now = (sum(values) / window for values in means)
        return now / before if before < self.settings.ratio * now and before > 0 else None
