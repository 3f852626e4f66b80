"""Settings without effect because of other settings: a table, and the warnings that follow from it."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from dcs_nas.config.trials import OWN_TRIALS, TRIAL_STRATEGIES

DCS_BLOCKS = "the number of DCS-Attention blocks"
JOB = "the job"
_SUPERNET = "search.strategy search.trials.proposals.supernet"
_NNI = ("nni.darts", "nni.gumbel")


class _BelowOne:
    """The numbers below 1."""

    def __contains__(self, value: object) -> bool:
        return isinstance(value, (int, float)) and value < 1


class Effect(NamedTuple):
    """Settings, or sections of them, that have an effect only if ``by`` has one of ``values`` (without values: is on).

    If ``by`` names several settings, one of them is enough.
    """

    settings: str
    by: str
    values: Container[Any] = ()


EFFECTS = (
    Effect("loss data.sampler", JOB, ("search", "retrain")),
    Effect("retrain.milestones retrain.gamma", "retrain.schedule", ("multistep",)),
    Effect("retrain.lr_min retrain.flat_epochs retrain.cosine_over", "retrain.schedule", ("cosine",)),
    Effect("retrain.warmup_factor", "retrain.warmup_epochs retrain.warmup_steps"),
    Effect("retrain.warmup_epochs", "retrain.warmup_steps", (0,)),
    Effect("retrain.momentum retrain.nesterov", "retrain.optimizer", ("sgd",)),
    Effect("retrain.betas retrain.amsgrad", "retrain.optimizer", ("adam", "adamw")),
    Effect("retrain.channels retrain.cells", "retrain.backbone", (None,)),
    Effect("retrain.backbone_options", "retrain.backbone"),
    Effect("retrain.weights_partial", "retrain.weights"),
    Effect("retrain.validate_every", "retrain.validation retrain.test_curve"),
    Effect("retrain.center_lr", "loss.center_weight"),
    Effect("loss.label_smoothing loss.identity_branches", "loss.identity_weight"),
    Effect(
        "loss.triplet_margin loss.triplet_mining loss.triplet_normalize loss.triplet_branches", "loss.triplet_weight"
    ),
    Effect("loss.circle_margin loss.circle_scale", "loss.circle_weight"),
    Effect("retrain.head.parts_channels retrain.head.parts_from", "retrain.head.parts"),
    Effect("retrain.head.scale retrain.head.margin", "retrain.head.classifier", ("cosface", "arcface", "circle")),
    Effect("evaluate.neck retrain.head.loss_features", "retrain.head.neck retrain.head.square"),
    Effect("loss.ib_grid loss.ib_temperature loss.ib_normalize", "loss.ib_kind"),
    Effect("augment.erase_fill augment.erase_area", "augment.erase"),
    Effect("augment.policy_probability", "augment.policy"),
    Effect("augment.policy_magnitude", "augment.policy", ("randaugment",)),
    Effect("dcs.tau dcs.decay dcs.tau_min dcs.scale", DCS_BLOCKS),
    Effect("evaluate.expand_alpha", "evaluate.expand"),
    Effect("evaluate.rerank_k1 evaluate.rerank_k2 evaluate.rerank_lambda", "evaluate.rerank"),
    Effect("search.hessian", "search.order", (2,)),
    Effect("search.perturbation", "search.derivation", ("perturbation",)),
    Effect("search.retrieval", "search.derivation", ("retrieval",)),
    Effect("search.validate_every", "search.validation"),
    Effect("search.relaxation.schedule", "search.relaxation.temperature_end"),
    Effect(
        "search.guard.eigenvalue_images search.guard.window search.guard.ratio", "search.guard.eigenvalue_iterations"
    ),
    Effect("search.trials", "search.strategy", TRIAL_STRATEGIES),
    Effect("search.trials.population search.trials.sample", "search.strategy", ("evolution", "nni.evolution")),
    Effect("search.trials.validation", "search.validation", (0,)),
    Effect("search.trials.epochs", "search.trials.table", (None,)),
    Effect("search.trials.gpus", "search.strategy", OWN_TRIALS),
    Effect("search.trials.local", "search.strategy", ("local",)),
    Effect("search.trials.halving", "search.strategy", ("halving",)),
    Effect("search.trials.proposals", "search.strategy", ("proposals",)),
    Effect("search.trials.predictor search.trials.evidence", "search.strategy", ("predictor", "proposals")),
    Effect(
        "search.trials.predictor.share search.trials.predictor.finish search.trials.predictor.candidates "
        "search.trials.predictor.parents",
        "search.strategy",
        ("predictor",),
    ),
    Effect("search.trials.predictor.finish", "search.trials.predictor.share", _BelowOne()),
    Effect(
        "search.order search.hessian search.relaxation search.identity_overlap search.arch_betas "
        "search.arch_weight_decay search.memory",
        _SUPERNET,
        ("bilevel",),
    ),
    Effect(
        "search.order search.hessian search.arch_lr search.arch_betas search.arch_weight_decay search.warmup_epochs "
        "search.guard",
        "search.weight_share",
        _BelowOne(),
    ),
    Effect("search.checkpoint_activations", "search.strategy", ("bilevel", "proposals")),
    Effect(
        "search.choose search.derivation search.perturbation search.retrieval search.guard",
        "search.strategy",
        ("bilevel",),
    ),
    Effect("search.warmup_epochs search.weight_share search.arch_lr", _SUPERNET, ("bilevel", *_NNI)),
    Effect("search.epochs", "search.strategy", ("bilevel", "proposals", *_NNI)),
    Effect("search.validate_every", "search.strategy", ("bilevel", *_NNI)),
)
_JOBS = {
    "search": ("search", "augment", "loss", "dcs"),
    "retrain": ("retrain", "augment", "loss", "dcs", "evaluate"),
    "pretrain": ("retrain", "augment", "loss", "dcs", "evaluate", "data"),
}


def idle_settings(
    config: BaseModel, job: Literal["search", "pretrain", "retrain"], facts: Mapping[str, Any]
) -> list[str]:
    """Return a line for each row of ``EFFECTS`` with settings of the user that have no effect in this job.

    The section ``pretrain`` is read as ``retrain``. ``facts`` maps ``DCS_BLOCKS`` to their number (its row is skipped
    without it) and settings to values that replace theirs.
    """
    idle: dict[str, str] = {}
    facts = {JOB: job, **facts}
    if job == "pretrain":
        config = config.model_copy(update={"retrain": _value(config, "pretrain")})
    for names, by, values in EFFECTS:
        chosen = [name for name in names.split() if name.split(".")[0] in _JOBS[job]]
        if not chosen or (by == DCS_BLOCKS and by not in facts):
            continue
        values_of = {name: facts[name] if name in facts else _value(config, name) for name in _names(by, facts)}
        if not any(value in values if values else value and value != "none" for value in values_of.values()):
            if values_of.get("search.strategy", "proposals") != "proposals":
                values_of.pop("search.trials.proposals.supernet", None)  # it counts within proposals alone
            reason = " and ".join(f"{name} is {value}" for name, value in values_of.items())
            for setting in (setting for name in chosen for setting in _set_by_user(config, name)):
                idle.setdefault(setting, reason)
    reasons = dict.fromkeys(idle.values())
    lines = [_remark([setting for setting in idle if idle[setting] == reason], reason) for reason in reasons]
    return [pretrain_names(line) for line in lines] if job == "pretrain" else lines


def pretrain_names(text: str) -> str:
    """Return the text with settings of ``retrain`` renamed to those of ``pretrain``."""
    return re.sub(r"\bretrain\.(?=[a-z])", "pretrain.", text)


def _remark(settings: list[str], reason: str) -> str:
    return f"{', '.join(settings)} {'has' if len(settings) == 1 else 'have'} no effect: {reason}"


def _names(by: str, facts: Mapping[str, Any]) -> list[str]:
    return [by] if by in facts else by.split()


def _value(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def _set_by_user(config: BaseModel, name: str) -> Iterator[str]:
    """Yield ``name``, or the settings in the section ``name``, whose value the user has changed from the default.

    A run's own config.yaml holds every setting of its version.
    """
    group: Any = config
    *path, last = name.split(".")
    for part in path:
        if part not in group.model_fields_set:
            return
        group = getattr(group, part)
    value, default = getattr(group, last), type(group).model_fields[last].default
    if last not in group.model_fields_set:
        return
    if isinstance(value, BaseModel):
        for inner in type(value).model_fields:
            yield from _set_by_user(config, f"{name}.{inner}")
    elif value != default:
        yield name
