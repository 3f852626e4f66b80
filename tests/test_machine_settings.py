"""Section ``trainer``: the settings refuse what no machine takes, the start of a job what this one does not have."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dcs_nas.config import Config, TrainerConfig, load_config
from dcs_nas.errors import InputError
from dcs_nas.runs import RunFolder
from dcs_nas.space import find_shipped_file
from dcs_nas.strategies.job import run_search
from dcs_nas.training import trainer
from dcs_nas.training.devices import devices_and_machines, require_consistent
from dcs_nas.training.process_group import process_group
from dcs_nas.training.retrain_job import run_retraining

JOB = """
name: tiny
data: {name: market1501, height: 32, width: 16, identities_per_batch: 4, images_per_identity: 2}
retrain: {backbone: resnet10_small, epochs: 1, warmup_epochs: 0}
trainer: {threads: 1}
"""


@pytest.fixture
def job(people: Path, tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(JOB.replace("market1501,", f"market1501, root: {people}, cache: {tmp_path / 'cache'},"))
    return path


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        *((f"precision={name}", "did you mean 16-mixed?") for name in ("16", "fp16", "float16", "half")),
        *((f"precision={name}", "did you mean bf16-mixed?") for name in ("bf16", "BF16", "bfloat16", "bf16-mixd")),
        *((f"precision={name}", "did you mean 32-true?") for name in ("32", "fp32", "float32", "tf32")),
        *((f"precision={name}", "did you mean 64-true?") for name in ("64", "fp64", "double")),
        *((f"precision={name}", "use bf16-mixed") for name in ("16-true", "bf16-true")),
        ("precision=transformer-engine", "Input should be '32-true', 'bf16-mixed'"),
        ("accelerator=GPU", "did you mean gpu?"),
        ("accelerator=cude", "did you mean cuda?"),
        ("accelerator=tpu", "Input should be 'auto', 'cpu', 'gpu'"),
        *(
            (f"devices={value}", "expected auto, a number of at least 1, -1 for all, or the numbers of GPUs")
            for value in ("0", "-2", "abc", "1.5", "'0,0'", "'0,-1'", "','", "true", "[0]", "null", "all", "99999")
        ),
        ("num_nodes=0", "greater than or equal to 1"),
        ("threads=0", "greater than or equal to 1"),
        ("threads=100000", "less than or equal to 4096"),
        ("timeout_minutes=0", "greater than 0"),
        ("deterministic=maybe", "valid boolean"),
        ("compile=defalt", "did you mean default?"),
        ("matmul_precision=hi", "Input should be 'highest', 'high' or 'medium'"),
        ("nonfinite=skp", "did you mean skip?"),
        ("loggers=[tensorbord]", "did you mean tensorboard?"),
        ("strategy=ddp", "unknown key 'trainer.strategy'; known: accelerator, devices"),
    ],
)
def test_a_value_that_no_machine_takes_is_refused_with_the_nearest_right_one(
    job: Path, setting: str, said: str
) -> None:
    with pytest.raises(InputError) as refused:
        load_config(job, [f"trainer.{setting}"])
    assert said in str(refused.value)
    near = str(refused.value).partition("did you mean ")[2].partition("?")[0]
    if near:
        value = f"[{near}]" if "loggers" in setting else near
        load_config(job, [f"trainer.{setting.partition('=')[0]}={value}"])


@pytest.mark.parametrize("devices", ["auto", "-1", "1", "2", "'0,2'", "'0,'"])
def test_devices_are_named_by_number_or_one_by_one(job: Path, devices: str) -> None:
    assert str(load_config(job, [f"trainer.devices={devices}"]).trainer.devices) == devices.strip("'")


@pytest.mark.parametrize(
    ("gpus", "trainer", "said"),
    [
        (0, {"accelerator": "gpu"}, "accelerator is gpu, but .* shows no such device .* set trainer.accelerator=auto"),
        (0, {"accelerator": "cuda"}, "accelerator is cuda, but .* shows no such device"),
        (2, {"accelerator": "mps"}, "accelerator is mps, but .* shows no such device"),
        (0, {"devices": "0,2"}, "devices is 0,2, but this machine shows no GPU; set trainer.devices=1"),
        (2, {"accelerator": "cpu", "devices": "0,1"}, "devices is 0,1, but this machine shows no GPU"),
        (2, {"devices": "0,2"}, "devices is 0,2, but this machine shows 2 GPUs, numbered from 0; set .*devices=2"),
        (2, {"devices": 4}, "devices is 4, but this machine shows 2 GPUs"),
        (2, {"num_nodes": 2}, "num_nodes=2 needs a launcher"),
        (0, {"devices": 3}, "identities_per_batch=16 does not divide among 3 processes"),
    ],
)
def test_what_the_machine_does_not_have_is_refused_at_start(
    gpus: int, trainer: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match=said):
        require_consistent(Config.model_validate({"name": "a", "trainer": trainer}), None)


@pytest.mark.parametrize("setting", ["accelerator=gpu", "accelerator=mps", "devices='0,2'", "loggers=[wandb]"])
def test_nothing_is_written_before_the_machine_is_checked(
    job: Path, setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr("dcs_nas.training.devices.find_spec", lambda name: None if name == "wandb" else name)
    with pytest.raises(InputError, match=setting.partition("=")[0]):
        run_retraining(load_config(job, [f"trainer.{setting}"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_all_devices_of_a_cpu_are_one(job: Path) -> None:
    settings = load_config(job, ["trainer.accelerator=cpu", "trainer.devices=-1"]).trainer
    assert devices_and_machines(settings) == (1, 1)


def test_every_setting_of_the_section_is_in_this_sweep() -> None:
    (cases,) = (
        mark.args[1]
        for mark in test_a_value_that_no_machine_takes_is_refused_with_the_nearest_right_one.pytestmark  # type: ignore[attr-defined]
    )
    assert {case[0].partition("=")[0] for case in cases} - {"strategy"} == set(TrainerConfig.model_fields)


def test_threads_and_precision_of_a_job_are_set_before_its_first_computation() -> None:
    config = Config.model_validate({"name": "a", "trainer": {"threads": 2, "matmul_precision": "high"}})
    with process_group(config):
        assert torch.get_num_threads() == 2
        assert torch.get_float32_matmul_precision() == "high"
    with process_group(Config.model_validate({"name": "a"}), training=False):
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32


def test_each_training_of_a_process_is_a_run_of_its_own_in_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []

    class FakeLogger:
        experiment = SimpleNamespace(finish=lambda: ended.append("run"))

    def fit(*_: Any, **__: Any) -> None:
        raise SystemExit

    monkeypatch.setattr(trainer, "WandbLogger", FakeLogger)
    fake: Any = SimpleNamespace(fit=fit, loggers=[FakeLogger(), object()], max_epochs=1)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(fake, None, None, RunFolder(Path("nowhere")))  # type: ignore[arg-type]
    assert ended == ["run"]


@pytest.mark.parametrize("strategy", ["nni.darts", "nni.gumbel"])
def test_nnis_searches_are_refused_in_float16(strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcs_nas.training.process_group.require_consistent", lambda *_, **__: None)
    path = find_shipped_file("configs", "demo")
    config = load_config(path, [f"search.strategy={strategy}", "trainer.precision=16-mixed"])
    with pytest.raises(InputError, match=f"16-mixed, but {strategy} clips gradients while they are scaled; use"):
        run_search(config, tmp_path / "run")
