"""A job's settings: one YAML file plus ``-o key=value`` overrides, typed and validated, unknown keys refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from dcs_nas.errors import InputError
from dcs_nas.settings import Settings, parse, parse_yaml, read_yaml

Fraction = Field(ge=0, le=1)


class DataSource(Settings):
    """A data set by name, its folder, and the options of its loader."""

    name: str
    root: Path | None = None
    options: dict[str, Any] = {}


class DataConfig(Settings):
    """Which images, at what size (pixels), in what batches.

    Training is on ``name`` and on every data set of ``also``; ``combine_all`` takes their test images in too. Testing
    is on ``test`` where it is given (cross-domain), otherwise on ``name``.
    """

    name: str = "market1501"
    root: Path | None = None
    options: dict[str, Any] = {}
    also: tuple[DataSource, ...] = ()
    combine_all: bool = False
    test: DataSource | None = None
    height: int = Field(default=256, ge=8, le=4096)
    width: int = Field(default=128, ge=8, le=4096)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    people_per_batch: int = Field(default=16, ge=1, le=4096)
    images_per_person: int = Field(default=4, ge=1, le=256)
    test_batch: int = Field(default=256, ge=1, le=65536)
    cache: Path | None = None

    @property
    def batch_size(self) -> int:
        return self.people_per_batch * self.images_per_person

    @property
    def own(self) -> DataSource:
        """The data set ``name``, without those of ``also``."""
        return DataSource(name=self.name, root=self.root, options=self.options)

    def on(self, source: DataSource) -> DataConfig:
        """The same sizes and batches on one data set alone."""
        one = {"name": source.name, "root": source.root, "options": source.options}
        return self.model_copy(update={**one, "also": (), "combine_all": False, "test": None})


class AugmentConfig(Settings):
    """Augmentation of a training batch; probabilities, and pixels for the pad."""

    flip: float = Field(default=0.5, ge=0, le=1)
    pad: int = Field(default=10, ge=0, le=512)
    erase: float = Field(default=0.5, ge=0, le=1)
    color_jitter: float = Field(default=0.0, ge=0, le=1)


class LossConfig(Settings):
    """The training objective: weights of its terms, and the information bottleneck (IB).

    IB's input is the image, or the output of the network's stem, on ``ib_grid`` (rows, columns). Its class statistics
    are gathered over the epoch (``streaming``), or measured at its end by an extra pass over the images (``exact``).
    """

    identity_weight: float = Field(default=1.0, ge=0)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    triplet_weight: float = Field(default=1.0, ge=0)
    triplet_margin: float | None = Field(default=0.3, ge=0)
    center_weight: float = Field(default=0.0, ge=0)
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
        if not self.identity_weight and not self.triplet_weight:
            raise ValueError("identity_weight and triplet_weight are both 0; nothing would tell people apart")
        return self


class DcsConfig(Settings):
    """DCS-Attention: the Gumbel temperature starts at ``tau`` and is multiplied by ``decay`` every epoch."""

    tau: float = Field(default=5.0, gt=0)
    decay: float = Field(default=0.956, gt=0, le=1)


class TrialsConfig(Settings):
    """Strategies that train one network after another: ``random``, ``nni.random``, ``nni.evolution``.

    Each of at most ``trials`` networks is trained for ``epochs`` as a search trains its weights, without the share
    ``validation`` of the people, on whom it is scored; the search's own share counts where it is not 0. No trial begins
    once ``minutes`` of training are spent.
    ``population`` and ``sample`` are those of regularized evolution (arXiv 1802.01548, algorithm 1).
    """

    trials: int = Field(default=20, ge=1, le=100_000)
    epochs: int = Field(default=5, ge=1)
    validation: float = Field(default=0.2, gt=0, lt=1)
    minutes: float | None = Field(default=None, gt=0)
    population: int = Field(default=10, ge=1)
    sample: int = Field(default=5, ge=1)

    @model_validator(mode="after")
    def _check(self) -> TrialsConfig:
        if self.sample > self.population:
            raise ValueError(f"sample {self.sample} of a population of {self.population}; lower sample to it or below")
        return self


class CostConfig(Settings):
    """What a searched network may cost, as a term of the architecture loss (``dcs_nas.losses.cost``).

    ``target`` is in the cost's own unit: multiply-adds (``flops``) or numbers (``parameters``) of the network searched,
    microseconds a batch (``latency``). ``latency_table`` is a file of ``dcs-nas profile CONFIG --latency-table FILE``;
    one of another device or space is refused, but with ``other_latency_table``. Without ``beta`` the published exponent
    is taken: 0.07 with a target, 0.6 without.
    """

    kind: Literal["none", "flops", "parameters", "latency"] = "none"
    form: Literal["additive", "multiplicative"] = "additive"
    weight: float = Field(default=1.0, ge=0, le=1e9)
    target: float | None = Field(default=None, gt=0, le=1e18)
    beta: float | None = Field(default=None, gt=0, le=100)
    latency_table: Path | None = None
    other_latency_table: bool = False

    @model_validator(mode="after")
    def _check_kind(self) -> CostConfig:
        if self.kind == "none":
            for name, field in CostConfig.model_fields.items():
                if getattr(self, name) != field.default:
                    raise ValueError(f"{name} is set, but kind is 'none'; name a kind: flops, parameters or latency")
        if self.kind == "latency" and self.latency_table is None:
            raise ValueError(
                "kind is 'latency' and latency_table is not set; measure one with "
                "dcs-nas profile CONFIG --latency-table FILE"
            )
        if self.kind != "latency" and (self.latency_table is not None or self.other_latency_table):
            raise ValueError(f"a latency table is set, but kind is '{self.kind}'; set kind to latency, or leave it out")
        return self

    @model_validator(mode="after")
    def _check_form(self) -> CostConfig:
        if self.kind != "none" and self.form == "additive":
            if self.target is None:
                raise ValueError("form is 'additive' and target is not set; give the cost that the network may have")
            if self.beta is not None:
                raise ValueError("beta is set, but form is 'additive'; beta is the exponent of form multiplicative")
        if self.form == "multiplicative" and not self.weight:
            raise ValueError("weight is 0 and form is 'multiplicative', which leaves no loss; set a weight above 0")
        return self


class RelaxationConfig(Settings):
    """From alphas to mixture weights (``dcs_nas.models.relaxation``).

    The temperature goes from ``temperature`` in the first epoch to ``temperature_end`` in the last; without an end it
    stays. ``partial_channels`` K lets the operations see 1/K of the channels (PC-DARTS), by default with edge
    normalisation. ``anchor`` weighs DrNAS' regulariser.
    """

    kind: Literal["softmax", "gumbel", "gumbel_softmax", "dirichlet"] = "softmax"
    temperature: float = Field(default=1.0, gt=0)
    temperature_end: float | None = Field(default=None, gt=0)
    schedule: Literal["linear", "exponential"] = "linear"
    partial_channels: int = Field(default=1, ge=1, le=64)
    edge_normalization: bool | None = None
    anchor: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> RelaxationConfig:
        if self.anchor and self.kind != "dirichlet":
            raise ValueError(f"anchor is {self.anchor:g}, but kind is '{self.kind}'; only dirichlet has an anchor")
        return self

    def at(self, epoch: int, epochs: int) -> float:
        """The temperature of an epoch, from 0, of ``epochs``.

        >>> [RelaxationConfig(temperature=10, temperature_end=2).at(e, 5) for e in (0, 2, 4)]
        [10.0, 6.0, 2.0]
        """
        if self.temperature_end is None or epochs < 2:
            return self.temperature
        share = epoch / (epochs - 1)
        if self.schedule == "linear":
            return self.temperature + share * (self.temperature_end - self.temperature)
        return self.temperature * (self.temperature_end / self.temperature) ** share


class GuardConfig(Settings):
    """Watches for collapse onto skip connections; its figures are logged after every epoch.

    ``action``: ``log``; ``stop`` ends the search at a collapse and keeps the last good genotype; ``cap`` lets a cell
    keep at most ``max_skips`` when the genotype is derived (P-DARTS, arXiv 1904.12760). A collapse is a normal cell of
    more than ``max_skips`` skips (DARTS+, arXiv 1909.06035: 2), or a dominant eigenvalue of the architecture loss's
    Hessian whose mean over ``window`` epochs grew by more than 1 / ``ratio`` in as many (arXiv 1909.09656: 5 and 0.75).
    ``eigenvalue_iterations`` of power iteration on ``eigenvalue_images`` images, 0 for none; ``gap`` to measure
    the discretisation gap.
    """

    action: Literal["log", "stop", "cap"] = "log"
    max_skips: int | None = Field(default=None, ge=0)
    eigenvalue_iterations: int = Field(default=5, ge=0, le=1000)
    eigenvalue_images: int = Field(default=8, ge=2)
    window: int = Field(default=5, ge=1)
    ratio: float = Field(default=0.75, gt=0, lt=1)
    gap: bool = True

    @model_validator(mode="after")
    def _check(self) -> GuardConfig:
        if self.action == "cap" and self.max_skips is None:
            raise ValueError("action is 'cap' and max_skips is not set; give the number of skips that a cell may keep")
        if self.action == "stop" and self.max_skips is None and not self.eigenvalue_iterations:
            raise ValueError("action is 'stop' with nothing to stop at; set max_skips or eigenvalue_iterations")
        return self


class PerturbationConfig(Settings):
    """Derivation by perturbation (DARTS-PT, arXiv 2108.04392).

    ``batches`` of the architecture half for each test; after each choice ``tune_steps`` of the weights, at rate ``lr``.
    """

    batches: int = Field(default=2, ge=1)
    tune_steps: int = Field(default=0, ge=0)
    lr: float = Field(default=0.001, gt=0)


class SearchConfig(Settings):
    """The bilevel search: weights by SGD and a cosine schedule, architecture parameters (alphas) by Adam.

    ``order`` 2 differentiates through the next step of the weights, by ``hessian``. ``weight_share`` of the training
    images move the weights, the others the alphas: of every person where ``identity_overlap`` is 1; below, only that
    share of the people is in both halves, and the alphas learn from losses that need no classifier. The share
    ``validation`` of the people is in neither: retrieval among them is measured every ``validate_every`` epochs, and
    ``choose: best`` takes the genotype of the best of these.
    """

    space: str
    channels: int | None = Field(default=None, ge=1, le=2048)
    cells: int | None = Field(default=None, ge=1, le=100)
    epochs: int = Field(default=50, ge=1)
    warmup_epochs: int = Field(default=0, ge=0)
    weight_share: float = Field(default=0.5, gt=0, lt=1)
    lr: float = Field(default=0.025, gt=0)
    lr_min: float = Field(default=0.001, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=3e-4, ge=0)
    grad_clip: float = Field(default=5.0, gt=0)
    arch_lr: float = Field(default=3e-4, gt=0)
    arch_betas: tuple[float, float] = (0.5, 0.999)
    arch_weight_decay: float = Field(default=1e-3, ge=0)
    strategy: Literal["bilevel", "random", "nni.darts", "nni.gumbel", "nni.random", "nni.evolution"] = "bilevel"
    trials: TrialsConfig = TrialsConfig()
    cost: CostConfig = CostConfig()
    order: Literal[1, 2] = 1
    hessian: Literal["exact", "finite_difference"] = "exact"
    relaxation: RelaxationConfig = RelaxationConfig()
    identity_overlap: float = Field(default=1.0, ge=0, le=1)
    validation: float = Field(default=0.0, ge=0, lt=1)
    validate_every: int = Field(default=5, ge=1)
    choose: Literal["last", "best"] = "last"
    derivation: Literal["strongest", "perturbation"] = "strongest"
    perturbation: PerturbationConfig = PerturbationConfig()
    guard: GuardConfig = GuardConfig()
    checkpoint_activations: bool = False

    @model_validator(mode="after")
    def _check_choice(self) -> SearchConfig:
        if self.choose == "best" and not self.validation:
            raise ValueError("choose is 'best', but validation is 0; hold out a share of the people, e.g. 0.1")
        if self.choose == "best" and self.derivation == "perturbation":
            raise ValueError("choose 'best' and derivation 'perturbation' exclude each other; the latter is of the end")
        if self.order == 2 and self.hessian == "exact" and self.checkpoint_activations:
            raise ValueError("checkpoint_activations and hessian 'exact' exclude each other; use finite_difference")
        return self

    @model_validator(mode="after")
    def _check(self) -> SearchConfig:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs} leaves no epoch of {self.epochs} in which alphas would move"
            )
        return self

    @model_validator(mode="after")
    def _check_strategy(self) -> SearchConfig:
        if self.strategy != "bilevel" and self.cost != CostConfig():
            raise ValueError(f"strategy {self.strategy} knows no cost term; leave cost out, or search by bilevel")
        if self.strategy == "nni.evolution" and self.trials.population >= self.trials.trials:
            raise ValueError(
                f"trials.population {self.trials.population} of {self.trials.trials} trials leaves none to evolve; "
                "lower trials.population or raise trials.trials"
            )
        return self


class RetrainConfig(Settings):
    """Training of a fixed network: a genotype's, or a named backbone.

    It starts from scratch, from a file of ``weights``, or by ``inherit`` from the supernet of a search's run folder.
    """

    backbone: str | None = None
    backbone_options: dict[str, Any] = {}
    weights: Path | None = None
    inherit: Path | None = None
    channels: int | None = Field(default=None, ge=1, le=2048)
    cells: int | None = Field(default=None, ge=1, le=100)
    epochs: int = Field(default=120, ge=1)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(default=3.5e-4, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    grad_clip: float | None = Field(default=None, gt=0)
    schedule: Literal["cosine", "multistep"] = "cosine"
    warmup_epochs: float = Field(default=10, ge=0)
    warmup_factor: float = Field(default=0.01, gt=0, le=1)
    lr_min: float = Field(default=0.0, ge=0)
    milestones: tuple[int, ...] = (40, 70)
    gamma: float = Field(default=0.1, gt=0, le=1)
    center_lr: float = Field(default=0.5, gt=0)
    validation: float = Field(default=0.0, ge=0, lt=1)
    validate_every: int = Field(default=10, ge=1)

    @model_validator(mode="after")
    def _check_start(self) -> RetrainConfig:
        if self.weights is not None and self.inherit is not None:
            raise ValueError("weights and inherit are both given; the network starts from one of them")
        return self


class EvaluateConfig(Settings):
    """How features are compared; the options of ``dcs-nas evaluate`` replace these.

    ``protocol`` is the data set's own unless given. ``expand`` is the number of neighbours of average query expansion
    (0: none), each weighted by its similarity to the power ``expand_alpha``. ``confidence`` is the number of bootstrap
    resamples of the queries for 95 % intervals (0: none).
    """

    metric: Literal["cosine", "euclidean"] = "cosine"
    max_rank: int = Field(default=50, ge=1)
    protocol: Literal["cross_camera", "single_gallery_shot", "no_camera_filter"] | None = None
    average_precision: Literal["hits", "trapezoid"] = "hits"
    flip: bool = False
    expand: int = Field(default=0, ge=0)
    expand_alpha: float = Field(default=0.0, ge=0)
    rerank: bool = False
    rerank_k1: int = Field(default=20, ge=1)
    rerank_k2: int = Field(default=6, ge=1)
    rerank_lambda: float = Field(default=0.3, ge=0, le=1)
    confidence: int = Field(default=0, ge=0)


class TrainerConfig(Settings):
    """The machine: passed on to Lightning's Trainer.

    ``loggers`` get the means of every epoch beside metrics.csv; wandb and mlflow have to be installed.
    """

    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = Field(default=1, ge=1)
    precision: str = "32-true"
    deterministic: bool | None = None
    threads: int | None = Field(default=None, ge=1)
    loggers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)

    @model_validator(mode="after")
    def _check_loggers(self) -> TrainerConfig:
        if len(set(self.loggers)) < len(self.loggers):
            raise ValueError(f"loggers {', '.join(self.loggers)} name one twice; name each once")
        return self


class PortalConfig(Settings):
    """NNI's web portal, which has no password: its port, and whether other machines may reach it."""

    port: int = Field(default=8080, ge=1024, le=65534)
    everywhere: bool = False


