"""The strategy ``proposals``: a supernet proposes, short trainings decide, a predictor learns from both."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import Field

from dcs_nas.config import (
    Config,
    GuardConfig,
    MemoryConfig,
    RelaxationConfig,
    RetrievalConfig,
    SearchConfig,
    TrialsConfig,
)
from dcs_nas.errors import TrainingError
from dcs_nas.files import write_text
from dcs_nas.models.supernet import Supernet
from dcs_nas.runs import RunFolder
from dcs_nas.seeds import mix_seed
from dcs_nas.settings import Settings, parse, read_yaml, to_yaml
from dcs_nas.space import AnyGenotype
from dcs_nas.strategies.base import ReadProgress
from dcs_nas.strategies.bilevel_strategy import Bilevel
from dcs_nas.strategies.derive import SupernetScore, draw_likely, make_score
from dcs_nas.strategies.predictor import PredictorSearch
from dcs_nas.strategies.trials import AnyKind, Proposal, Trial
from dcs_nas.training.supernet_weights import load_supernet

_PARENTS = 10  # of an evolution among the candidates (arXiv 1904.00420)


class _Candidate(Settings):
    genotype: AnyKind
    evidence: dict[str, float]


def _supernet_score(candidate: _Candidate) -> float:
    return candidate.evidence.get("supernet", -math.inf)


class _Pool(Settings):
    """The candidates of a search, the most promising first, and the seconds that they and the supernet took."""

    candidates: tuple[_Candidate, ...] = Field(min_length=1)
    seconds: float = Field(ge=0)


def supernet_settings(settings: SearchConfig) -> SearchConfig:
    """Return the settings of the search that trains the supernet, on the images that trials train on."""
    changes: dict[str, Any] = {
        "strategy": "bilevel",
        "trials": TrialsConfig(),
        "validation": settings.validation or settings.trials.validation,
        "validate_every": settings.epochs,
        "derivation": "strongest",
        "choose": "last",
        "guard": GuardConfig(eigenvalue_iterations=0, gap=False),
    }
    if settings.trials.proposals.supernet == "paths":
        changes |= {
            "relaxation": RelaxationConfig(kind="gumbel"),
            "weight_share": 1.0,  # the alphas stay equal: paths are drawn uniformly
            "derivation": "retrieval",
            "retrieval": RetrievalConfig(candidates=1, batches=1),
            "order": 1,
            "warmup_epochs": 0,
            "identity_overlap": 1.0,
            "memory": MemoryConfig(),
        }
    return settings.model_copy(update=changes)


class Proposals(PredictorSearch):
    """Trains a supernet and ranks candidates by it.

    The first trials are the candidates of the best rank. Then the predictor, whose features hold the supernet's score
    and all other evidence, chooses among the candidates and the neighbours of the best trials.
    """

    def __init__(self, config: Config, progress: ReadProgress) -> None:
        super().__init__(config, progress)
        changes: dict[str, Any] = {"search": supernet_settings(self.settings)}
        if self._gpu is not None:
            changes["trainer"] = self.config.trainer.model_copy(update={"devices": f"{self._gpu},"})
        own = self.config.model_copy(update=changes)
        self._bilevel = Bilevel(own, progress)  # its settings are checked before anything is written

    @property
    def _gpu(self) -> int | None:
        """The first of the GPUs that trials have, where the supernet trains too; None without any."""
        gpus = self.settings.trials.gpus
        return gpus[0] if gpus and self.config.trainer.cuda else None

    @property
    def needs_images(self) -> bool:
        return True

    @property
    def share(self) -> float:
        return 1.0

    def begin(self, run: RunFolder) -> None:
        self._run, file = run, run / "pool.yaml"
        if not file.is_file():
            began = self.clock()
            self._train_supernet()
            candidates = self._rank_candidates()
            write_text(file, to_yaml(_Pool(candidates=candidates, seconds=round(self.clock() - began, 3))))
        self._pool = parse(_Pool, read_yaml(file), source=str(file))
        self._scores = {each.genotype.identity(): each.evidence for each in self._pool.candidates}
        self.preparation_seconds = self._pool.seconds

    def first(self, number: int, known: set[str]) -> Proposal | None:
        new = (each.genotype for each in self._pool.candidates if each.genotype.identity() not in known)
        genotype = next(new, None)
        return None if genotype is None else self.proposal(genotype)

    def candidates(self, random: np.random.Generator, known: set[str]) -> list[AnyGenotype]:
        candidates = {each.genotype.identity(): each.genotype for each in self._pool.candidates}
        best = max(self.observed, key=lambda trial: trial.score)
        for neighbor in self.neighborhood.random(best.genotype, random):
            candidates.setdefault(neighbor.identity(), neighbor)
        new = [genotype for identity, genotype in candidates.items() if identity not in known]
        return new or [drawn for drawn in [self.draw(random, known)] if drawn is not None]

    def evidence(self, genotype: AnyGenotype) -> Mapping[str, float]:
        key = genotype.identity()
        if key not in self._scores:
            self._scores[key] = self._score(genotype)
        return self._scores[key]

    def rate(self, trial: Trial) -> tuple[float, float]:
        """Rank by mAP + ``weight`` times the mAP of the genotype in the supernet.

        A single training is noisy; the supernet's score, of the same identities, is a second measurement.
        """
        return trial.share, trial.score + self.settings.trials.proposals.weight * trial.evidence.get("supernet", 0.0)

    def _train_supernet(self) -> None:
        folder, config = self._run / "supernet", self._bilevel.config
        if RunFolder(folder).genotype_file.is_file():
            return
        with RunFolder.open(folder, config, resume=RunFolder(folder).is_run()) as run:
            run.write_genotype(self._bilevel.search(run))

    @cached_property
    def _supernet(self) -> SupernetScore:
        own = self._bilevel
        assert own.data is not None
        assert own.held is not None
        network = load_supernet(self._run / "supernet")[2]
        network.to(f"cuda:{self._gpu or 0}" if self.config.trainer.cuda else "cpu")
        batches = self.settings.trials.proposals.batches
        return make_score(network, own.data, own.halves["weights"], own.held, own.config, batches=batches)

    def _score(self, genotype: AnyGenotype) -> dict[str, float]:
        scores = dict(super().evidence(genotype))
        with contextlib.suppress(TrainingError):  # its features are not finite: it ranks last
            scores["supernet"] = self._supernet(genotype)
        return scores

    def _rank_candidates(self) -> tuple[_Candidate, ...]:
        candidates = [self._candidate(genotype) for genotype in self._draw_candidates()]
        if self.settings.trials.proposals.draw == "evolution":
            self._evolve(candidates)
        return tuple(sorted(candidates, key=_supernet_score, reverse=True))

    def _candidate(self, genotype: AnyGenotype) -> _Candidate:
        return _Candidate(genotype=genotype, evidence=self._score(genotype))

    def _evolve(self, candidates: list[_Candidate]) -> None:
        """Fill up the candidates by neighbours of those of the largest mAP in the supernet."""
        random = np.random.default_rng(mix_seed(self.config.seed, 14))
        known = {each.genotype.identity() for each in candidates}
        for _ in range(self.settings.trials.proposals.candidates - len(candidates)):
            best = sorted(candidates, key=_supernet_score, reverse=True)[:_PARENTS]
            children = (
                child
                for i in random.permutation(len(best))
                for child in self.neighborhood.random(best[i].genotype, random)
                if child.identity() not in known
            )
            child = next(children, None)
            if child is None:
                return
            known.add(child.identity())
            candidates.append(self._candidate(child))

    def _draw_candidates(self) -> Sequence[AnyGenotype]:
        settings = self.settings.trials.proposals
        if settings.draw != "alphas":
            share = 2 if settings.draw == "evolution" else 1
            return self._draw_uniformly(-(-settings.candidates // share))
        supernet = self._supernet.network.backbone
        assert isinstance(supernet, Supernet)
        derived = draw_likely(
            supernet.mixture_weights(),
            lambda weights: self.kind.derive(weights, self.space, self.spec, origin=self.trial_origin),
            candidates=settings.candidates,
            seed=mix_seed(self.config.seed, 13),
        )
        return list({genotype.identity(): genotype for genotype in derived}.values())

    def _draw_uniformly(self, count: int) -> list[AnyGenotype]:
        random, candidates = np.random.default_rng(mix_seed(self.config.seed, 13)), dict[str, AnyGenotype]()
        while len(candidates) < count:
            genotype = self.draw(random, set(candidates))
            if genotype is None:
                break
            candidates[genotype.identity()] = genotype
        return list(candidates.values())
