"""Parameters and multiply-accumulates of a network, layer by layer, without computing anything.

Counted: convolutions (depthwise ones at their true cost), linear layers, every other matrix product, and both products
of scaled_dot_product_attention. Not counted, as in the papers whose figures are compared: biases, normalisation,
activations, pooling, resampling and elementwise products.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dcs_nas.models.dry_run import dry_run

# torch's meter knows the attention kernels of GPUs alone.
_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@dataclass(frozen=True)
class LayerCost:
    """What one module does itself, its submodules left out.

    Attributes:
        name: its place in the network, "" for the network itself.
        kind: its class.
        parameters: of its own, without those that an earlier row shares with it.
        macs: multiply-accumulates for one image, all uses together.
        uses: how often it runs for one image.
    """

    name: str
    kind: str
    parameters: int
    macs: int
    uses: int


@dataclass(frozen=True)
class Cost:
    """The cost of a network for one image.

    Attributes:
        parameters: numbers that training may change, each once.
        macs: multiply-accumulates; what Re-ID papers call FLOPs (OSNet's "0.98 GFLOPs" are 0.98e9 of these).
        layers: one row per module with parameters or multiply-accumulates of its own; both columns add up to the above.
    """

    parameters: int
    macs: int
    layers: tuple[LayerCost, ...]

    @property
    def parameters_by_use(self) -> int:
        """Parameters, those of a layer that runs n times counted n times.

        So does torchreid's compute_model_complexity, from which come the figures of its model zoo: HA-CNN, whose local
        layers serve four regions, stands there with 4.5 M, though it has 2.9 M.
        """
        return sum(layer.parameters * max(1, layer.uses) for layer in self.layers)


def count(model: nn.Module, height: int, width: int) -> Cost:
    """The cost of ``model``, in evaluation mode, for one image of 3 x height x width. The model is left as it was."""
    meter = FlopCounterMode(display=False, custom_mapping={_CPU_ATTENTION: _attention_flops})
    tally = {module: _Tally() for module in model.modules()}
    with _attributed(meter, tally), meter:
        dry_run(model, height, width)
    layers = tuple(layer for layer in _rows(model, tally) if layer.parameters or layer.macs)
    return Cost(sum(p.numel() for p in model.parameters()), meter.get_total_flops() // 2, layers)


@dataclass
class _Tally:
    flops: int = 0
    uses: int = 0


def _attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Two per multiply-accumulate of q k^T and of its product with v, from shapes (B, heads, tokens, width)."""
    batch, heads, tokens, width = query
    return 2 * batch * heads * tokens * key[2] * (width + value[3])


def _rows(model: nn.Module, tally: dict[nn.Module, _Tally]) -> Iterator[LayerCost]:
    counted: set[nn.Parameter] = set()
    for name, module in model.named_modules():
        own = set(module.parameters(recurse=False)) - counted
        counted |= own
        spent = tally[module]
        yield LayerCost(name, type(module).__name__, sum(p.numel() for p in own), spent.flops // 2, spent.uses)


@contextmanager
def _attributed(meter: FlopCounterMode, tally: dict[nn.Module, _Tally]) -> Iterator[None]:
    """Gives what the meter counts to the innermost running module."""
    # The meter's total when the innermost running module last got hold of it.
    since = [0]

    def settle(module: nn.Module | None) -> None:
        total = meter.get_total_flops()
        if module is not None:
            tally[module].flops += total - since[0]
        since[0] = total

    running: list[nn.Module] = []

    def enter(module: nn.Module, _inputs: object) -> None:
        settle(running[-1] if running else None)
        running.append(module)
        tally[module].uses += 1

    def leave(module: nn.Module, _inputs: object, _outputs: object) -> None:
        settle(running.pop())

    hooks = [module.register_forward_pre_hook(enter) for module in tally]
    hooks += [module.register_forward_hook(leave) for module in tally]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
