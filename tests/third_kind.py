"""A third kind of search space, as an extension: layers of which each chooses its kernel. All that a kind needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import networkx
import torch
from pydantic import Field
from torch import Tensor, nn

from dcs_nas.config import SearchConfig
from dcs_nas.models.space_kinds import SPACE_KINDS, SpaceKind, build_relaxation
from dcs_nas.models.supernet import Supernet, build_mixtures
from dcs_nas.settings import Settings
from dcs_nas.space import GENOTYPES, SPACES, AnyGenotype, Choice, Origin, Space
from dcs_nas.space.kinds import Rows, short_hash


class Structure(Settings):
    layers: int = Field(ge=1, le=8)
    width: int = Field(ge=1, le=64)
    kernels: tuple[int, ...]
    name: str

    @property
    def hash(self) -> str:
        return short_hash(self.model_dump(include={"layers", "width", "kernels"}))

    def choices(self) -> Iterable[Choice]:
        return [Choice(f"layer{i}", self.kernels) for i in range(self.layers)]


class Size(Settings):
    height: int
    width: int


@SPACES.register("plain")
class PlainSpace(Structure, Space):
    kind: Literal["plain"] = "plain"

    def network(self, height: int, width: int, **changes: Any) -> Size:
        return Size(height=height, width=width)


@GENOTYPES.register("plain")
class PlainGenotype(AnyGenotype):
    kind: Literal["plain"] = "plain"
    space: Structure
    network: Size
    kernels: tuple[int, ...]
    origin: Origin = Origin()

    def part(self, name: str) -> tuple[int, ...]:
        return self.kernels

    def graph(self, part: str | None = None) -> networkx.MultiDiGraph:
        graph: networkx.MultiDiGraph = networkx.MultiDiGraph(name=self.space.name, kind="plain")
        nodes = ["image", *(f"layer{i}" for i in range(len(self.kernels))), "features"]
        for i, node in enumerate(nodes):
            graph.add_node(node, role="input" if i == 0 else "output" if i == len(nodes) - 1 else "node", label=node)
        for (tail, head), kernel in zip(pairwise(nodes), (*self.kernels, None)):
            graph.add_edge(tail, head, op=f"conv_{kernel}x{kernel}" if kernel else "")
        return graph

    def summary(self) -> str:
        return f"{len(self.kernels)} layers of space {self.space.name}"

    def tables(self) -> list[Rows]:
        return [Rows("layers", ["layer", "kernel"], [[str(i), str(k)] for i, k in enumerate(self.kernels)])]

    def to_sample(self) -> dict[str, Any]:
        return {f"layer{i}": kernel for i, kernel in enumerate(self.kernels)}


class PlainSupernet(Supernet):
    def __init__(self, space: Structure, network: Size, settings: SearchConfig) -> None:
        super().__init__()
        self.structure, self.network, self.num_features = space, network, space.width
        self.stem = nn.Conv2d(3, space.width, 3, 2, 1)
        self.mixtures = build_mixtures(space.choices(), build_relaxation(settings.relaxation))
        self.layers = nn.ModuleList(
            nn.ModuleList(_layer(space.width, kernel) for kernel in space.kernels) for _ in range(space.layers)
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for layer, (_, mixture) in zip(self.layers, self._mixtures()):
            x = torch.stack([w * op(x) for w, op in zip(mixture()[0], layer)]).sum(0)  # type: ignore[call-overload]
        return x

    def cost(self, kind: Literal["flops", "parameters"]) -> Callable[[Mapping[str, Tensor]], Tensor]:
        return partial(self._cost, torch.tensor([float(k * k) for k in self.structure.kernels]))

    def _cost(self, each: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([(row[0] * each).sum() for row in weights.values()]).sum()

    def inherit_state(self, genotype: PlainGenotype) -> dict[str, Tensor]:
        state = {f"0.{name}": value for name, value in self.stem.state_dict().items()}
        for i, kernel in enumerate(genotype.kernels):
            operation = self.layers[i][self.structure.kernels.index(kernel)]  # type: ignore[index]
            state |= {f"{i + 1}.{name}": value for name, value in operation.state_dict().items()}
        return state


@SPACE_KINDS.register("plain")
class PlainKind(SpaceKind):
    def supernet(self, space: PlainSpace, network: Size, settings: SearchConfig) -> PlainSupernet:
        return PlainSupernet(space, network, settings)

    def build_fixed_network(self, genotype: PlainGenotype) -> nn.Module:
        width = genotype.space.width
        network = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), *(_layer(width, kernel) for kernel in genotype.kernels))
        network.num_features = width  # type: ignore[assignment]
        return network

    def genotype_of(
        self, sample: Mapping[str, Any], space: PlainSpace, network: Size, *, origin: Origin
    ) -> PlainGenotype:
        structure, kernels = Structure(**space.model_dump(exclude={"kind"})), tuple(map(int, sample.values()))
        return PlainGenotype(space=structure, network=network, kernels=kernels, origin=origin)


def _layer(width: int, kernel: int) -> nn.Module:
    conv = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())
