"""A compiled network computes the same; what can't be compiled is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dcs_nas.config import Config, load_config
from dcs_nas.data.datamodule import ReidData
from dcs_nas.errors import InputError
from dcs_nas.models.build import build_supernet
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.space import SpaceSpec
from dcs_nas.strategies.gradients import dominant_eigenvalue
from dcs_nas.strategies.job import run_search
from dcs_nas.training.acceleration import accelerate, eager, set_numerics

SPACE = SpaceSpec(
    name="tiny",
    cells=2,
    channels=4,
    nodes=2,
    reductions=(1,),
    operations=("none", "skip_connect", "max_pool_3x3", "sep_conv_3x3"),
    attention=("none", "dcs"),
)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


def _config(**trainer: str) -> Config:
    data = {"height": 32, "width": 16}
    return Config.model_validate(
        {"name": "c", "data": data, "search": {"strategy": "bilevel", "space": "tiny"}, "trainer": trainer}
    )


def _network() -> ReidNetwork:
    torch.manual_seed(0)
    config = _config()
    return build_supernet(SPACE, config.section("search"), config.data, 5).eval()


def _gradients(network: ReidNetwork, images: Tensor) -> list[Tensor | None]:
    with network.backbone.hold_draw():  # type: ignore[operator]
        loss = network(images).square().sum()
    return list(torch.autograd.grad(loss, [p for p in network.parameters() if p.requires_grad], allow_unused=True))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_compiled_supernet_gives_the_values_and_gradients_of_the_plain_one_in_every_pass() -> None:
    plain, compiled = _network(), _network()
    accelerate(compiled, _config(compile="default"), backend="aot_eager")
    for seed in range(2):
        images = torch.randn(4, 3, 32, 16, generator=torch.Generator().manual_seed(seed))
        for found, expected in zip(_gradients(compiled, images), _gradients(plain, images)):
            assert (found is None) == (expected is None)
            if found is not None and expected is not None:
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_supernet_compiles_in_one_piece() -> None:
    network = _network()
    explained = torch._dynamo.explain(network)(torch.randn(2, 3, 32, 16))
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)


def test_compiling_leaves_the_names_of_the_state() -> None:
    network = _network()
    names = list(network.state_dict())
    accelerate(network, _config(compile="default"), backend="aot_eager")
    assert list(network.state_dict()) == names


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("search.relaxation.kind=gumbel", "search.relaxation gumbel"),
        ("search.strategy=random", "search.strategy random"),
        ("search.order=2", "search.hessian exact"),
        ("search.derivation=perturbation", "search.derivation perturbation"),
    ],
)
def test_a_search_that_cannot_be_compiled_is_refused(override: str, said: str, tmp_path: Path) -> None:
    config = load_config(Path("configs/demo.yaml"), ["search.strategy=bilevel", "trainer.compile=default", override])
    with pytest.raises(InputError, match=f"trainer.compile is not for {said}.*set trainer.compile=off"):
        run_search(config, tmp_path / "run")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_compiled_network_runs_uncompiled_where_it_is_differentiated_twice() -> None:
    network, config = _network(), _config(compile="default")
    accelerate(network, config, backend="aot_eager")
    images = torch.randn(2, 3, 32, 16)
    with eager(config.trainer), network.backbone.hold_draw():  # type: ignore[operator]
        alphas = list(network.backbone.alphas().values())  # type: ignore[operator]
        value = dominant_eigenvalue(lambda: network(images).square().sum(), alphas, iterations=1)
    assert math.isfinite(value)


def test_the_precision_of_products_is_as_configured() -> None:
    set_numerics(_config(matmul_precision="high").trainer)
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", True)
    set_numerics(_config().trainer)
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("highest", False)


@pytest.mark.parametrize(
    ("cuda", "accelerator", "pinned"), [(False, "auto", False), (True, "auto", True), (True, "cpu", False)]
)
def test_batches_for_a_gpu_come_in_pinned_memory(
    cuda: bool, accelerator: str, pinned: bool, people: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    size = {"height": 32, "width": 16, "identities_per_batch": 2, "images_per_identity": 2}
    settings = {"name": "c", "data": {"root": people, **size}, "trainer": {"accelerator": accelerator}}
    data = ReidData(Config.model_validate(settings))
    query, gallery = data.test()
    loaders = [
        data.make_identity_loader(data.train(), stream=0),
        data.make_test_loader(query),
        data.make_test_loader(gallery),
    ]
    assert [loader.pin_memory for loader in loaders] == [pinned] * 3
