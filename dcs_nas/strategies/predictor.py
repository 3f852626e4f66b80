"""The strategy ``predictor``: a predictor of scores chooses what is trained briefly; the best continue to the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from dcs_nas.seeds import mix_seed
from dcs_nas.space import AnyGenotype
from dcs_nas.strategies.evidence import Evidence
from dcs_nas.strategies.neighbors import encode_choices
from dcs_nas.strategies.surrogate import encode_features, expect_improvement, predict
from dcs_nas.strategies.trial_strategy import TrialStrategy
from dcs_nas.strategies.trials import Proposal, continue_trial, seconds_of, working


class PredictorSearch(TrialStrategy):
    """Trains the most promising genotype by a predictor that learns from encodings and evidence of earlier trials.

    BANANAS (arXiv 1910.11858) with a Gaussian process or trees in place of its ensemble of networks, and the adjacency
    encoding. A new genotype is trained for ``predictor.share`` of the epochs; when all ``trials`` have ended, or the
    minutes left are needed for it, the ``predictor.finish`` best continue to the end.
    """

    _evidence: Evidence | None = None

    @property
    def share(self) -> float:
        """The share of the epochs that a new genotype is trained for."""
        return self.settings.trials.predictor.share

    @property
    def kept(self) -> int | None:
        return self.settings.trials.predictor.finish if self.share < 1 else None

    @property
    def needs_images(self) -> bool:
        return bool(self.settings.trials.evidence)

    def propose(self, number: int, pending: Sequence[Proposal]) -> Proposal | None:
        if not self._may_draw(pending):
            return self._continue_best(pending)
        proposal = self.propose_new(number, pending)
        if proposal is None:
            self.exhausted = not pending  # else a trial that ends may open new ones
            return self._continue_best(pending)
        return proposal.model_copy(update={"share": self.share})

    def _may_draw(self, pending: Sequence[Proposal]) -> bool:
        """Return whether a new genotype may be trained: none once the best continue, or the time is needed for them."""
        trials, begun = self.settings.trials, [*self.observed, *pending]
        continued = any(each.continues is not None for each in begun)
        if self.exhausted or continued or len(begun) >= trials.trials:
            return False
        if trials.minutes is None or not self.observed or self.share == 1:
            return True
        continuing = min(trials.predictor.finish, len(working(self.observed)))
        ahead = len(pending) + 1 + continuing * self._rest()
        mean = sum(trial.seconds for trial in self.observed) / len(self.observed)
        return seconds_of(self.observed) + ahead * mean < 60 * trials.minutes

    def _rest(self) -> float:
        """Return how long continuing to the end takes, as a multiple of the training before."""
        trials = self.settings.trials
        return 1 / self.share - 1 if trials.table else trials.epochs / trials.epochs_of(self.share) - 1

    def _continue_best(self, pending: Sequence[Proposal]) -> Proposal | None:
        """Return the continuation of the best trial that has none, once all new ones have ended, or None."""
        if self.share == 1 or any(proposal.continues is None for proposal in pending):
            return None
        continued = {each.continues for each in (*self.observed, *pending)} - {None}
        left = [trial for trial in working(self.observed) if trial.share < 1 and trial.number not in continued]
        if not left or len(continued) >= self.settings.trials.predictor.finish:
            return None
        return continue_trial(max(left, key=self.rate), 1.0)

    def propose_new(self, number: int, pending: Sequence[Proposal]) -> Proposal | None:
        """Return the proposal of a genotype that has not been tried."""
        known = self.list_known(pending)
        if number < self.settings.trials.predictor.start or not self.observed:
            first = self.first(number, known)
            if first is not None or not self.observed:
                return first
        candidates = self.candidates(self.random(number), known)
        return self.choose_promising(number, candidates, pending) if candidates else None

    def first(self, number: int, known: set[str]) -> Proposal | None:
        """Return one of the first trials, without the predictor."""
        genotype = self.draw(self.random(number), known)
        return None if genotype is None else self.proposal(genotype)

    def candidates(self, random: np.random.Generator, known: set[str]) -> list[AnyGenotype]:
        """Return untried genotypes: neighbours of the best trials, each in turn, and random ones to fill up."""
        settings, candidates = self.settings.trials.predictor, dict[str, AnyGenotype]()
        best = sorted(self.observed, key=lambda trial: (-trial.score, trial.number))[: settings.parents]
        neighbors = [self.neighborhood.random(trial.genotype, random) for trial in best]
        while neighbors and len(candidates) < settings.candidates // 2:
            for iterator in list(neighbors):
                new = next((each for each in iterator if each.identity() not in {*known, *candidates}), None)
                if new is None:
                    neighbors.remove(iterator)
                elif len(candidates) < settings.candidates // 2:
                    candidates[new.identity()] = new
        while len(candidates) < settings.candidates:
            new = self.draw(random, {*known, *candidates})
            if new is None:
                break
            candidates[new.identity()] = new
        return list(candidates.values())

    def choose_promising(self, number: int, candidates: Sequence[AnyGenotype], pending: Sequence[Proposal]) -> Proposal:
        """Return the candidate of the largest expected improvement; pending trials count with their predicted scores.

        So several processes do not train one neighbourhood (Ginsbourger, Le Riche, Carraro, 2010: kriging believer).
        """
        evidence = [self.evidence(genotype) for genotype in candidates]
        trials = [*self.observed, *pending]
        features = encode_features(
            [encode_choices(genotype) for genotype in (*(trial.genotype for trial in trials), *candidates)],
            [*(trial.evidence for trial in trials), *evidence],
        )
        fit = partial(predict, self.settings.trials.predictor, seed=mix_seed(self.config.seed, 12, number))
        scores, count = np.array([trial.score for trial in self.observed]), len(trials)
        if pending:
            mean, _ = fit(features[: len(scores)], scores, features[len(scores) : count])
            scores = np.concatenate([scores, mean])
        gains = expect_improvement(fit(features[:count], scores, features[count:]), float(scores.max()))
        return self.proposal(candidates[int(gains.argmax())])

    def proposal(self, genotype: AnyGenotype) -> Proposal:
        """Return a genotype as a proposal, with its evidence."""
        return Proposal(genotype=genotype, evidence=dict(self.evidence(genotype)))

    def evidence(self, genotype: AnyGenotype) -> Mapping[str, float]:
        """Return the scores of a genotype without training."""
        if self._evidence is None:
            self._evidence = Evidence(self, self.settings.trials.evidence)
        return self._evidence(genotype)
