"""``dcs-nas profile``: costs of a network by layer, and latency tables."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dcs_nas.cli.console import progress, say, show_log, table
from dcs_nas.cli.options import Extension, Overrides, load_extension_files
from dcs_nas.cli.outputs import OUTPUT

if TYPE_CHECKING:
    import torch

    from dcs_nas.cli.profile_target import Target
    from dcs_nas.config import Config
    from dcs_nas.models.latency import LatencyTable
    from dcs_nas.models.network_profile import LayerProfile, Profile
    from dcs_nas.training.memory import StepMemory

COLUMNS = ("layer", "kind", "output", "parameters", "FLOPs (M)", "activations (KiB)", "latency (ms)")


def profile(
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help="A genotype, a run folder, or a configuration (path or name).")
    ],
    override: Overrides = None,
    height: Annotated[int | None, typer.Option(min=1, max=4096, help="Pixels; by default the target's.")] = None,
    width: Annotated[int | None, typer.Option(min=1, max=4096, help="Pixels; by default the target's.")] = None,
    channels: Annotated[int | None, typer.Option(min=1, max=2048, help="Width of the first cell.")] = None,
    cells: Annotated[int | None, typer.Option(min=1, max=100, help="Number of cells.")] = None,
    batch: Annotated[int, typer.Option(min=1, max=65536, help="Images at a time, for latency.")] = 1,
    depth: Annotated[
        int | None,
        typer.Option(min=1, max=20, help="Levels of submodules that are listed; by default 2, or 3 for a supernet."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=0, help="Rounds of the median latency; 0 measures none.")] = 20,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="Threads of the processor.")] = None,
    memory: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="GIB", help="Memory of a GPU: print the largest batch that fits."),
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the profile as JSON."), OUTPUT] = None,
    latency_table: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Measure every candidate of the space, for search.cost."), OUTPUT
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Measure the latency table again.")] = False,
    extension: Extension = None,
) -> None:
    """Print parameters, FLOPs, activation memory and latency of a network by layer, without its head.

    FLOPs are multiply-adds of convolutions, linear layers and matrix products, attention's two among them, for one
    image. Activation memory is what a training pass keeps for the backward pass, for one image, in float32. Latency is
    the median for one batch, in evaluation mode. For a configuration or a run also the memory of a whole training step
    at its batch and precision.
    """
    show_log()
    import torch

    from dcs_nas.cli.profile_target import Sizes, read_target
    from dcs_nas.environment import describe_environment
    from dcs_nas.errors import InputError
    from dcs_nas.files import write_json
    from dcs_nas.models.latency import resolve_device
    from dcs_nas.models.network_profile import profile as measure

    load_extension_files(extension)
    subject = read_target(target, Sizes(height, width, channels, cells), override or [])
    if memory is not None and subject.config is None:
        raise InputError(f"--memory is for a job's settings, but {target} has none; name a configuration or a training")
    where = resolve_device(device)
    if latency_table is not None and rounds == 0:
        raise InputError("--latency-table needs rounds; leave --rounds 0 out")
    if threads is not None:
        torch.set_num_threads(threads)
    levels = depth or (3 if subject.supernet else 2)
    result = measure(
        subject.network, subject.height, subject.width, device=where, batch=batch, depth=levels, rounds=rounds
    )
    _show(subject.title, result)
    latencies = None
    if latency_table is not None:
        latencies = _measure(subject, latency_table, where, batch=batch, rounds=rounds, overwrite=overwrite)
    if subject.supernet:
        _show_space(subject, latencies)
    needed, step_bytes = subject.step_memory(where), None
    if needed is not None and subject.config is not None:
        step_bytes = _show_memory(subject.config, needed, memory)
    if json is not None:
        facts = {"target": str(target), "title": subject.title, "step_bytes": step_bytes}
        write_json(json, {**facts, **asdict(result), **describe_environment()})
        say(f"profile: {json}")


def _show(title: str, result: Profile) -> None:
    rows = [
        [layer.name or "(itself)", layer.kind, " x ".join(map(str, layer.output)), *_format_costs(layer)]
        for layer in result.layers
    ]
    table(title, COLUMNS, [*rows, ["total", "", "", *_format_costs(result)]])
    measured = f"batch {result.batch}, median of {result.rounds}; " if result.rounds else ""
    say(f"{measured}{result.device}, {result.threads} threads, torch {result.torch}; FLOPs are multiply-adds")


def _show_memory(config: Config, needed: StepMemory, card: float | None) -> int:
    """Print the memory of a training step in each process and what fits on ``card`` GiB; return the step's bytes."""
    from dcs_nas.training.devices import count_processes
    from dcs_nas.training.memory import GIB, SHARE

    data, processes = config.data, count_processes(config.trainer)
    images = data.batch_size // processes
    graphed = config.trainer.compile == "cuda-graphs" and config.search is not None
    passes = 2 if graphed and config.section("search").weight_share < 1 else 1
    peak = passes * needed.peak(images)
    each = f" of each of {processes} processes" if processes > 1 else ""
    each += ", as CUDA graphs of both halves," if passes > 1 else ""
    say(f"a training step of {images} images{each} in {config.trainer.precision} keeps about {peak / GIB:.2f} GiB")
    if card is None:
        return peak
    largest = needed.largest_batch(int(SHARE * card * GIB / passes), multiple=data.images_per_identity)
    identities, fits = largest // data.images_per_identity, images <= largest
    advice = "" if fits else f": -o data.identities_per_batch={identities * processes}"
    if fits or identities > 1:
        verdict = "fits" if fits else "does not fit"
        say(f"{verdict} on {card:g} GiB, of which {1 - SHARE:.0%} stay free; largest batch {largest}{advice}")
    else:
        say(f"does not fit on {card:g} GiB with any batch; take smaller images or a smaller network")
    return peak


