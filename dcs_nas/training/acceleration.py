"""Compilation, CUDA graphs, reduced-precision products and fused optimizers, by the section ``trainer``."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import nn

from dcs_nas.config import Config, SearchConfig, TrainerConfig
from dcs_nas.config.trials import OWN_TRIALS
from dcs_nas.errors import InputError
from dcs_nas.training.cuda_graphs import GraphedForward, pause
from dcs_nas.training.devices import count_processes


def accelerate(network: nn.Module, config: Config, *, backend: str = "inductor") -> None:
    """Compile the network, or have its passes captured as CUDA graphs, in place and as ``trainer.compile`` says.

    CUDA graphs are those of ``GraphedForward``. A compiled network computes the same values to rounding; its blocks
    draw other random numbers. Its first passes compile for minutes: one graph for each of the weight and the
    architecture step, one for evaluation.

    Raises:
        InputError: CUDA graphs of a search space whose passes read the values of mixture weights.
    """
    settings = config.trainer
    if settings.compile == "cuda-graphs":
        if config.search is not None and config.search.relaxation.kind != "gumbel" and _reads_weights(network):
            raise InputError(
                f"trainer.compile=cuda-graphs is not for search.space {config.search.space}, whose attention is "
                "computed for the strongest width; set trainer.compile=off"
            )
        GraphedForward.install(network)
    elif settings.compile != "off":
        mode = None if settings.compile == "default" or backend != "inductor" else settings.compile
        network.compile(mode=mode, backend=backend)


def set_numerics(settings: TrainerConfig) -> None:
    """Set what decides about rounding: threads, and the precision of float32 products and convolutions on a GPU."""
    torch.set_float32_matmul_precision(settings.matmul_precision)
    torch.backends.cudnn.allow_tf32 = settings.matmul_precision != "highest"
    if settings.threads:
        torch.set_num_threads(settings.threads)


def require_compilable(config: Config, section: Literal["search", "retrain"]) -> None:
    """Raise ``InputError`` for a job that cannot use a compiled network, or CUDA graphs."""
    mode = config.trainer.compile
    if mode == "off":
        return
    graphs = mode == "cuda-graphs"
    wrong: dict[str, bool] = {}
    if section == "retrain" and graphs:
        wrong["accumulate above 1: the next pass writes over its gradients"] = config.section("retrain").accumulate > 1
    if section == "search":
        search: SearchConfig = config.section("search")
        by_trials = graphs and search.strategy in OWN_TRIALS  # their trainings are captured
        wrong[f"strategy {search.strategy}"] = search.strategy != "bilevel" and not by_trials
        if not by_trials or (search.strategy, search.trials.proposals.supernet) == ("proposals", "bilevel"):
            exact = search.order == 2 and search.hessian == "exact"
            wrong |= {
                "relaxation gumbel, which draws another network at every step": search.relaxation.kind == "gumbel",
                "hessian exact, which differentiates twice (finite_difference does not)": exact,
                "derivation perturbation, which tries another network at every step": search.derivation
                == "perturbation",
                "order 2, whose extra passes are others": graphs and search.order == 2,
                "checkpoint_activations, which computes again in the backward pass": graphs
                and search.checkpoint_activations,
            }
    name = "trainer.compile=cuda-graphs" if graphs else "trainer.compile"
    for what, is_set in wrong.items():
        if is_set:
            raise InputError(f"{name} is not for {section}.{what}; set trainer.compile=off")


def may_use_graphs(config: Config, network: nn.Module | None) -> bool:
    """Return whether the search runs plainly on one GPU, and ``trainer.compile=cuda-graphs`` would be accepted."""
    trainer = config.trainer
    if trainer.compile != "off" or not trainer.cuda or count_processes(trainer) > 1 or _reads_weights(network):
        return False
    graphed = config.model_copy(update={"trainer": trainer.model_copy(update={"compile": "cuda-graphs"})})
    try:
        require_compilable(graphed, "search")
    except InputError:
        return False
    return True


def _reads_weights(network: nn.Module | None) -> bool:
    return bool(getattr(getattr(network, "backbone", None), "reads_weights", False))


def is_slow_in_bfloat16() -> bool:
    """Return whether this processor emulates bfloat16; matrix products then take up to thirty times as long."""
    return torch.backends.mkldnn.is_available() and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def choose_fused(module: pl.LightningModule) -> bool | None:
    """Return True, for the argument ``fused`` of Adam, if the module is on a GPU, else None: torch's own choice.

    Not with a scaler: the gradients would be clipped before they are unscaled. Not for SGD, whose fused step with
    momentum fails where a parameter has its first gradient after others, as in a supernet's paths or after a freeze.
    """
    return True if module.device.type == "cuda" and not is_scaled(module) else None


def is_scaled(module: pl.LightningModule) -> bool:
    """Return whether a half-precision scaler multiplies the loss and skips steps whose gradients overflow."""
    return getattr(module.trainer.precision_plugin, "scaler", None) is not None


def eager(settings: TrainerConfig) -> AbstractContextManager[Any]:
    """Run a network as it is within the context: for passes that differ, or need second derivatives."""
    if settings.compile == "cuda-graphs":
        return pause()
    return nullcontext() if settings.compile == "off" else torch.compiler.set_stance("force_eager")
