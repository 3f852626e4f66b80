"""What a search writes down of its architecture: ``architecture/epoch_NNN.yaml`` with alphas, weights and genotype."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from dcs_nas import __version__
from dcs_nas.files import write_text
from dcs_nas.models.supernet import Supernet
from dcs_nas.search.derive import derive
from dcs_nas.settings import plain_yaml
from dcs_nas.space import Genotype, Origin, SpaceSpec


class ArchitectureRecord:
    """Writes the architecture parameters of an epoch and the genotype they stand for."""

    def __init__(self, folder: Path, space: SpaceSpec, *, data: str, seed: int) -> None:
        self.folder, self.space, self.data, self.seed = folder, space, data, seed

    def genotype(self, supernet: Supernet, epoch: int) -> Genotype:
        """The genotype of the supernet as it is after ``epoch`` (from 0)."""
        origin = Origin(data=self.data, seed=self.seed, epoch=epoch, method="darts, order 1", version=__version__)
        return derive(supernet.mixture_weights(), self.space, supernet.network, name=self.space.name, origin=origin)

    def write(self, supernet: Supernet, epoch: int) -> None:
        genotype = self.genotype(supernet, epoch)
        content = {
            "epoch": epoch,
            "names": {"operations": list(self.space.operations), "attention": list(self.space.attention)},
            "alphas": {name: alpha.detach().tolist() for name, alpha in supernet.alphas().items()},
            "weights": {name: weight.tolist() for name, weight in supernet.mixture_weights().items()},
            "genotype": genotype.model_dump(mode="json", by_alias=True),
        }
        write_text(self.folder / f"epoch_{epoch:03d}.yaml", plain_yaml(content))


def alpha_entropy(weights: Mapping[str, Tensor]) -> dict[str, float]:
    """Mean entropy of the rows of mixture weights, as a share of that of equal weights: 1 undecided, 0 decided."""
    entropies = {}
    for name, rows in weights.items():
        most = math.log(rows.shape[1])
        entropy = -(rows * rows.clamp_min(1e-30).log()).sum(1).mean()
        entropies[name] = float(entropy) / most if most else 0.0
    return entropies
