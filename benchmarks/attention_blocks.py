"""What each attention block and each kind of information bottleneck brings to a small ResNet on synthetic people.

    python benchmarks/attention_blocks.py --seeds 0 1 2 3 4
    python benchmarks/attention_blocks.py --seeds 0 1 2 3 4 --hard
    python benchmarks/attention_blocks.py --seeds 0 1 2 3 4 --ib

Every variant is trained from scratch with every seed by configs/attention_blocks.yaml and scored on identities unseen
in training. --hard is a setting in which attention has something to gain: something stands before 60 % of the bodies,
boxes miss them by twice the usual, images have 128 x 64 pixels, and training takes twice the epochs. Resumable:
finished trainings are kept in --work. --ib sweeps the weight eta of each kind of information bottleneck, beside DCS.
Writes a CSV with mAP (mean, standard deviation and standard error over the seeds), the gain over the plain network
(--ib: over DCS alone) seed by seed with its standard error, with --hard the mAP of identities held out
after each quarter of the epochs, parameters, multiply-adds, and the time of a forward pass relative to the plain
network in the same process.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from dcs_nas.config import Config, load_config
from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic
from dcs_nas.environment import describe_environment
from dcs_nas.files import write_json, write_text
from dcs_nas.models.flops import count
from dcs_nas.runs import RunFolder, read_metrics
from dcs_nas.space import find_shipped_file
from dcs_nas.training.evaluate import evaluate_run, load_trained
from dcs_nas.training.retrain_job import run_retraining

BLOCKS = ("none", "nonlocal", "dcs", "harmonious", "rga_spatial", "rga_channel", "rga", "part_aware", "dcs_window")
IB_KINDS, ETA, ETAS = ("ibb", "ibb_tight", "plugin"), 0.1, (0.01, 0.03, 0.1, 0.3, 1.0)


def _with_attention(block: str, *more: str) -> list[str]:
    return [f"retrain.backbone_options={{attention: {block}}}", *more]


def _with_ib(kind: str, eta: float) -> list[str]:
    return _with_attention("dcs", f"loss.ib_kind={kind}", f"loss.ib_weight={eta}")


VARIANTS: dict[str, list[str]] = {
    **{name: [] if name == "none" else _with_attention(name) for name in BLOCKS},
    **{f"dcs + {kind}": _with_ib(kind, ETA) for kind in IB_KINDS},
}
SWEEP: dict[str, list[str]] = {
    "dcs": _with_attention("dcs"),
    **{f"dcs + {kind}, eta {eta}": _with_ib(kind, eta) for kind in IB_KINDS for eta in ETAS},
}
HARD = SyntheticSettings(train_identities=120, test_identities=100, occlusion=60, misalignment=200)
HARD_OVERRIDES = ["data.height=128", "data.width=64", "retrain.validation=0.17", "retrain.epochs=32"]


def main() -> None:
    arguments = _arguments()
    data = arguments.work / "data"
    if not data.is_dir():
        write_synthetic(data, settings=HARD if arguments.hard else SyntheticSettings())
    names = [arguments.base, *(name for name in arguments.variants or arguments.all if name != arguments.base)]
    for seed in arguments.seeds:
        for name in names:
            _train(name, seed, data, arguments)
    rows = [_row(name, data, arguments) for name in names]
    _add_times(rows, arguments)
    write_text(arguments.out, _table(rows, arguments))
    if arguments.json:
        write_json(arguments.json, {"rows": rows, **describe_environment()})
    for row in rows:
        print(", ".join(f"{key} {value}" for key, value in row.items()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--hard", action="store_true", help="occluded and misaligned, 128 x 64, 32 epochs")
    parser.add_argument("--ib", action="store_true", help="the weights of the information bottleneck, beside DCS")
    parser.add_argument("--variants", nargs="+", choices=[*VARIANTS, *SWEEP], metavar="NAME", help="by default all")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    name = f"attention_blocks{'_ib' if arguments.ib else ''}{'_hard' if arguments.hard else ''}"
    arguments.base, arguments.all = ("dcs", SWEEP) if arguments.ib else ("none", VARIANTS)
    arguments.work = arguments.work or Path("results") / name
    arguments.out = arguments.out or Path(f"results/reference/{name}.csv")
    return arguments


def _folder(name: str, seed: int, arguments: argparse.Namespace) -> Path:
    return arguments.work / f"{name.replace(' + ', '_').replace(', eta ', '_')}-{seed}"


def _train(name: str, seed: int, data: Path, arguments: argparse.Namespace) -> None:
    folder = _folder(name, seed, arguments)
    if (folder / "evaluation.json").is_file():
        return
    began = time.perf_counter()
    own = [f"seed={seed}", f"data.root={data}", f"results={arguments.work}"]
    if arguments.hard:
        own += [*HARD_OVERRIDES, "retrain.validate_every=8"]
    config = load_config(find_shipped_file("configs", "attention_blocks"), [*own, *(VARIANTS | SWEEP)[name]])
    if not RunFolder(folder).finished_file.is_file():
        run_retraining(config, folder, resume=(folder / "config.yaml").is_file())
    report = evaluate_run(folder).report
    write_json(folder / "evaluation.json", report)
    minutes = (time.perf_counter() - began) / 60
    print(f"{name}, seed {seed}: mAP {100 * report['mAP']:.2f} %, {minutes:.1f} min", file=sys.stderr, flush=True)


def _row(name: str, data: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    maps = _maps(name, arguments)
    first = [100 * report["cmc"][0] for report in _reports(name, arguments)]
    plain = _maps(arguments.base, arguments)
    gains = [a - b for a, b in zip(maps, plain)]
    config, network = load_trained(_folder(name, arguments.seeds[0], arguments))
    cost = count(network.backbone, config.data.height, config.data.width)
    return {
        "variant": name,
        "seeds": len(maps),
        "mAP_mean": round(statistics.mean(maps), 2),
        "mAP_std": round(statistics.stdev(maps), 2) if len(maps) > 1 else "",
        "mAP_error": _standard_error(maps),
        "gain": round(statistics.mean(gains), 2) if name != arguments.base else "",
        "gain_error": _standard_error(gains) if name != arguments.base else "",
        **_curve(name, arguments),
        "rank1_mean": round(statistics.mean(first), 2),
        "parameters": cost.parameters,
        "multiply_adds": cost.macs,
    }


def _reports(name: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    return [json.loads((_folder(name, seed, arguments) / "evaluation.json").read_text()) for seed in arguments.seeds]


def _maps(name: str, arguments: argparse.Namespace) -> list[float]:
    return [100 * report["mAP"] for report in _reports(name, arguments)]


def _standard_error(values: list[float]) -> float | str:
    return round(statistics.stdev(values) / len(values) ** 0.5, 2) if len(values) > 1 else ""


def _curve(name: str, arguments: argparse.Namespace) -> dict[str, float]:
    """mAP of identities held out after each quarter of the epochs, a mean over the seeds; empty without any."""
    found: dict[str, list[float]] = {}
    for seed in arguments.seeds:
        for row in read_metrics(_folder(name, seed, arguments) / "metrics.csv"):
            if "validation/mAP" in row:
                found.setdefault(f"held_out_epoch_{row['epoch'] + 1}", []).append(100 * row["validation/mAP"])
    return {column: round(statistics.mean(values), 2) for column, values in found.items()}


def _add_times(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Milliseconds an image of a forward pass in evaluation mode, all variants in turn, median of the rounds."""
    networks = [load_trained(_folder(row["variant"], arguments.seeds[0], arguments)) for row in rows]
    times: list[list[float]] = [[] for _ in rows]
    for _ in range(15):
        for (config, network), found in zip(networks, times):
            found.append(_forward_ms(config, network))
    medians = [statistics.median(found) for found in times]
    for row, median in zip(rows, medians):
        row["ms_per_image"] = round(median, 4)
        row["time_ratio"] = round(median / medians[0], 2)


