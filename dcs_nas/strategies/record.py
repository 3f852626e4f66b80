"""The records of a search's epochs in the run folder: alphas, mixture weights, genotypes."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from dcs_nas import __version__
from dcs_nas.models.space_kinds import kind_of
from dcs_nas.models.supernet import Supernet
from dcs_nas.runs import RunFolder
from dcs_nas.space import AnyGenotype, Origin, Space, load_genotype


class ArchitectureRecord:
    """Derives genotypes from a supernet, and writes and reads the records of its epochs."""

    def __init__(
        self, run: RunFolder, space: Space, *, data: str, seed: int, method: str, max_skips: int | None = None
    ) -> None:
        self.run, self.space, self.data, self.seed = run, space, data, seed
        self.method, self.max_skips = method, max_skips

    def genotype(self, supernet: Supernet, epoch: int, weights: Mapping[str, Tensor] | None = None) -> AnyGenotype:
        """Return the genotype of the supernet as it is after ``epoch`` (from 0), or of other mixture weights."""
        origin = Origin(data=self.data, seed=self.seed, epoch=epoch, method=self.method, version=__version__)
        mixture = supernet.mixture_weights() if weights is None else weights
        kind, network = kind_of(self.space), supernet.network
        genotype = kind.derive(mixture, self.space, network, origin=origin, max_skips=self.max_skips)
        return supernet.complete(genotype)

    def read(self, epoch: int) -> AnyGenotype:
        """Return the genotype that was written after ``epoch``."""
        return load_genotype(self.run.epoch_file(epoch))

    def write(self, supernet: Supernet, epoch: int) -> None:
        """Write the alphas, mixture weights and genotype of an epoch."""
        genotype, weights = self.genotype(supernet, epoch), supernet.mixture_weights()
        self.run.write_epoch(epoch, genotype, names=self.space.names(), weights=weights, alphas=supernet.alphas())


def write_trial_record(run: RunFolder, number: int, genotype: AnyGenotype, space: Space) -> None:
    """Write the record of a trial like an epoch's: the best genotype so far, with weights 1 for its choices."""
    run.write_epoch(number, genotype, names=space.names(), weights=genotype.one_hot())


def alpha_entropy(weights: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the mean entropy of the rows of mixture weights as a share of the largest: 1 undecided, 0 decided."""
    entropies = {}
    for name, rows in weights.items():
        most = math.log(rows.shape[1])
        rows = rows / rows.sum(1, keepdim=True)
        entropy = -(rows * rows.clamp_min(1e-30).log()).sum(1).mean()
        entropies[name] = float(entropy) / most if most else 0.0
    return entropies
