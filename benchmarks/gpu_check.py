"""Everything that a GPU decides, on one card in about 9 minutes: tests, steps, trainings, ranking, memory, equal bits.

    scripts/gpu_check.sh                                   # results/reference/gpu.json
    scripts/gpu_check.sh --tiny --device cpu --json x.json # to see it run, on a CPU

Each section runs in a process of its own, which loads the libraries while the one before it runs, and within a time of
its own; those without timings come first, side by side. The file is written again after every row, so that a run that
is cut short keeps what it has measured. A section that fails or runs out of time leaves a row with ``error``; what the
toolkit or the device does not have, one with ``refused``. Settings are those of ``trainer``.
Steps are those of search_step.py, in turn; the device is waited for before the clock is read. Half precision there is
autocast alone, without the scaler that a training in 16-mixed has. Seconds of an epoch are those of a step, times the
steps that Market-1501's 12,936 training images make; peak memory is that of torch's allocator.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from _section import Rows, Section, print_row
from measure import in_turn, ratio, write_json
from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.models.latency import clock

ROOT = Path(__file__).parents[1]
OUT = ROOT / "results/reference/gpu.json"
GIB = 2**30
IMAGES = 12_936  # Market-1501's, to train on
Row = dict[str, Any]


class Bench:
    """Device and sizes of a run, its data set, and a clock that waits for the device."""

    def __init__(self, device: str, folder: Path, *, tiny: bool) -> None:
        self.device, self.folder, self.tiny = device, folder, tiny
        self.accelerator = "cpu" if device == "cpu" else "gpu"
        self.height, self.width = (64, 32) if tiny else (256, 128)
        self.repeats = 1 if tiny else 5

    @property
    def data(self) -> Path:
        """Synthetic identities at the run's image size."""
        return self.folder / "people"

    def write_data(self) -> None:
        from dcs_nas.data.synthetic import SyntheticSettings, write_synthetic

        train, test, images = (4, 4, 2) if self.tiny else (48, 24, 4)
        size = {"height": self.height, "width": self.width}
        settings = SyntheticSettings(
            train_identities=train, test_identities=test, cameras=2, images_per_camera=images, **size
        )
        write_synthetic(self.data, settings=settings, workers=1)

    def clock(self) -> float:
        return clock(torch.device(self.device))

    def seconds(self, call: Callable[[], object]) -> float:
        """Return the median seconds of a call after a first one."""
        return statistics.median(in_turn({"": call}, self.repeats, self.clock)[""])

    def peak(self, call: Callable[[], object]) -> float | None:
        """Return the GiB that torch's allocator held at most during a call; None on a CPU."""
        if self.device == "cpu":
            call()
            return None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() / GIB


def tests(bench: Bench) -> Rows:
    """Tests with the mark ``device``, which compute on the card where there is one."""
    command = [sys.executable, "-m", "pytest", "-n", "4", "-p", "no:benchmark", "-p", "no:cacheprovider"]
    command += ["-m", "device", *(["tests/test_rerank.py", "tests/test_ranking.py"] if bench.tiny else ["tests"])]
    environment = {**os.environ, "DCS_NAS_TEST_DEVICE": bench.device}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    lines = run.stdout.decode(errors="replace").splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    last = (lines or run.stderr.decode(errors="replace").splitlines() or [""])[-1]
    yield {"name": "pytest -m device", "exit code": run.returncode, "result": last, "failed": failed}


def steps(bench: Bench) -> Rows:
    """A bilevel step in each setting of ``trainer``; NNI's and the published one beside ours in two of them."""
    settings = {
        "bf16": ({"precision": "bf16-mixed"}, True),
        "fp32": ({}, True),
        "tf32": ({"matmul_precision": "high"}, False),
        "fp16": ({"precision": "16-mixed"}, False),
    }
    for name, (trainer, peers) in settings.items():
        for space in reversed(_spaces(bench)):
            yield _step_row(bench, space, name, trainer, peers=peers)


def compiled_steps(bench: Bench) -> Rows:
    """A bilevel step compiled, and compiled with CUDA graphs; seconds of compiling."""
    modes = {"compiled": {"compile": "default"}, "CUDA graphs": {"compile": "reduce-overhead"}}
    if bench.device == "cpu":
        modes.pop("CUDA graphs")
        yield {"name": "CUDA graphs", "refused": "a CPU has none"}
    for name, trainer in modes.items():
        for space in _spaces(bench):
            yield _step_row(bench, space, name, trainer, peers=False)


