"""The memory of a training step, measured by the same step on 2 and on 4 images."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dcs_nas.config import Config
from dcs_nas.models.depthwise import as_on_gpu
from dcs_nas.models.heads import ReidNetwork

Step = Callable[[ReidNetwork, Callable[[], Tensor]], object]
GIB = 2**30
SHARE = 0.9  # of a GPU's memory that tensors can have beside libraries, kernels and the allocator's free blocks
_HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
_STATES = {"sgd": 1, "adam": 2, "adamw": 2}


@dataclass(frozen=True)
class StepMemory:
    """Bytes of tensors alive in the course of a step, at each of its T operations, linear in the images of the batch.

    The framework's libraries and kernels and free blocks of its allocator are not included.

    Attributes:
        fixed: (T,) whatever the batch: weights, gradients and the optimizer's state among them.
        per_image: (T,) for each image.
    """

    fixed: np.ndarray
    per_image: np.ndarray

    def peak(self, images: int) -> int:
        """Return the largest number of bytes alive in a step of a batch of ``images``."""
        return int((self.fixed + images * self.per_image).max())

    def largest_batch(self, limit: int, *, multiple: int = 1) -> int:
        """Return the largest batch, a multiple of ``multiple``, whose peak is at most ``limit`` bytes; 0 for none."""
        if self.fixed.max() > limit:
            return 0
        growing = self.per_image > 0
        images = ((limit - self.fixed[growing]) / self.per_image[growing]).min()
        return int(images // multiple) * multiple


def measure_step(
    network: ReidNetwork, config: Config, *, states: int, step: Step | None = None, device: torch.device | None = None
) -> StepMemory:
    """Return the memory of a training step of ``network``; the network and all random generators are unchanged.

    By two batches of 2 and 4 random images: after each operation what is alive is linear in the batch. The peak of a
    large batch may lie elsewhere than that of a small one.

    Args:
        network: the network with its heads, uncompiled.
        config: the settings of the job, of which image size and precision are read.
        states: numbers that the optimizer keeps for each weight.
        step: computes gradients by the function of the loss that it is given; by default one backward pass.
        device: where to measure; without one, on the CPU with the types that a GPU would compute in.
    """
    own = torch.float64 if config.trainer.precision == "64-true" else torch.float32
    where = device or torch.device("cpu")
    network = copy.deepcopy(network).to(where, own).train()
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []), as_on_gpu(device is None):
        low, high = (_alive(network, config, images, step or _backward, own) for images in (2, 4))
    low, high = _align(low, high)
    per_image = (high - low) / 2
    return StepMemory(fixed=low - 2 * per_image + (1 + states) * weights, per_image=per_image)


def measure_retraining(network: ReidNetwork, config: Config, *, device: torch.device | None = None) -> StepMemory:
    """Return the memory of a step of a retraining: ``measure_step`` with the states of its optimizer and average."""
    settings = config.training
    assert settings is not None
    states = _STATES[settings.optimizer] + (settings.optimizer != "sgd" and settings.amsgrad)
    return measure_step(network, config, states=states + (settings.ema_decay is not None), device=device)


def _alive(network: ReidNetwork, config: Config, images: int, step: Step, dtype: torch.dtype) -> np.ndarray:
    """Return the bytes alive after each operation of a step; the draws are the same for every number of images."""
    device = next(network.parameters()).device
    size = (images, 3, config.data.height, config.data.width)
    batch = torch.rand(size, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    cameras = torch.zeros(images, dtype=torch.long, device=device)
    half = _HALF.get(config.trainer.precision)

    def loss() -> Tensor:
        with torch.autocast(device.type, dtype=half or torch.bfloat16, enabled=half is not None):
            embedding = network(batch, cameras)
        logits = embedding.logits or []
        return sum((row.float().logsumexp(1).mean() for row in logits), embedding.features.float().square().mean())

    torch.manual_seed(0)
    network.zero_grad(set_to_none=True)
    with _LiveBytes() as live:
        step(network, loss)
    return np.array(live.course, dtype=np.float64)


def _align(*courses: np.ndarray) -> list[np.ndarray]:
    """Return courses of as many operations: a block that works in pieces takes more of them for more images."""
    places = np.linspace(0, 1, max(map(len, courses)))
    return [np.interp(places, np.linspace(0, 1, len(course)), course) for course in courses]


def _backward(network: nn.Module, loss: Callable[[], Tensor]) -> None:
    loss().backward()


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that operations within it have made and that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.course = 0, list[int]()
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage(), inputs)
        self.course.append(self.alive)
        return result

    def _count(self, storage: torch.UntypedStorage, inputs: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or key in inputs:
            return
        self._known.add(key)
        self.alive += size
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size
