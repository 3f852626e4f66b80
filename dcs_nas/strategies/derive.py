"""Derivation by retrieval: of genotypes likely under the alphas, the one with the highest mAP.

A supernet that trains one sampled path at a time (relaxation ``gumbel``) ranks its own networks (Guo et al., "Single
Path One-Shot NAS", arXiv 1904.00420); one that trains weighted sums does not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from dcs_nas.config import Config, SearchConfig
from dcs_nas.data.augment import build_augment
from dcs_nas.data.datamodule import Images, ReidData
from dcs_nas.errors import InputError, TrainingError
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.models.supernet import Supernet, recalibrate_statistics
from dcs_nas.seeds import seed_everything
from dcs_nas.space import AnyGenotype
from dcs_nas.strategies.record import ArchitectureRecord
from dcs_nas.training.features import validate
from dcs_nas.training.joint_batch import average_buffers
from dcs_nas.training.supernet_weights import load_supernet
from dcs_nas.training.trainer import memory_format

log = logging.getLogger(__name__)


class SupernetScore:
    """The score of a genotype in a supernet: mAP with inherited weights, on the identities that a search held out.

    Running statistics are measured again for every genotype (Guo et al., arXiv 1904.00420, section 3.2).

    Args:
        network: the supernet with its heads.
        data: of the search.
        held: images of the identities held out.
        batches: augmented training images, to measure statistics on.
        config: of the search.
    """

    def __init__(
        self, network: ReidNetwork, data: ReidData, held: Images, batches: Sequence[Tensor], config: Config
    ) -> None:
        self.network, self.config = network, config
        self._data, self._held, self._batches = data, held, batches

    @property
    def supernet(self) -> Supernet:
        return self.network.backbone  # type: ignore[return-value]

    @torch.no_grad()
    def __call__(self, genotype: AnyGenotype) -> float:
        seed_everything(self.config.seed)
        with self.supernet.fix_to(genotype), recalibrate_statistics(self.network, self._run):
            return validate(self.network, self._data, self._held, metric=self.config.evaluate.metric)

    def _run(self) -> None:
        device = next(self.network.parameters()).device
        for images in self._batches:
            self.network(images.to(device))
        average_buffers(self.network)


def score_supernet(folder: Path, *, batches: int = 8) -> SupernetScore:
    """Return the score by a finished search's last checkpoint; ``InputError`` if no identities were held out."""
    config, _, network = load_supernet(folder)
    settings = config.section("search")
    if not settings.validation:
        raise InputError(f"{folder} held no identities out; search with search.validation above 0, e.g. 0.2")
    data = ReidData(config)
    halves, held = data.load_search_halves(
        share=settings.weight_share, overlap=settings.identity_overlap, validation=settings.validation
    )
    assert held is not None
    return make_score(network, data, halves["weights"], held, config, batches=batches)


def make_score(
    network: ReidNetwork, data: ReidData, images: Images, held: Images, config: Config, *, batches: int
) -> SupernetScore:
    """Return the score by a trained supernet, whose statistics are measured on ``batches`` of the training images."""
    seed_everything(config.seed)
    augment = build_augment(config)
    measured = [augment(batch["images"]) for batch in islice(data.make_identity_loader(images, stream=0), batches)]
    return SupernetScore(memory_format(network).eval(), data, held, measured, config)


def derive_by_retrieval(score: SupernetScore, record: ArchitectureRecord, settings: SearchConfig) -> AnyGenotype:
    """Return the genotype with the highest mAP of some likely ones, of which the strongest is the first."""
    supernet = score.supernet

    def genotype(weights: Mapping[str, Tensor]) -> AnyGenotype:
        return record.genotype(supernet, settings.epochs - 1, weights)

    candidates = draw_likely(
        supernet.mixture_weights(), genotype, candidates=settings.retrieval.candidates, seed=score.config.seed
    )
    if len(candidates) == 1:
        return candidates[0]
    scores = [_finite_score(score, one) for one in candidates]
    best = max(range(len(candidates)), key=scores.__getitem__)
    log.info(
        "mAP among held-out identities, with the supernet's weights: %.3f for the strongest, %.3f for the best of %d",
        scores[0], scores[best], len(candidates),
    )  # fmt: skip
    return candidates[best]


def _finite_score(score: SupernetScore, genotype: AnyGenotype) -> float:
    """Return 0 for a network whose features are not finite with the supernet's weights."""
    try:
        return score(genotype)
    except TrainingError as error:
        log.warning("a candidate is given up: %s", error)
        return 0.0


def sum_rows(table: Tensor) -> Tensor:
    """Return the sums (R, 1) of mixture weights (R, O): the weights of edges in PC-DARTS, otherwise exactly 1."""
    sums = table.detach().sum(1, keepdim=True)
    return torch.where((sums - 1).abs() < 1e-4, torch.ones_like(sums), sums)


def draw_likely(
    weights: Mapping[str, Tensor], derive: Callable[[Mapping[str, Tensor]], AnyGenotype], *, candidates: int, seed: int
) -> list[AnyGenotype]:
    """Return distinct genotypes: that of the mixture weights (R, O) by name, then draws by them.

    A draw adds Gumbel noise to log weights, so that each row's strongest candidate is that of a draw with the row's
    weights as probabilities; the sum of a row, an edge's weight in PC-DARTS, stays. At most 20 draws are made for each
    genotype wanted: sharp weights give few.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = {name: table.detach().cpu().double().clamp_min(1e-30).log() for name, table in weights.items()}
    sums = {name: sum_rows(table).cpu().double() for name, table in weights.items()}
    genotypes = [derive(weights)]
    for _ in range(20 * candidates):
        if len(genotypes) == candidates:
            break
        noise = {n: -torch.empty_like(r).exponential_(generator=generator).log() for n, r in rows.items()}
        drawn = derive({name: sums[name] * torch.softmax(row + noise[name], dim=1) for name, row in rows.items()})
        if drawn not in genotypes:
            genotypes.append(drawn)
    return genotypes