def _attempt(name: str, measure: Callable[[], Row]) -> Row:
    """Return a row, or one of its error: the other rows go on."""
    try:
        return {"name": name, **measure()}
    except Exception as error:
        return {"name": name, "error": _line(error)}


def _step_row(bench: Bench, space: str, name: str, trainer: Mapping[str, str], *, peers: bool) -> Row:
    sizes, attention = _spaces(bench)[space], space.startswith("attention")
    return _attempt(f"{space}, {name}", lambda: _step(bench, sizes, attention, trainer, peers))


def _spaces(bench: Bench) -> dict[str, dict[str, int]]:
    """Sizes by space: as the CPU's tables have them, and of person images."""
    from search_step import SIZES

    if bench.tiny:
        small = {"width": 4, "cells": 3, "nodes": 2, "batch": 2, "size": 16}
        return {"darts, 16 x 16": small, "attention, 16 x 16": small}
    person = {**SIZES, "size": 256, "columns": 128}
    return {
        "darts, 32 x 32": SIZES,
        "attention, 32 x 32": SIZES,
        "darts, 256 x 128": {**person, "batch": 16},
        "attention, 256 x 128": person,
    }


def _step(bench: Bench, sizes: dict[str, int], attention: bool, trainer: Mapping[str, str], peers: bool) -> Row:
    """Return seconds and peak memory of ours, of ours in NCHW, and the ratios of the others' seconds to ours."""
    from search_step import Search, nni, ours, published

    from dcs_nas.config import Config
    from dcs_nas.training.acceleration import accelerate, set_numerics
    from dcs_nas.training.cuda_graphs import GraphedForward

    config = Config.model_validate({"name": "step", "trainer": trainer})
    set_numerics(config.trainer)
    torch.compiler.reset()
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(config.trainer.precision)

    def contiguous(sizes: dict[str, int], attention: bool) -> Search:
        search = ours(sizes, attention)
        search.network.to(memory_format=torch.contiguous_format)
        search.images = search.images.contiguous()
        return search

    def step(make: Callable[..., Search]) -> Callable[[], None]:
        torch.manual_seed(0)
        search = make(sizes, attention).to(bench.device)
        accelerate(search.network, config)
        search.autocast = torch.autocast(bench.device, dtype=half or torch.bfloat16, enabled=half is not None)
        return search.step

    def graphed(sizes: dict[str, int], attention: bool) -> Search:
        search = ours(sizes, attention)
        GraphedForward.install(search.network)
        search.network = _Held(search.network)
        return search

    others: dict[str, Callable[..., Search]] = {"NNI": nni, "published": published} if peers else {}
    if config.trainer.compile == "off":
        others["ours in NCHW"] = contiguous
    calls = {name: step(make) for name, make in {"ours": ours, **others}.items()}
    began = bench.clock()
    calls["ours"]()
    first = bench.clock() - began
    peaks = {name: bench.peak(call) for name, call in calls.items()}
    if bench.device == "cuda" and config.trainer.compile == "off":
        calls["ours as CUDA graphs"] = step(graphed)
    times = in_turn(calls, bench.repeats, bench.clock)
    return {
        "seconds": {name: statistics.median(found) for name, found in times.items()},
        "ratios": {name: ratio(found, to=times["ours"]) for name, found in times.items()},
        "GiB": peaks,
        "first call": first,
        "images": sizes["batch"],
    }


