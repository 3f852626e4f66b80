"""Data parallel training in which every process computes the loss of the joint batch. B images a process, W processes.

Losses over pairs of images and class statistics are not sums over images: averaging each process's own loss, as is
usual, would train something else on two processes than on one. Here features and scores are gathered and every process
computes the whole loss L. What is differentiated is the sum of L / W over the processes, and gradients are added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from torch.nn import Module, Parameter

from dcs_nas.models.heads import Embedding
from dcs_nas.processes import rank, world


class ReplicatedStrategy(DDPStrategy):
    """A copy of the network in every process; the training step itself adds up gradients, by ``sum_gradients``."""

    strategy_name = "replicated"

    def configure_ddp(self) -> None:
        """Start all processes from the parameters and buffers of the first."""
        assert self.model is not None
        for tensor in [*self.model.parameters(), *self.model.buffers()]:
            dist.broadcast(tensor.data, src=0)


def joint(tensor: Tensor) -> Tensor:
    """The tensors (B, ...) of all processes in order of rank, (W B, ...): in value and derivatives of every order."""
    return tensor if world() == 1 else cast(Tensor, _Gather.apply(tensor))


def joint_embedding(embedding: Embedding) -> Embedding:
    """The embedding of the joint batch."""
    stem = None if embedding.stem is None else joint(embedding.stem)
    return Embedding(joint(embedding.features), [joint(logits) for logits in embedding.logits or []], stem)


def sum_over_processes(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The sums of these tensors over all processes, by one message."""
    if world() == 1 or not tensors:
        return list(tensors)
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    return [part.view_as(t) for part, t in zip(flat.split([t.numel() for t in tensors]), tensors)]


def sum_gradients(parameters: Sequence[Parameter]) -> None:
    """Replace the gradients of these parameters by their sums over all processes."""
    if world() == 1:
        return
    having = [p for p in parameters if p.grad is not None]
    for parameter, total in zip(having, sum_over_processes([p.grad for p in having if p.grad is not None])):
        parameter.grad = total


@torch.no_grad()
def average_buffers(module: Module) -> None:
    """Replace floating-point buffers, such as running statistics, by their means over all processes."""
    buffers = [b for b in module.buffers() if b.is_floating_point()]
    if world() > 1:
        for buffer, total in zip(buffers, sum_over_processes(buffers)):
            buffer.copy_(total / world())


class _Gather(torch.autograd.Function):
    """(B, ...) to (W B, ...): the adjoint of ``_SumSlice``, and that of this."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _SumSlice.apply(gradients[0])


class _SumSlice(torch.autograd.Function):
    """(W B, ...) summed over processes; of the sum this process's (B, ...)."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(world())[rank()].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Gather.apply(gradients[0])
