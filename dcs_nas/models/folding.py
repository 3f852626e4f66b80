"""Batch norms folded into the convolutions and linear layers in front of them, for networks that only evaluate.

Equation, with the running mean and variance, per output channel:
    BN(W x + b) = W' x + b',  W' = g W,  b' = g (b - mean) + beta,  g = gamma / sqrt(variance + eps)
(Jacob et al., "Quantization and Training of Neural Networks", CVPR 2018, section 3.2.)
"""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from dcs_nas.models.flops import dry_run

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def folded(network: nn.Module, *, height: int, width: int) -> tuple[nn.Module, list[str]]:
    """A copy of ``network`` for evaluation without the batch norms that folding replaces exactly, and their names.

    A norm is folded where it always reads the output of the same layer, and nothing else reads that output. All other
    norms stay: behind a concatenation, a pool or a product that is no layer. Training the copy makes no sense. The
    network itself stays as it is.

    Args:
        network: images (B, 3, height, width) to anything; run once on fake tensors to see what follows what.
        height: of the images.
        width: of the images.
    """
    copied = copy.deepcopy(network).eval()
    pairs = adjacent_norms(copied, height=height, width=width)
    modules = dict(copied.named_modules())
    for norm, layer in pairs.items():
        _fold(modules[layer], modules[norm])
        owner, _, name = norm.rpartition(".")
        setattr(modules[owner], name, nn.Identity())
    return copied, list(pairs)


def adjacent_norms(network: nn.Module, *, height: int, width: int) -> dict[str, str]:
    """Name of every batch norm that can be folded exactly to the name of the layer that it follows."""
    flow = _Flow()
    with _watched(network, flow), flow:
        outputs = dry_run(network, height, width)
    flow.note(tree_leaves(outputs))
    makers = {id(output): layer for layer, output in flow.layer_outputs}
    read_from: dict[str, set[str | None]] = defaultdict(set)
    read_by: dict[str, set[str | None]] = defaultdict(set)
    for tensor, norm in flow.norm_inputs.items():
        read_from[norm].add(makers.get(tensor))
    for layer, output in flow.layer_outputs:
        read_by[layer].add(flow.norm_inputs.get(id(output)) if flow.readers[id(output)] == 1 else None)
    modules, shared = dict(network.named_modules()), _with_shared_parameters(network)
    pairs = {}
    for norm, (source, *others) in read_from.items():
        alone = source is not None and not others and read_by[source] == {norm} and not {source, norm} & shared
        if source is not None and alone and getattr(modules[norm], "running_mean", None) is not None:
            pairs[norm] = source
    return pairs


class _Flow(TorchFunctionMode):
    """Which tensors layers give and norms read, and by how many functions each tensor is read."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: Counter[int] = Counter()
        self.layer_outputs: list[tuple[str, Tensor]] = []
        self.norm_inputs: dict[int, str] = {}
        self._kept: list[Any] = []  # a tensor that is gone could lend its id to another

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        given = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(given)):  # a shape or a type is no use of the values
            self.note(tree_leaves((args, kwargs)))
        self._kept.append(given)
        return given

    def note(self, leaves: list[Any]) -> None:
        """One more reader of each tensor."""
        self.readers.update({id(leaf) for leaf in leaves if isinstance(leaf, Tensor)})


@contextmanager
def _watched(network: nn.Module, flow: _Flow) -> Iterator[None]:
    def layer_hook(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, _inputs: Any, output: Tensor) -> None:
            # A norm counts its channels in dimension 1, a linear layer gives them in the last one.
            if output.ndim == 2 or not isinstance(module, nn.Linear):
                flow.layer_outputs.append((name, output))

        return hook

    def norm_hook(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor]) -> None:
            flow.norm_inputs[id(inputs[0])] = name

        return hook

    handles = []
    for name, module in network.named_modules():
        if isinstance(module, _LAYERS):
            handles.append(module.register_forward_hook(layer_hook(name)))
        elif isinstance(module, _NORMS):
            handles.append(module.register_forward_pre_hook(norm_hook(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _with_shared_parameters(network: nn.Module) -> set[str]:
    """Modules whose parameters another one uses too."""
    owners = defaultdict(set)
    for name, module in network.named_modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)].add(name)
    return {name for names in owners.values() if len(names) > 1 for name in names}


@torch.no_grad()
def _fold(layer: Any, norm: Any) -> None:
    """Changes the layer to what it and the norm give together, computed in float64."""
    kind, weight = layer.weight.dtype, layer.weight.double()
    gain = torch.rsqrt(norm.running_var.double() + norm.eps)
    gain = gain if norm.weight is None else gain * norm.weight.double()
    bias = gain * ((0 if layer.bias is None else layer.bias.double()) - norm.running_mean.double())
    bias = bias if norm.bias is None else bias + norm.bias.double()
    weight = weight * gain.view(-1, *[1] * (weight.ndim - 1))
    layer.weight = nn.Parameter(weight.to(kind), requires_grad=False)
    layer.bias = nn.Parameter(bias.to(kind), requires_grad=False)
