"""The bar of a job: epochs and time left of the whole job, log lines above it, gone however the job ends."""

from __future__ import annotations

import io
import logging
import re
import sys

import pytest
import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dcs_nas.cli.console import progress, show_log, stop_bars
from dcs_nas.training.trainer import JobBar, without_known_warnings

log = logging.getLogger("dcs_nas.test")


class Job(pl.LightningModule):
    """Four steps an epoch; fails in the epoch that it is told."""

    def __init__(self, fails: int | None = None) -> None:
        super().__init__()
        self.layer, self.fails = nn.Linear(1, 1), fails

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if self.current_epoch == self.fails:
            raise ValueError("as told")
        return self.layer(batch).sum()

    def on_train_epoch_end(self) -> None:
        log.info("epoch %d is over", self.current_epoch + 1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _shown(job: Job, epochs: int, first: int = 0) -> str:
    """What a terminal of 100 columns receives, without its control codes."""
    out = io.StringIO()
    bar = JobBar(Console(file=out, force_terminal=True, width=100))
    with without_known_warnings():
        trainer = pl.Trainer(
            max_epochs=epochs, callbacks=[bar], accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        )  # fmt: skip
        trainer.fit_loop.epoch_progress.current.completed = first
        trainer.fit_loop.epoch_progress.current.processed = first
        trainer.fit(job, DataLoader(torch.ones(4, 1), num_workers=0))
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())


def test_the_bar_is_of_all_epochs_and_says_what_is_left() -> None:
    text = _shown(Job(), 3)
    assert text.index("epoch 1 of 3") < text.index("epoch 3 of 3")
    assert " 100%" in text
    assert re.search(r"\d:\d\d:\d\d left", text)
    assert "0%" in text.splitlines()[0]


def test_a_resumed_job_begins_where_it_was() -> None:
    text = _shown(Job(), 4, first=2)
    assert re.search(r"epoch 3 of 4 .* 50%", text)
    assert "epoch 1 of 4" not in text


def test_the_bar_goes_with_a_job_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = []
    stop = Progress.stop
    monkeypatch.setattr(Progress, "stop", lambda bar: (stopped.append(bar), stop(bar)))
    before = sys.stderr
    with pytest.raises(ValueError, match="as told"):
        _shown(Job(fails=1), 3)
    assert len(stopped) == 1
    assert sys.stderr is before


@pytest.mark.usefixtures("plain_log")
def test_lines_of_the_log_stand_above_the_bar_on_lines_of_their_own() -> None:
    show_log()
    text = _shown(Job(), 2)
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines()]
    assert [line for line in lines if line.endswith("is over")] == ["epoch 1 is over", "epoch 2 is over"]


def test_a_bar_that_is_over_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    complete, left = progress("complete"), progress("left")
    complete(3, 3)
    left(1, 3)
    stop_bars()
    shown = terminal.getvalue()
    complete(4, 3)
    left(2, 3)
    assert terminal.getvalue() == shown
