"""Spatial RGA: our factored relations against the published formula with its N x N relation map.

Both run the same weights, and each as it is and compiled by torch.compile, as ``trainer.compile`` does. The direct form
(_plain_blocks.py) is equations 3 to 8 of Zhang et al., CVPR 2020, step by step: R = theta^T phi, every node's row and
column of R stacked into 2N channels, embedded by a 1x1 convolution. Every timed call follows an untimed one of the same
form; a speed-up is the median of the ratios of calls side by side.
Gradients are compared in float64: in float32 a ReLU input within rounding of 0 may fall on either side.
Extra memory is the peak of forward + backward beyond inputs, output and gradients, which both forms have alike.

    python benchmarks/rga.py --json results/reference/rga.json
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from _plain_blocks import rga as direct
from measure import MIB, in_turn, peak_memory, ratio, write_json
from torch import Tensor

from dcs_nas.models.blocks.rga import RGA

Size = tuple[int, int, int, int]


def factored(block: RGA, x: Tensor) -> Tensor:
    """Ours."""
    return block(x)


FORMS = {
    "direct": direct,
    "factored": factored,
    "direct, compiled": torch.compile(direct, fullgraph=True),
    "factored, compiled": torch.compile(factored, fullgraph=True),
}


def make(size: Size, dtype: torch.dtype = torch.float32) -> tuple[RGA, Tensor, Tensor]:
    """A seeded training-mode block, its input and the gradient at its output."""
    torch.manual_seed(0)
    block = RGA(size[1], size[2], size[3], use_channel=False).to(dtype)
    return block, torch.randn(size, dtype=dtype, requires_grad=True), torch.randn(size, dtype=dtype)


def forward_backward(form: str, block: RGA, x: Tensor, upstream: Tensor) -> list[Tensor]:
    """Output, and the gradients by x and all weights for the gradient ``upstream`` at the output."""
    y = FORMS[form](block, x)
    return [y.detach(), *torch.autograd.grad(y, [x, *block.parameters()], upstream)]


def prepare(form: str, size: Size) -> Callable[[], object]:
    """For ``peak_memory``."""
    torch.set_num_threads(1)
    return partial(forward_backward, form, *make(size))


def deviations(form: str, size: Size, dtype: torch.dtype) -> tuple[float, float]:
    """Relative difference to the direct form's output, and the largest of the gradients, each to its largest entry."""
    inputs = make(size, dtype)
    pairs = zip(forward_backward("direct", *inputs), forward_backward(form, *inputs), strict=True)
    output, *gradients = (float((a - b).abs().max() / a.abs().max()) for a, b in pairs)
    return output, max(gradients)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=4, default=(2, 256, 64, 32), metavar=("B", "C", "H", "W"))
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--threads", type=int, default=1, help="of the timed runs; several wait for each other")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size = tuple(arguments.size)
    inputs = make(size)
    calls = {form: partial(forward_backward, form, *inputs) for form in FORMS}
    times = in_turn(calls, arguments.repeats, steady=True)
    speedups = {form: ratio(times["direct"], to=seconds) for form, seconds in times.items() if form != "direct"}
    returned = sum(tensor.nbytes for tensor in forward_backward("factored", *inputs))
    extra = {form: peak_memory(prepare, form, size) - returned for form in FORMS}
    results = {
        "size": size,
        "seconds": {form: statistics.median(seconds) for form, seconds in times.items()},
        "speedup_over_direct": speedups,
        "speedup_over_direct_compiled": ratio(times["direct, compiled"], to=times["factored, compiled"]),
        "returned_mib": returned / MIB,
        "extra_memory_mib": {form: value / MIB for form, value in extra.items()},
        "memory_share": {form: value / extra["direct"] for form, value in extra.items()},
        "output_difference_float32": {form: deviations(form, size, torch.float32)[0] for form in FORMS},
        "output_and_gradient_difference_float64": deviations("factored", size, torch.float64),
    }
    for name, value in results.items():
        print(f"{name}: {value}")
    write_json(arguments.json, results)


if __name__ == "__main__":
    main()
