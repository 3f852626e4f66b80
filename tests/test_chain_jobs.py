"""A chain genotype through the jobs and commands: trained, loaded again, drawn; settings that chains do not know."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dcs_nas.cli import main
from dcs_nas.config import Config, DataConfig, RetrainConfig, SearchConfig
from dcs_nas.errors import InputError
from dcs_nas.models.build import build_fixed, build_supernet
from dcs_nas.models.chain_kind import ChainSupernet
from dcs_nas.models.heads import ReidNetwork
from dcs_nas.models.relaxation import GumbelSoftmax
from dcs_nas.runs import read_metrics
from dcs_nas.settings import to_yaml
from dcs_nas.strategies import bilevel
from dcs_nas.strategies.job import run_search
from dcs_nas.training.evaluate import load_trained
from dcs_nas.training.retrain_job import run_retraining
from dcs_nas.training.supernet_weights import inherit
from tests.chains import chain_space, random_chain
from tests.run_folders import start_run

STAGES = [
    {"blocks": 1, "stride": 2, "widths": [4, 8], "kernels": [3], "attention": ["none", "dcs"]},
    {"blocks": 2, "widths": [8], "kernels": [3, 5], "expansions": [2], "skip": True},
]
DATA = DataConfig(height=32, width=16)


def _config(people: Path) -> Config:
    data = {"name": "market1501", "root": people, "height": 32, "width": 16, "identities_per_batch": 4}
    retrain = {"epochs": 1, "warmup_epochs": 0}
    trainer = {"accelerator": "cpu", "threads": 1}
    return Config.model_validate({"name": "chain", "data": data, "retrain": retrain, "trainer": trainer})


def test_a_chain_genotype_is_trained_and_loaded_again(people: Path, tmp_path: Path) -> None:
    file = tmp_path / "genotype.yaml"
    file.write_text(random_chain(chain_space(STAGES), 0).to_yaml())
    run_retraining(_config(people), tmp_path / "run", genotype=file)
    _, network = load_trained(tmp_path / "run")
    assert network(torch.randn(2, 3, 32, 16)).shape == (2, 24)


def _searched(folder: Path, people: Path, space_file: Path, network: ReidNetwork) -> Path:
    """A run folder as a search leaves it, with the weights of ``network``."""
    config = _config(people).model_copy(update={"search": SearchConfig(strategy="bilevel", space=str(space_file))})
    run = start_run(folder, config)
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    (run / "checkpoints").mkdir(exist_ok=True)
    torch.save({"state_dict": state}, run / "checkpoints" / "last.ckpt")
    return folder


def test_a_network_inherits_from_the_supernet_of_a_search(people: Path, tmp_path: Path) -> None:
    space_file = tmp_path / "tiny.yaml"
    space_file.write_text(to_yaml(chain_space(STAGES)))
    supernet = build_supernet(chain_space(STAGES), SearchConfig(strategy="bilevel", space="tiny"), DATA, 5)
    folder = _searched(tmp_path / "search", people, space_file, supernet)
    genotype = random_chain(chain_space(STAGES), 0)
    fixed = build_fixed(RetrainConfig(), DATA, 8, genotype)
    inherit(fixed, genotype, folder)
    images = torch.randn(2, 3, 32, 16)
    backbone = supernet.backbone.eval()
    assert isinstance(backbone, ChainSupernet)
    with backbone.fix_to(genotype):
        torch.testing.assert_close(fixed.backbone.eval()(images), backbone(images), rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="the genotype to train belongs to space 'tiny'"):
        inherit(fixed, random_chain(chain_space(STAGES[:1]), 0), folder)


def test_attention_of_a_width_that_is_drawn_late_is_trained_by_a_gpus_optimizers(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bilevel, "choose_fused", lambda module: True)  # which a CPU has too
    space_file = tmp_path / "tiny.yaml"
    stage = {"blocks": 1, "stride": 2, "widths": [4, 6, 8, 10], "kernels": [3], "attention": ["none", "harmonious"]}
    space_file.write_text(to_yaml(chain_space([stage])))
    search = SearchConfig(strategy="bilevel", space=str(space_file), epochs=2, relaxation={"kind": "gumbel_softmax"})
    run_search(_config(people).model_copy(update={"search": search}), tmp_path / "run")
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert len(rows) == 2


def test_a_run_that_is_no_search_gives_nothing_to_inherit(people: Path, tmp_path: Path) -> None:
    start_run(tmp_path / "run", _config(people))
    fixed = build_fixed(RetrainConfig(), DATA, 8, random_chain(chain_space(STAGES), 0))
    with pytest.raises(InputError, match="is no search run: its config.yaml has no section 'search'"):
        inherit(fixed, random_chain(chain_space(STAGES), 0), tmp_path / "run")


def test_a_chain_is_trained_at_the_size_of_the_images() -> None:
    genotype = random_chain(chain_space([{**STAGES[0], "attention": ["rga"]}]), 0)
    network = build_fixed(RetrainConfig(), DataConfig(height=48, width=24), 5, genotype).eval()
    assert network(torch.randn(2, 3, 48, 24)).shape == (2, 24)


def test_a_chain_is_drawn_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = []
    for seed in (0, 1):
        files.append(tmp_path / f"{seed}.yaml")
        files[-1].write_text(random_chain(chain_space(STAGES), seed).to_yaml())
    for given in (files[:1], files):
        with pytest.raises(SystemExit) as end:
            main(["visualize", *map(str, given), "--out", str(tmp_path), "--format", "svg"])
        assert end.value.code == 0
    assert (tmp_path / "chain.svg").is_file()
    assert "difference_chain.svg" in capsys.readouterr().out


def test_a_search_gets_the_supernet_of_a_chain_with_its_relaxation() -> None:
    search = SearchConfig.model_validate(
        {"space": "tiny", "relaxation": {"kind": "gumbel_softmax", "temperature": 5.0}}
    )
    network = build_supernet(chain_space(STAGES), search, DATA, 5)
    assert isinstance(network.backbone, ChainSupernet)
    relaxation = next(iter(network.backbone.mixtures.values())).relaxation
    assert isinstance(relaxation, GumbelSoftmax)
    assert relaxation.temperature == 5.0
    assert network(torch.randn(4, 3, 32, 16)).features.shape == (4, 24)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cells": 4}, "search.cells is for spaces of cells, and this one is of kind chain; leave it out"),
        ({"relaxation": {"partial_channels": 4}}, "search.relaxation.partial_channels is for spaces of cells"),
        ({"guard": {"max_skips": 2}}, "search.guard.max_skips is for spaces of cells"),
    ],
)
def test_what_only_cells_know_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_supernet(
            chain_space(STAGES),
            SearchConfig.model_validate({"strategy": "bilevel", "space": "tiny", **settings}),
            DATA,
            5,
        )
