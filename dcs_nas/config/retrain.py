"""Sections ``retrain`` and ``pretrain``: the training of a fixed network, and its head."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from dcs_nas.config.loss import BranchWeights
from dcs_nas.settings import Settings

Beta = Annotated[float, Field(ge=0, lt=1)]


class HeadConfig(Settings):
    """The head: from the backbone's map to a feature, and from the feature to scores of the training identities.

    ``pool`` is one of ``dcs_nas.models.pooling``; margin softmax is ``dcs_nas.losses.margin_softmax`` (scale 30 and
    margin 0.35 or 0.5 are usual for cosface and arcface, 64 and 0.35 for circle).

    ``parts`` adds a vector: the map, reduced to ``parts_channels`` by a 1x1 convolution, is pooled in each stripe, and
    the stripes stand side by side with their own neck and classifier.

    In tests the vectors of a network stand side by side, each scaled to length 1, or unscaled times ``test_weights``
    (TransReID: 1 and four times 1/4); 0 leaves a vector out.
    """

    pool: str = "avg"
    """Pooling from map to vector: avg, max, gem and others, see the names."""
    square: bool = False
    """A learned square matrix before the neck (MSINet)."""
    neck: bool = True
    """A batch norm between the metric losses and the classifier (BNNeck)."""
    loss_features: Literal["before", "after"] = "before"
    """Metric losses compare features before the neck, or after it."""
    classifier: Literal["linear", "biased", "cosface", "arcface", "circle"] = "linear"
    """Classifier of the training identities: linear, with a bias, or of cosines with a margin (cosface, arcface,
    circle)."""
    scale: float = Field(default=64.0, gt=0)
    """Scale of a classifier of cosines; 30 is usual for cosface and arcface, 64 for circle."""
    margin: float = Field(default=0.35, ge=0, le=1.5)
    """Margin of a classifier of cosines; 0.35 or 0.5 are usual."""
    test_weights: BranchWeights | None = None
    """Weights of a network's several vectors in tests, one each; by default each is scaled to length 1."""
    parts: int = Field(default=0, ge=0, le=16)
    """Horizontal stripes that add a vector of their own, each with neck and classifier (MSINet: 2); 0 for none."""
    parts_channels: int = Field(default=128, ge=1, le=4096)
    """Channels of the map before it is divided into stripes."""
    parts_from: str | None = Field(default=None, min_length=1, max_length=200)
    """Submodule whose output is divided, such as layer3 of a ResNet or the blocks of a ViT; by default the backbone's
    map."""

    @field_validator("test_weights")
    @classmethod
    def _check_weights(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and not any(value):
            raise ValueError("all are 0, which leaves no feature; give one vector a weight, or leave it out")
        return value

    @model_validator(mode="after")
    def _check(self) -> HeadConfig:
        if self.parts == 1:
            raise ValueError("parts is 1, which is the whole map; expected 0 for none, or at least 2 stripes")
        return self

    @property
    def margin_softmax(self) -> bool:
        """True if the classifier scores by cosines, with a margin for the sample's own identity."""
        return self.classifier not in ("linear", "biased")


class GroupConfig(Settings):
    """Factors on the learning rate and on the weight decay of a group of parameters."""

    lr: float = Field(default=1.0, gt=0)
    """Factor on the learning rate."""
    weight_decay: float = Field(default=1.0, ge=0)
    """Factor on the weight decay."""


class GroupsConfig(Settings):
    """Groups of parameters that train at other rates.

    Biases of normalization layers belong to ``norm`` unless ``norm_bias`` is given; ``bias`` holds all other biases.
    The factors of ``head`` are multiplied by those of a parameter's other group.
    """

    head: GroupConfig = GroupConfig()
    """Factors for the head; 10 on the learning rate is usual with pretrained backbones. Attention blocks belong to the
    backbone."""
    bias: GroupConfig = GroupConfig()
    """Factors for biases."""
    norm: GroupConfig = GroupConfig()
    """Factors for normalization layers; a weight decay of 0 is usual with transformers."""
    norm_bias: GroupConfig | None = None
    """Factors for the biases of normalization layers; by default those of `norm`."""


class RetrainConfig(Settings):
    """Training of a fixed network: a genotype's, or a named backbone.

    It starts from scratch, from ``weights``, or from the supernet of ``inherit``. A file that leaves the first layer,
    the positions or more than a tenth of the network's numbers random, or has other parts, is refused unless
    ``weights_partial`` is set.

    While the backbone is frozen its running statistics are too. A ``cosine`` stays at the full rate until
    ``flat_epochs`` and then falls to ``lr_min``; ``cosine_over`` all is timm's form. Steps are those of the optimizer
    (``dcs_nas.training.optimizers``).

    Each of the ``accumulate`` batches of a step has its own pairs and batch statistics; the last step of an epoch takes
    the remaining batches. A batch that is left out (``trainer.nonfinite``) discards the gradients accumulated before it
    in the same step. With ``ema_decay`` d the average of the network, running statistics included, becomes d times
    itself + (1 - d) times the network after every step; validation and evaluation use the average.

    The identities of ``validation`` choose the best checkpoint. ``test_curve`` writes the column test/mAP of
    metrics.csv; nothing is chosen by it.
    """

    backbone: str | None = None
    """Named backbone in place of a genotype, such as resnet50; see the names."""
    backbone_options: dict[str, Any] = {}
    """Options of the backbone, such as attention or drop_path."""
    weights: Path | None = None
    """File of pretrained weights, see `dcs-nas weights FILE`."""
    weights_key: str | None = Field(default=None, min_length=1, max_length=200)
    """Network to load from a file with several, such as student."""
    weights_partial: bool = False
    """Accept a file that leaves more than a tenth of the network random."""
    inherit: Path | None = None
    """Run folder of a search whose supernet has the weights to start from."""
    channels: int | None = Field(default=None, ge=1, le=2048)
    """Width of a genotype's first cell, in place of its own."""
    cells: int | None = Field(default=None, ge=1, le=100)
    """Number of a genotype's cells, in place of its own."""
    epochs: int = Field(default=120, ge=1)
    """Epochs of the training."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """Optimizer of all weights."""
    lr: float = Field(default=3.5e-4, gt=0)
    """Highest learning rate; 3.5e-4 is usual for Adam, 0.01 to 0.05 for SGD."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov's form of momentum."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Betas of Adam and AdamW."""
    amsgrad: bool = False
    """The AMSGrad form of Adam and AdamW."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Weight decay of all weights."""
    groups: GroupsConfig = GroupsConfig()
    """Factors on learning rate and weight decay for groups of parameters."""
    freeze_epochs: float = Field(default=0.0, ge=0)
    """First epochs in which only the head is trained, as with pretrained backbones."""
    freeze_steps: int = Field(default=0, ge=0)
    """First steps of the optimizer in which only the head is trained."""
    grad_clip: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient; null for none."""
    accumulate: int = Field(default=1, ge=1, le=4096)
    """Batches whose mean gradient makes one step: raise it where a batch does not fit into memory."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Decay of an average of the weights, which is then evaluated; 0.999 is usual, null for none."""
    head: HeadConfig = HeadConfig()
    """From the backbone's map to features and scores."""
    schedule: Literal["cosine", "multistep", "constant"] = "cosine"
    """Learning rate after the warm-up: cosine, falling at `milestones`, or constant."""
    warmup_epochs: float = Field(default=10, ge=0)
    """Epochs in which the learning rate rises to `lr`."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of the optimizer in which the learning rate rises to `lr`, in place of epochs."""
    warmup_factor: float = Field(default=0.01, gt=0, le=1)
    """Share of `lr` that the first step has."""
    flat_epochs: float = Field(default=0.0, ge=0)
    """Epochs with the full rate before a cosine falls."""
    cosine_over: Literal["rest", "all"] = "rest"
    """Epochs that the cosine spans: those after the warm-up (rest), or the warm-up's as well (all)."""
    lr_min: float = Field(default=0.0, ge=0)
    """Learning rate at the end of a cosine."""
    milestones: tuple[int, ...] = (40, 70)
    """Epochs at which a multistep schedule falls."""
    gamma: float = Field(default=0.1, gt=0, le=1)
    """Factor on the rate at each milestone."""
    center_lr: float = Field(default=0.5, gt=0)
    """Learning rate of the centres of the centre loss."""
    validation: float = Field(default=0.0, ge=0, lt=1)
    """Share of the training identities held out, to choose the best checkpoint; 0 for none."""
    validate_every: int = Field(default=10, ge=1)
    """Epochs between two measurements of retrieval."""
    test_curve: bool = False
    """Measure the test set as often, for a curve; nothing is chosen by it."""

    @model_validator(mode="after")
    def _check_start(self) -> RetrainConfig:
        if self.weights is not None and self.inherit is not None:
            raise ValueError("weights and inherit are both given; the network starts from one of them")
        if self.weights_key is not None and self.weights is None:
            raise ValueError("weights_key is set without weights; name the file, or leave it out")
        return self

    @model_validator(mode="before")
    @classmethod
    def _refuse_share(cls, values: Any) -> Any:
        if isinstance(values, dict) and "weights_share" in values:
            raise ValueError("weights_share is now weights_partial: true loads what fits, false wants nine tenths")
        return values

    @model_validator(mode="after")
    def _check_training(self) -> RetrainConfig:
        if self.freeze_epochs and self.freeze_steps:
            raise ValueError("freeze_epochs and freeze_steps are both given; keep one of them")
        if self.nesterov and self.optimizer == "sgd" and not self.momentum:
            raise ValueError("nesterov is set, but momentum is 0; raise momentum, e.g. 0.9, or leave nesterov out")
        if self.schedule == "cosine" and 0 < self.flat_epochs >= self.epochs:
            raise ValueError(
                f"flat_epochs is {self.flat_epochs:g} of {self.epochs} epochs, so that no cosine follows; lower it, or "
                "set schedule: constant"
            )
        return self

    @property
    def freezes(self) -> bool:
        """True if the backbone is frozen at first."""
        return bool(self.freeze_epochs or self.freeze_steps)


class PretrainConfig(RetrainConfig):
    """Training of a network by the classes of images, for ``retrain.weights``; further settings as in ``retrain``.

    The loss is the cross-entropy alone; batches are of shuffled images. ``validation`` holds out a share of every
    class's images; a data set with images for it (``val``) needs none. The best top-1 accuracy on them chooses the best
    checkpoint.
    """

    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Share of the target that is spread over all classes; 0 for none."""
    head: HeadConfig = HeadConfig(neck=False, classifier="biased")
    """From the backbone's map to features and scores of the classes: linear with a bias by default."""
    validate_every: int = Field(default=1, ge=1)
    """Epochs between two measurements of the accuracy."""
    validation: float = Field(default=0.0, ge=0, lt=1)
    """Share of the images of each class that is held out to choose the best checkpoint; 0 for none."""
