"""The published DARTS search network in our modules: its golden weights, and its plain cell as a reference."""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import Tensor, nn

from dcs_nas.models.cell_kind import CellSupernet
from dcs_nas.models.super_cell import SuperCell
from dcs_nas.space import CellStructure, NetworkSpec, edge_index

# Parts of an operation under the published names (op.N) and under ours.
_SEPARABLE = {1: "first.0", 2: "first.1", 3: "first.2", 5: "second.0", 6: "second.1", 7: "second.2"}
_DILATED = {1: "body.0", 2: "body.1", 3: "body.2"}
_REDUCE = {"conv_1": "even", "conv_2": "odd", "bn": "norm"}


def golden_network(golden: dict[str, np.ndarray]) -> tuple[CellSupernet, nn.Linear]:
    """Our supernet and classifier with the golden weights and alphas, in float64 and training mode."""
    operations = [str(name) for name in golden["primitives"]]
    structure = CellStructure(nodes=int(golden["steps"]), operations=operations)
    layers = int(golden["layers"])
    height, width = golden["x_train"].shape[2:]
    network = NetworkSpec(
        channels=int(golden["channels"]),
        cells=layers,
        reductions=tuple(sorted({layers // 3, 2 * layers // 3})),
        stem="conv",
        height=height,
        width=width,
    )
    supernet = CellSupernet(structure, network).double()
    classifier = nn.Linear(supernet.num_features, int(golden["num_classes"])).double()
    state = {
        name.removeprefix("state/"): torch.from_numpy(v) for name, v in golden.items() if name.startswith("state/")
    }
    _fill(supernet, classifier, state)
    with torch.no_grad():
        supernet.alphas()["normal"].copy_(torch.from_numpy(golden["alphas_normal"]))
        supernet.alphas()["reduce"].copy_(torch.from_numpy(golden["alphas_reduce"]))
    return supernet, classifier


def logits(supernet: CellSupernet, classifier: nn.Linear, images: Tensor) -> Tensor:
    """Class scores (B, classes) of the published network."""
    return classifier(supernet(images).mean(dim=(2, 3)))


def plain_cell(cell: SuperCell, before: Tensor, last: Tensor) -> Tensor:
    """The cell as DARTS writes it: every operation on every edge, the sum of weighted outputs, nothing shared."""
    states = list(cell.preprocessor([before, last]))
    weights = cell.mixture()
    for node in range(cell.nodes):
        total: Tensor | int = 0
        for source in range(node + 2):
            row = weights[edge_index(node, source)]
            for weight, name in zip(row, cell.mixture.names):
                if name != "none":
                    total = total + weight * cell.operation(node, source, name)(states[source])
        states.append(total)
    return torch.cat(states[2:], dim=1)


def _fill(supernet: CellSupernet, classifier: nn.Linear, state: dict[str, Tensor]) -> None:
    ours = supernet.space.state_dict()
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.startswith("classifier."):
            classifier.state_dict()[name.removeprefix("classifier.")].copy_(value)
        elif (target := _our_name(name, supernet)) is not None:
            found[target] = value
    parameters = {name for name, _ in supernet.space.named_parameters()}
    assert parameters <= set(found), sorted(parameters - set(found))[:5]
    supernet.space.load_state_dict({**ours, **found})


def _our_name(name: str, supernet: CellSupernet) -> str | None:
    if name.startswith("stem."):
        return name.replace("stem.", "stem.layers.")
    cell, _, rest = name.removeprefix("cells.").partition(".")
    if match := re.match(r"preprocess([01])\.(?:op\.)?([a-z_0-9]+)\.(.*)", rest):
        part = "before" if match[1] == "0" else "last"
        inner = {"1": "conv", "2": "norm", **_REDUCE}[match[2]]
        return f"cells.{cell}.preprocessor.{part}.{inner}.{match[3]}"
    match = re.match(r"_ops\.(\d+)\._ops\.(\d+)\.(?:op\.)?([a-z_0-9]+)\.(.*)", rest)
    assert match is not None, name
    edge, column, part, last = int(match[1]), int(match[2]), match[3], match[4]
    operation = supernet.structure.operations[column]
    if "pool" in operation:
        return None  # statistics alone, which a training-mode pass does not read
    table = _REDUCE if operation == "skip_connect" else _SEPARABLE if operation.startswith("sep") else _DILATED
    ours = table[part] if part in table else table[int(part)]  # type: ignore[index]
    return f"cells.{cell}.edges.{edge}.{operation}.{ours}.{last}"
