"""Derivation by retrieval: of the genotypes that the alphas think likely, the one that finds people best.

A supernet that trains one sampled path at a time (relaxation ``gumbel``) ranks its own networks (Guo et al., "Single
Path One-Shot NAS", arXiv 1904.00420); one that trains weighted sums does not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from dcs_nas.config import SearchConfig
from dcs_nas.errors import TrainingError
from dcs_nas.search.record import ArchitectureRecord
from dcs_nas.search.supernet_score import SupernetScore
from dcs_nas.space import AnyGenotype

log = logging.getLogger(__name__)


def derive_by_retrieval(score: SupernetScore, record: ArchitectureRecord, settings: SearchConfig) -> AnyGenotype:
    """The best of some likely genotypes by mAP among the people held out; that of the strongest alphas is the first."""
    supernet = score.supernet

    def genotype(weights: Mapping[str, Tensor]) -> AnyGenotype:
        return record.genotype(supernet, settings.epochs - 1, weights)

    found = likely(
        supernet.mixture_weights(), genotype, candidates=settings.retrieval.candidates, seed=score.config.seed
    )
    scores = [_finite_score(score, one) for one in found]
    best = max(range(len(found)), key=scores.__getitem__)
    log.info(
        "mAP among the people held out, with the supernet's weights: %.3f for the strongest, %.3f for the best of %d",
        scores[0], scores[best], len(found),
    )  # fmt: skip
    return found[best]


def _finite_score(score: SupernetScore, genotype: AnyGenotype) -> float:
    """0 for a network whose features are not finite with the supernet's weights."""
    try:
        return score(genotype)
    except TrainingError as error:
        log.warning("a candidate is given up: %s", error)
        return 0.0


def likely(
    weights: Mapping[str, Tensor], derive: Callable[[Mapping[str, Tensor]], AnyGenotype], *, candidates: int, seed: int
) -> list[AnyGenotype]:
    """Distinct genotypes: of the weights (R, O) by name themselves, then of draws by them.

    A draw adds Gumbel noise to log weights, so that each row's strongest candidate is that of a draw with the row's
    weights as probabilities. At most 20 draws are made for each genotype wanted: sharp weights give few.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = {name: table.detach().cpu().double().clamp_min(1e-30).log() for name, table in weights.items()}
    found = [derive(weights)]
    for _ in range(20 * candidates):
        if len(found) == candidates:
            break
        noise = {n: -torch.empty_like(r).exponential_(generator=generator).log() for n, r in rows.items()}
        drawn = derive({name: torch.softmax(row + noise[name], dim=1) for name, row in rows.items()})
        if drawn not in found:
            found.append(drawn)
    return found
