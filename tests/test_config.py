"""Configurations, run folders and the small files around them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml

from dcs_nas.config import Config, RetrainConfig, load_config
from dcs_nas.errors import InputError
from dcs_nas.files import atomic_path, write_json
from dcs_nas.registry import Registry
from dcs_nas.seeds import mix_seed
from dcs_nas.settings import make_paths_absolute, to_yaml
from dcs_nas.training.optimizers import learning_rate_factor
from tests.run_folders import start_run

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
SEARCH = "name: job\nsearch: {space: demo_cells}\n"


def _file(tmp_path: Path, text: str = SEARCH) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_shipped_configuration_is_valid(path: Path) -> None:
    config = load_config(path)
    assert config.search is not None or config.training is not None


def test_overrides_replace_values_and_make_sections(tmp_path: Path) -> None:
    config = load_config(_file(tmp_path), ["search.epochs=7", "retrain.lr=1e-3", "data.root=/data", "seed=4"])
    assert (config.search.epochs, config.retrain.lr, str(config.data.root), config.seed) == (7, 1e-3, "/data", 4)


def test_compiling_is_called_off_by_the_word_that_yaml_takes_for_false(tmp_path: Path) -> None:
    assert load_config(_file(tmp_path), ["trainer.compile=off"]).trainer.compile == "off"
    assert load_config(_file(tmp_path, SEARCH + "trainer: {compile: off}\n")).trainer.compile == "off"
    with pytest.raises(InputError, match=r"trainer.compile: Input should be 'off', 'cuda-graphs'.*found True"):
        load_config(_file(tmp_path), ["trainer.compile=on"])


def test_a_configuration_reads_back_as_it_was_written(tmp_path: Path) -> None:
    config = load_config(_file(tmp_path), ["retrain.backbone=resnet50", "loss.ib_kind=ibb", "loss.ib_weight=0.1"])
    assert load_config(_file(tmp_path, to_yaml(config))) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.epohcs=3", "unknown key 'search.epohcs'; did you mean epochs?"),
        ("serch.epochs=3", "unknown key 'serch'; did you mean search?"),
        ("search.epochs=many", "search.epochs: Input should be a valid integer"),
        ("search.epochs", "not of the form key=value"),
        ("name.x=1", "'name' is a value, not a section"),
        ("search.lr=-1", "search.lr: Input should be greater than 0, found -1"),
        ("search.warmup_epochs=50", "leaves no epoch of 50 in which alphas would move"),
        ("loss.ib_weight=0.5", "ib_weight is 0.5, but ib_kind is 'none'"),
        ("name=../up", "name: String should match pattern"),
        ("data.height=[", "is not valid YAML"),
    ],
)
def test_a_bad_setting_is_one_clear_line(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        load_config(_file(tmp_path), [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no section 'retrain'"):
        load_config(_file(tmp_path)).section("retrain")


@pytest.mark.parametrize("name", ["nowhere.yaml", "."])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="there is no file|is a folder"):
        load_config(tmp_path / name)


def _config(**changes: object) -> Config:
    return Config(name="job", **changes)


def test_a_run_folder_is_neither_replaced_nor_mixed_up(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(InputError, match="there is no run to resume"):
        start_run(folder, _config(), resume=True)
    start_run(folder, _config())
    (folder / "kept.txt").write_text("x")
    with pytest.raises(InputError, match="holds a run already; continue it with --resume or replace it"):
        start_run(folder, _config())
    with pytest.raises(InputError, match="began with seed=0, not 5"):
        start_run(folder, _config(seed=5), resume=True)
    with pytest.raises(InputError, match="exclude each other"):
        start_run(folder, _config(), resume=True, overwrite=True)
    assert start_run(folder, _config(), resume=True).config() == make_paths_absolute(_config())
    assert (folder / "kept.txt").exists()
    (folder / "architecture").mkdir()
    (folder / "inner/checkpoints").mkdir(parents=True)
    start_run(folder, _config(seed=5), overwrite=True)
    assert sorted(p.name for p in folder.iterdir() if p.name != ".lock") == [
        "config.yaml", "environment.json", "inner", "kept.txt"
    ]  # fmt: skip
    assert (folder / "inner/checkpoints").is_dir()


def test_a_folder_of_other_things_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="is not empty and holds no run"):
            start_run(tmp_path, _config(), overwrite=overwrite)
    assert (tmp_path / "thesis.tex").exists()


def test_the_environment_is_kept_with_the_run(tmp_path: Path) -> None:
    start_run(tmp_path / "run", _config())
    stamp = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert {"dcs_nas", "python", "torch", "nni"} <= set(stamp["versions"])
    assert stamp["machine"]["threads"] == torch.get_num_threads()


def test_the_stamp_of_a_process_without_torch_does_not_load_it() -> None:
    code = (
        "import sys; from dcs_nas.environment import describe_environment; "
        "describe_environment(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_that_goes_on_under_other_conditions_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = _config(trainer={"threads": 3})
    start_run(tmp_path / "run", config)
    start_run(tmp_path / "run", config, resume=True)
    assert not caplog.messages
    stamp = tmp_path / "run" / "environment.json"
    began = json.loads(stamp.read_text())
    began["machine"]["threads"], began["versions"]["torch"] = 64, "1.0"
    stamp.write_text(json.dumps(began))
    start_run(tmp_path / "run", config, resume=True)
    (said,) = caplog.messages
    assert f"torch 1.0 then, {version('torch')} now; threads 64 then, 3 now" in said
    assert said in (tmp_path / "run" / "log.txt").read_text()
    stamp.write_text("[" * 10_000)
    with pytest.raises(InputError, match=r"environment.json is damaged"):
        start_run(tmp_path / "run", config, resume=True)


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, float("nan"))
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text(str(1 / 0))
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_seeds_depend_on_every_part_of_their_key() -> None:
    seeds = {mix_seed(*key) for key in [(0,), (0, 0), (0, 1), (1, 0), (0, 0, 1), (0, 1, 0), (10,), (1, 0, 0)]}
    assert len(seeds) == 8


def test_a_registry_refuses_duplicates_and_lists_its_names() -> None:
    registry: Registry = Registry("thing")
    registry.register("one")(len)
    with pytest.raises(ValueError, match="thing 'one' is registered already"):
        registry.register("one")(max)
    with pytest.raises(InputError, match="unknown thing 'on'; did you mean one\\? known: one"):
        registry["on"]


def test_the_learning_rate_warms_up_and_falls() -> None:
    cosine = RetrainConfig(epochs=30, warmup_epochs=10, warmup_factor=0.1, lr=1.0, lr_min=0.1)
    factors = [learning_rate_factor(e, cosine) for e in (0, 5, 10, 20, 30)]
    assert factors == pytest.approx([0.1, 0.55, 1.0, 0.55, 0.1])
    steps = RetrainConfig(epochs=30, warmup_epochs=0, schedule="multistep", milestones=(10, 20))
    assert [learning_rate_factor(e, steps) for e in (0, 9.9, 10, 25)] == pytest.approx([1, 1, 0.1, 0.01])


def test_the_learning_rate_stays_flat_before_its_cosine_and_warms_up_in_steps() -> None:
    """SBS: warm-up in steps, flat, then a cosine; here 4 steps an epoch."""
    sbs = RetrainConfig(epochs=6, warmup_steps=6, warmup_factor=0.1, lr=1.0, lr_min=0.1, flat_epochs=2)
    factors = [learning_rate_factor(e, sbs, steps_per_epoch=4) for e in (0, 0.75, 1.5, 1.9, 2, 4, 6)]
    assert factors == pytest.approx([0.1, 0.55, 1, 1, 1, 0.55, 0.1])
    constant = RetrainConfig(epochs=6, warmup_epochs=2, warmup_factor=0.5, schedule="constant")
    assert [learning_rate_factor(e, constant) for e in (0, 1, 2, 5)] == [0.5, 0.75, 1, 1]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ("freeze_epochs: 1, freeze_steps: 5", "freeze_epochs and freeze_steps are both given; keep one of them"),
        ("optimizer: sgd, momentum: 0, nesterov: true", "nesterov is set, but momentum is 0; raise momentum"),
        ("epochs: 10, flat_epochs: 10", "flat_epochs is 10 of 10 epochs, so that no cosine follows; lower it, or set"),
        ("betas: [0.9, 1.0]", "betas.1: Input should be less than 1"),
        ("groups: {heads: {lr: 10}}", "unknown key 'retrain.groups.heads'; did you mean head"),
        ("freeze_epochs: 1}, loss: {identity_weight: 0", "retrain freezes the backbone, but loss.identity_weight is 0"),
        ("groups: {head: {lr: 0}}", "groups.head.lr: Input should be greater than 0"),
    ],
)
def test_settings_of_the_optimizer_that_do_not_fit_are_refused(tmp_path: Path, settings: str, line: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"{{retrain: {{{settings}}}}}\n")
    with pytest.raises(InputError, match=re.escape(line)):
        load_config(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"search": {"space": "demo_cells", "arch_betas": [1.5, 0.9]}}, "search.arch_betas.0"),
        ({"search": {"space": "demo_cells", "lr": 0.001, "lr_min": 0.01}}, "lr_min 0.01 is above lr 0.001"),
        ({"search": {"space": "demo_cells", "trials": {"gpus": [-1]}}}, "search.trials.gpus.0"),
        ({"loss": {"ib_grid": [0, 4]}}, "loss.ib_grid.0"),
        ({"loss": {"ib_grid": [True, 4]}}, "loss.ib_grid: true and false are no numbers"),
        ({"loss": {"ib_temperature": -3}}, "loss.ib_temperature"),
        ({"data": {"std": [0, 0, 0]}}, "data.std.0"),
        ({"extensions": ["~nobody_of_that_name/x.py"]}, ""),
    ],
)
def test_values_that_no_job_can_use_are_refused_by_name(change: dict, said: str, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump({"name": "a", **change}))
    if not said:
        assert "~nobody_of_that_name" in str(load_config(file).extensions[0])
        return
    with pytest.raises(InputError, match=re.escape(said)):
        load_config(file)
