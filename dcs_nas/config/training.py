"""Sections ``loss``, ``dcs``, ``retrain`` and ``trainer``: the objective, the training, the machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from dcs_nas.settings import Settings

Beta = Annotated[float, Field(ge=0, lt=1)]
BranchWeights = Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1, max_length=64)]
Precision = Literal["32-true", "bf16-mixed", "16-mixed", "64-true"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
PRECISION_NAMES: dict[str, Precision] = {
    **dict.fromkeys(("32", "fp32", "float32", "tf32", "full"), "32-true"),
    **dict.fromkeys(("16", "fp16", "float16", "half", "amp"), "16-mixed"),
    **dict.fromkeys(("bf16", "bfloat16"), "bf16-mixed"),
    **dict.fromkeys(("64", "fp64", "float64", "double"), "64-true"),
}


class LossConfig(Settings):
    """The training objective: weights of its terms, and the information bottleneck (IB).

    The triplet term takes the hardest pairs of an anchor, or all pairs with weights (AGW); without ``triplet_margin``
    it has the soft margin, and with ``triplet_normalize`` it compares features of unit length. The circle term is that
    of pairs (Sun et al., CVPR 2020, equation 6); its softmax form is a classifier, ``retrain.head``.

    Of a network with several vectors the identity term is the mean over their classifiers, the other terms are of all
    vectors side by side. ``identity_branches`` and ``triplet_branches`` are weights, one for each vector: each has a
    term of its own then, and the weighted terms are added up.

    IB's input is the image, or the output of the network's stem, on ``ib_grid`` (rows, columns). Its class statistics
    are gathered over the epoch (``streaming``), or measured at its end by an extra pass over the images (``exact``).
    """

    identity_weight: float = Field(default=1.0, ge=0)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    triplet_weight: float = Field(default=1.0, ge=0)
    triplet_margin: float | None = Field(default=0.3, ge=0)
    triplet_mining: Literal["hard", "weighted"] = "hard"
    triplet_normalize: bool = False
    identity_branches: BranchWeights | None = None
    triplet_branches: BranchWeights | None = None
    center_weight: float = Field(default=0.0, ge=0)
    circle_weight: float = Field(default=0.0, ge=0)
    circle_margin: float = Field(default=0.25, gt=0, lt=1)
    circle_scale: float = Field(default=128.0, gt=0)
    ib_kind: Literal["none", "ibb", "ibb_tight", "plugin"] = "none"
    ib_weight: float = Field(default=0.0, ge=0)
    ib_grid: tuple[int, int] = (8, 4)
    ib_input: Literal["image", "stem"] = "image"
    ib_estimate: Literal["streaming", "exact"] = "streaming"
    ib_temperature: float | Literal["auto"] = 1.0
    ib_normalize: bool = False

    @model_validator(mode="after")
    def _check(self) -> LossConfig:
        if self.ib_weight > 0 and self.ib_kind == "none":
            raise ValueError(f"ib_weight is {self.ib_weight:g}, but ib_kind is 'none'; name a kind, e.g. ibb")
        if self.ib_kind == "none" and (self.ib_input, self.ib_estimate) != ("image", "streaming"):
            raise ValueError("ib_input or ib_estimate is set, but ib_kind is 'none'; name a kind, e.g. ibb")
        if not self.identity_weight and not self.triplet_weight and not self.circle_weight:
            raise ValueError(
                "identity_weight, triplet_weight and circle_weight are all 0; nothing would tell identities apart"
            )
        for name in ("identity_branches", "triplet_branches"):
            if getattr(self, name) is not None and not any(getattr(self, name)):
                raise ValueError(f"{name} are all 0; give one vector a weight, or leave the term out by its own weight")
        return self


class DcsConfig(Settings):
    """DCS-Attention: the Gumbel temperature starts at ``tau`` and is multiplied by ``decay`` every epoch.

    The values are those of the searched widths in the authors' code, where nothing stops the fall; applied to masks,
    it leaves 83 % of the logits without a gradient after 120 epochs. So it stops at ``tau_min`` here (ours; 0: never).
    ``scale`` is that of the affinities (``dcs_nas.models.blocks.DCSAttention``) where a block's settings name none.
    """

    tau: float = Field(default=5.0, gt=0)
    decay: float = Field(default=0.956, gt=0, le=1)
    tau_min: float = Field(default=0.5, ge=0)
    scale: Literal["mean", "sqrt", "literal"] = "mean"

    @model_validator(mode="after")
    def _check(self) -> DcsConfig:
        if self.tau_min > self.tau:
            raise ValueError(f"tau_min is {self.tau_min:g}, above tau {self.tau:g}; set tau_min to tau or below")
        return self

    def temperature(self, epoch: int) -> float:
        """Return the temperature of an epoch, from 0: max(tau * decay ** epoch, tau_min).

        >>> [round(DcsConfig().temperature(epoch), 3) for epoch in (0, 10, 60)]
        [5.0, 3.188, 0.5]
        """
        return max(self.tau * self.decay**epoch, self.tau_min)


class HeadConfig(Settings):
    """What turns the backbone's map into a feature, and the feature into scores of the training identities.

    ``pool`` is one of ``dcs_nas.models.pooling``. ``neck``: a batch norm between metric losses and classifier (BNNeck),
    behind a learned square matrix where ``square`` is set (MSINet). ``loss_features``: metric losses compare features
    before the two, or after. The ``classifier`` is linear, linear with a bias, or of cosines with a margin softmax of
    this ``scale`` and ``margin`` (``dcs_nas.losses.margin_softmax``; 30 and 0.35 or 0.5 are usual for cosface and
    arcface, 64 and 0.35 for circle).

    ``parts`` adds a vector, of that many horizontal stripes (2: MSINet's upper and lower half): a map reduced to
    ``parts_channels`` by a 1x1 convolution, each stripe pooled, side by side, with its own neck and classifier. The map
    is the backbone's, or the output of the submodule ``parts_from``, such as ``layer3`` of a ResNet.

    In tests several vectors of a network stand side by side, each scaled to length 1, or as they are times
    ``test_weights``, one for each (TransReID: 1 and four times 1/4); 0 leaves a vector out.
    """

    pool: str = "avg"
    square: bool = False
    neck: bool = True
    loss_features: Literal["before", "after"] = "before"
    classifier: Literal["linear", "biased", "cosface", "arcface", "circle"] = "linear"
    scale: float = Field(default=64.0, gt=0)
    margin: float = Field(default=0.35, ge=0, le=1.5)
    test_weights: BranchWeights | None = None
    parts: int = Field(default=0, ge=0, le=16)
    parts_channels: int = Field(default=128, ge=1, le=4096)
    parts_from: str | None = Field(default=None, min_length=1, max_length=200)

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
        """Whether the classifier scores by cosines, with a margin for the sample's own identity."""
        return self.classifier not in ("linear", "biased")


class GroupConfig(Settings):
    """Factors on the learning rate and on the weight decay of a group of parameters."""

    lr: float = Field(default=1.0, gt=0)
    weight_decay: float = Field(default=1.0, ge=0)


class GroupsConfig(Settings):
    """Groups of parameters that train at other rates: ``head`` (the new layers), ``bias``, ``norm``, ``norm_bias``.

    All parameters of normalization layers are of ``norm``, their biases too unless ``norm_bias`` is given; ``bias`` are
    all other biases. A parameter of the head is of ``head`` as well, and its factors are multiplied.
    """

    head: GroupConfig = GroupConfig()
    bias: GroupConfig = GroupConfig()
    norm: GroupConfig = GroupConfig()
    norm_bias: GroupConfig | None = None


class RetrainConfig(Settings):
    """Training of a fixed network: a genotype's, or a named backbone.

    It starts from scratch, from a file of ``weights``, or by ``inherit`` from the supernet of a search's run folder.
    Of a file with several networks ``weights_key`` names one. A file that leaves the first layer, the positions or more
    than a tenth of the network's numbers random, or has other parts, is refused unless ``weights_partial`` is set.

    ``groups`` holds factors on ``lr`` and ``weight_decay``. In the first ``freeze_epochs``, or ``freeze_steps``, the
    backbone stays as it is, running statistics included, and only the head is trained. Adam and AdamW have ``betas``
    and ``amsgrad``, SGD has ``momentum``, in Nesterov's form where ``nesterov`` is set. The learning rate rises over
    ``warmup_steps`` if given, else over ``warmup_epochs``; of a ``cosine``, it stays until ``flat_epochs`` and then
    falls to ``lr_min``. The cosine spans what the warm-up leaves (``cosine_over`` rest), or the warm-up's epochs as
    well, as timm's does (all). Steps are those of the optimizer (``dcs_nas.training.optimizers``).

    A step takes the mean gradient of ``accumulate`` batches, of an epoch's last step of those left; each batch has its
    own pairs and batch statistics, and one that is left out (``trainer.nonfinite``) takes the gradients gathered before
    it in the same step along. With ``ema_decay`` d an average of the network, running statistics included, becomes
    d times itself + (1 - d) times the network after every step; validation and evaluation are of the average.

    Every ``validate_every`` epochs the identities that ``validation`` holds out are ranked, which chooses the best
    checkpoint, and with ``test_curve`` the test set, for the column test/mAP of metrics.csv alone: nothing is chosen by
    it.
    """

    backbone: str | None = None
    backbone_options: dict[str, Any] = {}
    weights: Path | None = None
    weights_key: str | None = Field(default=None, min_length=1, max_length=200)
    weights_partial: bool = False
    inherit: Path | None = None
    channels: int | None = Field(default=None, ge=1, le=2048)
    cells: int | None = Field(default=None, ge=1, le=100)
    epochs: int = Field(default=120, ge=1)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(default=3.5e-4, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    amsgrad: bool = False
    weight_decay: float = Field(default=5e-4, ge=0)
    groups: GroupsConfig = GroupsConfig()
    freeze_epochs: float = Field(default=0.0, ge=0)
    freeze_steps: int = Field(default=0, ge=0)
    grad_clip: float | None = Field(default=None, gt=0)
    accumulate: int = Field(default=1, ge=1, le=4096)
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    head: HeadConfig = HeadConfig()
    schedule: Literal["cosine", "multistep", "constant"] = "cosine"
    warmup_epochs: float = Field(default=10, ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    warmup_factor: float = Field(default=0.01, gt=0, le=1)
    flat_epochs: float = Field(default=0.0, ge=0)
    cosine_over: Literal["rest", "all"] = "rest"
    lr_min: float = Field(default=0.0, ge=0)
    milestones: tuple[int, ...] = (40, 70)
    gamma: float = Field(default=0.1, gt=0, le=1)
    center_lr: float = Field(default=0.5, gt=0)
    validation: float = Field(default=0.0, ge=0, lt=1)
    validate_every: int = Field(default=10, ge=1)
    test_curve: bool = False

    @model_validator(mode="after")
    def _check_start(self) -> RetrainConfig:
        if self.weights is not None and self.inherit is not None:
            raise ValueError("weights and inherit are both given; the network starts from one of them")
        if self.weights_key is not None and self.weights is None:
            raise ValueError("weights_key is given without weights; name the file, or leave it out")
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
        """Whether the backbone is frozen at first."""
        return bool(self.freeze_epochs or self.freeze_steps)


class PretrainConfig(RetrainConfig):
    """Training of a network by the classes of images, for ``retrain.weights``; settings as in ``retrain``, but for:

    The loss is the cross-entropy alone, with ``label_smoothing``, of a linear classifier with a bias on the pooled map
    (``head``); batches are of shuffled images. ``validation`` holds out a share of every class's images; a data set
    with images of its own for it (``val``) needs none. The accuracy on them, top-1 and top-5, is measured every
    ``validate_every`` epochs, and the best top-1 chooses the best checkpoint.
    """

    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    head: HeadConfig = HeadConfig(neck=False, classifier="biased")
    validate_every: int = Field(default=1, ge=1)


class TrainerConfig(Settings):
    """The machine: passed on to Lightning's Trainer.

    ``devices``: how many, which GPUs (``0,2``), or ``-1`` for all; ``auto`` is as many as a launcher has started, else
    one. What the machine has to have for them is checked when a job starts (``dcs_nas.training.devices``).
    A step whose loss or gradient is NaN or infinite stops the job, or is left out (``nonfinite: skip``).
    Of several processes, each waits ``timeout_minutes`` at most for another that does not answer.
    ``compile`` is the mode of torch.compile for the network (reduce-overhead: CUDA graphs); ``matmul_precision`` below
    highest lets a GPU compute float32 products in TF32 or bfloat16.
    ``loggers`` get the means of every epoch beside metrics.csv; wandb and mlflow have to be installed.
    """

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    devices: int | str = "auto"
    num_nodes: int = Field(default=1, ge=1)
    timeout_minutes: float = Field(default=30, gt=0, le=10080)
    precision: Precision = "32-true"
    deterministic: bool | None = None
    compile: Literal["off", "default", "reduce-overhead", "max-autotune"] = "off"
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    nonfinite: Literal["stop", "skip"] = "stop"
    threads: int | None = Field(default=None, ge=1, le=4096)
    loggers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)

    @property
    def cuda(self) -> bool:
        """Whether a CUDA GPU is there and not refused."""
        import torch

        return torch.cuda.is_available() and self.accelerator != "cpu"

    @property
    def on_cpu(self) -> bool:
        """Return whether the CPU trains: there is no GPU, or it is refused."""
        import torch

        return self.accelerator == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available())

    @field_validator("compile", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: object) -> object:
        return "off" if value is False else value  # which YAML takes for false

    @field_validator("precision", mode="before")
    @classmethod
    def _name_precision(cls, value: Any) -> Any:
        if value in ("bf16-true", "16-true"):
            raise ValueError(
                "weights and alphas in half precision lose most of their steps, which round to nothing; use bf16-mixed"
            )
        meant = PRECISION_NAMES.get(str(value).lower())
        if meant is not None:
            raise ValueError(f"did you mean {meant}? known: {', '.join(PRECISIONS)}")
        return value

    @field_validator("devices", mode="before")
    @classmethod
    def _check_devices(cls, value: Any) -> Any:
        text = str(value).strip()
        numbers = [part.strip() for part in text.split(",") if part.strip()]
        named = "," in text and all(map(str.isdecimal, numbers)) and 0 < len(numbers) == len(set(map(int, numbers)))
        if isinstance(value, bool) or not (named or re.fullmatch("auto|-1|0*[1-9][0-9]{0,3}", text)):
            raise ValueError("expected auto, a number of at least 1, -1 for all, or the numbers of GPUs such as '0,2'")
        return value

    @model_validator(mode="after")
    def _check_loggers(self) -> TrainerConfig:
        if len(set(self.loggers)) < len(self.loggers):
            raise ValueError(f"loggers {', '.join(self.loggers)} name one twice; name each once")
        return self
