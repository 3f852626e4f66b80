"""What a training step keeps: by hand, at other batches, and as ``dcs-nas profile`` says it."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dcs_nas.config import Config, load_config
from dcs_nas.models.build import build_supernet
from dcs_nas.models.chain_kind import ChainSupernet
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.space import find_shipped_file, load_space
from dcs_nas.strategies.bilevel import measure_search, without_gradients
from dcs_nas.training.memory import GIB, StepMemory, _alive, _backward, measure_step
from tests.chains import chain_space, random_chain
from tests.command_line import refused, run_command

PLACES, CHANNELS, IDENTITIES = 16 * 8, 64, 10


class Layer(nn.Module):
    """Images to 64 channels by one convolution without bias."""

    num_features = CHANNELS
    kind = "map"

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, CHANNELS, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).sigmoid()


SPACE = """
cells: 3
channels: 8
nodes: 1
reductions: []
stem: stride2
operations: [none, skip_connect, sep_conv_3x3]
"""


def config(*overrides: str) -> Config:
    return load_config(
        find_shipped_file("configs", "demo"), ["data.height=32", "data.width=16", "search.strategy=bilevel", *overrides]
    )


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path


def supernet(space: Path, settings: Config) -> ReidNetwork:
    return build_supernet(load_space(space), settings.section("search"), settings.data, IDENTITIES)


def test_a_step_of_one_layer_is_that_of_a_count_by_hand() -> None:
    network = ReidNetwork(Layer(), IDENTITIES, height=16, width=8)
    found = measure_step(network, config("data.height=16", "data.width=8"), states=2)
    weights = sum(p.numel() for p in network.parameters())
    assert found.fixed[-1] == pytest.approx(4 * 4 * weights, rel=0.1)  # gradients and two states too
    maps = 3 * 4 * PLACES * CHANNELS  # the backward pass holds the sigmoid's output, its gradient and the convolution's
    assert found.per_image.max() == pytest.approx(maps, rel=0.2)


def test_the_peak_of_a_batch_is_the_largest_of_the_course() -> None:
    found = StepMemory(fixed=np.array([100.0, 150.0, 160.0]), per_image=np.array([7.0, 2.0, 0.0]))
    assert [found.peak(images) for images in (2, 10, 20)] == [160, 170, 240]
    assert [found.largest_batch(limit, multiple=4) for limit in (99, 159, 160, 200)] == [0, 0, 4, 12]


def test_a_batch_that_was_not_measured_keeps_what_was_computed(space: Path) -> None:
    settings = config()
    network = supernet(space, settings)
    found = measure_search(network, settings)
    weights = 2 * 4 * sum(p.numel() for p in network.parameters())  # the weights and their momenta
    with without_gradients(list(network.backbone.alphas().values())):
        course = _alive(network.train(), settings, 16, _backward, torch.float32)
    assert found.peak(16) == pytest.approx(course.max() + weights, rel=1e-3)


def test_a_network_and_the_random_generators_are_left_as_they_were(space: Path) -> None:
    settings = config()
    network = supernet(space, settings).eval()
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    measure_search(network, settings)
    assert not network.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize(
    ("less", "more"),
    [
        (["trainer.precision=bf16-mixed"], []),
        ([], ["trainer.precision=64-true"]),
        (["search.checkpoint_activations=true"], []),
        ([], ["search.order=2"]),
        (["search.relaxation.kind=gumbel"], []),
        (["search.relaxation.partial_channels=2"], []),
    ],
)
def test_settings_that_spare_memory_need_less_an_image(space: Path, less: list[str], more: list[str]) -> None:
    each = [measure_search(supernet(space, c), c).per_image.max() for c in (config(*less), config(*more))]
    assert each[0] < 0.9 * each[1]


def test_no_path_of_a_chain_keeps_more_than_is_said() -> None:
    """Each path is computed alone, the widest one too."""
    chain, settings = chain_space(), config("search.relaxation.kind=gumbel")
    network = build_supernet(chain, settings.section("search"), settings.data, IDENTITIES)
    found = measure_search(network, settings).per_image.max()
    supernet_of_chain = network.backbone
    assert isinstance(supernet_of_chain, ChainSupernet)
    for alpha in supernet_of_chain.alphas().values():
        alpha.requires_grad_(False)
    kept = []
    for seed in range(8):
        with supernet_of_chain.fix_to(random_chain(chain, seed)):
            kept.append(measure_step(network, settings, states=1).per_image.max())
    assert max(kept) < found
    assert min(kept) < 0.7 * found


def test_profile_reads_the_supernet_of_proposals_as_it_trains(capsys: pytest.CaptureFixture, space: Path) -> None:
    size = ["data.height=32", "data.width=16", "data.identities_per_batch=500"]
    job = [
        "demo",
        "--rounds",
        0,
        "-o",
        f"search.space={space}",
        *(word for setting in size for word in ("-o", setting)),
    ]
    kept = []
    bilevel = ["-o", "search.strategy=bilevel", "-o"]
    for own in ([], [*bilevel, "search.relaxation.kind=gumbel"], [*bilevel, "search.relaxation.kind=softmax"]):
        text = run_command(capsys, "profile", *job, *own)[2].replace("\n", " ")
        kept.append(float(text.split("keeps about ")[1].split()[0]))
    assert kept[0] == kept[1] < kept[2]


def test_profile_counts_both_passes_of_a_search_as_cuda_graphs(capsys: pytest.CaptureFixture, space: Path) -> None:
    job = ["demo", "--rounds", 0, "-o", f"search.space={space}", "-o", "search.strategy=bilevel"]
    job += ["-o", "data.identities_per_batch=500", "--memory", 24]
    texts = [run_command(capsys, "profile", *job, "-o", f"trainer.compile={m}")[2] for m in ("off", "cuda-graphs")]
    lines = [text.replace("\n", " ") for text in texts]
    kept = [float(line.split("keeps about ")[1].split()[0]) for line in lines]
    batches = [int(line.split("largest batch ")[1].split()[0].strip(":").replace(",", "")) for line in lines]
    assert kept[1] == pytest.approx(2 * kept[0], rel=0.02)
    assert batches[1] == pytest.approx(batches[0] / 2, rel=0.02)
    assert "as CUDA graphs of both halves, in 32-true keeps" in lines[1]


def test_profile_says_what_a_step_keeps_and_what_fits(capsys: pytest.CaptureFixture, space: Path) -> None:
    job = ["demo", "--rounds", 0, "-o", f"search.space={space}", "-o", "data.height=32", "-o", "data.width=16"]
    job += ["-o", "search.strategy=bilevel"]
    assert "in 32-true keeps about" in (text := run_command(capsys, "profile", *job, "--memory", 24)[2])
    assert "fits on 24 GiB" in text
    text = run_command(capsys, "profile", *job, "-o", "data.identities_per_batch=4000", "--memory", 0.5)[2]
    text = text.replace("\n", " ")
    assert "does not fit on 0.5 GiB" in text
    batch = int(text.split("data.identities_per_batch=")[1].split()[0]) * config().data.images_per_identity
    found = measure_search(supernet(space, config()), config())
    assert found.peak(batch) < 0.5 * GIB < 1.2 * found.peak(batch)


def test_the_memory_of_a_genotype_without_a_job_is_refused(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    cell = "[('sep_conv_3x3', 0), ('skip_connect', 1)]"
    (file := tmp_path / "g.txt").write_text(
        f"Genotype(normal={cell}, normal_concat=[2], reduce={cell}, reduce_concat=[2])"
    )
    line = refused(capsys, "profile", file, "--memory", 24)
    assert line.endswith(f"for a job's settings, but {file} has none; name a configuration or a training")
