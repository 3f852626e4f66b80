"""Trials: proposals of genotypes to train, their outcomes, and their files in the run folder."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SerializeAsAny

from dcs_nas.config import TrialsConfig
from dcs_nas.errors import InputError, TrainingError
from dcs_nas.files import write_text
from dcs_nas.runs import RunFolder
from dcs_nas.settings import Settings, parse, read_yaml, to_yaml
from dcs_nas.space import AnyGenotype, Space, parse_genotype
from dcs_nas.strategies.record import write_trial_record

log = logging.getLogger(__name__)
FILE, PROPOSAL = "trial.yaml", "proposal.yaml"


def _genotype(data: Any) -> Any:
    return parse_genotype(data, source="a trial's genotype") if isinstance(data, dict) else data


AnyKind = Annotated[SerializeAsAny[AnyGenotype], BeforeValidator(_genotype)]


class Proposal(Settings):
    """A genotype to train next.

    Attributes:
        genotype: what is trained.
        share: of the epochs of a trial, after which it is scored.
        after: share of the epochs that it was trained for before.
        continues: number of the genotype's first trial, whose training continues; None for a new one.
        parent: number of the trial whose genotype this one was derived from.
        evidence: scores that it had without training.
        proposal_seconds: what they, and all else of the proposal, took.
    """

    genotype: AnyKind
    share: float = Field(default=1.0, gt=0, le=1)
    after: float = Field(default=0.0, ge=0, lt=1)
    continues: int | None = Field(default=None, ge=0)
    parent: int | None = Field(default=None, ge=0)
    evidence: dict[str, float] = {}
    proposal_seconds: float = Field(default=0.0, ge=0)


class Outcome(Settings):
    """The outcome of training a network: its score, or the problem that ended it; parameters are counted.

    ``seconds`` is what the training took.
    """

    score: float = Field(ge=0, le=1)
    parameters: int = Field(ge=0)
    problem: str = ""
    seconds: float = Field(ge=0)


class Trial(Proposal, Outcome):
    """One trial, ``number`` from 0: a proposal and its outcome."""

    number: int = Field(ge=0)

    @property
    def first(self) -> int:
        """The number of the genotype's first trial."""
        return self.number if self.continues is None else self.continues


def continue_trial(trial: Trial, share: float) -> Proposal:
    """Return the proposal that trains a trial's network on, up to ``share`` of the epochs."""
    return Proposal(
        genotype=trial.genotype, share=share, after=trial.share, continues=trial.first, evidence=trial.evidence
    )


Rate = Callable[[Trial], tuple[float, float]]


def rate_by_score(trial: Trial) -> tuple[float, float]:
    """Return the key that ranks a trial: the share of the epochs, then the score."""
    return trial.share, trial.score


class TrialFolder:
    """The trials of a search: ``trials/NNN/trial.yaml`` each, a row of metrics.csv and a record for each that ends."""

    def __init__(
        self,
        settings: TrialsConfig,
        run: RunFolder,
        space: Space,
        *,
        most: int,
        rate: Rate = rate_by_score,
        kept: int | None = None,
    ) -> None:
        self.settings, self.run, self._space, self._most, self._rate = settings, run, space, most, rate
        self._kept = kept
        self._kept_trials: list[Trial] = []
        self.done: list[Trial] = []

    def folder(self, number: int) -> RunFolder:
        """Return the run folder of a trial."""
        return RunFolder(self.run / f"trials/{number:03d}")

    def read(self, number: int) -> Trial | None:
        """Return a trial that has ended, or None; ``InputError`` for a file of another trial."""
        path = self.folder(number) / FILE
        if not path.is_file():
            return None
        trial = parse(Trial, read_yaml(path), source=str(path))
        if trial.number != number:
            raise InputError(f"{path} is of trial {trial.number}, expected {number}; start again with --overwrite")
        return trial

    def iterate(self) -> Iterator[Trial]:
        """Yield the trials from the first that have ended, up to the first that has not."""
        while (trial := self.read(len(self.done))) is not None:
            self.end(trial)
            yield trial

    def begin(self, number: int, proposal: Proposal) -> None:
        """Write what a trial trains, so that its checkpoints are continued by nothing else."""
        write_text(self.folder(number) / PROPOSAL, to_yaml(proposal))

    def read_interrupted(self, number: int) -> Proposal | None:
        """Return the proposal of a trial that began and has not ended, or None."""
        path = self.folder(number) / PROPOSAL
        return parse(Proposal, read_yaml(path), source=str(path)) if path.is_file() else None

    def write(self, number: int, proposal: Proposal, outcome: Outcome) -> Trial:
        """Write a trial that has ended; its checkpoints stay where a later trial may continue it."""
        trial = Trial(**dict(proposal), **dict(outcome), number=number)
        write_text(self.folder(number) / FILE, to_yaml(trial))
        (self.folder(number) / PROPOSAL).unlink(missing_ok=True)
        if trial.share == 1:
            shutil.rmtree(self.folder(trial.first).checkpoints, ignore_errors=True)
        return trial

    def end(self, trial: Trial) -> None:
        """Record a trial that has ended: metrics, best genotype, log."""
        self.done.append(trial)
        row, best = len(self.done) - 1, max(working(self.done) or self.done, key=self._rate)
        values = {"validation/mAP": trial.score, "best/mAP": best.score, "parameters": trial.parameters}
        values |= {f"evidence/{name}": value for name, value in trial.evidence.items()}
        self.run.write_metrics(row, {**values, "seconds": trial.seconds, "spent": round(self.spent(), 3)})
        write_trial_record(self.run, row, best.genotype, self._space)
        if self._kept is not None and trial.continues is None:
            ranked = sorted([*self._kept_trials, trial], key=self._rate, reverse=True)
            self._kept_trials = ranked[: self._kept]
            for each in ranked[self._kept :]:
                shutil.rmtree(self.folder(each.number).checkpoints, ignore_errors=True)
        place = f"trial {row + 1}/{self._most}"
        if trial.problem:
            log.warning("%s counts as mAP 0: %s", place, trial.problem)
        else:
            log.info("%s: mAP %.4f, best %.4f", place, trial.score, best.score)

    def spent(self) -> float:
        """Return the seconds of all trials and proposals."""
        return seconds_of(self.done)

    def may_begin(self, running: int = 0) -> bool:
        """Return whether trials and minutes are left beside those that run; the first trial always may."""
        minutes, begun = self.settings.minutes, len(self.done) + running
        return begun < self._most and (minutes is None or not begun or self.spent() < 60 * minutes)

    def remove_checkpoints(self) -> None:
        """Remove the checkpoints of trials that no other will continue."""
        for folder in self.run.path.glob("trials/*"):
            shutil.rmtree(RunFolder(folder).checkpoints, ignore_errors=True)


def best_of(trials: Sequence[Trial], rate: Rate = rate_by_score) -> Trial:
    """Return the trial with the highest rate, the first of equal ones.

    Raises:
        TrainingError: none was trained.
    """
    left = working(trials)
    if not left:
        raise TrainingError(f"none of {len(trials)} trials could be trained: {trials[-1].problem}")
    return max(left, key=rate)


def working(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials whose network never broke down, then or when its training continued."""
    broken = {trial.first for trial in trials if trial.problem}
    return [trial for trial in trials if trial.first not in broken]


def seconds_of(trials: Sequence[Trial]) -> float:
    """Return the seconds of trials and their proposals."""
    return sum(trial.seconds + trial.proposal_seconds for trial in trials)
