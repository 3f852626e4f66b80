"""Training of a fixed network: identity, triplet, center and IB terms (section 7 of DCS, BoT), or by classes alone."""

from __future__ import annotations

import logging
import math
from copy import deepcopy
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dcs_nas.config import Config, LossConfig, RetrainConfig
from dcs_nas.data.datamodule import Batch, Images, ReidData, file_names
from dcs_nas.evaluation import score
from dcs_nas.losses import Objective
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.processes import get_world_size
from dcs_nas.runs import RunFolder, read_metrics
from dcs_nas.training.acceleration import accelerate, choose_fused
from dcs_nas.training.checkpoints import save_checkpoint
from dcs_nas.training.features import build_feature_set, compute_batches, extract_features
from dcs_nas.training.joint_batch import average_buffers, joint, joint_embedding, sum_gradients
from dcs_nas.training.loop import TrainingLoop
from dcs_nas.training.nonfinite import require_finite
from dcs_nas.training.objective import batch_terms, build_objective, refresh_objective, update_objective
from dcs_nas.training.optimizers import build_optimizer, learning_rate_factor
from dcs_nas.training.trainer import fit, make_trainer, without_known_warnings

log = logging.getLogger(__name__)


class Retraining(TrainingLoop):
    """The training of ``network`` on P x K batches of ``images``.

    The mAP of ``held`` images is measured every ``validate_every`` epochs, and the best so far is kept as
    ``checkpoints/best.ckpt``. With ``test_curve`` the mAP on the test set is measured then too; it chooses nothing.

    Attributes:
        best_score: the highest mAP so far, or another first figure of ``measure_held``; -1 before the first.
        ema: the moving average of the network, which is validated, if ``ema_decay`` is set.
    """

    shown: ClassVar[tuple[str, ...]] = (
        "train/loss", "train/identity", "train/triplet", "lr", "validation/mAP", "test/mAP",
    )  # fmt: skip
    best_score: Tensor

    def __init__(
        self,
        network: ReidNetwork,
        objective: Objective,
        config: Config,
        *,
        run: RunFolder,
        data: ReidData,
        images: Images,
        held: Images | None,
    ) -> None:
        super().__init__(network, objective, config, run=run, data=data, held=held)
        self._images = images
        self.checked = [(list(network.named_parameters()), self.settings.grad_clip)]
        self.register_buffer("best_score", torch.tensor(-1.0))
        self.ema = None if self.settings.ema_decay is None else deepcopy(network).requires_grad_(False)
        self._backbone = [p for p in network.backbone.parameters() if p.requires_grad]
        self._rates: list[float] = []
        self._tests = data.test() if self.settings.test_curve else None

    @property
    def settings(self) -> RetrainConfig:
        return self.config.section("retrain")

    def configure_optimizers(self) -> list[Optimizer]:
        network = build_optimizer(self.network, self.settings, fused=choose_fused(self))
        self._rates = [group["lr"] for group in network.param_groups]
        centers = list(self.objective.parameters())
        return [network, *([SGD(centers, lr=self.settings.center_lr)] if centers else [])]

    def on_train_start(self) -> None:
        super().on_train_start()
        if self._tests is not None:
            log.info(
                "the test set is ranked every %d epochs for a curve alone (retrain.test_curve): choose nothing by it",
                self.settings.validate_every,
            )

    def step(self, batch: Batch, batch_idx: int) -> None:
        self._place = f"step {batch_idx + 1} of epoch {self.current_epoch + 1}"
        self._files = file_names(self._images, batch["indices"])
        if self.settings.freezes:
            self._freeze_backbone(batch_idx)
        own, labels = self.augment(batch["images"]), joint(batch["labels"])
        embedding = joint_embedding(self.network(own, batch["cameras"]))
        images = joint(own) if self.objective.needs_images else None
        terms = batch_terms(self.objective, embedding, labels, images)
        require_finite(terms, where=self._place, files=self._files)
        first = batch_idx - batch_idx % self.settings.accumulate
        count = min(self.settings.accumulate, self.trainer.num_training_batches - first)
        if batch_idx == first:
            for optimizer in self.optimizer_list():
                optimizer.zero_grad(set_to_none=True)
        self.manual_backward(terms["loss"] / (get_world_size() * count))
        if batch_idx == first + count - 1:
            self._update(batch_idx)
        update_objective(self.objective, embedding, labels, images)
        self._means.add(terms, "train/")

    def _update(self, batch_idx: int) -> None:
        """Update all parameters by the accumulated gradients, then the averaged network."""
        network, *centers = self.optimizer_list()
        sum_gradients([*self.network.parameters(), *self.objective.parameters()])
        factor = learning_rate_factor(self._epoch(batch_idx), self.settings, steps_per_epoch=self._steps_per_epoch)
        for group, rate in zip(network.param_groups, self._rates):
            group["lr"] = rate * factor
        scale = self._loss_scale() if centers else 1.0
        network.step()
        for optimizer in centers:  # centres learn at their own pace, whatever weight the term has (BoT)
            for center in self.objective.parameters():
                if center.grad is not None:
                    center.grad *= self._loss_scale() / scale / self.config.loss.center_weight
            optimizer.step()
        if self.ema is not None and self.settings.ema_decay is not None:
            update_average(self.ema, self.network, decay=self.settings.ema_decay)

    def _loss_scale(self) -> float:
        """Return the factor by which 16-mixed has scaled the loss; a step of an optimizer may change it."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return 1.0 if scaler is None else scaler.get_scale()

    @property
    def evaluated(self) -> ReidNetwork:
        return self.network if self.ema is None else self.ema

    def after_epoch(self) -> dict[str, float]:
        if self.ema is not None:
            average_buffers(self.ema)
        refresh_objective(self.objective, self.network, [self._images], self.config)
        figures: dict[str, float] = {}
        if self.validation_is_due():
            measured = self.measure_held()
            figures |= measured
            value = next(iter(measured.values()))
            if self.best_score.new_tensor(value) > self.best_score:
                self.best_score.fill_(value)
                save_checkpoint(self.trainer, self._run.checkpoint("best"))
        if self._tests is not None and self.is_measured():
            figures["test/mAP"] = self._test(*self._tests)
        return figures

    def measure_held(self) -> dict[str, float]:
        """Return figures of the images held out, of which the first chooses the best checkpoint."""
        return {"validation/mAP": self.validate()}

    def _test(self, query: Images, gallery: Images) -> float:
        """Return the mAP on the test set by the section ``evaluate``; it chooses nothing."""
        settings = self.config.evaluate.model_copy(update={"confidence": 0})
        known = self.config.data.tests_trained_cameras
        features = [
            extract_features(self.evaluated, self._data, images, flip=settings.flip, cameras=known)
            for images in (query, gallery)
        ]
        labelled = build_feature_set(query, gallery, *features)
        return score(labelled, settings, protocol=self._data.test_dataset.protocol, device=self.device).result.mAP

    def _freeze_backbone(self, batch_idx: int) -> None:
        """Freeze the backbone, in evaluation mode, in the first epochs or steps; then train all of it."""
        s = self.settings
        epoch = self._epoch(batch_idx)
        frozen = epoch < s.freeze_epochs or round(epoch * self._steps_per_epoch) < s.freeze_steps
        self.network.backbone.train(not frozen)
        for parameter in self._backbone:
            parameter.requires_grad_(not frozen)

    @property
    def _steps_per_epoch(self) -> int:
        return max(1, math.ceil(self.trainer.num_training_batches / self.settings.accumulate))

    def _epoch(self, batch_idx: int) -> float:
        """Return the number of epochs before the present step of the optimizer, with fractions."""
        return self.current_epoch + batch_idx // self.settings.accumulate / self._steps_per_epoch


class Pretraining(Retraining):
    """Training by the classes of images: the accuracy of the images held out is measured, not their mAP."""

    shown = ("train/loss", "lr", "validation/top-1", "validation/top-5")

    def measure_held(self) -> dict[str, float]:
        assert self._held is not None
        first, among_first = accuracy(self.evaluated, self._data, self._held)
        return {"validation/top-1": first, "validation/top-5": among_first}


def as_retraining(config: Config) -> Config:
    """Return the settings with the section ``pretrain``, if there is one, in place of ``retrain``, and its loss."""
    if config.pretrain is None:
        return config
    loss = LossConfig(triplet_weight=0, label_smoothing=config.pretrain.label_smoothing)
    data = config.data.model_copy(update={"sampler": "shuffle"})
    return config.model_copy(update={"retrain": config.pretrain, "loss": loss, "data": data})


@torch.inference_mode()
def accuracy(network: ReidNetwork, data: ReidData, images: Images) -> tuple[float, float]:
    """Return the share of images whose class has the highest score, and whose class is among the highest five.

    The score is the mean over the network's classifiers. Processes share the images, and all get both figures.
    """

    def compare(pixels: Tensor, cameras: Tensor, labels: Tensor) -> Tensor:
        logits = network.embed(pixels, cameras).logits
        assert logits is not None
        scores = torch.stack(logits).float().mean(0)
        hits = scores.topk(min(5, scores.shape[1])).indices == labels[:, None]
        return torch.stack([hits[:, 0], hits.any(1)], dim=1).float()

    hits = torch.cat(list(compute_batches(network, data, images, compare))).double().mean(0)
    return float(hits[0]), float(hits[1])


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, *, decay: float) -> None:
    """Move the state of ``average`` to ``decay`` times itself + (1 - ``decay``) times that of ``network``.

    Parameters and floating-point buffers, such as running statistics, are averaged; other buffers are copied.
    """
    pairs = list(zip(average.state_dict().values(), network.state_dict().values(), strict=True))
    averaged = [(mean, value) for mean, value in pairs if mean.is_floating_point()]
    get_ema_multi_avg_fn(decay)([mean for mean, _ in averaged], [value for _, value in averaged], 0)
    for copy, value in pairs:
        if not copy.is_floating_point():
            copy.copy_(value)


def trial_settings(config: Config) -> Config:
    """Return the settings of a trial training: a retraining of few epochs, with the rates of a search's weights.

    SGD from ``search.lr`` down to ``search.lr_min`` by a cosine, ``search.trials.epochs`` long, validated at the end.
    """
    search = config.section("search")
    retrain = RetrainConfig(
        epochs=search.trials.epochs,
        optimizer="sgd",
        lr=search.lr,
        lr_min=search.lr_min,
        momentum=search.momentum,
        weight_decay=search.weight_decay,
        grad_clip=search.grad_clip,
        warmup_epochs=0,
        validate_every=search.trials.epochs,
    )
    return config.model_copy(update={"retrain": retrain})


def train_trial(
    network: ReidNetwork,
    config: Config,
    *,
    run: RunFolder,
    data: ReidData,
    images: Images,
    held: Images,
    epochs: int,
) -> float:
    """Return the mAP of identities ``held`` out after a trial training on ``images`` (classes from 0).

    The same network and settings give the same score. ``run`` keeps metrics and checkpoints; an interrupted training
    resumes after its last whole epoch. With ``epochs`` it stops after so many of the schedule; called again with more,
    it continues to the bits of a training without the stop.
    """
    config = trial_settings(config)
    if config.trainer.compile == "cuda-graphs":  # a trial is too short for a compiler
        accelerate(network, config)
    module = Retraining(network, trial_objective(network, config, images), config, run=run, data=data, images=images,
                        held=held)  # fmt: skip
    loader = data.make_identity_loader(images, stream=9)
    with without_known_warnings():
        fit(make_trainer(config, run, epochs=epochs), module, loader, run)
    return float(torch.tensor(read_metrics(run.metrics_file)[-1]["validation/mAP"]))


def trial_objective(network: ReidNetwork, config: Config, images: Images) -> Objective:
    """Return the objective of a trial training on ``images``."""
    identities = len(set(images.labels.tolist()))
    return build_objective(config.loss, num_identities=identities, features=network.num_features, network=network)