def _format_costs(part: LayerProfile | Profile) -> list[str]:
    costs = [f"{part.parameters:,}", _millions(part.macs), f"{part.activation_bytes / 1024:,.1f}"]
    return [*costs, "-" if part.microseconds is None else f"{part.microseconds / 1e3:,.3f}"]


def _show_space(subject: Target, latencies: LatencyTable | None) -> None:
    """Print the costs of the candidates, and the bounds of a target (search.cost.target)."""
    costs = subject.costs
    if costs is None:
        return
    names = {"": costs.structure.operations, "_attention": costs.structure.attention}
    (_, macs), (_, parameters) = costs.tables("flops"), costs.tables("parameters")
    rows = []
    for mixture in macs:
        cheap = names["_attention" if mixture.endswith("_attention") else ""]
        for i, name in enumerate(cheap):
            mean = [float(values[mixture][:, i].mean()) for values in (parameters, macs)]
            rows.append([mixture.replace("_", " "), name, f"{mean[0]:,.0f}", _millions(mean[1])])
    columns = ("cells", "candidate", "parameters", "FLOPs (M)")
    table("candidates: the mean of their edges, summed over the cells", columns, rows)
    lines = []
    for kind, unit in (("flops", "multiply-adds"), ("parameters", ""), ("latency", "microseconds")):
        if kind != "latency" or latencies is not None:
            least, most = costs.extremes(kind, latencies)  # type: ignore[arg-type]
            lines.append([kind, f"{least:,.0f}", f"{most:,.0f}", unit])
    table("networks of this space (search.cost.target)", ("cost", "least", "most", "unit"), lines)


def _measure(
    subject: Target, file: Path, device: torch.device, *, batch: int, rounds: int, overwrite: bool
) -> LatencyTable:
    """Return the latency table of the target's space: read from the file if it fits, else measured and written."""
    from dcs_nas.errors import InputError
    from dcs_nas.models.build import NO_LATENCY
    from dcs_nas.models.latency import LatencyTable, device_name, measure_table

    if subject.costs is None:
        raise InputError(
            f"--latency-table: {NO_LATENCY}" if subject.supernet else f"{subject.title} belongs to no space"
        )
    space = subject.costs.cost_space()
    if file.exists() and not overwrite:
        known = LatencyTable.read(file)
        asked = (space, device_name(device), batch)
        for what, old, new in zip(("space", "device", "batch"), (known.space, known.device, known.batch), asked):
            if old != new:
                raise InputError(f"{file} has {what} '{old}', not '{new}'; give another file, or use --overwrite")
        say(f"latency table: {file} was measured before; --overwrite measures it again")
        return known
    shown = progress("measuring")
    measured = measure_table(subject.costs.works(), space, device=device, batch=batch, rounds=rounds, progress=shown)
    measured.write(file)
    say(f"latency table: {file}; use it: -o search.cost.kind=latency -o search.cost.latency_table={file}")
    return measured


def _millions(count: float) -> str:
    return f"{count / 1e6:,.3f}"
