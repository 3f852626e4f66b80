"""Every pair of search settings: it works, or is refused in one line before a run folder is written."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from dcs_nas.config import load_config
from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic
from dcs_nas.errors import InputError
from dcs_nas.runs import read_metrics
from dcs_nas.strategies.job import run_search
from tests.covering_array import Pair, Row, covering_array

SPACES = {
    "cells": """
cells: 2
channels: 4
nodes: 1
reductions: [1]
stem: stride2
operations: [none, skip_connect, sep_conv_3x3, dcs]
attention: [none, harmonious]
""",
    "chain": """
kind: chain
stem: 8
stem_stride: 2
features: 16
stages:
- {blocks: 2, stride: 2, widths: [8, 12], kernels: [3, 5], expansions: [1, 2], skip: true, activation: hswish,
   squeeze_excite: [false, true], attention: [none, dcs, rga]}
""",
}
JOB = """
name: tiny
data: {name: market1501, height: 16, width: 8, identities_per_batch: 4, images_per_identity: 4}
augment: {pad: 2}
loss: {ib_grid: [4, 2]}
search:
  strategy: bilevel
  epochs: 2
  arch_lr: 0.1
  validate_every: 1
  trials:
    {trials: 2, epochs: 1, population: 1, sample: 1, validation: 0.25, local: {start: 1}, halving: {rungs: 1},
     predictor: {start: 1, candidates: 3}, proposals: {candidates: 2}}
  guard: {eigenvalue_iterations: 2, eigenvalue_images: 4}
  perturbation: {batches: 1}
  retrieval: {candidates: 2, batches: 1}
trainer: {accelerator: cpu, threads: 1}
"""
FACTORS: dict[str, list[str]] = {
    "space": ["cells", "chain"],
    "search.strategy": ["bilevel", "random", "proposals search.trials.proposals.supernet=bilevel",
                        "nni.darts", "nni.random"],
    "trainer.precision": ["32-true", "bf16-mixed", "64-true"],
    "trainer.nonfinite": ["stop", "skip"],
    "search.order": ["1", "2 search.hessian=exact", "2 search.hessian=finite_difference"],
    "search.relaxation.kind": ["softmax", "gumbel", "gumbel_softmax", "dirichlet"],
    "search.relaxation.anchor": ["0", "0.01"],
    "search.relaxation.partial_channels": ["1", "2"],
    "search.relaxation.edge_normalization": ["null", "true", "false"],
    "search.relaxation.temperature_end": ["null", "0.5", "0.5 search.relaxation.schedule=exponential"],
    "search.derivation": ["strongest", "perturbation", "perturbation search.perturbation.tune_steps=1", "retrieval"],
    "search.guard.action": ["log", "log search.guard.eigenvalue_iterations=0 search.guard.gap=false", "stop",
                            "stop search.guard.max_skips=0", "cap search.guard.max_skips=1"],
    "search.choose": ["last", "best"],
    "search.validation": ["0", "0.25"],
    "search.identity_overlap": ["1", "0.5"],
    "search.memory.levels": ["auto", "both", "both search.memory.update=each"],
    "search.cost.kind": ["none", "flops search.cost.target=1000",
                         "flops search.cost.form=multiplicative search.cost.beta=0.1",
                         "parameters search.cost.form=multiplicative search.cost.target=1000"],
    "search.checkpoint_activations": ["false", "true"],
    "search.warmup_epochs": ["0", "1"],
    "search.weight_share": ["0.5", "1.00"],
    "search.channels": ["null", "6"],
    "loss.ib_kind": ["none", "ibb", "ibb_tight loss.ib_weight=0.1", "plugin loss.ib_weight=0.1"],
    "loss.ib_input": ["image", "stem"],
    "loss.ib_estimate": ["streaming", "exact"],
    "loss.ib_temperature": ["1.0", "auto"],
    "loss.center_weight": ["0", "0.01"],
    "loss.triplet_weight": ["1", "0"],
    "loss.identity_weight": ["1", "0"],
}  # fmt: skip
# They train by the same code as random, nni.darts and nni.random, and so share their pairs.
ALIKE = [
    "evolution", "local", "predictor search.trials.epochs=4", "predictor search.trials.predictor.share=1",
    "predictor search.trials.epochs=4 search.trials.evidence=[naswot,synflow,jacobian,gradient_norm]",
    "halving search.trials.epochs=2 search.trials.halving.rungs=2", "proposals", "nni.gumbel", "nni.evolution",
]  # fmt: skip
OF_DERIVATION = ("search.derivation", "search.guard", "search.choose")
OF_BILEVEL = (
    *OF_DERIVATION, "search.order", "search.relaxation", "search.identity_overlap", "search.memory",
    "search.checkpoint_activations",
)  # fmt: skip
OF_CELLS = {
    "search.strategy": "nni",
    "search.relaxation.partial_channels": "2",
    "search.relaxation.edge_normalization": "true",
    "search.derivation": "perturbation",
    "search.guard.action": ".*max_skips",
    "search.channels": "6",
}
REFUSED: list[tuple[str, str, str, str]] = [
    *(("space", "chain", name, choice) for name, choice in OF_CELLS.items()),
    ("search.relaxation.kind", "(?!dirichlet)", "search.relaxation.anchor", "0.01"),
    ("search.choose", "best", "search.validation", "0$"),
    ("search.choose", "best", "search.derivation", "(?!strongest)"),
    ("search.derivation", "retrieval", "search.validation", "0$"),
    ("search.derivation", "(?!strongest)", "search.guard.action", "stop"),
    ("search.order", ".*exact", "search.checkpoint_activations", "true"),
    ("search.strategy", "(?!bilevel)", "search.cost.kind", "(?!none)"),
    ("search.strategy", "nni.(darts|gumbel)", "loss.ib_input", "stem"),
    ("search.strategy", "nni.(darts|gumbel)", "loss.ib_estimate", "exact"),
    ("search.strategy", "nni.(darts|gumbel)", "trainer.nonfinite", "skip"),
    ("search.weight_share", "1", "search.strategy", "nni.(darts|gumbel)"),
    ("search.weight_share", "1", "search.derivation", "(?!retrieval)"),
    ("search.weight_share", "1", "search.identity_overlap", "0.5"),
    ("search.weight_share", "1", "search.memory.levels", "both"),
    ("search.weight_share", "1", "search.cost.kind", "(?!none)"),
    ("loss.ib_kind", "none", "loss.ib_input", "stem"),
    ("loss.ib_kind", "none", "loss.ib_estimate", "exact"),
    ("loss.triplet_weight", "0", "loss.identity_weight", "0"),
    ("search.memory.levels", "both", "loss.identity_weight", "0"),
]
"""Factor, expression for its choices, factor, expression: what is refused in one line before a job starts."""
NEEDS: dict[str, dict[str, str]] = {
    "best": {"search.validation": "0.25"},
    "retrieval": {"search.validation": "0.25"},
    "stem": {"loss.ib_kind": "ibb"},
    "exact": {"loss.ib_kind": "ibb"},
    "0.01": {"search.relaxation.kind": "dirichlet"},
    "1.00": {"search.derivation": "retrieval", "search.validation": "0.25"},
}


def _is_refused(pair: Pair) -> bool:
    row = dict(pair)
    return any(
        a in row and b in row and re.match(x, row[a]) is not None and re.match(y, row[b]) is not None
        for a, x, b, y in REFUSED
    )


def _is_ignored(pair: Pair) -> bool:
    """Return whether another strategy takes no account of a setting of the bilevel search, but for a warning."""
    row = dict(pair)
    strategy = row.get("search.strategy", "bilevel")
    ignored = () if strategy == "bilevel" else OF_DERIVATION if "supernet=bilevel" in strategy else OF_BILEVEL
    return any(name.startswith(ignored) and choice != FACTORS[name][0] for name, choice in row.items())


ROWS, IMPOSSIBLE = covering_array(FACTORS, lambda pair: not _is_refused(pair) and not _is_ignored(pair))


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration file beside both spaces and the data."""
    folder = tmp_path_factory.mktemp("pairs")
    settings = SyntheticSettings(train_identities=12, test_identities=2, cameras=2, width=16, height=32)
    write_synthetic(folder / "people", settings=settings, workers=1)
    for name, text in SPACES.items():
        (folder / f"{name}.yaml").write_text(text)
    data = yaml.safe_load(JOB)
    data["data"] |= {"root": str(folder / "people"), "cache": str(folder / "cache")}
    (folder / "job.yaml").write_text(yaml.safe_dump(data))
    return folder / "job.yaml"


