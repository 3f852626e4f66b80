"""What an epoch of every configuration that trains a named backbone costs on Market-1501: seconds and memory.

    python benchmarks/recipe_costs.py                       # all of them
    python benchmarks/recipe_costs.py bot_r50 --steps 20    # some of them
    python benchmarks/recipe_costs.py dcs_fb_osnet --precision 32-true   # on a processor that emulates bfloat16

Each runs by ``dcs-nas retrain``'s own job at its own image size and precision, on synthetic identities, in a process of
its own with one thread, with batches of four images; those with transformers take ``--large-steps`` steps. A frozen
backbone is trained as well. Seconds of an epoch are CPU seconds of a step's image, times the images that an epoch
shows of Market-1501's 12,936 by 751 identities: extrapolated, and without reading images. Memory at the configuration's
own batch and precision is computed as ``dcs-nas profile`` does. Peak is the resident memory of the process that was
timed. Writes a CSV table; rows of other configurations that are there stay.
"""

from __future__ import annotations

import argparse
import csv
import io
import multiprocessing
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from _timed_run import StepTimer, timed_by
from measure import CLOCKS

from dcs_nas.config import Config, load_config
from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic
from dcs_nas.files import write_text
from dcs_nas.models.build import build_fixed
from dcs_nas.training import checkpoints
from dcs_nas.training.memory import measure_retraining
from dcs_nas.training.retrain_job import run_retraining

CONFIGS = Path(__file__).parents[1] / "configs"
IMAGES, IDENTITIES = 12_936, 751  # Market-1501's, to train on
PEOPLE = 2
GIB = 2**30


def main() -> None:
    arguments = _arguments()
    done = _read(arguments.out)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "people"
        settings = SyntheticSettings(train_identities=PEOPLE, test_identities=2, cameras=2, images_per_camera=2)
        write_synthetic(root, settings=settings, workers=1)
        for name in arguments.names or _trained():
            with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
                row = pool.apply(_measure, (name, root, arguments.steps, arguments.large_steps, arguments.precision))
                row |= pool.apply(_memory, (name,))
            done[name] = {key: str(value) for key, value in row.items()}
            write_text(arguments.out, _table(list(done.values())))
            print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="configurations, by default all")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--large-steps", type=int, default=8)
    parser.add_argument("--precision", help="in place of the configuration's own")
    parser.add_argument("--out", type=Path, default=Path("results/reference/recipe_costs.csv"))
    return parser.parse_args()


def _trained() -> list[str]:
    """Return the configurations for Market-1501 and CUHK03 that train a named backbone."""
    configs = {path.stem: load_config(path) for path in sorted(CONFIGS.glob("*.yaml"))}
    return [n for n, c in configs.items() if c.retrain and c.retrain.backbone and c.data.name != "synthetic"]


def _measure(name: str, root: Path, steps: int, large_steps: int, precision: str | None) -> dict[str, Any]:
    """Train for an epoch to warm up and for so many steps more; return the row of the table."""
    torch.set_num_threads(1)
    published = load_config(CONFIGS / f"{name}.yaml")
    options = _small(published, root) + ([f"trainer.precision={precision}"] if precision else [])
    config = load_config(CONFIGS / f"{name}.yaml", options)
    large = any(part in str(published.section("retrain").backbone) for part in ("vit", "swin"))
    per_epoch = PEOPLE // 2 * (1 if published.data.sampler == "identity_once" else 2)
    epochs = 1 + -(-(large_steps if large else steps) // per_epoch)
    config = load_config(CONFIGS / f"{name}.yaml", [*options, f"retrain.epochs={epochs}"])
    timer = StepTimer(CLOCKS["cpu"])
    checkpoints.save_checkpoint = lambda *_: None  # of no interest here, and up to a gigabyte each
    with timed_by(timer), tempfile.TemporaryDirectory() as folder:
        run_retraining(config, Path(folder) / "run")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    an_image, images = timer.seconds["all"] / timer.images, _images_per_epoch(published)
    return {
        "configuration": name,
        "size": f"{published.data.height} x {published.data.width}",
        "precision": config.trainer.precision,
        "steps": timer.steps,
        "images a step": timer.images // timer.steps,
        "CPU seconds a step": round(timer.seconds["all"] / timer.steps, 2),
        "images an epoch": images,
        "CPU seconds an epoch, extrapolated": round(an_image * images),
        "peak GiB": round(peak / GIB, 2),
    }


def _small(config: Config, root: Path) -> list[str]:
    """Return the options of a short job that lie on the way of no step."""
    settings: dict[str, object] = {
        "data.name": "market1501",
        "data.options": "{}",
        "data.root": root,
        "data.cache": root.parent / "cache",
        "data.identities_per_batch": 2,
        "data.images_per_identity": 2,
        "retrain.flat_epochs": 0,
        "retrain.freeze_epochs": 0,
        "retrain.freeze_steps": 0,
        "trainer.accelerator": "cpu",
        "trainer.threads": 1,
        "trainer.loggers": "[]",
    }
    if config.section("retrain").weights is not None:
        settings["retrain.weights"] = "null"
    return [f"{key}={value}" for key, value in settings.items()]


def _images_per_epoch(config: Config) -> int:
    """Return how many images of Market-1501 an epoch shows, about."""
    if config.data.sampler == "identity_once":
        return IDENTITIES // config.data.identities_per_batch * config.data.batch_size
    return IMAGES


def _memory(name: str) -> dict[str, Any]:
    """Return the memory of a training step at the configuration's own batch and precision."""
    config = load_config(CONFIGS / f"{name}.yaml")
    config = config.model_copy(update={"retrain": config.section("retrain").model_copy(update={"weights": None})})
    network = build_fixed(config.section("retrain"), config.data, IDENTITIES, None, config.dcs)
    return {
        "batch": config.data.batch_size,
        "GiB at this batch, computed": round(measure_retraining(network, config).peak(config.data.batch_size) / GIB, 2),
        "torch": torch.__version__,
    }


def _read(path: Path) -> dict[str, dict[str, str]]:
    """Return the rows of a table that is there, by configuration: those measured again are replaced."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row["configuration"]: row for row in csv.DictReader(file)}


def _table(rows: list[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[-1]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: row["configuration"]))
    return text.getvalue()


if __name__ == "__main__":
    sys.exit(main())
