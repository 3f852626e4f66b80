"""The block of a chain supernet: every kernel, expansion and width on one set of weights.

Shapes: B images, H x W map, channels: C of the widest input, E of the widest expansion, D of the widest output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.models.blocks import DCSAttention, WindowAttention, build_attention, select_channels
from dcs_nas.models.blocks.parts import attend, attention_scale, constants, to_map, to_tokens
from dcs_nas.models.chain_space import ConvNorm, InvertedResidual, SqueezeExcite, fit_channels
from dcs_nas.models.depthwise import depthwise
from dcs_nas.models.flops import count_map
from dcs_nas.models.supernet import CostKind
from dcs_nas.space import WINDOW, StageSpec, squeeze_channels

BlockWeights = Mapping[str, Tensor]  # kernel, expansion, width, squeeze_excite, depth: (n,) each
Path = Mapping[str, int]  # the chosen option of each


class SuperBlock(nn.Module):
    """An ``InvertedResidual`` of the largest kernel, expansion and width, of which the weights keep a part.

    Masks (arXiv 2004.05565, section 3) follow the batch norms, whose shifts would fill masked channels again: one over
    the expanded channels (input width times expansion), one over the output channels. The depthwise kernel is masked
    before its convolution. Expansion 1 mixes the input itself with the expanded map; depth mixes the input with the
    output.
    """

    def __init__(self, stage: StageSpec, before: tuple[int, ...], *, first: bool) -> None:
        super().__init__()
        self.stage, self.before = stage, before
        self.shortcut = not first or stage.shortcut
        self.tied = stage.shared_width and not first
        self.stride = stage.stride if first else 1
        self.largest = InvertedResidual(
            max(before),
            max(stage.widths),
            kernel=max(stage.kernels),
            expansion=max(stage.expansions),
            squeeze_excite=True in stage.squeeze_excite,
            stride=self.stride,
            activation=stage.activation,
            shortcut=self.shortcut,
        )

    def forward(
        self, x: Tensor, widths: Widths, weights: BlockWeights, path: Path | None = None
    ) -> tuple[Tensor, Widths]:
        """Map x (B, C, H, W) of ``widths`` to (B, D, H / stride, W / stride) and its widths; masked channels are 0.

        Of a ``path``, whose weights are one-hot, only its own channels and kernel are computed: x and the result have
        the channels of one width.
        """
        if path is not None:
            return self._follow(path, x, widths, weights)
        expanded = widths.expand(self.stage.expansions, weights["expansion"])
        hidden = self._filter(self._expand(x, weights["expansion"]), weights["kernel"])
        hidden = self._excite(_mask(hidden, expanded.mask()), expanded, weights["squeeze_excite"])
        out = Widths(self.stage.widths, weights["width"])
        y = self.largest.project(hidden)
        y = _mask(y + fit_channels(x, y.shape[1]) if self.shortcut else y, out.mask())
        if len(weights["depth"]) == 1:
            return y, out
        skip = weights["depth"][1]
        return y + skip * (x - y), out.mix(widths, skip)

    def _follow(self, path: Path, x: Tensor, widths: Widths, weights: BlockWeights) -> tuple[Tensor, Widths]:
        stage, largest = self.stage, self.largest
        if path["depth"] == 1:
            return x, widths
        expansion, width = stage.expansions[path["expansion"]], stage.widths[path["width"]]
        y = x
        if expansion > 1:
            assert largest.expand is not None
            y = run_part(largest.expand, x, x.shape[1] * expansion)
        y = run_part(largest.depthwise, y, y.shape[1], kernel=stage.kernels[path["kernel"]])
        if stage.squeeze_excite[path["squeeze_excite"]]:
            assert largest.excite is not None
            y = y * _gate_part(largest.excite, y)
        y = run_part(largest.project, y, width)
        return y + fit_channels(x, width) if self.shortcut else y, Widths(stage.widths, weights["width"])

    def _expand(self, x: Tensor, weights: Tensor) -> Tensor:
        """Return the expanded map (B, E, H, W); where expansion 1 is a candidate, with its share of the input."""
        if self.largest.expand is None:
            return x
        y = self.largest.expand(x)
        if 1 not in self.stage.expansions:
            return y
        itself = weights[self.stage.expansions.index(1)]
        return y + itself * (fit_channels(x, y.shape[1]) - y)

    def _filter(self, x: Tensor, weights: Tensor) -> Tensor:
        layer = self.largest.depthwise
        kernel = layer.conv.weight * kernel_mask(self.stage.kernels, weights)
        padding = max(self.stage.kernels) // 2
        y = F.conv2d(x, kernel, None, self.stride, padding, groups=x.shape[1])
        return layer.activation(layer.norm(y))

    def _excite(self, x: Tensor, expanded: Widths, weights: Tensor) -> Tensor:
        if self.largest.excite is None:
            return x
        inner = Widths(tuple(squeeze_channels(e) for e in expanded.values), expanded.weights).mask()
        gate = self.largest.excite.gate(x, inner)
        if len(self.stage.squeeze_excite) == 1:
            return x * gate
        return x * (1 + weights[self.stage.squeeze_excite.index(True)] * (gate - 1))

    def cost(
        self, kind: CostKind, widths: Widths, weights: BlockWeights, size: tuple[int, int]
    ) -> tuple[Tensor, Widths]:
        """Return the expected multiply-adds or parameters for a map of ``size`` (H, W), and the widths of the output.

        The choices are independent and every term is a product of what single choices decide, so the expectation of
        the block is exact; where the input has the same width as the output by one choice, their product is of that.
        """
        stage = self.stage
        out = Widths(stage.widths, weights["width"])
        area = size[0] * size[1] if kind == "flops" else 1
        area_out = -(-size[0] // self.stride) * -(-size[1] // self.stride) if kind == "flops" else 1
        norm = 0 if kind == "flops" else 2
        taps = combine(weights["kernel"], constants([k * k for k in stage.kernels], like=out.weights))
        width = out.mean(stage.widths)
        hidden = widths.expand(stage.expansions, weights["expansion"])
        into = [
            0 if expansion == 1 else c * expansion * (c * area + norm)
            for c in widths.values
            for expansion in stage.expansions
        ]
        bias = 0 if kind == "flops" else 1
        excite = [2 * e * squeeze_channels(e) + bias * (e + squeeze_channels(e)) for e in hidden.values]
        excited = combine(weights["squeeze_excite"], constants(stage.squeeze_excite, like=out.weights))
        projected = hidden.mean(hidden.values) * width
        if self.tied:
            squares = out.mean([c * c for c in stage.widths])
            projected = combine(weights["expansion"], constants(stage.expansions, like=out.weights)) * squares
        total = hidden.mean(into) + hidden.mean(hidden.values) * (area_out * taps + norm) + area_out * projected
        total = total + excited * hidden.mean(excite) + norm * width
        if len(weights["depth"]) == 1:
            return total, out
        return total * weights["depth"][0], out.mix(widths, weights["depth"][1])


def run_part(layer: ConvNorm, x: Tensor, channels: int, *, kernel: int = 1) -> Tensor:
    """Return the first ``channels`` of the layer's output for an x of its first input channels.

    Of its convolution the middle ``kernel`` x ``kernel`` is used. The statistics of other channels stay as they are.
    """
    conv, depthwise = layer.conv, layer.conv.groups > 1
    margin = (conv.kernel_size[0] - kernel) // 2
    window = slice(margin, margin + kernel)
    weight = conv.weight[:channels, : 1 if depthwise else x.shape[1], window, window]
    y = F.conv2d(x, weight, None, conv.stride, kernel // 2, groups=channels if depthwise else 1)
    return layer.activation(_norm_part(layer.norm, y))


def _norm_part(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    channels = x.shape[1]
    if channels == norm.num_features:
        return norm(x)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    momentum = norm.momentum
    if norm.training:
        norm.num_batches_tracked.add_(1)
        momentum = 1 / float(norm.num_batches_tracked) if momentum is None else momentum
    mean, variance = norm.running_mean[:channels], norm.running_var[:channels]
    scale, shift = norm.weight[:channels], norm.bias[:channels]
    return F.batch_norm(x, mean, variance, scale, shift, norm.training, momentum or 0.0, norm.eps)


def _gate_part(excite: SqueezeExcite, x: Tensor) -> Tensor:
    """Return the gate (B, C, 1, 1) of the first C channels, through the first C / 4 inside."""
    channels, inner = x.shape[1], squeeze_channels(x.shape[1])
    y = F.linear(x.mean((2, 3)), excite.reduce.weight[:inner, :channels], excite.reduce.bias[:inner])
    y = F.linear(torch.relu(y), excite.expand.weight[:channels, :inner], excite.expand.bias[:channels])
    return F.hardsigmoid(y)[:, :, None, None]


def _mask(x: Tensor, mask: Tensor) -> Tensor:
    return x * mask.to(x.dtype)[:, None, None]


@dataclass(frozen=True)
class Widths:
    """The width of a map as a mixture: candidates and their weights (n,), which sum to 1."""

    values: tuple[int, ...]
    weights: Tensor

    @property
    def largest(self) -> int:
        return max(self.values)

    def mask(self) -> Tensor:
        """Return the weighted sum of the nested 0/1 masks, (C,)."""
        return combine(self.weights, make_nested_masks(self.values, like=self.weights))

    def mean(self, values: Sequence[float]) -> Tensor:
        """Return the weighted mean of one value for each candidate, a scalar."""
        return combine(self.weights, constants(values, like=self.weights))

    def strongest(self) -> int:
        """Return the candidate with the largest weight; the widest for fake weights, which have no values."""
        if self.weights.is_meta or isinstance(self.weights, torch._subclasses.FakeTensor):
            return self.largest
        return self.values[int(self.weights.argmax())]

    def mix(self, other: Widths, weight: Tensor) -> Widths:
        """Return the candidates with weights (1 - weight) self + weight other: for a block that may be left out."""
        assert self.values == other.values
        return Widths(self.values, self.weights + weight * (other.weights - self.weights))

    def expand(self, expansions: Sequence[int], weights: Tensor) -> Widths:
        """Return all products of a width and an expansion; both are chosen independently, so their weights multiply."""
        values = tuple(width * expansion for width in self.values for expansion in expansions)
        return Widths(values, torch.outer(self.weights, weights).flatten())


def make_nested_masks(widths: Sequence[int], *, like: Tensor) -> Tensor:
    """Return (n, C) with 1 for the first channels of each width, in ``like``'s type and on its device."""
    places = torch.arange(max(widths), device=like.device)
    return (places < constants(widths, like=places)[:, None]).to(like.dtype)


