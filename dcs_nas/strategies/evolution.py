"""The strategy ``evolution``: regularized evolution (Real et al., arXiv 1802.01548, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence

from dcs_nas.strategies.trial_strategy import TrialStrategy
from dcs_nas.strategies.trials import Proposal


class Evolution(TrialStrategy):
    """The best of a random sample, with replacement, of the latest ``population`` trials has a child.

    A child differs in a single choice and is new: a genotype is not trained twice, which ours adds to the algorithm.
    """

    def propose(self, number: int, pending: Sequence[Proposal]) -> Proposal | None:
        settings = self.settings.trials
        population = self.observed[-settings.population :]
        if number < settings.population or not population:
            return self.draw_new(number, pending)
        random, known = self.random(number), self.list_known(pending)
        sample = [population[i] for i in random.integers(len(population), size=settings.sample)]
        parent = max(sample, key=lambda trial: trial.score)
        for child in self.neighborhood.random(parent.genotype, random):
            if child.identity() not in known:
                return Proposal(genotype=child, parent=parent.number)
        return self.draw_new(number, pending)
