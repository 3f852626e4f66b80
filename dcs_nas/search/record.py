"""What a search writes down of its architecture: ``architecture/epoch_NNN.yaml`` with alphas, weights and genotype."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from dcs_nas import __version__
from dcs_nas.files import write_text
from dcs_nas.models.kinds import kind_of
from dcs_nas.models.supernet import MixedNetwork
from dcs_nas.settings import plain_yaml
from dcs_nas.space import AnyGenotype, Origin, Space, load_genotype


class ArchitectureRecord:
    """Writes the architecture parameters of an epoch and the genotype they stand for."""

    def __init__(
        self, folder: Path, space: Space, *, data: str, seed: int, method: str, max_skips: int | None = None
    ) -> None:
        self.folder, self.space, self.data, self.seed = folder, space, data, seed
        self.method, self.max_skips = method, max_skips

    def genotype(self, supernet: MixedNetwork, epoch: int, weights: Mapping[str, Tensor] | None = None) -> AnyGenotype:
        """The genotype of the supernet as it is after ``epoch`` (from 0), or of other mixture weights."""
        origin = Origin(data=self.data, seed=self.seed, epoch=epoch, method=self.method, version=__version__)
        found = supernet.mixture_weights() if weights is None else weights
        return kind_of(self.space).derive(found, self.space, supernet.network, origin=origin, max_skips=self.max_skips)

    def read(self, epoch: int) -> AnyGenotype:
        """The genotype that was written after ``epoch``."""
        return load_genotype(self._path(epoch))

    def write(self, supernet: MixedNetwork, epoch: int) -> None:
        """Write ``epoch_NNN.yaml``."""
        genotype = self.genotype(supernet, epoch)
        content = {
            "epoch": epoch,
            "names": self.space.names(),
            "alphas": {name: alpha.detach().tolist() for name, alpha in supernet.alphas().items()},
            "weights": {name: weight.tolist() for name, weight in supernet.mixture_weights().items()},
            "genotype": genotype.model_dump(mode="json", by_alias=True),
        }
        write_text(self._path(epoch), plain_yaml(content))

    def _path(self, epoch: int) -> Path:
        return self.folder / f"epoch_{epoch:03d}.yaml"


def alpha_entropy(weights: Mapping[str, Tensor]) -> dict[str, float]:
    """Mean entropy of the rows of mixture weights, as a share of that of equal weights: 1 undecided, 0 decided."""
    entropies = {}
    for name, rows in weights.items():
        most = math.log(rows.shape[1])
        rows = rows / rows.sum(1, keepdim=True)
        entropy = -(rows * rows.clamp_min(1e-30).log()).sum(1).mean()
        entropies[name] = float(entropy) / most if most else 0.0
    return entropies