class TuneConfig(Settings):
    """``dcs-nas tune``: settings to try, as ``space: {retrain.lr: {loguniform: [1e-5, 1e-2]}}``; see docs/tune.md.

    ``metric`` is a column of a trial's metrics.csv, of its last epoch or of its best one (``take``); without it,
    validation/mAP is maximized by retrain and architecture/loss minimized by search. No trial begins once ``hours`` are
    spent. ``gpus`` lists the devices that trials take turns on. ``mode`` portal starts NNI's own experiment manager,
    which takes ``training_service`` as it is.
    """

    command: Literal["search", "retrain"] = "retrain"
    space: dict[str, dict[str, list[Any]]] = Field(min_length=1)
    trials: int = Field(default=20, ge=1, le=100_000)
    concurrency: int = Field(default=1, ge=1, le=1024)
    hours: float | None = Field(default=None, gt=0)
    metric: str | None = None
    goal: Literal["maximize", "minimize"] | None = None
    take: Literal["last", "best"] = "last"
    tuner: str = "TPE"
    tuner_options: dict[str, Any] = {}
    gpus: tuple[int, ...] = ()
    mode: Literal["plain", "portal"] = "plain"
    portal: PortalConfig = PortalConfig()
    training_service: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check(self) -> TuneConfig:
        if (self.metric is None) != (self.goal is None):
            raise ValueError("metric and goal go together; give both, e.g. metric: validation/mAP, goal: maximize")
        if self.mode == "plain" and self.training_service is not None:
            raise ValueError("training_service is NNI's own; it needs mode: portal (or dcs-nas tune --portal)")
        if self.gpus and self.mode == "portal":
            raise ValueError("gpus is for mode plain; with the portal, set trialGpuNumber in training_service")
        if self.gpus and self.concurrency > len(self.gpus):
            raise ValueError(f"concurrency {self.concurrency} is more than the {len(self.gpus)} devices of gpus")
        return self

    @property
    def objective(self) -> tuple[str, Literal["maximize", "minimize"]]:
        """The metric's name, and which way is better."""
        if self.metric is not None and self.goal is not None:
            return self.metric, self.goal
        return ("validation/mAP", "maximize") if self.command == "retrain" else ("architecture/loss", "minimize")


