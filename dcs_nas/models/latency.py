"""Latency measured on this machine: of a function, and of the parts of a space, as a table in a file.

All times are medians of rounds after warm-up, in microseconds for one batch, in evaluation mode without gradients.
"""

from __future__ import annotations

import logging
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from dcs_nas.errors import InputError
from dcs_nas.files import write_text
from dcs_nas.settings import Settings, parse, read_yaml, to_yaml

log = logging.getLogger(__name__)
FORMAT = 1
LONGEST = 1e12
"""The largest valid latency: eleven days in microseconds."""
WARM_UP = 5
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Work:
    """A module to time; modules with the same ``key`` take the same time.

    Attributes:
        key: operation, shapes and stride, such as "sep_conv_3x3 8x32x16 stride 1".
        shape: (C, H, W) of its input.
        make: returns the module, initialized, on the device in use.
    """

    key: str
    shape: tuple[int, ...]
    make: Callable[[], nn.Module]


class LatencyTable(Settings):
    """Latencies by ``Work.key``, and where and how they were measured."""

    format: int = FORMAT
    space: str
    device: str
    torch: str
    threads: int = Field(ge=1)
    batch: int = Field(ge=1)
    dtype: str = "float32"
    rounds: int = Field(ge=1)
    microseconds: dict[str, Annotated[float, Field(ge=0, le=LONGEST)]]

    @classmethod
    def read(cls, path: Path) -> LatencyTable:
        """Return the table of a file; raise ``InputError`` for a file of another kind."""
        data = read_yaml(path)
        version = data.get("format")
        if not isinstance(version, int) or isinstance(version, bool) or "microseconds" not in data:
            raise InputError(f"{path} is not a latency table; measure one: dcs-nas profile CONFIG --latency-table FILE")
        if version > FORMAT:
            raise InputError(f"{path} has latency format {version}, this version reads up to {FORMAT}; update dcs_nas")
        return parse(cls, data, source=str(path))

    def write(self, path: Path) -> None:
        """Write the table as a YAML file, whole or not at all."""
        write_text(path, to_yaml(self))

    def __getitem__(self, key: str) -> float:
        if key not in self.microseconds:
            raise InputError(f"the latency table of {self.space} has no '{key}'; measure one for this space")
        return self.microseconds[key]

    def require(self, space: str, *, source: str, other: bool = False) -> None:
        """Raise ``InputError`` unless the table was measured for ``space`` on this machine; with ``other``, warn."""
        problem = ""
        if self.device not in device_names():
            problem = f"was measured on '{self.device}', this machine has '{' and '.join(device_names())}'"
        elif self.space != space:
            problem = f"is of space '{self.space}', expected '{space}'"
        if problem and not other:
            raise InputError(
                f"{source} {problem}; measure a table here (dcs-nas profile CONFIG --latency-table FILE) or set "
                "search.cost.other_latency_table=true"
            )
        if problem:
            log.warning("%s %s; used anyway, by search.cost.other_latency_table", source, problem)
        if self.torch != torch.__version__:
            log.warning("%s was measured with torch %s, this is %s", source, self.torch, torch.__version__)


def measure_table(
    works: Iterable[Work],
    space: str,
    *,
    device: torch.device,
    batch: int = 1,
    rounds: int = 30,
    progress: Progress | None = None,
) -> LatencyTable:
    """Time every different work of ``space``, each with maps (batch, C, H, W) in float32.

    Every round runs all of them in turn, so that each starts with the caches as in a network, after other work, and any
    other load on the machine slows all of them alike.
    """
    different = {work.key: work for work in works}
    runs = {key: run for key, work in different.items() if (run := _prepare(work, device, batch)) is not None}
    times: dict[str, list[float]] = {key: [] for key in runs}
    with torch.no_grad():
        for number in range(WARM_UP + rounds):
            for key, run in runs.items():
                began = clock(device)
                run()
                times[key].append(clock(device) - began)
            if progress is not None:
                progress(number + 1, WARM_UP + rounds)
    medians = {key: round(1e6 * statistics.median(times_of_key[WARM_UP:]), 3) for key, times_of_key in times.items()}
    return LatencyTable(
        space=space,
        device=device_name(device),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        batch=batch,
        rounds=rounds,
        microseconds={key: medians.get(key, 0.0) for key in different},
    )


def measure_latency(run: Callable[[], object], device: torch.device, *, rounds: int, warm_up: int = WARM_UP) -> float:
    """Return the median time of ``run()`` in microseconds, waiting for the device before and after each."""
    for _ in range(warm_up):
        run()
    times = []
    for _ in range(rounds):
        began = clock(device)
        run()
        times.append(clock(device) - began)
    return 1e6 * statistics.median(times)


def clock(device: torch.device) -> float:
    """Return seconds, read after the device has finished all pending work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def resolve_device(name: str) -> torch.device:
    """Return the device of a name; "auto" is the first GPU where there is one.

    Raises ``InputError`` for an unknown device or one that this machine lacks.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError):
        raise InputError(f"device '{name}' cannot be used here; expected auto, cpu, cuda, cuda:N or mps") from None
    return device


def device_name(device: torch.device) -> str:
    """Return the vendor's name of the device, which is the same on every machine that has one."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    processor = _read_processor()
    return processor if device.type == "cpu" else f"{processor} {device.type}"


def device_names() -> list[str]:
    """Return names of the devices of this machine, each once."""
    devices = [torch.device("cpu"), *(torch.device("cuda", i) for i in range(torch.cuda.device_count()))]
    devices += [torch.device("mps")] if torch.backends.mps.is_available() else []
    return list(dict.fromkeys(device_name(device) for device in devices))


def _prepare(work: Work, device: torch.device, batch: int) -> Callable[[], object] | None:
    """Return a function that runs the module once; None for the identity, which takes no time."""
    module = work.make()
    if isinstance(module, nn.Identity):
        return None
    module = module.to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    maps = torch.randn(batch, *work.shape, device=device).to(memory_format=torch.channels_last)
    return lambda: module(maps)


def _read_processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
