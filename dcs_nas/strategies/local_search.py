"""The strategy ``local``: local search (White et al., arXiv 2005.02960)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dcs_nas.seeds import mix_seed
from dcs_nas.space import AnyGenotype
from dcs_nas.strategies.trial_strategy import TrialStrategy
from dcs_nas.strategies.trials import Proposal, Trial


class LocalSearch(TrialStrategy):
    """A local search from the best of some random genotypes to better neighbours; it restarts from local optima.

    Attributes:
        center: the trial whose neighbours are tried.
    """

    center: Trial | None = None
    _neighbors: dict[str, AnyGenotype]

    def propose(self, number: int, pending: Sequence[Proposal]) -> Proposal | None:
        if self.center is not None and len(self.observed) >= self._start:
            known = self.list_known(pending)
            for identity, genotype in self._neighbors.items():
                if identity not in known:
                    return Proposal(genotype=genotype, parent=self.center.number)
            if pending:
                return None
        return self.draw_new(number, pending)

    def observe(self, trial: Trial) -> None:
        super().observe(trial)
        if trial.parent is None:
            if self.center is None or self._knows_all or trial.score > self.center.score:
                self._go_to(trial)
        elif self.settings.trials.local.neighbors == "first":
            if self.center is not None and trial.parent == self.center.number and trial.score > self.center.score:
                self._go_to(trial)
        else:
            self._climb()

    @property
    def _knows_all(self) -> bool:
        """True if every neighbour of the center has been tried."""
        return set(self._neighbors) <= set(self._identities)

    @property
    def _start(self) -> int:
        return self.settings.trials.local.start

    def _go_to(self, trial: Trial) -> None:
        self.center = trial
        random = np.random.default_rng(mix_seed(self.config.seed, 11, trial.number))
        self._neighbors = {each.identity(): each for each in self.neighborhood.random(trial.genotype, random)}

    def _climb(self) -> None:
        """Move to the best neighbour while all are known and one is better."""
        scored = dict(zip(self._identities, self.observed))
        while self.center is not None and self._knows_all:
            best = max((scored[identity] for identity in self._neighbors), key=lambda t: t.score, default=self.center)
            if best.score <= self.center.score:
                return
            self._go_to(best)
