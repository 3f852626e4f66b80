"""The script that runs every shipped configuration end to end: what it runs, and how it fails."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dcs_nas.config import Config, load_config
from dcs_nas.data.datamodule import ReidData

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_configs", ROOT / "scripts" / "check_configs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_configs"] = module
    spec.loader.exec_module(module)
    return module


def test_every_shipped_configuration_is_on_a_way_that_trains_what_it_searches(script: ModuleType) -> None:
    ways = script.find_ways([])
    assert {name for way in ways for name in way.name.split(", ")} == {
        path.stem for path in (ROOT / "configs").glob("*.yaml") if load_config(path).pretrain is None
    }
    for way in ways:
        retrain = load_config(way.retrain).retrain
        assert retrain is not None
        assert (way.search is None) == (retrain.backbone is not None)
    (way,) = script.find_ways(["market1501_search"])
    assert way.name == "market1501_search, market1501_retrain"
    (way,) = script.find_ways(["tune_workers"])
    assert way.name == "market1501_darts, tune_workers"


def test_the_data_make_two_steps_an_epoch_of_every_composition_of_batches(script: ModuleType, tmp_path: Path) -> None:
    seen: list[object] = []
    for way in script.find_ways([]):
        files = [path for path in (way.search, way.retrain) if path is not None]
        configs = [load_config(path) for path in files]
        composition = [
            (c.data.identities_per_batch, c.data.images_per_identity, c.data.sampler,
             c.search and (c.search.weight_share, c.search.validation), c.retrain and c.retrain.validation)
            for c in configs
        ]  # fmt: skip
        if composition in seen:
            continue
        seen.append(composition)
        folder = tmp_path / str(len(seen))
        script.write_people(folder / "people", configs, height=32, width=16)
        for file, config in zip(files, configs):
            own = script.overrides(config, folder / "people")
            _check_steps(load_config(file, [*own[1::2], "data.height=16", "data.width=8", f"results={folder}"]))
    assert len(seen) > 5


def _check_steps(config: Config) -> None:
    data = ReidData(config)
    if config.search is not None:
        halves, _ = data.load_search_halves(share=config.search.weight_share, validation=config.search.validation)
        assert [len(data.make_identity_loader(images, stream=0)) for images in halves.values()] == [2, 2]
    if config.retrain is not None:
        images, _ = data.load_training_and_validation(share=config.retrain.validation)
        assert len(data.make_identity_loader(images, stream=0)) == 2


def test_a_stage_that_fails_is_named_and_fails_the_script(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    job = "name: bad\ndata: {height: 16, width: 8, identities_per_batch: 2, images_per_identity: 2}\n"
    (tmp_path / "bad.yaml").write_text(f"{job}retrain: {{backbone: resnet10_smal}}\n")
    monkeypatch.setattr(script, "CONFIGS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["check_configs.py"])
    assert script.main() == 1
    assert "bad: retrain" in (said := capsys.readouterr().err)
    assert "failed in retrain, exit code 1: dcs-nas: unknown backbone 'resnet10_smal'" in said
    with pytest.raises(SystemExit, match="no such configuration: worse; known: bad"):
        script.find_ways(["worse"])
