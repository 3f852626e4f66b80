"""What attention blocks look at while a network runs: one map for each image and block, or its regions.

Shapes: B images, C channels, H x W a block's map, T regions, M nodes of RGA's gates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dcs_nas.models.blocks import RGA, DCSAttention, HardAttention, SoftAttention


@dataclass(frozen=True)
class Seen:
    """What one block did with a batch.

    Attributes:
        block: its place in the network.
        kind: ``dcs``: (B, H, W) share of the channels that each token keeps. ``soft``: (B, H, W) Harmonious Attention's
            mask, the mean of its channels. ``rga``: (B, H, W) weights of the positions. ``channels``: (B, C) weights of
            RGA's channels. ``regions``: (B, T, 2) centres (x, y) of Harmonious Attention's regions, from -1 to 1.
        values: of that shape.
    """

    block: str
    kind: str
    values: Tensor


@contextmanager
def watched(network: nn.Module) -> Iterator[list[Seen]]:
    """Within it, the list collects what the attention blocks of ``network`` see, pass by pass, in order of computation.

    A block is noted under the name of the module that holds all of it.
    """
    seen: list[Seen] = []
    handles = []
    for name, module in network.named_modules():
        if isinstance(module, DCSAttention):
            handles.append(module.register_forward_pre_hook(_dcs(seen, name)))
        elif isinstance(module, SoftAttention):
            handles.append(module.register_forward_hook(_output(seen, _holder(name), "soft", lambda y: y.mean(1))))
        elif isinstance(module, HardAttention):
            handles.append(module.register_forward_hook(_output(seen, _holder(name), "regions", lambda y: y)))
        elif isinstance(module, RGA):
            if module.spatial is not None:
                handles.append(module.spatial.register_forward_hook(_positions(seen, name, module)))
            if module.channel is not None:
                gate = _output(seen, name, "channels", lambda y: torch.sigmoid(y[:, 0]))
                handles.append(module.channel.register_forward_hook(gate))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def has_attention(network: nn.Module) -> bool:
    """Whether any block of the network has a map to show."""
    return any(isinstance(m, (DCSAttention, SoftAttention, HardAttention, RGA)) for m in network.modules())


def _dcs(seen: list[Seen], name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, DCSAttention)
        seen.append(Seen(name, "dcs", module.mask(inputs[0]).float().mean(1).cpu()))

    return note


def _output(
    seen: list[Seen], name: str, kind: str, reduce: Callable[[Tensor], Tensor]
) -> Callable[[nn.Module, object, Tensor], None]:
    def note(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        seen.append(Seen(name, kind, reduce(output.detach().float()).cpu()))

    return note


def _positions(seen: list[Seen], name: str, block: RGA) -> Callable[[nn.Module, object, Tensor], None]:
    """RGA's logits (B, 1, M) of the positions, pooled where the block pools, as sigmoid maps."""
    size = (-(-block.height // block.stride), -(-block.width // block.stride))
    return _output(seen, name, "rga", lambda y: torch.sigmoid(y[:, 0]).unflatten(1, size))


def _holder(name: str) -> str:
    """
    >>> _holder("attention.1.soft_attn"), _holder("soft_attn")
    ('attention.1', '')
    """
    return name.rpartition(".")[0]