def kernel_mask(kernels: Sequence[int], weights: Tensor) -> Tensor:
    """Return the weighted sum of the masks of centred kernels in the largest, (K, K), for weights (n,).

    A convolution is linear in its kernel, so candidates that share its centre also are one convolution (Single-Path
    NAS, Stamoulis et al., arXiv 1904.02877, section 3.1).
    """
    largest = max(kernels)
    places = (torch.arange(largest, device=weights.device) - largest // 2).abs()
    reach = torch.maximum(places[:, None], places)
    sizes = constants(kernels, like=places) // 2
    return combine(weights, (reach <= sizes[:, None, None]).to(weights.dtype))


def combine(weights: Tensor, values: Tensor) -> Tensor:
    """Return the sum of values (n, ...) with weights (n,), in full precision under autocast too."""
    return (weights.view(-1, *[1] * (values.ndim - 1)) * values).sum(0)


class SuperAttention(nn.Module):
    """The weighted sum of the candidates: DCS's on masked channels, any other block once for each width."""

    def __init__(self, names: tuple[str, ...], widths: tuple[int, ...], height: int, width: int) -> None:
        super().__init__()
        self.names, self.widths, self.size = names, widths, (height, width)
        candidates: dict[str, nn.Module] = {}
        for name in names:
            if name == "dcs":
                candidates[name] = MaskedDCS(max(widths))
            elif name == WINDOW:
                candidates[name] = MaskedWindow(max(widths))
            elif name != "none":
                candidates[name] = PerWidth(name, widths, height, width)
        self.candidates = nn.ModuleDict(candidates)

    def forward(self, x: Tensor, widths: Widths, weights: Tensor, chosen: int | None = None) -> Tensor:
        """Return the sum (B, C, H, W) for x (B, C, H, W) of ``widths``, with ``weights`` (A,) of the candidates.

        Where one is ``chosen``, it alone is computed, and x has the channels of one width.
        """
        if chosen is not None:
            return self._run(self.names[chosen], x, widths)
        total = torch.zeros_like(x)
        for name, weight in zip(self.names, weights):
            total = total + weight * (x if name == "none" else self.candidates[name](x, widths))
        return total

    def _run(self, name: str, x: Tensor, widths: Widths) -> Tensor:
        if name == "none":
            return x
        padded, block = fit_channels(x, max(self.widths)), self.candidates[name]
        own = {"channels": x.shape[1]} if isinstance(block, MaskedDCS) else {}
        return block(padded, widths, **own)[:, : x.shape[1]]

    def state(self, name: str, width: int) -> dict[str, Tensor]:
        """Return parameters and statistics of candidate ``name``, from which a block of ``width`` is cut."""
        if name == "none":
            return {}
        block = self.candidates[name]
        if isinstance(block, MaskedWindow):
            start, length = block.at_width(width)
            return {**block.state_dict(), "window": block.window.new_tensor([start, length - width])}
        return (block.blocks[str(width)] if isinstance(block, PerWidth) else block).state_dict()

    def cost(self, kind: CostKind, widths: Widths, weights: Tensor) -> Tensor:
        """Return the expected multiply-adds or parameters."""
        each = [widths.mean([attention_cost(kind, name, c, *self.size) for c in widths.values]) for name in self.names]
        return combine(weights, torch.stack(each))


class MaskedDCS(DCSAttention):
    """DCS-Attention whose channels beyond a candidate width are masked: the same weights serve every width.

    Masked channels of X are 0, so they add nothing to the logits of others nor to X o M; the scale and the
    share of channels kept are those of the candidate width, and the batch norm's shift is masked. Where ``channels``
    says that only the first of x are of the width, the statistics of the others stay as they are.
    """

    def forward(self, x: Tensor, widths: Widths | None = None, *, channels: int | None = None) -> Tensor:
        if widths is None:
            return super().forward(x)
        tokens = to_tokens(x)
        kept = select_channels(self.selector(tokens), self.tau, self.training).to(tokens.dtype)
        mask = widths.mask()
        self._record((kept * mask).mean() / mask.mean())
        selected = tokens * kept
        scale = widths.mean([attention_scale(self.scale_kind, c) for c in widths.values])
        refined = attend(selected * scale.to(tokens.dtype), selected, tokens, scale=1.0)
        refined = _localize(self, to_map(refined, x.shape[2], x.shape[3]), channels or x.shape[1])
        return x + refined * mask.to(refined.dtype)[:, None, None]


class MaskedWindow(WindowAttention):
    """Attention on a window of channels, for the width with the largest weight; channels beyond it pass unchanged.

    All widths share the window and the weights; the window of a width wraps around its channels.
    """

    def forward(self, x: Tensor, widths: Widths | None = None) -> Tensor:
        if widths is None:
            return super().forward(x)
        channels = widths.strongest()
        refined = fit_channels(self.attend_window(x[:, :channels]), x.shape[1])
        return x + _mask(_localize(self, refined, channels), widths.mask())


def _localize(block: MaskedDCS | MaskedWindow, x: Tensor, channels: int) -> Tensor:
    """Return the depthwise convolution and norm of the first ``channels`` of x (B, C, H, W), and zeros beyond."""
    if channels == x.shape[1]:
        return block.norm(block.local(x))
    y = depthwise(x[:, :channels], block.local.weight[:channels], 1)
    return fit_channels(_norm_part(block.norm, y), x.shape[1])


class PerWidth(nn.Module):
    """One block for each width, for blocks that masked channels would change (means over them, norms along them).

    Only the block of the width with the largest weight runs, on the channels of that width; other channels pass.
    """

    def __init__(self, name: str, widths: tuple[int, ...], height: int, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict({str(c): build_attention(name, c, height, width) for c in widths})

    def forward(self, x: Tensor, widths: Widths) -> Tensor:
        channels = widths.strongest()
        return torch.cat([self.blocks[str(channels)](x[:, :channels]), x[:, channels:]], dim=1)


@lru_cache(maxsize=4096)
def attention_cost(kind: CostKind, name: str, channels: int, height: int, width: int) -> int:
    """Return the multiply-adds or parameters of the attention block ``name`` on one map."""
    cost, _ = count_map(build_attention(name, channels, height, width), (channels, height, width))
    return cost.macs if kind == "flops" else cost.parameters
