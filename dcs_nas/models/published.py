"""Networks built from the state dicts of published implementations, equal to them in evaluation mode."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dcs_nas.errors import InputError, choices
from dcs_nas.models.backbones.hacnn import HACNN, UnitHACNN
from dcs_nas.models.backbones.msinet import CHANNELS, MSMT_GENOTYPE, PublishedMSINet
from dcs_nas.models.backbones.transreid import STRIDE, PublishedTransReID
from dcs_nas.models.blocks.rga import RGA
from dcs_nas.models.weights import join_names

_RGA_LAYERS = {  # our layer: the published convolutions that it joins, each followed by a BatchNorm
    "features": (("gx", 0), ("theta", 0), ("phi", 0)),
    "relations": (("gg", 0),),
    "hidden": (("W", 0),),
    "logit": (("W", 3),),
}
_NORM_STATE = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def load_published(name: str, state: Mapping[str, Tensor], **options: Any) -> nn.Module:
    """Return the network of a published state dict, in evaluation mode.

    Args:
        name: ``rga``, one RGA module: maps (B, C, height, width) to maps. ``hacnn``: images (B, 3, 160, 64) to features
            (B, 2 D). ``msinet``: images to the test feature (B, channels[3] + 256). ``transreid``: images and cameras
            (B,) to the feature before the neck (B, 5 D).
        state: names to tensors, as the published code saves them, without a prefix.
        options: settings that the state does not determine. Of ``rga``: ``height``, ``width``, ``use_spatial``,
            ``use_channel``. Of ``msinet``: ``genotype``, ``channels``. Of ``transreid``: ``size`` of the images,
            ``stride``, ``heads``, ``shift``, ``groups``, ``sie``, the factor of the camera vectors.

    Raises:
        InputError: an unknown name or option, or a state of other names or shapes than the network's.
    """
    if name not in _LOADERS:
        raise InputError(f"unknown published network '{name}'; {choices(name, _LOADERS)}")
    known = dict(list(inspect.signature(_LOADERS[name]).parameters.items())[1:])
    for option in options:
        if option not in known:
            hint = choices(option, known) if known else "it has none"
            raise InputError(f"published network '{name}' has no option '{option}'; {hint}")
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in options:
            raise InputError(f"published network '{name}' needs the option {option}")
    return _LOADERS[name]({key: torch.as_tensor(tensor) for key, tensor in state.items()}, **options).eval()


def _load_rga(
    state: Mapping[str, Tensor], *, height: int, width: int, use_spatial: bool = True, use_channel: bool = True
) -> RGA:
    """Return the RGA block of a module of maps of height x width, with a spatial and a channel part or one of them.

    Source: microsoft/Relation-Aware-Global-Attention-Networks, reid/models/models_utils/rga_modules.py, with its
    default ratios of 8.
    """
    parts = [part for part, used in (("spatial", use_spatial), ("channel", use_channel)) if used]
    expected = {name for part in parts for names in _list_rga_names(part).values() for name in names}
    _check_names(state, expected, source="RGA state")
    first = state["gx_spatial.0.weight"] if use_spatial else state["gg_channel.0.weight"].chunk(2, dim=1)[0]
    block = RGA(first.shape[1], height, width, use_spatial=use_spatial, use_channel=use_channel)
    ours = {
        f"{part}.{name}": _join_rga_tensors(name, [state[source] for source in sources])
        for part in parts
        for name, sources in _list_rga_names(part).items()
    }
    _load_exactly(block, ours, source="RGA state")
    return block


def _load_hacnn(state: Mapping[str, Tensor]) -> UnitHACNN:
    """Return HA-CNN with both vectors at unit length; ``backbone`` is the network without that.

    The widths, D, and whether there is a local branch are read off the state; the classifiers are left out.
    Source: KaiyangZhou/deep-person-reid, torchreid/models/hacnn.py.
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
    _load_exactly(backbone, body, source="HA-CNN state")
    return UnitHACNN(backbone)


def _load_msinet(
    state: Mapping[str, Tensor], genotype: Sequence[str] = MSMT_GENOTYPE, channels: Sequence[int] = CHANNELS
) -> PublishedMSINet:
    """Return MSINet with its heads. Source: vimar-gu/MSINet at 2a8845b, reid/models/msinet.py."""
    identities = _count_identities(state, source="MSINet state")
    network = PublishedMSINet(identities, genotype=list(map(str, genotype)), channels=list(map(int, channels)))
    _load_exactly(network, state, source="MSINet state")
    return network