def _search(job: Path, row: Row, folder: Path) -> None:
    settings = dict(row)
    space = settings.pop("space", "cells")
    chosen = [part for name, choice in settings.items() for part in f"{name}={choice}".split(" ")]
    run_search(load_config(job, [f"search.space={job.parent / space}.yaml", *chosen]), folder)


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_every_pair_of_settings_searches(number: int, job: Path, tmp_path: Path) -> None:
    _search(job, ROWS[number], tmp_path / "run")
    assert (tmp_path / "run" / "genotype.yaml").is_file()
    values = [value for row in read_metrics(tmp_path / "run" / "metrics.csv") for value in row.values()]
    assert np.isfinite(values).all()


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=["+".join(each[::2]) for each in REFUSED])
def test_what_is_refused_says_so_in_one_line_before_anything_is_written(number: int, job: Path, tmp_path: Path) -> None:
    """Every pair of choices of the table, with what each needs to be sound by itself."""
    a, x, b, y = REFUSED[number]
    for first in (choice for choice in FACTORS[a] if re.match(x, choice)):
        for second in (choice for choice in FACTORS[b] if re.match(y, choice)):
            needs = {name: choice for one in (first, second) for name, choice in NEEDS.get(one, {}).items()}
            with pytest.raises(InputError) as refused:
                _search(job, {**needs, a: first, b: second}, tmp_path / "run")
            assert "\n" not in str(refused.value)
            assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("strategy", [*FACTORS["search.strategy"][1:], *ALIKE])
def test_another_strategy_warns_of_settings_that_it_takes_no_account_of(
    strategy: str, job: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, plain_log: None
) -> None:
    row = {name: choices[1] for name, choices in FACTORS.items() if name.startswith(OF_BILEVEL)}
    row |= {
        "search.order": FACTORS["search.order"][2],
        "search.relaxation.kind": "dirichlet",
        "search.choose": "last",
        "search.strategy": strategy,
    }
    _search(job, row, tmp_path / "run")
    assert ("search.derivation" if "supernet=bilevel" in strategy else "search.order") in caplog.text
