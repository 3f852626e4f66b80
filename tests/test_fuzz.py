"""A small seeded share of benchmarks/fuzz.py: files changed at random are read, or refused in one line."""

from __future__ import annotations

import os
import random
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dcs_nas.errors import InputError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
from _fuzz_kinds import KINDS, Kind, _genotypes, fresh  # noqa: E402
from _fuzz_mutate import changed_bytes, changed_data, changed_text  # noqa: E402

sys.path.remove(str(BENCHMARKS))
INPUTS = {"configurations": 50, "genotypes": 50, "run folders": 25, "weights files": 300}
"""Of the others 150."""


def _refusal(kind: Kind, folder: Path) -> str | None:
    try:
        kind.read(folder)
    except InputError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_changed_files_are_read_or_refused_in_one_line(kind: Kind, tmp_path: Path) -> None:
    outcomes = {True: 0, False: 0}

    @settings(
        max_examples=INPUTS.get(kind.name, 150),
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=True))
    def run(rng: random.Random) -> None:
        folder = fresh(tmp_path / "input")
        kind.make(rng, folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            message = _refusal(kind, folder)
        outcomes[message is None] += 1
        assert message is None or (len(message.splitlines()) == 1 and len(message) <= 5000)

    run()
    assert outcomes[True] >= 2, "hardly any input is valid: what comes behind the first check is not reached"
    assert outcomes[False] >= 2


def test_changes_depend_on_the_seed_alone_and_leave_the_example_as_it_was() -> None:
    example = _genotypes()[0]
    before = str(example)
    for change, given_ in ((changed_data, example), (changed_text, "a: [1, 2]\n"), (changed_bytes, bytes(range(60)))):
        results = [str(change(given_, random.Random(seed))) for seed in (1, 1, 2, 3, 4)]  # type: ignore[operator]
        assert results[0] == results[1]
        assert len(set(results)) > 1
    assert str(example) == before


def test_the_examples_themselves_are_accepted(tmp_path: Path) -> None:
    import yaml

    from dcs_nas.space import load_genotype

    for i, data in enumerate(_genotypes()):
        (tmp_path / f"{i}.yaml").write_text(yaml.safe_dump(data))
        load_genotype(tmp_path / f"{i}.yaml")


def test_a_crash_is_counted_with_its_place_and_its_input_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    import fuzz

    def broken(folder: Path) -> None:
        raise KeyError(folder.name)

    monkeypatch.setattr(fuzz.tempfile, "tempdir", str(tmp_path))
    tally = fuzz.Tally(tmp_path / "tally.json")
    kind = fuzz.Kind("broken", lambda rng, folder: None, broken)
    (fresh(tmp_path / "input") / "a.yaml").write_text("x")
    os.mkfifo(tmp_path / "input" / "pipe")
    for _ in range(3):
        tally.run(kind, tmp_path / "input")
    assert tally.counts["crashes"] == 3
    ((where, crash),) = tally.crashes.items()
    assert where.startswith(("KeyError test_fuzz.py:", "KeyError fuzz.py:"))
    assert (Path(crash["input"]) / "a.yaml").read_text() == "x"
