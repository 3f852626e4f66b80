"""DCS-Attention: fused attention against the explicit N x N affinity matrix.

Both run the same block with the same masks, forward + backward in training mode. Extra memory is what the attention
product softmax(s Q Q^T) X adds to the block's peak: the peak of a form minus that of the block without the product.

    python benchmarks/dcs_attention.py --json results/reference/dcs_attention.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from measure import MIB, alternate, peak_memory, write_json
from torch import Tensor

from dcs_nas.models.blocks import DCSAttention, dcs

Size = tuple[int, int, int, int]


def explicit(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    """The formula as it is written."""
    return torch.softmax(scale * q @ k.transpose(1, 2), dim=-1) @ v


def without(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    """No affinities: what the rest of the block needs."""
    return q * k * v


FORMS = {"explicit": explicit, "fused": dcs.attend, "without": without}


def make(size: Size) -> tuple[DCSAttention, Tensor, Tensor]:
    """A seeded training-mode block that is not the identity, its input and the gradient at its output."""
    torch.manual_seed(0)
    block = DCSAttention(size[1])
    torch.nn.init.ones_(block.norm.weight)
    return block, torch.randn(size, requires_grad=True), torch.randn(size)


def forward_backward(form: str, block: DCSAttention, x: Tensor, upstream: Tensor) -> list[Tensor]:
    """Output, and the gradients by x and all weights for the gradient ``upstream`` at the output."""
    torch.manual_seed(1)
    fused, dcs.attend = dcs.attend, FORMS[form]
    try:
        y = block(x)
    finally:
        dcs.attend = fused
    return [y.detach(), *torch.autograd.grad(y, [x, *block.parameters()], upstream)]


def prepare(form: str, size: Size) -> Callable[[], object]:
    """For ``peak_memory``."""
    torch.set_num_threads(1)
    return partial(forward_backward, form, *make(size))


def deviation(size: Size) -> float:
    """Largest difference of output and gradients, each relative to its largest entry."""
    inputs = make(size)
    pairs = zip(forward_backward("explicit", *inputs), forward_backward("fused", *inputs), strict=True)
    return max(float((a - b).abs().max() / a.abs().max().clamp_min(1e-12)) for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=4, default=(2, 256, 64, 32), metavar=("B", "C", "H", "W"))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the timed runs")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size = tuple(arguments.size)
    inputs = make(size)
    seconds = alternate(
        {form: partial(forward_backward, form, *inputs) for form in ("explicit", "fused")}, arguments.repeats
    )
    peak = {form: peak_memory(prepare, form, size) for form in FORMS}
    extra = {form: peak[form] - peak["without"] for form in ("explicit", "fused")}
    results = {
        "size": size,
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "speedup": seconds["explicit"] / seconds["fused"],
        "block_peak_mib": {form: value / MIB for form, value in peak.items()},
        "extra_memory_mib": {form: value / MIB for form, value in extra.items()},
        "memory_share": extra["fused"] / extra["explicit"],
        "largest_relative_difference": deviation(size),
    }
    for name, value in results.items():
        print(f"{name}: {value}")
    write_json(arguments.json, results)


if __name__ == "__main__":
    main()