class _Held(nn.Module):
    """A supernet with a classifier, by mixture weights that are held for the whole pass."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        with self.classifier.supernet.hold_draw():
            return self.classifier(images)


def retraining(bench: Bench) -> Rows:
    """Images a second of ResNet-50: by ``dcs-nas retrain``'s job with loader and augmentation, and by a plain loop."""
    from _timed_run import StepTimer, timed_by

    from dcs_nas.config import load_config
    from dcs_nas.training.retrain_job import run_retraining

    batch = 8 if bench.tiny else 64
    for precision in ("32-true", "bf16-mixed"):
        options = [*_options(bench, batch), f"trainer.precision={precision}"]
        options += [f"retrain.epochs={2 if bench.tiny else 4}"]
        timer, run = StepTimer(bench.clock), bench.folder / f"retrain {precision}"
        peak = bench.peak(
            functools.partial(_timed, timed_by, timer, run_retraining, load_config(_config("bot_r50"), options), run)
        )
        plain = batch / bench.seconds(_plain_step(bench, batch, half=precision != "32-true"))
        ours = timer.images / timer.seconds["all"]
        figures = {"images a second": {"ours": ours, "plain loop": plain}, "ratio": ours / plain}
        yield {"name": f"ResNet-50, {precision}", **figures, "shares": timer.shares, "GiB": peak, "batch": batch}


def _timed(timed_by: Callable[..., Any], timer: Any, job: Callable[..., object], config: Any, folder: Path) -> None:
    with timed_by(timer):
        job(config, folder)


