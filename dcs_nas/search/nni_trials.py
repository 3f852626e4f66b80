"""NNI's multi-trial strategies on our trials, in this process: no experiment manager, no port, no files of NNI's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dcs_nas.models.cell_space import CellSpace
from dcs_nas.models.nni_imports import (
    Evaluator,
    ExecutableModelSpace,
    SequentialExecutionEngine,
    SimplifiedModelSpace,
    Strategy,
    report_final_result,
)
from dcs_nas.search.trials import Trials
from dcs_nas.space import Genotype

ToGenotype = Callable[[Mapping[str, Any]], Genotype]


def explore(strategy: Strategy, space: CellSpace, trials: Trials, to_genotype: ToGenotype) -> None:
    """Let an NNI strategy choose the trials until their budget is spent or it finds no new sample.

    ``to_genotype`` turns one of its samples into a genotype.
    """
    with _without_echoes():
        strategy(SimplifiedModelSpace.from_model(space, _TrialEvaluator(trials, to_genotype)), _Engine(trials))


class _TrialEvaluator(Evaluator):
    """Hands NNI's samples to our trials and their scores back to NNI."""

    def __init__(self, trials: Trials, to_genotype: ToGenotype) -> None:
        self.trials, self.to_genotype = trials, to_genotype

    def _execute(self, model: ExecutableModelSpace) -> None:
        """NNI's place to evaluate without making its network, whose weights would come from an unknown seed."""
        assert model.sample is not None
        report_final_result(self.trials.score(self.to_genotype(model.sample)))


class _Engine(SequentialExecutionEngine):
    """NNI's engine that runs in this process, with the budget of our trials."""

    def __init__(self, trials: Trials) -> None:
        super().__init__()
        self._trials = trials

    def budget_available(self) -> bool:
        return self._trials.may_begin()


class _Echo(logging.Filter):
    """Drops NNI's messages that only repeat an exception which is raised anyway."""

    messages = (
        "Model %d is interrupted. Exiting gracefully...",
        "Model %d fails to be executed.",
        "Strategy is interrupted.",
        "Strategy failed to execute.",
        "%s has no metric. Skip.",
    )

    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg not in self.messages


@contextmanager
def _without_echoes() -> Iterator[None]:
    names = ("execution.sequential", "strategy.base", "strategy.evolution")
    loggers = [logging.getLogger(f"nni.nas.{name}") for name in names]
    echo = _Echo()
    for logger in loggers:
        logger.addFilter(echo)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(echo)
