"""Chain spaces: supernet, networks, genotypes.

The supernet has channel masks on one set of weights, so that more candidates cost next to nothing: FBNetV2 (Wan et al.,
arXiv 2004.05565, section 3), with attention after the stages (DCS-DNAS, arXiv 2505.08961).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dcs_nas.config import SearchConfig
from dcs_nas.errors import InputError
from dcs_nas.models.chain_space import ConvNorm, build_fixed_chain, build_head, fit_channels, half
from dcs_nas.models.flops import CostKind
from dcs_nas.models.relaxation import GumbelSoftmax, Sample, Softmax
from dcs_nas.models.space_kinds import SPACE_KINDS, SpaceKind, build_relaxation
from dcs_nas.models.super_block import MaskedWindow, PerWidth, SuperAttention, SuperBlock, Widths
from dcs_nas.models.supernet import ExpectedCost, Supernet, build_mixtures, run_checkpointed
from dcs_nas.space import (
    WINDOW,
    BlockGenotype,
    ChainGenotype,
    ChainNetwork,
    ChainReference,
    ChainSpec,
    ChainStructure,
    Choice,
    Origin,
    StageGenotype,
    StageSpec,
    attention_choice,
    block_choices,
)

Weights = Callable[[str, int], Tensor]  # label and number of candidates to weights (n,)
Chosen = Callable[[str, int], int]  # label and number of candidates to the one of a single path
T = TypeVar("T")


class ChainSupernet(Supernet):
    """Images (B, 3, H, W) to (B, D, h, w); every choice is a mixture. ``num_features``: D.

    Where one candidate of each choice is drawn or fixed and the alphas do not learn, only this path is computed.
    The names of the mixtures are the labels of ``structure.choices()``, their weights (1, candidates).

    Args:
        relaxation: from alphas to mixture weights; FBNetV2's Gumbel-softmax by default.
        checkpoint: drop activations within a block and compute them again in the backward pass.
    """

    def __init__(
        self,
        structure: ChainStructure,
        network: ChainNetwork,
        *,
        relaxation: Softmax | None = None,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.structure, self.network = structure, network
        self.num_features = structure.features
        self.stem = ConvNorm(3, structure.stem, 3, stride=structure.stem_stride, activation=structure.activation)
        self.stages = nn.ModuleList()
        size = self._stem_size()
        before: tuple[int, ...] = (structure.stem,)
        for number, stage in enumerate(structure.stages, start=1):
            size = half(size[0], stage.stride), half(size[1], stage.stride)
            self.stages.append(SuperStage(stage, number, before, size, checkpoint=checkpoint))
            before = stage.widths
        self.head = build_head(max(before), structure=structure)
        self.mixtures = build_mixtures(structure.choices(), relaxation or GumbelSoftmax())

    @property
    def reads_weights(self) -> bool:
        return any(isinstance(module, (MaskedWindow, PerWidth)) for module in self.modules())

    @property
    def shares_weights(self) -> bool:
        return True

    def forward(self, images: Tensor) -> Tensor:
        drawn = {name: mixture.sample() for name, mixture in self._mixtures()}
        weights = _read_weights({n: s.weights.view(-1) for n, s in drawn.items()}, like=self.stem.conv.weight)
        chosen = _find_path(drawn)
        x = self.stem(images)
        widths = Widths((self.structure.stem,), x.new_ones(1))
        for stage in self.stages:
            x, widths = stage(x, widths, weights, chosen)
        x = fit_channels(x, widths.largest)
        return self.head(x) if isinstance(self.head, ConvNorm) else self.head(x, self._head_widths(widths).mask())

    def alphas(self) -> dict[str, nn.Parameter]:
        """See ``Supernet``; also the windows of channels (2,): start, and length minus width."""
        return {**super().alphas(), **{f"stage{n}_window": block.window for n, block in self._find_windows().items()}}

    def complete(self, genotype: ChainGenotype) -> ChainGenotype:
        """See ``Supernet``: the choices are the windows of channels."""
        windows, stages = self._find_windows(), []
        for n, stage in enumerate(genotype.stages, start=1):
            window = windows[n].at_width(stage.width) if stage.attention == WINDOW else None
            stages.append(stage.model_copy(update={"window": window}))
        return genotype.model_copy(update={"stages": tuple(stages)})

    def cost(self, kind: CostKind) -> ExpectedCost:
        return partial(self.compute_expected_cost, kind)

    def compute_expected_cost(self, kind: CostKind, weights: Mapping[str, Tensor]) -> Tensor:
        """Return the mean multiply-adds (``flops``) or ``parameters`` of networks of independent choices.

        Of mixture weights (1, candidates) by name: a differentiable float64 scalar (float32 on MPS). For one-hot
        weights it is the cost that ``flops.count`` returns for the fixed network with windows of all channels.
        """
        missing = [name for name in self.mixtures if name not in weights]
        if missing:
            raise InputError(f"weights of mixture '{missing[0]}' are missing; found: {', '.join(weights) or 'none'}")
        like = next(iter(weights.values()), self.stem.conv.weight.detach())
        like = like.to(torch.float32 if like.device.type == "mps" else torch.float64)
        read = _read_weights({name: weight.view(-1).to(like) for name, weight in weights.items()}, like=like)
        size, flops = self._stem_size(), kind == "flops"
        fixed = 27 * size[0] * size[1] if flops else 27 + 2
        total, widths = like.new_tensor(fixed * self.structure.stem), Widths((self.structure.stem,), like.new_ones(1))
        for stage in self.stages:
            cost, widths, size = stage.cost(kind, widths, read, size)  # type: ignore[operator]
            total = total + cost
        return total + self._head_cost(widths, size[0] * size[1], flops=flops)

    def inherit_state(self, genotype: ChainGenotype) -> dict[str, Tensor]:
        """See ``Supernet``.

        Channels are the first ones of the supernet's, kernels the middle of its.
        """
        state = {f"stem.{name}": value for name, value in self.stem.state_dict().items()}
        state |= {f"head.{name}": value for name, value in self.head.state_dict().items()}
        last = self.structure.stem
        for i, (stage, kept) in enumerate(zip(self.stages, genotype.stages)):
            for k, (block, slot) in enumerate(zip(stage.blocks, kept.slots())):  # type: ignore[arg-type]
                if slot is not None:
                    last = slot.width
                    state |= {f"stages.{i}.{k}.{n}": v for n, v in block.largest.state_dict().items()}
            state |= {f"attention.{i}.{n}": v for n, v in stage.attention.state(kept.attention, last).items()}  # type: ignore[union-attr, operator]
        with torch.device("meta"):
            wanted = build_fixed_chain(genotype).state_dict()
        return {name: _cut(state[name], value.shape).clone() for name, value in wanted.items()}

    def _find_windows(self) -> dict[int, MaskedWindow]:
        """Return the attention blocks with a window of channels by the number of their stage."""
        blocks = {n: stage.attention.candidates for n, stage in enumerate(self.stages, start=1)}  # type: ignore[union-attr]
        return {n: candidates[WINDOW] for n, candidates in blocks.items() if WINDOW in candidates}  # type: ignore[index, operator, misc]

    def _head_widths(self, widths: Widths) -> Widths:
        assert self.structure.head_expansion is not None
        return widths.expand([self.structure.head_expansion], widths.weights.new_ones(1))

    def _head_cost(self, widths: Widths, area: int, *, flops: bool) -> Tensor:
        features = self.structure.features
        if self.structure.head_expansion is None:
            return (widths.mean(widths.values) * (area if flops else 1) + (0 if flops else 2)) * features
        hidden = self._head_widths(widths)
        pairs = [c * e for c, e in zip(widths.values, hidden.values)]
        if flops:
            return widths.mean(pairs) * area + hidden.mean(hidden.values) * features
        return widths.mean(pairs) + hidden.mean(hidden.values) * (features + 2) + features

    def _stem_size(self) -> tuple[int, int]:
        stride = self.structure.stem_stride
        return half(self.network.height, stride), half(self.network.width, stride)


class SuperStage(nn.Module):
    """The blocks of stage ``number`` and the attention after them, for maps of ``size`` (H, W) after the first."""

    def __init__(
        self, stage: StageSpec, number: int, before: tuple[int, ...], size: tuple[int, int], *, checkpoint: bool = False
    ) -> None:
        super().__init__()
        self.stage, self.number, self.checkpoint = stage, number, checkpoint
        inputs = [before] + [stage.widths] * (stage.blocks - 1)
        self.blocks = nn.ModuleList(SuperBlock(stage, c, first=k == 0) for k, c in enumerate(inputs))
        self.attention = SuperAttention(stage.attention, stage.widths, *size)

    def forward(
        self, x: Tensor, widths: Widths, weights: Weights, chosen: Chosen | None = None
    ) -> tuple[Tensor, Widths]:
        """Return the map and its widths; with ``chosen`` candidates the map has the channels of one width."""
        for k, block in enumerate(self.blocks, start=1):
            path = None if chosen is None else self._of_block(k, chosen)
            own = self._of_block(k, weights)
            x, widths = run_checkpointed(block, x, widths, own, path, active=self.checkpoint)
        name = None if chosen is None else self._of_attention(chosen)
        return self.attention(x, widths, self._of_attention(weights), name), widths

    def cost(
        self, kind: CostKind, widths: Widths, weights: Weights, size: tuple[int, int]
    ) -> tuple[Tensor, Widths, tuple[int, int]]:
        """Return the expected cost for an input of ``size`` (H, W), and the widths and size of the output."""
        total = torch.zeros(())
        for k, block in enumerate(self.blocks, start=1):
            cost, widths = block.cost(kind, widths, self._of_block(k, weights), size)  # type: ignore[operator]
            total, size = total + cost, (half(size[0], block.stride), half(size[1], block.stride))  # type: ignore[arg-type]
        return total + self.attention.cost(kind, widths, self._of_attention(weights)), widths, size

    def _of_block(self, block: int, read: Callable[[str, int], T]) -> dict[str, T]:
        choices = block_choices(self.stage, self.number, block)
        return {what: read(choice.label, len(choice.options)) for what, choice in choices.items()}

    def _of_attention(self, read: Callable[[str, int], T]) -> T:
        return read(attention_choice(self.stage, self.number).label, len(self.stage.attention))


def _read_weights(weights: Mapping[str, Tensor], *, like: Tensor) -> Weights:
    """Return the weights by label; a choice with one candidate has no mixture and weight 1."""
    return lambda label, options: weights[label] if options > 1 else like.new_ones(1)


def _find_path(drawn: Mapping[str, Sample]) -> Chosen | None:
    """Return the candidates by label where one of each choice counts, and no gradient of its weight is needed."""
    chosen = {}
    for label, sample in drawn.items():
        if sample.columns is None or len(sample.columns[0]) != 1 or sample.weights.requires_grad:
            return None
        (chosen[label],) = sample.columns[0]
    return lambda label, options: chosen[label] if options > 1 else 0


def _cut(value: Tensor, shape: torch.Size) -> Tensor:
    """Return ``value`` cut to ``shape``: the first entries of the first two dimensions, the middle of the rest."""
    for dim, size in enumerate(shape):
        start = (value.shape[dim] - size) // 2 if dim >= 2 else 0
        value = value.narrow(dim, start, size)
    return value


@SPACE_KINDS.register("chain")
class ChainKind(SpaceKind):
    """Stages of inverted-residual blocks (FBNetV2, arXiv 2004.05565; DCS-DNAS, arXiv 2505.08961)."""

    def supernet(self, space: ChainSpec, network: ChainNetwork, settings: SearchConfig) -> ChainSupernet:
        relaxation = build_relaxation(settings.relaxation)
        return ChainSupernet(space, network, relaxation=relaxation, checkpoint=settings.checkpoint_activations)

    def build_fixed_network(self, genotype: ChainGenotype) -> nn.Module:
        return build_fixed_chain(genotype)

    def genotype_of(
        self, sample: Mapping[str, Any], space: ChainSpec | ChainReference, network: ChainNetwork, *, origin: Origin
    ) -> ChainGenotype:
        stages = tuple(_choose_stage(sample, stage, number) for number, stage in enumerate(space.stages, start=1))
        return ChainGenotype(space=ChainReference.of(space, space.name), network=network, stages=stages, origin=origin)


def _choose_stage(sample: Mapping[str, Any], stage: StageSpec, number: int) -> StageGenotype:
    blocks, skipped = [], []
    for k in range(1, stage.blocks + 1):
        options = {what: _pick(sample, choice) for what, choice in block_choices(stage, number, k).items()}
        if options.pop("depth") == "skip":
            skipped.append(k)
        else:
            blocks.append(BlockGenotype(**options))
    attention = _pick(sample, attention_choice(stage, number))
    return StageGenotype(blocks=tuple(blocks), skipped=tuple(skipped), attention=attention)


def _pick(sample: Mapping[str, Any], choice: Choice) -> Any:
    return sample[choice.label] if len(choice.options) > 1 else choice.options[0]
