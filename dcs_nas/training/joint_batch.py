"""Data parallel training in which every process computes the loss of the joint batch. B images a process, W processes.

Losses over pairs of images and class statistics are not sums over images: averaging each process's own loss, as is
usual, would train something else on two processes than on one. Here features and scores are gathered and every process
computes the whole loss L. Gradients are those of L / W summed over the processes, and are added up.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from torch.nn import Module, Parameter

from dcs_nas.errors import TrainingError
from dcs_nas.models.heads import Embedding
from dcs_nas.processes import get_rank, get_world_size


class ReplicatedStrategy(DDPStrategy):
    """A strategy with a copy of the network in every process; the training step sums gradients by ``sum_gradients``."""

    strategy_name = "replicated"

    def configure_ddp(self) -> None:
        """Start all processes from the parameters and buffers of the first."""
        assert self.model is not None
        for tensor in [*self.model.parameters(), *self.model.buffers()]:
            dist.broadcast(tensor.data, src=0)


class EqualProcesses(Checkpoint):
    """A callback that ends the job before saving, if parameters or buffers differ between processes after an epoch.

    Lightning runs callbacks of this base class last, when the epoch's statistics are joined.
    """

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        require_equal(pl_module.state_dict(), where=f"after epoch {trainer.current_epoch + 1}")


def require_equal(state: Mapping[str, Tensor], *, where: str) -> None:
    """Raise ``TrainingError`` in all processes unless all hold these tensors bit by bit (their CRC-32)."""
    if get_world_size() == 1:
        return
    device = next(iter(state.values())).device
    own = torch.tensor([_checksum(value) for value in state.values()], device=device)
    checksums = [torch.empty_like(own) for _ in range(get_world_size())]
    dist.all_gather(checksums, own)
    differs = torch.stack([other != checksums[0] for other in checksums]).cpu()
    if not bool(differs.any()):
        return
    names = [name for name, wrong in zip(state, differs.any(0).tolist()) if wrong]
    other = int(differs.any(1).nonzero()[0])
    raise TrainingError(
        f"{where}, processes 0 and {other} of {get_world_size()} differ in {len(names)} of {len(state)} tensors, such "
        f"as {names[0]}; use machines of one kind and one version of torch, then --resume from the epoch before"
    )


def joint(tensor: Tensor) -> Tensor:
    """Return the tensors (B, ...) of all processes by rank, (W B, ...): in value and derivatives of every order."""
    return tensor if get_world_size() == 1 else cast(Tensor, _Gather.apply(tensor))


def joint_embedding(embedding: Embedding) -> Embedding:
    """Return the embedding of the joint batch."""
    stem = None if embedding.stem is None else joint(embedding.stem)
    return Embedding(joint(embedding.features), [joint(logits) for logits in embedding.logits or []], stem)


def gather_batches(own: Iterator[Tensor], *, count: int, size: int, device: torch.device) -> Iterator[Tensor]:
    """Yield the batches (n, D) of all processes in order: of W, this one has batches r, r + W, ... of ``count`` rows.

    Every batch has ``size`` rows but the last. W batches are exchanged at a time; padding is dropped.
    """
    if get_world_size() == 1:
        yield from own
        return
    width = torch.zeros(1, dtype=torch.long, device=device)
    for first in range(0, count, size * get_world_size()):
        batch = next(own, None)
        if not first:
            width.fill_(0 if batch is None else batch.shape[1])
            dist.broadcast(width, src=0)
        padded = torch.zeros(size, int(width), device=device)
        if batch is not None:
            padded[: len(batch)] = batch
        parts = [torch.empty_like(padded) for _ in range(get_world_size())]
        dist.all_gather(parts, padded)
        for start, part in zip(range(first, count, size), parts):
            yield part[: count - start]


def sum_over_processes(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the sums of these tensors over all processes, by one all-reduce."""
    if get_world_size() == 1 or not tensors:
        return list(tensors)
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    return [part.view_as(t) for part, t in zip(flat.split([t.numel() for t in tensors]), tensors)]


def sum_gradients(parameters: Sequence[Parameter]) -> None:
    """Replace the gradients of these parameters by their sums over all processes."""
    if get_world_size() == 1:
        return
    having = [p for p in parameters if p.grad is not None]
    for parameter, total in zip(having, sum_over_processes([p.grad for p in having if p.grad is not None])):
        parameter.grad = total


@torch.no_grad()
def average_buffers(module: Module) -> None:
    """Replace floating-point buffers, such as running statistics, by their means over all processes."""
    buffers = [b for b in module.buffers() if b.is_floating_point()]
    if get_world_size() > 1:
        for buffer, total in zip(buffers, sum_over_processes(buffers)):
            buffer.copy_(total / get_world_size())


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


class _Gather(torch.autograd.Function):
    """A map from (B, ...) to (W B, ...): the adjoint of ``_SumSlice``, whose adjoint it is."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _SumSlice.apply(gradients[0])


class _SumSlice(torch.autograd.Function):
    """A map from (W B, ...), summed over processes, to the slice (B, ...) of this process."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(get_world_size())[get_rank()].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Gather.apply(gradients[0])
