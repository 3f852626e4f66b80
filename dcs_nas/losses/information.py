"""Soft assignment to classes, and entropies, mutual information and the information-bottleneck (IB) bounds on it.

Shapes: n samples, D dimensions, K classes. ``log_f`` and ``log_x`` (n, K) are log phi(F_i, a) of the features and
log phi(X_i, b) of the inputs, ``log_q`` (K, K) has log Q(a | y) in row y, ``weights`` (n,) sum to 1 (None: 1/n each).
All in nats.

A is the class that a feature is assigned to, B the class of its input, Y the label, with the joints
    P(A=a, B=b) = 1/n sum_i phi(F_i,a) phi(X_i,b),    P(A=a, Y=y) = 1/n sum_i phi(F_i,a) 1[y_i=y].
Source: Wang, Jojic, Yang (DCS), arXiv 2505.08961.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dcs_nas.losses.precision import full_precision


@full_precision
def log_assignments(
    points: Tensor, means: Tensor, *, temperature: Tensor | float = 1.0, assignable: Tensor | None = None
) -> Tensor:
    """Return log phi(x_i, a) = log softmax_a(-||x_i - c_a||^2 / temperature), (n, D) and (K, D) to (n, K).

    A temperature of 1 is the published formula (Wang, Jojic, Yang, arXiv 2505.08961). Classes outside ``assignable``
    (K,) get probability 0, by a logarithm that is finite, so 0 log 0 is 0 in value and gradient. Every output is finite
    while squared distances are (below 1e19 in float32).
    """
    means = means.to(points.dtype)
    centre = means.mean(0)  # distances don't change by a shift, and the product rounds less around the centre
    x, c = points - centre, means - centre
    logits = (2 * x @ c.T - c.square().sum(1)) / temperature  # ||x||^2 is the same for all classes: softmax drops it
    if assignable is not None:
        logits = logits.masked_fill(~assignable, torch.finfo(logits.dtype).min / 2)
    return F.log_softmax(logits, dim=1)


def log_mean(sums: Tensor, counts: Tensor) -> Tensor:
    """Return log(sums / counts) row by row, floored at the smallest normal number."""
    return (sums / counts.clamp(min=1)[:, None]).clamp(min=torch.finfo(sums.dtype).tiny).log()


@full_precision
def entropy(probabilities: Tensor) -> Tensor:
    """Return -sum p log p in nats over the whole tensor; 0 log 0 is 0, in value and gradient."""
    floor = torch.finfo(probabilities.dtype).tiny
    return -(probabilities * probabilities.clamp(min=floor).log()).sum()


@full_precision
def marginal_entropy(log_phi: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the entropy of the mean assignment: H(A) from ``log_f``, H(B) from ``log_x``."""
    return entropy(_weights(log_phi, weights) @ log_phi.exp())


@full_precision
def mutual_information(p: Tensor, q: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return I of the joint sum_i w_i p_i q_i^T of assignments (n, K) and (n, L): H(p) + H(q) - H(joint), in nats."""
    w = _weights(p, weights)
    return entropy(w @ p) + entropy(w @ q) - entropy((w[:, None] * p).T @ q)


@full_precision
def class_conditional(log_f: Tensor, labels: Tensor) -> Tensor:
    """Return log Q(a | y), (K, K): the mean of phi(F_i, a) over the samples of class y; uniform without samples."""
    classes = log_f.shape[1]
    sums = log_f.new_zeros(classes, classes).index_add(0, labels, log_f.exp())
    counts = labels.bincount(minlength=classes)
    uniform = torch.full_like(sums, -math.log(classes))
    return torch.where(counts[:, None] > 0, log_mean(sums, counts), uniform)


@full_precision
def ibb(
    log_f: Tensor, log_x: Tensor, labels: Tensor, log_q: Tensor, weights: Tensor | None = None
) -> dict[str, Tensor]:
    """Return the published bound as two addends, IB = I(F;X) - I(F;Y) <= IBB + H(B):

        compression   1/n sum_i sum_a sum_b phi(F_i,a) phi(X_i,b) log phi(X_i,b)
        relevance   - 1/n sum_i sum_a phi(F_i,a) log Q(a | y_i)

    As phi(F_i, .) sums to 1, compression is minus the mean entropy of phi(X_i, .): for raw input it moves no weight.
    The bound holds for every Q, as a cross-entropy is at least the entropy.
    """
    w = _weights(log_f, weights)
    compression = w @ (log_x.exp() * log_x).sum(1)
    relevance = -(w @ (log_f.exp() * log_q.to(log_f.dtype)[labels]).sum(1))
    return {"compression": compression, "relevance": relevance}


@full_precision
def ibb_tight(
    log_f: Tensor, log_x: Tensor, labels: Tensor, log_q: Tensor, weights: Tensor | None = None
) -> dict[str, Tensor]:
    """Return IBB - H(A) as three addends, IB <= IBB - H(A) + H(B); ``spread`` = -H(A) resists collapse to few classes.

    H(A,B) = H(A) + H(B|A) >= H(A) + 1/n sum_i H(phi(X_i)), for A and B are independent given the sample; the published
    bound leaves H(A) out. A batch's H(A) is on average below the data set's (entropy is concave): still a bound.
    """
    return {**ibb(log_f, log_x, labels, log_q, weights), "spread": -marginal_entropy(log_f, weights)}


@full_precision
def plugin(log_f: Tensor, log_x: Tensor, labels: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
    """Return IB itself from the joints of these samples, no bound: compression = I(F;X), relevance = -I(F;Y)."""
    p, one_hot = log_f.exp(), F.one_hot(labels.unique(return_inverse=True)[1]).to(log_f.dtype)
    return {
        "compression": mutual_information(p, log_x.exp(), weights),
        "relevance": -mutual_information(p, one_hot, weights),
    }


def _weights(assignments: Tensor, weights: Tensor | None) -> Tensor:
    return assignments.new_full((len(assignments),), 1 / len(assignments)) if weights is None else weights
