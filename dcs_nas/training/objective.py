"""The objective of a job and the loss of one batch. B images, D features, A identities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from dcs_nas.config import Config, LossConfig
from dcs_nas.data.augment import Normalize
from dcs_nas.data.datamodule import Images
from dcs_nas.errors import InputError
from dcs_nas.losses import Objective
from dcs_nas.losses.margin_softmax import margin_logits
from dcs_nas.models.heads import Embedding, ReidNetwork
from dcs_nas.processes import get_rank, get_world_size

CENTER_RATE = 0.5
"""Learning rate of the centres of a center loss in a search."""


def build_objective(
    settings: LossConfig, *, num_identities: int, features: int, network: ReidNetwork | None = None
) -> Objective:
    """Return the objective that the settings describe.

    Args:
        settings: the settings of the loss.
        num_identities: A.
        features: D.
        network: the trained network, for a loop that calls ``update_objective`` and ``refresh_objective``; with
            ``ib_input`` stem its embeddings hold the stem's output from now on.

    Raises:
        InputError: settings that need such a loop without a network, a network without a stem, or weights of branches
            that it does not have.
    """
    if network is None and (settings.ib_input, settings.ib_estimate) != ("image", "streaming"):
        raise InputError(
            f"loss.ib_input '{settings.ib_input}' and loss.ib_estimate '{settings.ib_estimate}' are not for this "
            "strategy; use image and streaming"
        )
    channels = 3
    if network is not None and settings.ib_input == "stem":
        channels = network.expose_stem(settings.ib_grid)
    softmax = None
    if network is not None and network.head_settings.margin_softmax:
        head = network.head_settings
        softmax = partial(margin_logits, head.classifier, scale=head.scale, margin=head.margin)
    widths = None
    if network is not None:
        widths = network.widths
        shares = settings.identity_branches or [1.0] * len(widths)
        network.unread = frozenset(n for n, share in enumerate(shares) if not share * settings.identity_weight)
    return Objective(
        settings,
        num_classes=num_identities,
        feature_dim=features,
        widths=widths,
        input_channels=channels,
        softmax=softmax,
    )


def center_groups(objective: Objective) -> list[dict[str, Any]]:
    """Return the group of an optimizer that moves the centres of a center loss, if it has one.

    Centres learn at their own pace, whatever weight the term has in the loss (BoT, arXiv 1903.07071); call
    ``restore_center_rate`` where a schedule changes the rates of all groups.
    """
    centers = list(objective.parameters())
    rate = CENTER_RATE / objective.settings.center_weight if centers else 0.0
    return [{"params": centers, "lr": rate, "momentum": 0.0, "weight_decay": 0.0}] if centers else []


def restore_center_rate(optimizer: Optimizer) -> None:
    """Set the rate of the group of ``center_groups``, after the weights', to its first value."""
    for group in optimizer.param_groups[1:]:
        group["lr"] = group["initial_lr"]


def ib_inputs(objective: Objective, embedding: Embedding, images: Tensor | None) -> Tensor | None:
    """Return the input of the information bottleneck: images (B, 3, H, W) or the stem's output; None without it.

    Neither carries a gradient. X is the input of the paper, and the bound IB <= IBB + H(B) leaves out H(B), which is
    constant only if X is: a gradient of -H(phi(X)), the first term, would train the stem to map all identities to one
    feature.
    """
    if not objective.needs_inputs:
        return None
    return images if objective.settings.ib_input == "image" else embedding.stem


def batch_terms(
    objective: Objective, embedding: Embedding, labels: Tensor, images: Tensor | None, **options: bool
) -> dict[str, Tensor]:
    """Return named loss terms of a batch; ``images`` (B, 3, H, W) or the stem's output feed the information bottleneck.

    The identity term is the mean over the branches' classifiers. ``options`` are those of ``Objective.forward``.
    """
    inputs = ib_inputs(objective, embedding, images)
    return objective(embedding.logits, embedding.features, labels, inputs, **options)


def update_objective(objective: Objective, embedding: Embedding, labels: Tensor, images: Tensor | None) -> None:
    """Add the batch of a weight step, as in ``batch_terms``, to the class statistics of the epoch."""
    objective.update(embedding.features.detach(), labels, ib_inputs(objective, embedding, images))


def refresh_objective(objective: Objective, network: ReidNetwork, parts: Sequence[Images], config: Config) -> None:
    """Update the class statistics at the end of an epoch; every process calls this.

    Streaming: those of the epoch's batches. Exact: those of the images of all ``parts``, each once, by an extra pass of
    the network in evaluation mode (running statistics, no noise) without augmentation and gradients; its features stay
    in memory meanwhile. The network keeps its mode.
    """
    if not objective.needs_inputs or objective.settings.ib_estimate == "streaming":
        objective.end_epoch()
        return
    was_training = network.training
    network.eval()
    batches = [batch for images in parts for batch in _embed_images(objective, network, images, config)]
    network.train(was_training)
    objective.estimate(lambda: batches)


@torch.no_grad()
def _embed_images(
    objective: Objective, network: ReidNetwork, images: Images, config: Config
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield features (n, D), inputs on their grid (n, C, h, w) and labels (n,) of this process's images."""
    parameter = next(network.parameters())
    device, normalize = parameter.device, Normalize(config.data.mean, config.data.std).to(parameter)
    own = range(get_rank(), len(images), get_world_size())
    for start in range(0, len(own), config.data.test_batch):
        batch = images[own[start : start + config.data.test_batch]]
        pixels = normalize(batch["images"].to(device))
        embedding = network.embed(pixels, batch["cameras"].to(device))
        inputs = ib_inputs(objective, embedding, pixels)
        assert inputs is not None
        grid = F.adaptive_avg_pool2d(inputs.float(), config.loss.ib_grid)
        yield embedding.features.float(), grid, batch["labels"].to(device)
