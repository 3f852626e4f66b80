"""The strategy ``halving``: asynchronous successive halving over random genotypes (ASHA, arXiv 1810.05934)."""

from __future__ import annotations

from collections.abc import Sequence

from dcs_nas.strategies.trial_strategy import TrialStrategy
from dcs_nas.strategies.trials import Proposal, continue_trial


class Halving(TrialStrategy):
    """Promotes what is among the best 1 / ``factor`` of a rung, the highest rung first; else draws a new genotype.

    Algorithm 2 of Li et al., arXiv 1810.05934. A promoted genotype continues its own training.
    """

    def propose(self, number: int, pending: Sequence[Proposal]) -> Proposal | None:
        halving = self.settings.trials.halving
        for rung in reversed(range(halving.rungs - 1)):
            share, next_share = halving.share(rung), halving.share(rung + 1)
            ended = sorted((t for t in self.observed if t.share == share), key=lambda t: (-t.score, t.number))
            promoted = {t.first for t in self.observed if t.share == next_share}
            promoted |= {p.continues for p in pending if p.share == next_share and p.continues is not None}
            for trial in ended[: len(ended) // halving.factor]:
                if trial.first not in promoted and not trial.problem:
                    return continue_trial(trial, next_share)
        drawn = sum(each.continues is None for each in (*self.observed, *pending))
        if drawn == self.settings.trials.trials:
            return None
        proposal = self.draw_new(number, pending)
        return None if proposal is None else proposal.model_copy(update={"share": halving.share(0)})