def _plain_step(bench: Bench, batch: int, *, half: bool) -> Callable[[], None]:
    """Return a step of ResNet-50 with a classifier: cross-entropy and SGD on one batch that is on the device."""
    from dcs_nas.models.backbones import BACKBONES

    backbone = BACKBONES["resnet50"](height=bench.height, width=bench.width)
    network = nn.Sequential(backbone, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(backbone.num_features, 751))
    network = network.to(bench.device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(batch, 3, bench.height, bench.width, device=bench.device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=bench.device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(bench.device, dtype=torch.bfloat16, enabled=half):
            scores = network(images)
        nn.functional.cross_entropy(scores.float(), labels).backward()
        optimizer.step()

    return step


def features(bench: Bench) -> Rows:
    """Images a second that ``evaluate`` extracts features of by ResNet-50, and the same pass without any data."""
    from dcs_nas.config import load_config
    from dcs_nas.data.datamodule import ReidData
    from dcs_nas.models.build import build_fixed
    from dcs_nas.training.features import extract_features

    config = load_config(_config("bot_r50"), _options(bench, 8))
    data = ReidData(config)
    gallery = data.test()[1]
    images = gallery.subset([i % len(gallery) for i in range(32 if bench.tiny else 4096)])
    network = build_fixed(config.section("retrain"), config.data, data.num_identities, None)
    network = network.to(bench.device, memory_format=torch.channels_last)
    seconds = bench.seconds(lambda: extract_features(network, data, images))
    count = min(len(images), config.data.test_batch)
    batch = torch.randn(count, 3, bench.height, bench.width, device=bench.device)
    batch = batch.contiguous(memory_format=torch.channels_last)
    network.eval()
    with torch.inference_mode():
        bare = bench.seconds(lambda: network(batch))
    speeds = {"extracted": len(images) / seconds, "network alone": count / bare}
    yield {"name": "ResNet-50, float32", "images a second": speeds, "images": len(images), "test_batch": count}


def ranking(bench: Bench) -> Rows:
    """Seconds of ranking and re-ranking from features; the scores on the CPU beside them."""
    from _evaluation import SIZES, encode_features, labels_of
    from ranking import NOISE

    from dcs_nas.evaluation import rank, rank_distances, rerank

    def reranked(query: Tensor, gallery: Tensor, labels: list[Any]) -> Any:
        return rank_distances(rerank(query, gallery), *labels)

    for size in ("small",) if bench.tiny else ("market1501", "msmt17"):
        labels = labels_of(size, None)
        on_cpu = encode_features(labels, 256 if bench.tiny else 2048, noise=NOISE)
        query, gallery = (x.to(bench.device) for x in on_cpu)
        bare = bench.seconds(lambda query=query, gallery=gallery: query @ gallery.T)
        for name, call in {"ranking": lambda *x: rank(*x[:2], *x[2]), "re-ranking": reranked}.items():
            scores: list[float] = []
            job = functools.partial(_scored, call, query, gallery, labels, scores)
            began = bench.clock()
            peak = bench.peak(job)
            row = {"name": f"{name}, {size}", "seconds": bench.clock() - began, "matrix product": bare, "GiB": peak}
            row |= {"queries": SIZES[size].queries, "gallery": SIZES[size].gallery, "mAP": scores[-1]}
            if size != "msmt17":
                row["mAP on the CPU"] = call(*on_cpu, labels).mAP
            yield row


def _scored(call: Callable[..., Any], query: Tensor, gallery: Tensor, labels: list[Any], scores: list[float]) -> None:
    scores.append(call(query, gallery, labels).mAP)


def configurations(bench: Bench) -> Rows:
    """Seconds and peak memory of a step of every shipped configuration, and the memory that ``profile`` computes."""
    from dcs_nas.space import find_shipped_file

    names = ["demo", "osnet"] if bench.tiny else [p.stem for p in (ROOT / "configs").glob("*.yaml")]
    small = ("attention_blocks", "bench", "demo", "tune")
    for name in sorted(names, key=lambda n: (n != "market1501_darts", n.startswith(small), n)):  # if it is cut short
        yield _attempt(name, functools.partial(_configuration, bench, find_shipped_file("configs", name)))


def _configuration(bench: Bench, path: Path) -> Row:
    from dcs_nas.cli.profile_target import IDENTITIES, Sizes, read_target
    from dcs_nas.models.supernet import Supernet
    from dcs_nas.strategies.bilevel import without_gradients
    from dcs_nas.training.acceleration import accelerate, require_compilable, set_numerics
    from dcs_nas.training.objective import batch_terms, build_objective
    from dcs_nas.training.trainer import memory_format

    gc.collect()  # the graphs of the configuration before
    target = read_target(path, Sizes(), [])
    config, network = target.config, target.with_heads
    if config is None or network is None:
        return {"refused": "it trains a genotype, which has to be searched first"}
    set_numerics(config.trainer)
    batch = 4 if bench.tiny else config.data.batch_size
    objective = build_objective(config.loss, num_identities=IDENTITIES, features=network.num_features, network=network)
    network, objective = memory_format(network).to(bench.device).train(), objective.to(bench.device)
    images = torch.randn(batch, 3, target.height, target.width, device=bench.device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=bench.device) // config.data.images_per_identity
    cameras = torch.zeros_like(labels)
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(config.trainer.precision)
    supernet = network.backbone if isinstance(network.backbone, Supernet) else None
    alphas = list(supernet.alphas().values()) if supernet else []
    weights = [p for p in network.parameters() if p.requires_grad and not any(p is a for a in alphas)]
    optimizers = [torch.optim.SGD(weights, lr=1e-4, momentum=0.9)]
    bilevel = supernet is not None and config.section("search").weight_share < 1
    optimizers += [torch.optim.Adam(alphas, lr=1e-4)] if bilevel else []

    def loss() -> Tensor:
        with torch.autocast(bench.device, dtype=half or torch.bfloat16, enabled=half is not None):
            embedding = network(images, cameras)
            return batch_terms(objective, embedding, labels, images if objective.needs_inputs else None)["loss"]

    def half_step(optimizer: torch.optim.Optimizer, fixed: list[nn.Parameter]) -> None:
        optimizer.zero_grad(set_to_none=True)
        with without_gradients(fixed):
            if supernet is None:
                loss().backward()
            else:
                with supernet.hold_draw():
                    loss().backward()
        optimizer.step()

    def step() -> None:
        if bilevel:
            half_step(optimizers[1], weights)
        half_step(optimizers[0], alphas)

    repeats, images_a_step = 1 if bench.tiny else 3, batch * (2 if bilevel else 1)
    seconds = statistics.median(in_turn({"": step}, repeats, bench.clock)[""])
    memory = target.step_memory(torch.device(bench.device))
    row = {
        "seconds a step": seconds,
        "seconds an epoch": seconds * IMAGES / images_a_step,
        "GiB": bench.peak(step),
        "GiB computed": None if memory is None else memory.peak(batch) / GIB,
        "batch": batch,
        "precision": config.trainer.precision,
    }
    if bench.device == "cpu":
        return row
    graphs = config.trainer.model_copy(update={"compile": "cuda-graphs"})
    try:
        accelerate(network, config.model_copy(update={"trainer": graphs}))
        require_compilable(config.model_copy(update={"trainer": graphs}), "retrain" if supernet is None else "search")
    except InputError as error:
        return {**row, "CUDA graphs": {"refused": str(error)}}
    began = bench.clock()
    bench.peak(step)
    captured, reserved = bench.clock() - began, torch.cuda.max_memory_reserved() / GIB
    graphed = statistics.median(in_turn({"": step}, repeats, bench.clock)[""])
    figures = {"seconds a step": graphed, "ratio": seconds / graphed, "first step": captured, "GiB reserved": reserved}
    return {**row, "CUDA graphs": figures}


def cells(bench: Bench, precision: str) -> Rows:
    """The search of market1501_darts in half precision, as shipped but for the data: two epochs' losses."""
    name = "demo" if bench.tiny else "market1501_darts"
    yield _attempt(f"{name}, {precision}", lambda: _job(bench, name, precision))


def others(bench: Bench, precision: str) -> Rows:
    """Further searches and retrainings in half precision, as shipped but for data, epochs and trials: their losses."""
    more = ("market1501_search", "msinet_search", "hacnn_market1501", "rga_sc_cuhk03")
    for name in ("demo_chain", *(() if bench.tiny else more)):
        yield _attempt(f"{name}, {precision}", functools.partial(_job, bench, name, precision))


def _job(bench: Bench, name: str, precision: str) -> Row:
    from dcs_nas.config import load_config
    from dcs_nas.runs.folder import RunFolder
    from dcs_nas.strategies.job import run_search
    from dcs_nas.training.retrain_job import run_retraining

    shipped = load_config(_config(name))
    section, job = ("retrain", run_retraining) if shipped.search is None else ("search", run_search)
    by_trials = name == "market1501_search"
    epochs = 2 if section == "retrain" else 2 + shipped.section("search").warmup_epochs
    options = [*_options(bench, 8 if bench.tiny else 64, section=section), f"{section}.epochs={epochs}"]
    options += [f"trainer.precision={precision}", "data.options={}"]
    key = "weights/loss" if section == "search" else "train/loss"
    if by_trials:
        key = "validation/mAP"
        options += ["search.strategy=proposals", "search.validation=0.3", "search.epochs=2", "search.trials.trials=2"]
        options += ["search.trials.epochs=1", "search.trials.proposals.candidates=20"]
    folder, began = bench.folder / f"{name} {precision}", bench.clock()
    job(load_config(_config(name), options), folder)
    figures = [row[key] for row in RunFolder(folder).metrics()]
    return {"scores of trials" if by_trials else "losses": figures, "seconds": bench.clock() - began}


def equal_bits(bench: Bench) -> Rows:
    """Searches and a retraining, each run twice with deterministic algorithms: whether all weights are equal."""
    names = {"search of cells": "demo", "search of a chain": "demo_chain", "retraining, ResNet-50": "bot_r50"}
    for name, shipped in list(names.items())[: 1 if bench.tiny else None]:
        section = "search" if name.startswith("search") else "retrain"
        yield _attempt(name, functools.partial(_run_twice, bench, shipped, section))


def _run_twice(bench: Bench, shipped: str, section: str) -> Row:
    from dcs_nas.config import load_config
    from dcs_nas.strategies.job import run_search
    from dcs_nas.training.checkpoints import load_checkpoint
    from dcs_nas.training.retrain_job import run_retraining

    options = [*_options(bench, 8 if bench.tiny else 64, section=section), f"{section}.epochs=1"]
    options += ["trainer.deterministic=true", "data.height=64", "data.width=32"]
    options += ["search.warmup_epochs=0"] * (section == "search")
    states = []
    for turn in range(2):
        folder = bench.folder / f"{shipped} {turn}"
        job = run_search if section == "search" else run_retraining
        job(load_config(_config(shipped), options), folder)
        states.append(load_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"])
    differ = [key for key, value in states[0].items() if not torch.equal(value, states[1][key])]
    return {"equal": not differ, "tensors": len(states[0]), "differ": differ[:5]}


def _options(bench: Bench, batch: int, *, section: str = "retrain") -> list[str]:
    """Return settings of a short job on the run's own data."""
    options = ["data.name=market1501", f"data.root={bench.data}", f"data.cache={bench.folder / 'cache'}"]
    options += [f"data.identities_per_batch={batch // 4 if batch > 8 else batch // 2}"]
    options += [f"data.images_per_identity={4 if batch > 8 else 2}"]
    options += [f"data.height={bench.height}", f"data.width={bench.width}", f"trainer.accelerator={bench.accelerator}"]
    options += ["trainer.loggers=[]"]
    return options + (
        ["retrain.weights=null"] if section == "retrain" else ["search.strategy=bilevel", "search.validation=0"]
    )


def _config(name: str) -> Path:
    return ROOT / "configs" / f"{name}.yaml"


# Sections and their seconds. The first seconds of a process go into kernels that its libraries choose or compile: half
# a minute for the first step of market1501_darts in bfloat16.
SECTIONS: dict[str, tuple[Callable[[Bench], Rows], int]] = {
    "tests": (tests, 110),
    "cells in bf16": (functools.partial(cells, precision="bf16-mixed"), 180),
    "cells in fp16": (functools.partial(cells, precision="16-mixed"), 180),
    "others in bf16": (functools.partial(others, precision="bf16-mixed"), 110),
    "others in fp16": (functools.partial(others, precision="16-mixed"), 110),
    "equal bits": (equal_bits, 110),
    "retraining": (retraining, 40),
    "features": (features, 20),
    "ranking": (ranking, 40),
    "search step": (steps, 140),
    "configurations": (configurations, 150),
    "search step compiled": (compiled_steps, 600),
}
UNTIMED = list(SECTIONS)[:6]  # side by side
ALONE = "search step compiled"  # of minutes, when it is asked for by --only

CPU_PATIENCE = 10  # times the seconds of a GPU


def main() -> None:
    arguments = _arguments()
    if arguments.section:
        _work(arguments)
        return
    rows: list[Row] = []
    device = arguments.device
    facts = {"device": torch.cuda.get_device_name() if device == "cuda" else "CPU", "tiny": arguments.tiny}
    sections = arguments.only or [name for name in SECTIONS if name != ALONE]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        Bench(device, Path(folder), tiny=arguments.tiny).write_data()
        lock = threading.Lock()

        def run(section: Section) -> None:
            began = time.monotonic()
            for row in section.rows():
                with lock:
                    rows.append({"section": section.name, "after": round(time.monotonic() - began, 1), **row})
                    print(json.dumps(rows[-1]), flush=True)
                    write_json(arguments.json, {**facts, "rows": rows})

        def open_section(name: str) -> Section:
            command = [sys.executable, __file__, "--section", name, "--device", device, "--folder", folder]
            patience = arguments.patience * (CPU_PATIENCE if device == "cpu" else 1)
            return Section(name, command + ["--tiny"] * arguments.tiny, seconds=SECTIONS[name][1] * patience)

        together = [stack.enter_context(open_section(name)) for name in sections if name in UNTIMED]
        timed = [name for name in sections if name not in UNTIMED]
        waiting = stack.enter_context(open_section(timed[0])) if timed else None
        with ThreadPoolExecutor(max(1, len(together))) as pool:
            list(pool.map(run, together))
        for following in [*timed[1:], None]:
            if waiting is not None:
                running = waiting
                waiting = stack.enter_context(open_section(following)) if following else None
                run(running)
    sys.exit(any("error" in row for row in rows))


def _work(arguments: argparse.Namespace) -> None:
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    import dcs_nas.api
    import dcs_nas.strategies.job
    import dcs_nas.training.retrain_job  # noqa: F401

    bench = Bench(arguments.device, arguments.folder, tiny=arguments.tiny)
    torch.zeros(1, device=bench.device)
    if not sys.stdin.readline():  # the check has ended
        return
    for row in SECTIONS[arguments.section][0](bench):
        print_row(row)


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: to see that everything runs")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), help="some of the sections")
    parser.add_argument("--json", type=Path, default=OUT)
    parser.add_argument("--patience", type=float, default=1, help="times the seconds that a section may take")
    for name, kind in {"--section": str, "--folder": Path}.items():
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error(f"torch {torch.__version__} shows no GPU; to see the script run without one: --tiny --device cpu")
    if not arguments.section and arguments.json == OUT and (arguments.tiny or arguments.device == "cpu"):
        parser.error("figures of tiny sizes or of a CPU are not for results/reference; name another file by --json")
    return arguments


if __name__ == "__main__":
    main()
