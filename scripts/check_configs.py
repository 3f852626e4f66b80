"""Run every shipped configuration end to end: search, retrain, evaluate, report, export.

    python scripts/check_configs.py                  # all of configs/, minutes each on two cores
    python scripts/check_configs.py demo dcs_fb_vit  # some of them

Those that pretrain are left out: tests/test_pretraining.py trains by them. Each other runs at its own image size,
precision and batch composition, for two epochs of two steps, on as many synthetic identities as that takes, in the
format of its benchmark or, where synthetic ones are not written in that, of Market-1501, and without the weights that
it asks for. Prints the seconds of every stage.

Exit code 1 where one fails.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dcs_nas.cli.console import table
from dcs_nas.config import TRIAL_STRATEGIES, Config, load_config
from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic

CONFIGS = Path(__file__).parents[1] / "configs"
STAGES = ("search", "retrain", "evaluate", "report", "export")
STEPS = EPOCHS = 2
FORMATS = ("market1501", "synthetic")  # of what ``write_synthetic`` writes


@dataclass
class Way:
    """The configurations that one architecture is searched and trained by, and what came of each stage."""

    search: Path | None
    retrain: Path
    seconds: dict[str, float] = field(default_factory=dict)
    failure: str = ""

    @property
    def name(self) -> str:
        return ", ".join(dict.fromkeys(path.stem for path in (self.search, self.retrain) if path is not None))


def find_ways(names: Sequence[str]) -> list[Way]:
    """Return the ways in which the named configurations take part; without names, all of ``CONFIGS``.

    A search without a section retrain goes on in the configuration of the same name that has one, and the other way
    round; what tunes a retraining takes the genotype of the search of its name.
    """
    configs = {path: load_config(path) for path in sorted(CONFIGS.glob("*.yaml"))}
    configs = {path: config for path, config in configs.items() if config.pretrain is None}
    unknown = set(names) - {path.stem for path in configs}
    if unknown:
        raise SystemExit(
            f"no such configuration: {', '.join(sorted(unknown))}; known: {', '.join(p.stem for p in configs)}"
        )

    def partner(path: Path, section: str) -> Path:
        same = [p for p, c in configs.items() if c.name == configs[path].name and getattr(c, section) is not None]
        tune = configs[path].tune
        own = path in same and not (tune is not None and tune.command != section)
        return path if own else same[0]

    ways: dict[tuple[Path | None, Path], Way] = {}
    for path, config in configs.items():
        if names and path.stem not in names:
            continue
        retrain = partner(path, "retrain")
        backbone = configs[retrain].section("retrain").backbone is not None and config.search is None
        search = None if backbone else partner(path, "search")
        ways.setdefault((search, retrain), Way(search, retrain))
    return list(ways.values())


def run_way(way: Way, folder: Path) -> None:
    """Run all stages in ``folder``; stops at the first that fails and keeps its last line.

    A search that another way has finished beside it is not repeated.
    """
    root, trained = folder / "data", folder / "retrain"
    search = folder.parent / (way.search or way.retrain).stem / "search"
    config = load_config(way.retrain)
    write_people(root, [load_config(path) for path in (way.search, way.retrain) if path is not None])
    page = folder / "report.html"
    genotype = [] if way.search is None else ["--genotype", search / "genotype.yaml"]
    commands: dict[str, list[object]] = {
        "search": ["search", way.search, "--out", search, *overrides(load_config(way.search or way.retrain), root)],
        "retrain": ["retrain", way.retrain, "--out", trained, *genotype, *overrides(config, root)],
        "evaluate": ["evaluate", trained],
        "report": ["report", *([search] if way.search is not None else []), trained, "--maps", 1, "--out", page],
        "export": ["export", trained],
    }
    searched = way.search is None or (search / "genotype.yaml").is_file()
    for stage in STAGES[1:] if searched else STAGES:
        began = time.perf_counter()
        command = [sys.executable, "-m", "dcs_nas", *map(str, commands[stage])]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "120"})
        way.seconds[stage] = time.perf_counter() - began
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
            way.failure = f"{stage}, exit code {done.returncode}: {lines[-1]}"
            return


def overrides(config: Config, root: Path) -> list[str]:
    """Return the options that keep a job short and change nothing else."""
    settings: dict[str, object] = {"data.root": root, "data.cache": root.parent / "cache"}
    if config.data.name not in FORMATS:
        settings |= {"data.name": FORMATS[0], "data.options": "{}"}
    for name in ("search", "retrain"):
        section = getattr(config, name)
        if section is not None:
            settings |= {f"{name}.epochs": EPOCHS, f"{name}.warmup_epochs": min(section.warmup_epochs, EPOCHS - 1)}
    if config.search is not None and config.search.strategy in TRIAL_STRATEGIES:
        settings |= {"search.trials.epochs": EPOCHS}
    if config.retrain is not None:
        settings |= {"retrain.flat_epochs": min(config.retrain.flat_epochs, EPOCHS - 1)}
        settings |= {"retrain.weights": "null"} if config.retrain.weights is not None else {}
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


def write_people(root: Path, configs: Sequence[Config], *, height: int = 128, width: int = 64) -> None:
    """Write as many identities, with as many images each, as make ``STEPS`` batches of both halves and of all."""
    data = configs[0].data
    held = max(s.validation for c in configs for s in (c.search, c.retrain) if s is not None)
    settings = SyntheticSettings(
        train_identities=math.ceil(STEPS * data.identities_per_batch / (1 - held)) + (held > 0),
        test_identities=4,
        distractor_identities=1,
        junk_images=1,
        cameras=2,
        images_per_camera=max(2, data.images_per_identity // 2),
        height=height,
        width=width,
    )
    write_synthetic(root, settings=settings, workers=1)
    images = sorted((root / "bounding_box_train").iterdir())
    for _, of_one_camera in itertools.groupby(images, key=lambda path: path.name[:7]):
        for path in list(of_one_camera)[data.images_per_identity // 2 :]:
            path.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="configurations, by default all")
    parser.add_argument("--work", type=Path, help="where to keep the runs; by default they are removed")
    given = parser.parse_args()
    ways = find_ways(given.names)
    with tempfile.TemporaryDirectory() as temporary:
        for way in ways:
            run_way(way, (given.work or Path(temporary)) / way.retrain.stem)
            spent = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in way.seconds.items())
            print(
                f"{way.name}: {spent}{'; failed in ' if way.failure else ''}{way.failure}", file=sys.stderr, flush=True
            )
    rows = [
        [way.name, *(f"{way.seconds[s]:.1f}" if s in way.seconds else "-" for s in STAGES), way.failure or "passed"]
        for way in ways
    ]
    table("seconds of every stage", ["configuration", *STAGES, ""], rows)
    return int(any(way.failure for way in ways))


if __name__ == "__main__":
    sys.exit(main())
