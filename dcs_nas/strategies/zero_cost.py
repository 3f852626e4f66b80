"""Scores of a network without training, from one batch. B images, C classes, N weights of one layer.

Higher is thought to be better. All work on a network as it was drawn, and none keeps what it did.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_aten: Any = torch.ops.aten
_RECTIFIERS = {
    _aten.relu, _aten.relu_, _aten.hardtanh, _aten.hardtanh_, _aten.hardswish, _aten.hardswish_, _aten.silu,
    _aten.silu_, _aten.gelu, _aten.leaky_relu, _aten.leaky_relu_,
}  # fmt: skip
_K = 1e-5

Loss = Callable[[nn.Module], Tensor]
"""From a network to its loss of the batch."""


def parameters(network: nn.Module, images: Tensor, loss: Loss) -> float:
    """Return the logarithm of the number of parameters: the baseline that the others have to beat."""
    return math.log(sum(p.numel() for p in network.parameters()))


@torch.no_grad()
def naswot(network: nn.Module, images: Tensor, loss: Loss) -> float:
    """Return log |det K|, K_ij the number of rectifiers that are on or off for both of the images i and j (B, B).

    NASWOT, Mellor et al., arXiv 2006.04647, equation 2. A rectifier is one unit of any ReLU, ReLU6, leaky ReLU, hard
    swish, SiLU or GELU; it is on where its input is positive.
    """
    network = copy.deepcopy(network).train()
    with _Codes() as codes:
        network(images)
    kernel = torch.zeros(len(images), len(images), dtype=torch.float64, device=images.device)
    for code in codes.activations:
        if len(code) == len(images):
            on = code.flatten(1).double()
            kernel += on @ on.T + (1 - on) @ (1 - on).T
    return float(np.linalg.slogdet(kernel.cpu().numpy())[1])


def synflow(network: nn.Module, images: Tensor, loss: Loss) -> float:
    """Return log sum |w * dR / dw| over the weights w of convolutions and linear layers.

    R is the sum of the outputs for an image of ones and all parameters by their absolute values (SynFlow, Tanaka et
    al., arXiv 2006.05467, section 5). Batch norms use their statistics, which at the start are those of no norm, and
    ReLU6 has no ceiling, where every gradient would be 0. In float64.
    """
    network = copy.deepcopy(network).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    with torch.enable_grad(), _WithoutCeilings():
        network(torch.ones_like(images[:1], dtype=torch.float64)).sum().backward()
    total = sum(float((w.detach() * w.grad).abs().sum()) for w in _weights(network) if w.grad is not None)
    return math.log(total) if total > 0 else -math.inf


def jacobian(network: nn.Module, images: Tensor, loss: Loss) -> float:
    """Return -sum_i (log(v_i + k) + 1 / (v_i + k)), k = 1e-5, v eigenvalues of the correlations (B, B) of Jacobians.

    The Jacobian of an image is the gradient of the sum of its outputs by its pixels (Mellor et al., arXiv 2006.04647
    version 1, equation 1; "jacob_cov" of Abdelfattah et al., arXiv 2101.08134).
    """
    network = copy.deepcopy(network).train()
    pixels = images.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        (gradients,) = torch.autograd.grad(_outputs(network, pixels).sum(), pixels)
    rows = gradients.flatten(1).double().cpu().numpy()
    if not (np.isfinite(rows).all() and rows.std(axis=1).all()):
        return -math.inf
    eigenvalues = np.linalg.eigvalsh(np.corrcoef(rows)) + _K
    return float(-(np.log(eigenvalues) + 1 / eigenvalues).sum())


def gradient_norm(network: nn.Module, images: Tensor, loss: Loss) -> float:
    """Return the sum of the norms of the loss's gradient by the weights of each convolution and linear layer (N,).

    "grad_norm" of Abdelfattah et al., arXiv 2101.08134, section 3.1.
    """
    network = copy.deepcopy(network).train()
    weights = list(_weights(network))
    with torch.enable_grad():
        gradients = torch.autograd.grad(loss(network), weights, allow_unused=True)
    return float(sum(gradient.double().norm() for gradient in gradients if gradient is not None))


ZERO_COST: dict[str, Callable[[nn.Module, Tensor, Loss], float]] = {
    "parameters": parameters,
    "naswot": naswot,
    "synflow": synflow,
    "jacobian": jacobian,
    "gradient_norm": gradient_norm,
}
"""Name to score(network, images (B, 3, H, W), loss)."""


class _Codes(TorchDispatchMode):
    """Record the signs of the inputs of every rectifier in a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.activations: list[Tensor] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket in _RECTIFIERS:
            self.activations.append(args[0].detach() > 0)
        return function(*args, **(kwargs or {}))


class _WithoutCeilings(TorchFunctionMode):
    """Computes ReLU in place of ReLU6 and hard tanh."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (F.hardtanh, F.relu6):
            return torch.relu(args[0])
        return function(*args, **(kwargs or {}))


def _outputs(network: nn.Module, images: Tensor) -> Tensor:
    """Return the training output of the network; if it has heads, the features (B, D)."""
    output: Any = network(images)
    return output if isinstance(output, Tensor) else output.features


def _weights(network: nn.Module) -> Iterator[Tensor]:
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            yield module.weight
