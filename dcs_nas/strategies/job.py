"""The search job: configuration in, ``genotype.yaml`` out."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from dcs_nas.config import Config
from dcs_nas.errors import InputError
from dcs_nas.extensions import load_extensions
from dcs_nas.processes import is_first, require_alone
from dcs_nas.runs import RunFolder, collect_early_log
from dcs_nas.runs.lock import is_free
from dcs_nas.space import AnyGenotype
from dcs_nas.strategies.base import ReadProgress, Strategy
from dcs_nas.strategies.bilevel_strategy import Bilevel
from dcs_nas.strategies.evolution import Evolution
from dcs_nas.strategies.halving import Halving
from dcs_nas.strategies.local_search import LocalSearch
from dcs_nas.strategies.nni_strategies import NniOneShot, NniTrials
from dcs_nas.strategies.predictor import PredictorSearch
from dcs_nas.strategies.proposals import Proposals
from dcs_nas.strategies.random_search import RandomSearch
from dcs_nas.strategies.trial_strategy import JOINS, JOURNAL, TrialStrategy
from dcs_nas.training.acceleration import require_compilable
from dcs_nas.training.checkpoints import is_damaged
from dcs_nas.training.error_messages import training_errors
from dcs_nas.training.process_group import in_process_group
from dcs_nas.training.trainer import training_job, without_known_warnings

log = logging.getLogger(__name__)
_GENOTYPE_SECONDS = 60  # a network file system may show what another machine has written as late as that
STRATEGIES: dict[str, Callable[[Config, ReadProgress], Strategy]] = {
    "bilevel": Bilevel,
    "random": RandomSearch,
    "evolution": Evolution,
    "local": LocalSearch,
    "predictor": PredictorSearch,
    "halving": Halving,
    "proposals": Proposals,
    "nni.darts": NniOneShot,
    "nni.gumbel": NniOneShot,
    "nni.random": NniTrials,
    "nni.evolution": NniTrials,
}


@in_process_group
@collect_early_log()
def run_search(
    config: Config,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: ReadProgress = None,
) -> AnyGenotype:
    """Search as configured, in the run folder ``folder``, and return the genotype found.

    Raises ``InputError`` for bad settings, data or folders; ``KeyboardInterrupt`` where the user stops it, after
    which ``resume`` continues from the last whole epoch.
    """
    settings = config.section("search")
    load_extensions(config.extensions)
    require_compilable(config, "search")
    if config.trainer.precision == "16-mixed" and settings.order == 2:
        raise InputError(
            "search.order is 2, which needs gradients that are not scaled, and trainer.precision is 16-mixed; "
            "use trainer.precision=bf16-mixed or search.order=1"
        )
    by_nni = settings.strategy in ("nni.darts", "nni.gumbel")
    if config.trainer.nonfinite == "skip" and by_nni:
        raise InputError(f"trainer.nonfinite is skip, but the steps of {settings.strategy} are NNI's own; use stop")
    if config.trainer.precision == "16-mixed" and by_nni:
        raise InputError(
            f"trainer.precision is 16-mixed, but {settings.strategy} clips gradients while they are scaled; use "
            "trainer.precision=bf16-mixed or 32-true"
        )
    if settings.strategy != "bilevel":
        require_alone(f"search.strategy {settings.strategy}")
    if resume and (folder / JOURNAL).is_file() and not is_free(folder):
        return _join(config, RunFolder(folder), progress)
    if os.environ.get(JOINS) == str(folder):
        raise InputError(f"the first process of the search in {folder} has ended; continue with --resume")
    RunFolder.require_free(folder)
    strategy: Strategy = STRATEGIES[settings.strategy](config, progress)
    with RunFolder.open(folder, config, resume=resume, overwrite=overwrite) as run:
        if run.genotype_file.is_file() and not is_damaged(run.checkpoint("last")):
            log.info("%s is finished already", folder)
            return run.genotype()
        if strategy.data is not None:
            strategy.data.save_labels(run.path)
        with training_job(config, "search", run, strategy.network):
            genotype = strategy.search(run)
            if is_first():
                run.write_genotype(genotype)
        return genotype


def _join(config: Config, run: RunFolder, progress: ReadProgress) -> AnyGenotype:
    """Train trials of a search that another process has begun, and return the genotype that it finds."""
    from dcs_nas.strategies.parallel import work_on_trials

    run.require_settings(config)
    strategy = STRATEGIES[config.section("search").strategy](config, progress)
    assert isinstance(strategy, TrialStrategy)
    with without_known_warnings(), training_errors(config, "search"):
        work_on_trials(strategy, run)
    for _ in range(_GENOTYPE_SECONDS):
        if run.genotype_file.is_file():
            break
        time.sleep(1)
    return run.genotype()
