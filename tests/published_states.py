"""Our modules built from the state dicts of published implementations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from dcs_nas.errors import InputError
from dcs_nas.models.backbones.hacnn import HACNN, UnitHACNN
from dcs_nas.models.blocks.rga import RGA

_RGA_LAYERS = {  # ours: published convolutions that it joins, each followed by its BatchNorm
    "features": (("gx", 0), ("theta", 0), ("phi", 0)),
    "relations": (("gg", 0),),
    "hidden": (("W", 0),),
    "logit": (("W", 3),),
}
_NORM_STATE = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def load_rga(
    state: Mapping[str, Tensor], *, height: int, width: int, use_spatial: bool = True, use_channel: bool = True
) -> RGA:
    """The RGA block of one published RGA module, in evaluation mode.

    Args:
        state: names such as ``gx_spatial.0.weight`` to tensors, those of
            microsoft/Relation-Aware-Global-Attention-Networks, reid/models/models_utils/rga_modules.py, with its
            default ratios of 8.
        height: H of the maps that the module was trained on.
        width: W of those maps.
        use_spatial: the module has a spatial part.
        use_channel: the module has a channel part.

    Raises:
        InputError: names or shapes that are not those of such a module.
    """
    parts = [part for part, used in (("spatial", use_spatial), ("channel", use_channel)) if used]
    expected = {name for part in parts for names in _rga_names(part).values() for name in names}
    check_names(state, expected, source="RGA state")
    first = state["gx_spatial.0.weight"] if use_spatial else state["gg_channel.0.weight"].chunk(2, dim=1)[0]
    block = RGA(first.shape[1], height, width, use_spatial=use_spatial, use_channel=use_channel)
    ours = {
        f"{part}.{name}": _rga_tensor(name, [state[source] for source in sources])
        for part in parts
        for name, sources in _rga_names(part).items()
    }
    load_exactly(block, ours, source="RGA state")
    return block.eval()


def load_hacnn(state: Mapping[str, Tensor]) -> UnitHACNN:
    """HA-CNN of one published network, in evaluation mode: images (B, 3, 160, 64) to its feature (B, 2 D).

    The feature is the global and the local vector, both at unit length; ``backbone`` is the network without that. The
    widths, D, and whether there is a local branch are read off the state; the identity classifiers are left out.

    Args:
        state: names such as ``inception1.0.stream1.0.conv.weight`` to tensors, those of KaiyangZhou/deep-person-reid,
            torchreid/models/hacnn.py.

    Raises:
        InputError: names or shapes that are not those of such a network.
    """
    body = {name: tensor for name, tensor in state.items() if not name.startswith("classifier_")}
    sizes = {name: body.get(f"{name}.weight") for name in (*(f"ha{n}.hard_attn.fc" for n in (1, 2, 3)), "fc_global.0")}
    for name, weight in sizes.items():
        if weight is None or weight.dim() != 2:
            raise InputError(f"HA-CNN state: no matrix '{name}.weight'; expected torchreid's names: strip any prefix")
    *attention, features = (weight.shape for weight in sizes.values() if weight is not None)
    learn_region = any(name.startswith("local_conv") for name in body)
    channels = (attention[0][1], attention[1][1], attention[2][1])
    backbone = HACNN(channels=channels, features=features[0], learn_region=learn_region)
    load_exactly(backbone, body, source="HA-CNN state")
    return UnitHACNN(backbone).eval()


def load_exactly(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Loads ``state`` into ``module``; raises ``InputError`` unless names and shapes are the module's own."""
    expected = module.state_dict()
    check_names(state, expected, source=source)
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            found, wanted = tuple(tensor.shape), tuple(expected[name].shape)
            raise InputError(f"{source}: '{name}' has shape {found}; expected {wanted}: check the sizes given")
    module.load_state_dict(state)


def check_names(found: Iterable[str], expected: Iterable[str], *, source: str) -> None:
    """Raises ``InputError``, listing some of each, if names are missing or are not expected."""
    missing, unknown = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or unknown:
        raise InputError(
            f"{source}: names missing: {_some(missing)}; names not expected: {_some(unknown)}; expected the published "
            "module's names and no others: check which parts it has, and strip any prefix"
        )


def _rga_names(part: str) -> dict[str, list[str]]:
    """Our name inside a gate to the published names that it joins."""
    names = {}
    for layer, sources in _RGA_LAYERS.items():
        names[f"{layer}.weight"] = [f"{source}_{part}.{i}.weight" for source, i in sources]
        for entry in _NORM_STATE:
            names[f"{layer}.norm.{entry}"] = [f"{source}_{part}.{i + 1}.{entry}" for source, i in sources]
    return names


def _rga_tensor(name: str, sources: list[Tensor]) -> Tensor:
    """Our tensor ``name`` of the published ones, joined along their output features; 1x1 kernels become matrices."""
    if name.endswith("num_batches_tracked"):
        return sources[0]
    joined = torch.cat([source.flatten(1) if source.dim() > 1 else source for source in sources])
    if name == "relations.weight":  # (e, [in, out] M) to (2, e, M) with out first
        return torch.stack(joined.chunk(2, dim=1)[::-1])
    return joined


def _some(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more if names else "none"
