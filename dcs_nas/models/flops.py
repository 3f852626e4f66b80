"""Parameters and multiply-accumulates of a network, layer by layer, without computing anything.

Counted: convolutions (depthwise ones at their true cost), linear layers, every other matrix product, and both products
of scaled_dot_product_attention. Not counted, as in the papers whose figures are compared: biases, normalisation,
activations, pooling, resampling and elementwise products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from dcs_nas.models.resampling import Resample

CostKind = Literal["flops", "parameters"]

# torch's meter knows the attention kernels of GPUs alone.
_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@dataclass(frozen=True)
class LayerCost:
    """The cost of one module, without its submodules.

    Attributes:
        name: path in the network, "" for the network itself.
        parameters: of the module itself, without those shared with an earlier row.
        macs: multiply-accumulates for one image, in all uses.
        uses: number of runs for one image.
    """

    name: str
    parameters: int
    macs: int
    uses: int


@dataclass(frozen=True)
class Cost:
    """The cost of a network for one image.

    Attributes:
        parameters: numbers, frozen ones too, each counted once.
        macs: multiply-accumulates; what Re-ID papers call FLOPs (OSNet's "0.98 GFLOPs" are 0.98e9 of these).
        layers: one row per module with parameters or multiply-accumulates of its own, which add up to the totals.
    """

    parameters: int
    macs: int
    layers: tuple[LayerCost, ...]

    def amount(self, kind: CostKind) -> int:
        """Return the multiply-accumulates (``flops``) or the ``parameters``."""
        return self.macs if kind == "flops" else self.parameters


def count(model: nn.Module, height: int, width: int) -> Cost:
    """Return the cost of ``model`` in evaluation mode for one image of 3 x height x width; the model is unchanged."""
    return count_map(model, (3, height, width))[0]


def count_map(module: nn.Module, shape: Sequence[int]) -> tuple[Cost, tuple[int, ...]]:
    """Return the cost of ``module`` for one input of ``shape`` (C, H, W), and the shape of its output, if a tensor."""
    meter = FlopCounterMode(display=False, custom_mapping={_CPU_ATTENTION: _count_attention})
    with attribute(module, meter.get_total_flops) as shares, meter:
        _run_fake(module, shape)
    layers = tuple(layer for layer in _list_layers(module, shares) if layer.parameters or layer.macs)
    cost = Cost(sum(p.numel() for p in module.parameters()), sum(layer.macs for layer in layers), layers)
    return cost, shares[module].output


@dataclass
class Share:
    """Amount of a quantity in one module, number of its calls, and shape of its last output, without the batch."""

    amount: float = 0
    uses: int = 0
    output: tuple[int, ...] = ()


@contextmanager
def attribute(model: nn.Module, read: Callable[[], float]) -> Iterator[dict[nn.Module, Share]]:
    """Attribute each increase of ``read()`` during forward passes to the innermost running module.

    Modules are in the order of their first run; modules that did not run are left out.
    """
    shares: dict[nn.Module, Share] = {}
    running: list[nn.Module] = []
    before = read()

    def settle() -> None:
        nonlocal before
        now = read()
        if running:
            shares[running[-1]].amount += now - before
        before = now

    def enter(module: nn.Module, _inputs: object) -> None:
        settle()
        running.append(module)
        shares.setdefault(module, Share()).uses += 1

    def leave(module: nn.Module, _inputs: object, output: object) -> None:
        settle()
        running.pop()
        shares[module].output = tuple(output.shape[1:]) if isinstance(output, Tensor) else ()

    hooks = [module.register_forward_pre_hook(enter) for module in model.modules()]
    hooks += [module.register_forward_hook(leave) for module in model.modules()]
    try:
        yield shares
    finally:
        for hook in hooks:
            hook.remove()


def _count_attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Return two per multiply-accumulate of q k^T and of its product with v, from (B, heads, tokens, width)."""
    batch, heads, tokens, width = query
    return 2 * batch * heads * tokens * key[2] * (width + value[3])


def _list_layers(model: nn.Module, shares: Mapping[nn.Module, Share]) -> Iterator[LayerCost]:
    counted: set[nn.Parameter] = set()
    for name, module in model.named_modules():
        own = set(module.parameters(recurse=False)) - counted
        counted |= own
        share = shares.get(module, Share())
        macs = 0 if isinstance(module, Resample) else int(share.amount) // 2
        parameters = sum(p.numel() for p in own)
        yield LayerCost(name, parameters, macs, share.uses)


def dry_run(model: nn.Module, height: int, width: int) -> Any:
    """Return ``model``'s output for one image (1, 3, height, width), in evaluation mode, as fake tensors.

    Weights, running statistics and the training flags of the modules stay as they are.
    """
    return _run_fake(model, (3, height, width))


def _run_fake(model: nn.Module, shape: Sequence[int]) -> Any:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    # The input has the weights' type and device, so that a half-precision model runs too.
    like = next((t for t in tensors.values() if t.is_floating_point()), torch.empty(0))
    with _evaluating(model), torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as fake:
        fakes: dict[str, Tensor] = {name: fake.from_tensor(tensor.detach()) for name, tensor in tensors.items()}
        return functional_call(model, fakes, torch.empty(1, *shape, device=like.device, dtype=like.dtype))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode in the block, then restore the mode of each module."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