class Config(Settings):
    """One job. ``dcs-nas search`` wants the section ``search``, ``dcs-nas retrain`` the section ``retrain``."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    results: Path = Path("results")
    seed: int = Field(default=0, ge=0, lt=2**31)
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    dcs: DcsConfig = DcsConfig()
    search: SearchConfig | None = None
    retrain: RetrainConfig | None = None
    evaluate: EvaluateConfig = EvaluateConfig()
    trainer: TrainerConfig = TrainerConfig()
    tune: TuneConfig | None = None

    def section(self, name: Literal["search", "retrain", "tune"]) -> Any:
        """The section a command needs; ``InputError`` where the file has none."""
        section = getattr(self, name)
        if section is None:
            raise InputError(f"the configuration '{self.name}' has no section '{name}'; add one, see configs/")
        return section


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """A configuration file, with ``key.key=value`` overrides whose values are YAML.

    Raises ``InputError`` for a missing or malformed file, an unknown key or a wrong value.
    """
    data = read_yaml(path)
    for override in overrides:
        _apply(data, override)
    return parse(Config, {"name": path.stem, **data}, source=str(path))


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"override '{override}' is not of the form key=value, e.g. -o search.epochs=20")
    *path, last = key.strip().split(".")
    place = data
    for part in path:
        if place.get(part) is None:
            place[part] = {}
        if not isinstance(place[part], dict):
            raise InputError(f"override '{override}': '{part}' is a value, not a section")
        place = place[part]
    place[last] = parse_yaml(value, source=f"the value of override '{override}'")
