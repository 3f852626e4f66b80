"""A batch norm that applies a mixture's weight: the weight times the batch norm, in value, gradient and statistics."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dcs_nas.models.operations import weighted_norm
from dcs_nas.models.supernet import frozen_statistics, recalibrate_statistics


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_it_is_the_weight_times_the_norm(affine: bool, training: bool) -> None:
    norm = nn.BatchNorm2d(4, affine=affine).double().train(training)
    if affine:
        nn.init.uniform_(norm.weight)
        nn.init.uniform_(norm.bias)
    other = copy.deepcopy(norm)
    x = torch.randn(3, 4, 5, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    direction = torch.randn_like(x)
    found, expected = weighted_norm(norm, x, weight), weight * other(x)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((y * direction).sum(), (x, weight)) for y in (found, expected)]
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(dict(norm.named_buffers()), dict(other.named_buffers()))


def test_statistics_can_be_frozen_and_measured_anew_through_it() -> None:
    norm, weight = nn.BatchNorm2d(4), torch.tensor(0.3)
    weighted_norm(norm, torch.randn(3, 4, 5, 2), weight)
    before = norm.running_mean.clone()  # type: ignore[union-attr]
    with frozen_statistics(norm):
        weighted_norm(norm, torch.randn(3, 4, 5, 2), weight)
    assert torch.equal(norm.running_mean, before)  # type: ignore[arg-type]
    x = torch.randn(3, 4, 5, 2)
    with recalibrate_statistics(norm, lambda: weighted_norm(norm, x, weight)):
        torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)))
