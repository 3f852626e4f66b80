"""The trials of a tuning: proposed by one of NNI's tuners, recorded in trials.json, replayed on --resume."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from dcs_nas.errors import InputError
from dcs_nas.files import write_json
from dcs_nas.settings import Settings, parse, read_text

RECORD = "trials.json"


class Tuner(Protocol):
    """What a tuner of NNI does, its search space known (nni.tuner.Tuner)."""

    def generate_multiple_parameters(self, parameter_id_list: list[int], **kwargs: Any) -> list[dict[str, Any]]: ...

    def receive_trial_result(self, parameter_id: int, parameters: Any, value: float, **kwargs: Any) -> None: ...

    def trial_end(self, parameter_id: int, success: bool, **kwargs: Any) -> None: ...


class Trial(Settings):
    """One trial: the tuner's proposal, and what came of it. ``seconds`` is wall time."""

    number: int
    proposal: dict[str, Any]
    state: Literal["running", "finished", "failed"] = "running"
    value: float | None = None
    seconds: float = 0.0
    message: str = ""

    @property
    def label(self) -> str:
        return f"trial_{self.number:03d}"


class Record(Settings):
    """trials.json: the trials by number, and in which order they began and ended."""

    format: Literal[1] = 1
    trials: tuple[Trial, ...] = ()
    events: tuple[tuple[Literal["begin", "end"], int], ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Record:
        """The record of a tuning's folder; an empty one where nothing has begun."""
        path = folder / RECORD
        if not path.is_file():
            return cls()
        try:
            data = json.loads(read_text(path))
        except ValueError as error:
            raise InputError(f"{path} is damaged ({error}); start anew with --overwrite") from None
        return parse(cls, data if isinstance(data, dict) else {"trials": data}, source=str(path))

    def ended(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.state != "running"]


class Study:
    """Hands out trials and takes their results; every step is in the record before the next one begins.

    A tuner is rebuilt by replaying the record's events: from the same seed it proposes the same again, and what comes
    after is what the uninterrupted tuning would have proposed. Trials that had not ended are handed out first.
    Raises ``InputError`` where the tuner proposes otherwise than it did.
    """

    def __init__(self, tuner: Tuner, folder: Path, *, limit: int) -> None:
        self._tuner, self._folder, self._limit = tuner, folder, limit
        record = Record.read(folder)
        self._trials = {trial.number: trial for trial in record.trials}
        self._events = list(record.events)
        for what, number in self._events:
            self._replay(what, number)
        self._unfinished = [trial for trial in record.trials if trial.state == "running"]

    @property
    def trials(self) -> list[Trial]:
        return list(self._trials.values())

    def next(self) -> Trial | None:
        """The next trial to run; None where there are enough, or the tuner has none now."""
        if self._unfinished:
            return self._unfinished.pop(0)
        number = len(self._trials)
        if number >= self._limit:
            return None
        proposal = self._propose(number)
        if proposal is None:
            return None
        return self._note("begin", Trial(number=number, proposal=proposal))

    def finish(self, number: int, value: float | None, *, seconds: float, message: str = "") -> Trial:
        """Take a trial's result; no ``value``, or one that is not finite, means that it failed."""
        if value is not None and not math.isfinite(value):
            value, message = None, f"its metric is {value}"
        outcome = {"state": "failed" if value is None else "finished", "value": value}
        trial = self._trials[number].model_copy(update={**outcome, "seconds": round(seconds, 3), "message": message})
        self._tell(trial)
        return self._note("end", trial)

    def _note(self, what: Literal["begin", "end"], trial: Trial) -> Trial:
        self._trials[trial.number] = trial
        self._events.append((what, trial.number))
        record = Record(trials=tuple(self._trials.values()), events=tuple(self._events))
        write_json(self._folder / RECORD, record.model_dump(mode="json"))
        return trial

    def _replay(self, what: str, number: int) -> None:
        trial = self._trials[number]
        if what == "end":
            self._tell(trial)
        elif self._propose(number) != trial.proposal:
            raise InputError(
                f"{self._folder / RECORD} does not fit this tuner: it now proposes otherwise for {trial.label} "
                "(another version of NNI or numpy?); start anew with --overwrite"
            )

    def _propose(self, number: int) -> dict[str, Any] | None:
        found = self._tuner.generate_multiple_parameters([number], st_callback=_no_late_proposal)
        return _plain(found[0]) if found else None

    def _tell(self, trial: Trial) -> None:
        if trial.value is not None:
            self._tuner.receive_trial_result(trial.number, trial.proposal, trial.value)
        self._tuner.trial_end(trial.number, trial.value is not None)


def _no_late_proposal(number: int, proposal: Any) -> None:
    raise AssertionError(f"a proposal for trial {number} that nobody waits for")


def _plain(proposal: Mapping[str, Any]) -> dict[str, Any]:
    """The proposal as JSON gives it back: numpy's numbers as Python's."""
    return {key: value.item() if hasattr(value, "item") else value for key, value in proposal.items()}
