"""Passes of a network in training as CUDA graphs.

A supernet's pass starts tens of thousands of kernels, most of which end before a processor has started the next. A CUDA
graph starts all of them at once, and computes the same values; in half precision to rounding, since gradients of a
weight that is used several times are added in float32.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dcs_nas.errors import TrainingError
from dcs_nas.models.relaxation import Sample
from dcs_nas.models.supernet import Mixture


class GraphedForward:
    """A network's ``forward`` whose passes in training are captured once and replayed; ``install`` puts it in place.

    Inputs of a graph are the tensors of a pass and the mixture weights that ``Supernet.hold_draw`` holds. What is no
    tensor is fixed when it is captured, so there is a graph for each size of the batch, number format, set of learning
    parameters and set of parts in training mode. Passes without gradients, in evaluation mode or within ``pause`` are
    computed as they are, and so are those of a supernet without weights drawn for the whole of it.

    A graph's first pass takes the time of about five. The tensors that a graph keeps stay allocated. There are no
    second derivatives, and gradients have to be read before the next pass of the same graph.

    Args:
        network: in training mode, on its device.
        device: type of the device on which passes are captured.
    """

    paused = False

    def __init__(self, network: nn.Module, *, device: str = "cuda") -> None:
        self._network, self._device = network, device
        self._graphs: dict[Hashable, tuple[Callable[..., list[Tensor]], _Structure]] = {}

    @classmethod
    def install(cls, network: nn.Module, *, device: str = "cuda") -> GraphedForward:
        """Replace the network's ``forward``; names in its state stay."""
        graphed = cls(network, device=device)
        network.forward = graphed
        return graphed

    def __call__(self, images: Tensor, *more: Any, **named: Any) -> Any:
        """Return what the network returns.

        Raises:
            TrainingError: the pass cannot be captured.
        """
        network, mixtures = self._network, self._mixtures
        drawn = [mixture.drawn for mixture in mixtures if mixture.fixed is None]
        weights = [draw.weights for draw in drawn if draw is not None and draw.columns is None]
        captured = network.training and torch.is_grad_enabled() and images.device.type == self._device
        if self.paused or not captured or len(weights) < len(mixtures):
            return type(network).forward(network, images, *more, **named)
        inputs = _Structure(((images, *more), named))
        tensors = _tensors(((images, *more), named)) + weights
        key = self._make_key(tensors), inputs.key
        if key not in self._graphs:
            whole = _Whole(network, mixtures, inputs)
            self._graphs[key] = self._capture(whole, tensors), whole.output
        graph, output = self._graphs[key]
        return output.restore([x.clone() for x in graph(*tensors)])  # the next pass writes over a graph's outputs

    def __deepcopy__(self, memo: dict[int, Any]) -> GraphedForward:
        return GraphedForward(copy.deepcopy(self._network, memo), device=self._device)

    @cached_property
    def _mixtures(self) -> list[Mixture]:
        return [module for module in self._network.modules() if isinstance(module, Mixture)]

    def _make_key(self, tensors: Sequence[Tensor]) -> Hashable:
        """Return what is fixed in the graph of a pass on such tensors."""
        network, device = self._network, self._device
        number_format = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        shapes = tuple((tuple(x.shape), x.dtype, x.requires_grad) for x in tensors)
        modes = tuple((module.training, getattr(module, "momentum", None)) for module in network.modules())
        weights = tuple((p.requires_grad, p.data_ptr()) for p in network.parameters())
        return shapes, number_format, modes, weights

    def _capture(self, whole: _Whole, tensors: Sequence[Tensor]) -> Callable[..., list[Tensor]]:
        """Return the graph of a pass; statistics and random numbers are as they were, unless it fails."""
        device = self._device
        buffers = {name: buffer.clone() for name, buffer in self._network.named_buffers()}
        generator = torch.cuda.get_rng_state()
        samples = tuple(x.detach().clone().requires_grad_(x.requires_grad) for x in tensors)
        enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        try:
            with torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=False), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The AccumulateGrad node's stream does not match")
                graph = torch.cuda.make_graphed_callables(whole, samples, allow_unused_input=True)
        except RuntimeError as error:
            cause = _find_cause(error)
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from None
            reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
            raise TrainingError(
                f"trainer.compile is cuda-graphs, but a pass of {type(self._network).__name__} cannot be captured: "
                f"{reason}; set trainer.compile=off"
            ) from error
        with torch.no_grad():
            for name, buffer in self._network.named_buffers():
                buffer.copy_(buffers[name])
        torch.cuda.set_rng_state(generator)
        return cast("Callable[..., list[Tensor]]", graph)


def _find_cause(error: BaseException) -> BaseException:
    """Return the first of the errors that led to this one: the end of a broken capture raises another."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    return error


class pause:  # noqa: N801, a context such as torch.no_grad
    """A context in which no pass is captured or replayed."""

    def __enter__(self) -> None:
        self._before, GraphedForward.paused = GraphedForward.paused, True

    def __exit__(self, *_: object) -> None:
        GraphedForward.paused = self._before


class _Structure:
    """The place of tensors among the leaves of inputs or an output, whose other leaves are the same in every pass."""

    def __init__(self, tree: Any) -> None:
        leaves, self._spec = pytree.tree_flatten(tree)
        self._constants = tuple(None if isinstance(leaf, Tensor) else (leaf,) for leaf in leaves)

    @property
    def key(self) -> Hashable:
        return self._spec, self._constants

    def restore(self, tensors: Sequence[Tensor]) -> Any:
        remaining = iter(tensors)
        leaves = [next(remaining) if constant is None else constant[0] for constant in self._constants]
        return pytree.tree_unflatten(leaves, self._spec)


class _Whole(nn.Module):
    """A network as a function of tensors alone, the last of them mixture weights, to the list of its output's tensors.

    Attributes:
        output: the structure of the last pass's output.
    """

    output: _Structure

    def __init__(self, network: nn.Module, mixtures: Sequence[Mixture], inputs: _Structure) -> None:
        super().__init__()
        self.network, self._mixtures, self._inputs = network, list(mixtures), inputs

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        count = len(tensors) - len(self._mixtures)
        arguments, named = self._inputs.restore(tensors[:count])
        held = [mixture.drawn for mixture in self._mixtures]
        for mixture, weights in zip(self._mixtures, tensors[count:]):
            mixture.drawn = Sample(weights)
        try:
            output = type(self.network).forward(self.network, *arguments, **named)
        finally:
            for mixture, before in zip(self._mixtures, held):
                mixture.drawn = before
        self.output = _Structure(output)
        return _tensors(output)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
