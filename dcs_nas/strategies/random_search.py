"""The strategy ``random``: genotypes drawn uniformly."""

from __future__ import annotations

from collections.abc import Sequence

from dcs_nas.runs import RunFolder
from dcs_nas.space import AnyGenotype
from dcs_nas.strategies.record import write_trial_record
from dcs_nas.strategies.trial_strategy import TrialStrategy, count_parameters
from dcs_nas.strategies.trials import Proposal


class RandomSearch(TrialStrategy):
    """Genotypes drawn uniformly, each from its own stream; a single one is drawn and not trained."""

    @property
    def trains(self) -> bool:
        return self.settings.trials.trials > 1

    def propose(self, number: int, pending: Sequence[Proposal]) -> Proposal | None:
        return self.draw_new(number, pending)

    def search(self, run: RunFolder) -> AnyGenotype:
        if self.trains:
            return super().search(run)
        origin = self.origin("drawn")
        genotype = self.fit(self.kind.random_genotype(self.space, self.spec, self.random(0), origin=origin))
        run.write_metrics(0, {"parameters": count_parameters(self.kind.build_fixed_network(genotype))})
        write_trial_record(run, 0, genotype, self.space)
        return genotype
