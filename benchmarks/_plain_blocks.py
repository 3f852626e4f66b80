"""Attention blocks as their papers write them, in training mode, with the weights of ours: maps to maps (B, C, H, W).

N = HW. Every N x N matrix is built: RGA's relations (Zhang et al., CVPR 2020, equations 3 to 8), with the row and the
column of each node stacked, and DCS' affinities (Wang et al., arXiv 2505.08961). The regions of Harmonious Attention
(Li et al., CVPR 2018) are sampled one by one.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcs_nas.models.blocks import RGA, DCSAttention, HarmoniousAttention
from dcs_nas.models.blocks.parts import attention_scale
from dcs_nas.models.blocks.rga import RelationGate


def write_out(network: nn.Module) -> None:
    """Let every attention block of ``network`` compute by its plain formula."""
    for block in network.modules():
        for kind, formula in ((RGA, rga), (DCSAttention, dcs), (HarmoniousAttention, harmonious)):
            if isinstance(block, kind):
                object.__setattr__(block, "forward", partial(formula, block))


def rga(block: RGA, x: Tensor) -> Tensor:
    """Gate the positions, then the channels, as far as the block has these gates."""
    if block.spatial is not None:
        x = torch.sigmoid(relation_logits(block.spatial, x).expand_as(x)) * x
    if block.channel is not None:
        logits = relation_logits(block.channel, x.flatten(2).transpose(1, 2).unsqueeze(3))
        x = torch.sigmoid(logits.transpose(1, 2).expand_as(x)) * x
    return x


def relation_logits(gate: RelationGate, x: Tensor) -> Tensor:
    """Return one logit for each node, (B, 1, H, W), of nodes x (B, D, H, W)."""
    batch, _, height, width = x.shape
    nodes = height * width
    vectors = zip(*(t.chunk(3) for t in (gate.features.weight, gate.features.norm.weight, gate.features.norm.bias)))
    g, theta, phi = (F.relu(_normalised(_convolved(x, weight), gain, bias)) for weight, gain, bias in vectors)
    relations = theta.flatten(2).transpose(1, 2) @ phi.flatten(2)
    incoming = relations.transpose(1, 2).reshape(batch, nodes, height, width)
    outgoing = relations.reshape(batch, nodes, height, width)
    w_out, w_in = gate.relations.weight
    embedded = _convolved(torch.cat([incoming, outgoing], 1), torch.cat([w_in, w_out], 1))
    embedded = F.relu(_normalised(embedded, gate.relations.norm.weight, gate.relations.norm.bias))
    hidden = _convolved(torch.cat([g.mean(1, keepdim=True), embedded], 1), gate.hidden.weight)
    hidden = F.relu(_normalised(hidden, gate.hidden.norm.weight, gate.hidden.norm.bias))
    return _normalised(_convolved(hidden, gate.logit.weight), gate.logit.norm.weight, gate.logit.norm.bias)


def dcs(block: DCSAttention, x: Tensor) -> Tensor:
    """Compare the channels that each token selects, by softmax of the N x N affinities."""
    tokens = x.flatten(2).transpose(1, 2)
    logits = block.selector(tokens)
    noise = [-torch.log(torch.empty_like(logits).exponential_()) for _ in range(2)]
    soft = torch.sigmoid((logits + noise[0] - noise[1]) / block.tau)
    selected = tokens * ((soft > 0.5).float() - soft.detach() + soft)
    scale = attention_scale(block.scale_kind, x.shape[1])
    refined = torch.softmax(scale * (selected @ selected.transpose(1, 2)), dim=-1) @ tokens
    return x + block.norm(_depthwise(block.local, refined.transpose(1, 2).reshape(x.shape)))


def harmonious(block: HarmoniousAttention, x: Tensor) -> Tensor:
    """Weigh the map and add its regions, each with the full width and 1 / T of the height, T a divisor of H."""
    regions = block.hard_attn.regions
    size = [x.shape[0], x.shape[1], x.shape[2] // regions, x.shape[3]]
    parts = []
    for offset in block.hard_attn(x).unbind(1):
        transform = x.new_zeros(x.shape[0], 2, 3)
        transform[:, 0, 0], transform[:, 1, 1] = 1.0, 1.0 / regions
        transform[:, :, 2] = offset
        parts.append(F.grid_sample(x, F.affine_grid(transform, size, align_corners=False), align_corners=False))
    return x * block.soft_attn(x) + block.norm(_depthwise(block.local, torch.cat(parts, 2)))


def _depthwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return F.conv2d(x, conv.weight, padding=1, groups=x.shape[1])


def _convolved(x: Tensor, weight: Tensor) -> Tensor:
    """1x1 convolution of a map with a matrix."""
    return F.conv2d(x, weight[:, :, None, None])


def _normalised(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """BatchNorm of a map with the batch's statistics."""
    return F.batch_norm(x, None, None, gain, bias, training=True)
