"""A search by trials: one network after another has a trial training and is scored, and every trial is kept on disk."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import Field

from dcs_nas.config import TrialsConfig
from dcs_nas.errors import InputError, TrainingError
from dcs_nas.files import write_text
from dcs_nas.runs import RunFolder
from dcs_nas.settings import Settings, parse, read_yaml, to_yaml
from dcs_nas.space import Genotype
from dcs_nas.strategies.record import write_trial_record

log = logging.getLogger(__name__)


class Outcome(Settings):
    """The outcome of training a network: its score, or the problem that ended it; parameters are counted.

    ``seconds`` is what the training took, where a table has recorded it; else it is measured.
    """

    score: float = Field(ge=0, le=1)
    parameters: int = Field(ge=0)
    problem: str = ""
    seconds: float | None = Field(default=None, ge=0)


class Trial(Outcome):
    """One trial: ``number`` from 0, ``seconds`` of training, and the network's genotype."""

    number: int = Field(ge=0)
    seconds: float = Field(ge=0)
    genotype: Genotype


Evaluate = Callable[[Genotype, RunFolder], Outcome]


class Trials:
    """Scores genotypes in turn, within the limits of the settings.

    A trial that the run folder holds already is read, not repeated. A strategy that asks for the same genotypes again,
    as one with the same seed does, so comes back to where it was interrupted.
    """

    def __init__(self, settings: TrialsConfig, run: RunFolder, evaluate: Evaluate) -> None:
        self.settings, self._run, self._evaluate = settings, run, evaluate
        self.done: list[Trial] = []

    def may_begin(self) -> bool:
        """Return whether trials and minutes are left; the first trial always may."""
        minutes = self.settings.minutes
        spent = sum(trial.seconds for trial in self.done)
        within = minutes is None or not self.done or spent < 60 * minutes
        return len(self.done) < self.settings.trials and within

    def score(self, genotype: Genotype) -> float:
        """Return the score of the next trial, from disk or by training."""
        number = len(self.done)
        folder = self._run / f"trials/{number:03d}"
        trial = _read(folder / "trial.yaml")
        if trial is None:
            trial = self._train(number, genotype, RunFolder(folder))
        elif trial.genotype != genotype:
            raise InputError(
                f"{folder} holds another genotype than its turn now gives; "
                "was it begun with other versions? start again with --overwrite"
            )
        self.done.append(trial)
        self._report(trial)
        return trial.score

    def best(self) -> Trial:
        """Return the trial with the highest score, the first of equal ones; ``TrainingError`` if none was trained."""
        if all(trial.problem for trial in self.done):
            raise TrainingError(f"none of {len(self.done)} trials could be trained: {self.done[-1].problem}")
        return max((trial for trial in self.done if not trial.problem), key=lambda trial: trial.score)

    def _train(self, number: int, genotype: Genotype, run: RunFolder) -> Trial:
        began = time.monotonic()
        outcome = self._evaluate(genotype, run)
        seconds = outcome.seconds if outcome.seconds is not None else round(time.monotonic() - began, 3)
        trial = Trial(**outcome.model_dump(exclude={"seconds"}), number=number, seconds=seconds, genotype=genotype)
        write_text(run / "trial.yaml", to_yaml(trial))
        shutil.rmtree(run.checkpoints, ignore_errors=True)
        return trial

    def _report(self, trial: Trial) -> None:
        best = max(self.done, key=lambda t: t.score)
        values = {"validation/mAP": trial.score, "best/mAP": best.score}
        self._run.write_metrics(trial.number, {**values, "parameters": trial.parameters, "seconds": trial.seconds})
        write_trial_record(self._run, trial.number, best.genotype)
        place = f"trial {trial.number + 1}/{self.settings.trials}"
        if trial.problem:
            log.warning("%s counts as mAP 0: %s", place, trial.problem)
        else:
            log.info("%s: mAP %.4f, best %.4f", place, trial.score, best.score)


def _read(path: Path) -> Trial | None:
    return parse(Trial, read_yaml(path), source=str(path)) if path.is_file() else None