@torch.inference_mode()
def _forward_ms(config: Config, network: torch.nn.Module, batch: int = 64) -> float:
    images = torch.zeros(batch, 3, config.data.height, config.data.width).to(memory_format=torch.channels_last)
    began = time.perf_counter()
    network(images)
    return 1000 * (time.perf_counter() - began) / batch


def _table(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> str:
    text = io.StringIO()
    seeds = " ".join(map(str, arguments.seeds))
    options = "".join(f" --{name}" for name in ("ib", "hard") if getattr(arguments, name))
    what = "60 % occluded, boxes twice as far off, 128 x 64, 32 epochs" if arguments.hard else "64 x 32, 16 epochs"
    text.write(f"# synthetic people, resnet10_small, {what}, identities unseen in training\n")
    text.write(f"# python benchmarks/attention_blocks.py --seeds {seeds}{options}\n")
    versions = describe_environment()["versions"]
    text.write(f"# torch {versions['torch']}, dcs_nas {versions['dcs_nas']}, {torch.get_num_threads()} threads\n")
    text.write(
        f"# mAP, rank-1 in percent, cosine distance; std, error: over seeds; gain: over {arguments.base}, by seed"
        f"{'' if arguments.ib else f'; eta {ETA}'}\n"
    )
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


if __name__ == "__main__":
    main()