def _load_transreid(
    state: Mapping[str, Tensor],
    size: Sequence[int] = (256, 128),
    stride: int | Sequence[int] = STRIDE,
    heads: int = 12,
    shift: int = 5,
    groups: int = 2,
    sie: float = 3.0,
) -> PublishedTransReID:
    """Return TransReID with jigsaw patches and its heads; its width, depth and cameras are read off the state.

    Source: damo-cv/TransReID at dec5504, model/make_model.py, build_transformer_local.
    """
    source = "TransReID state"
    strides = {int(step) for step in (stride if isinstance(stride, Iterable) else (stride,))}
    if len(strides) != 1 or not isinstance(size, Iterable) or len(size) != 2:
        raise InputError(f"TransReID's size is {size} and stride {stride}; expected (height, width) and one stride")
    for key in ("base.patch_embed.proj.weight", "base.pos_embed", "base.cls_token"):
        if key not in state:
            raise InputError(f"{source}: no '{key}'; expected the published names: strip any prefix")
    cameras, embedding = state.get("base.sie_embed"), state["base.cls_token"].shape[-1]
    if not 1 <= int(heads) <= embedding or embedding % int(heads):
        raise InputError(f"{source}: {heads} heads do not divide its {embedding} features; check heads")
    network = PublishedTransReID(
        _count_identities(state, source=source),
        height=int(size[0]),
        width=int(size[1]),
        embedding=embedding,
        depth=len({name.split(".")[2] for name in state if name.startswith("base.blocks.")}),
        heads=int(heads),
        stride=strides.pop(),
        shift=int(shift),
        groups=int(groups),
        cameras=0 if cameras is None else len(cameras),
        camera_weight=float(sie),
    )
    positions, patches = state["base.pos_embed"].shape[1] - 1, network.grid[0] * network.grid[1]
    if positions != patches:
        raise InputError(
            f"{source}: 'base.pos_embed' has {positions} patch positions; expected {patches} for images of {size[0]} x "
            f"{size[1]}: check size and stride"
        )
    _load_exactly(network, network.adapt_weights(state), source=source)
    return network


def _count_identities(state: Mapping[str, Tensor], *, source: str) -> int:
    weight = state.get("classifier.weight")
    if weight is None or weight.dim() != 2:
        raise InputError(f"{source}: no matrix 'classifier.weight'; expected the published names: strip any prefix")
    return len(weight)


_LOADERS: Mapping[str, Callable[..., nn.Module]] = {
    "rga": _load_rga,
    "hacnn": _load_hacnn,
    "msinet": _load_msinet,
    "transreid": _load_transreid,
}


def _load_exactly(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load ``state`` into ``module``; raise ``InputError`` unless names and shapes are the module's own."""
    expected = module.state_dict()
    _check_names(state, expected, source=source)
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            shape, wanted = tuple(tensor.shape), tuple(expected[name].shape)
            raise InputError(f"{source}: '{name}' has shape {shape}; expected {wanted}: check the sizes given")
    module.load_state_dict(state)


def _check_names(names: Iterable[str], expected: Iterable[str], *, source: str) -> None:
    """Raise ``InputError``, listing some of each, if names are missing or are not expected."""
    missing, unknown = sorted(set(expected) - set(names)), sorted(set(names) - set(expected))
    if missing or unknown:
        raise InputError(
            f"{source}: names missing: {join_names(missing)}; names not expected: {join_names(unknown)}; expected the "
            "published module's names and no others: check which parts it has, and strip any prefix"
        )


def _list_rga_names(part: str) -> dict[str, list[str]]:
    """Return the published names that each of our names inside a gate concatenates."""
    names = {}
    for layer, sources in _RGA_LAYERS.items():
        names[f"{layer}.weight"] = [f"{source}_{part}.{i}.weight" for source, i in sources]
        for entry in _NORM_STATE:
            names[f"{layer}.norm.{entry}"] = [f"{source}_{part}.{i + 1}.{entry}" for source, i in sources]
    return names


def _join_rga_tensors(name: str, sources: list[Tensor]) -> Tensor:
    """Return our tensor ``name``: the published ones concatenated along outputs, 1x1 kernels as matrices."""
    if name.endswith("num_batches_tracked"):
        return sources[0]
    tensor = torch.cat([source.flatten(1) if source.dim() > 1 else source for source in sources])
    if name == "relations.weight":  # (e, [in, out] M) to (2, e, M) with out first
        return torch.stack(tensor.chunk(2, dim=1)[::-1])
    return tensor
