"""Steps that are not finite, and memory that runs out: what stops, what is left out, what is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from dcs_nas.config import Config, load_config
from dcs_nas.data.datamodule import ReidData
from dcs_nas.errors import InputError, TrainingError
from dcs_nas.runs import read_metrics
from dcs_nas.strategies.job import run_search
from dcs_nas.strategies.passes import SearchLoss
from dcs_nas.training.checkpoints import load_checkpoint
from dcs_nas.training.error_messages import training_errors
from dcs_nas.training.features import extract_features
from dcs_nas.training.nonfinite import NonFiniteError, StepGuard, clip_gradients, require_finite
from dcs_nas.training.retrain_job import run_retraining
from dcs_nas.training.retraining import Retraining
from tests.test_jobs import JOB, SPACE


@pytest.fixture(scope="module")
def job(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration file of two epochs."""
    folder = tmp_path_factory.mktemp("errors")
    (folder / "space.yaml").write_text(SPACE)
    data = yaml.safe_load(JOB)
    data["data"] |= {"root": str(people), "cache": str(folder / "cache")}
    data["search"] |= {"strategy": "bilevel", "space": str(folder / "space.yaml"), "epochs": 2}
    data["retrain"] |= {"epochs": 2, "backbone": "osnet_x1_0"}
    (folder / "job.yaml").write_text(yaml.safe_dump(data))
    return folder / "job.yaml"


def _spoiled(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, calls: set[int], change: Any) -> None:
    """Let calls of ``owner.name``, counted from 0, give what ``change`` makes of the true result."""
    true, count = getattr(owner, name), iter(range(10**6))

    def spoil(*arguments: Any, **options: Any) -> Any:
        result = true(*arguments, **options)
        return change(result) if next(count) in calls else result

    monkeypatch.setattr(owner, name, spoil)


def _lost(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**terms, "triplet": terms["triplet"] * float("nan"), "loss": terms["loss"] * float("nan")}


def test_an_operation_without_a_deterministic_kernel_is_named_with_the_setting(job: Path) -> None:
    def step() -> None:
        torch.use_deterministic_algorithms(True)
        try:
            torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))
        finally:
            torch.use_deterministic_algorithms(False)

    said = "put_ has no deterministic kernel on this device; set trainer.deterministic=false"
    with pytest.raises(TrainingError, match=said), training_errors(load_config(job), "search"):
        step()


def test_a_loss_that_is_not_finite_is_named_with_step_term_and_files() -> None:
    terms = {"identity": torch.tensor(1.0), "triplet": torch.tensor(float("inf")), "loss": torch.tensor(float("inf"))}
    with pytest.raises(NonFiniteError, match=r"the term 'triplet' became inf in step 3 of epoch 2; .*a.jpg, b.jpg$"):
        require_finite(terms, where="step 3 of epoch 2", files=["a.jpg", "b.jpg"])


def test_a_gradient_that_is_not_finite_is_named_and_a_scaler_is_left_to_itself() -> None:
    layer = nn.Linear(2, 2)
    layer.weight.grad, layer.bias.grad = torch.ones(2, 2), torch.tensor([1.0, float("nan")])
    with pytest.raises(NonFiniteError, match=r"the gradient of 'bias' is not finite in step 1; .*a.jpg"):
        clip_gradients(layer.named_parameters(), 1.0, scaled=False, where="step 1", files=["a.jpg"])
    clip_gradients(layer.named_parameters(), 1.0, scaled=True, where="step 1", files=[])


def test_gradients_are_clipped_to_their_joint_norm() -> None:
    layer = nn.Linear(3, 1)
    layer.weight.grad, layer.bias.grad = torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([4.0])
    clip_gradients(layer.named_parameters(), 1.0, scaled=False, where="", files=[])
    assert layer.weight.grad.tolist() == [[pytest.approx(0.6), 0, 0]]
    assert layer.bias.grad.tolist() == [pytest.approx(0.8)]


def test_a_step_left_out_changes_neither_gradients_nor_statistics() -> None:
    norm = nn.BatchNorm1d(2)
    guard = StepGuard(norm, skip=True)
    with guard.step():
        norm(torch.tensor([[1.0, float("nan")], [2.0, 3.0]])).sum().backward()
        raise NonFiniteError("lost")
    with guard.step():
        norm(torch.tensor([[1.0, 0.0], [3.0, 2.0]]))
    assert norm.running_mean is not None
    assert norm.weight.grad is None
    assert norm.running_mean.tolist() == pytest.approx([0.2, 0.1])
    assert guard.end_epoch() == {"skipped": 1.0}


def test_an_epoch_without_any_step_is_an_error_even_where_steps_may_be_left_out() -> None:
    guard = StepGuard(nn.Linear(1, 1), skip=True)
    with guard.step():
        raise NonFiniteError("the term 'loss' became nan")
    with pytest.raises(TrainingError, match="all 1 steps of the epoch were left out, the last since the term 'loss'"):
        guard.end_epoch()


@pytest.mark.parametrize("half", ["weights", "architecture"])
def test_a_search_stops_at_a_loss_that_is_not_finite(
    half: str, job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = SearchLoss.terms
    monkeypatch.setattr(
        SearchLoss, "terms", lambda self, h, *rest: (_lost if h == half else dict)(true(self, h, *rest))
    )
    with pytest.raises(NonFiniteError, match=rf"the term 'triplet' became nan in the {half} step 1 of epoch 1; .*jpg"):
        run_search(load_config(job), tmp_path / "run")


def test_a_search_may_leave_such_steps_out_and_stays_finite(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _spoiled(monkeypatch, SearchLoss, "terms", {1}, _lost)
    run_search(load_config(job, ["trainer.nonfinite=skip"]), tmp_path / "run")
    _check_left_out(tmp_path / "run")


def test_a_retraining_may_leave_such_steps_out_and_stays_finite(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true, count = Retraining.manual_backward, iter(range(10**6))

    def backward(self: Retraining, loss: Tensor) -> None:
        true(self, loss * float("nan") if next(count) == 1 else loss)

    monkeypatch.setattr(Retraining, "manual_backward", backward)
    run_retraining(load_config(job, ["trainer.nonfinite=skip"]), tmp_path / "run")
    _check_left_out(tmp_path / "run")


def _check_left_out(run: Path) -> None:
    assert read_metrics(run / "metrics.csv")[0]["skipped"] == 1
    assert "step left out" in (run / "log.txt").read_text()
    state = load_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(torch.isfinite(value).all() for value in state.values() if value.is_floating_point())


def test_leaving_out_is_refused_where_nni_makes_the_steps_of_a_search(job: Path, tmp_path: Path) -> None:
    config = load_config(job, ["search.strategy=nni.darts", "trainer.nonfinite=skip"])
    with pytest.raises(InputError, match="trainer.nonfinite is skip, but the steps of nni.darts are NNI's own"):
        run_search(config, tmp_path / "search")
    assert not (tmp_path / "search").exists()


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ("search", r"lower data.identities_per_batch \(now 16\).*search.checkpoint_activations=true"),
        ("retrain", r"lower data.identities_per_batch \(now 16\) or data.images_per_identity \(4\), data.height"),
        ("evaluate", r"lower data.test_batch \(now 256\)$"),
    ],
)
@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("[enforce] DefaultCPUAllocator: no")],
)
def test_out_of_memory_names_the_settings_to_lower(job: Any, said: str, error: Exception) -> None:
    config = Config.model_validate({"name": "m", "search": {"strategy": "bilevel", "space": "demo_cells"}})
    with pytest.raises(TrainingError, match="out of memory; " + said), training_errors(config, job):
        raise error
    config = config.model_copy(update={"trainer": config.trainer.model_copy(update={"compile": "cuda-graphs"})})
    with pytest.raises(TrainingError) as caught, training_errors(config, job):
        raise error
    assert ("set trainer.compile=off: CUDA graphs keep" in str(caught.value)) == (job != "evaluate")
    assert "checkpoint_activations" not in str(caught.value)


def test_real_exhaustion_of_memory_is_recognised_and_other_errors_pass() -> None:
    config = Config(name="m")
    with pytest.raises(TrainingError, match="out of memory"), training_errors(config, "evaluate"):
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="other"), training_errors(config, "evaluate"):
        raise RuntimeError("other")


def test_a_compiler_that_fails_is_one_line() -> None:
    from torch._dynamo.exc import BackendCompilerFailed

    config = Config.model_validate({"name": "m", "trainer": {"compile": "default"}})
    said = r"trainer.compile 'default' failed: .*no g\+\+.*trainer.compile=off"
    with pytest.raises(TrainingError, match=said), training_errors(config, "search"):
        raise BackendCompilerFailed(lambda: None, RuntimeError("no g++"), None)


def test_features_that_are_not_finite_name_their_images(job: Path) -> None:
    data = ReidData(load_config(job))
    query, _ = data.test()

    class Broken(nn.Linear):
        def forward(self, images: Tensor, cameras: Tensor) -> Tensor:
            features = super().forward(images.mean((2, 3)))
            features[-1] = float("nan")
            return features

    said = rf"the features of 1 of {len(query)} images are NaN.*{query.records[-1].path}"
    with pytest.raises(TrainingError, match=said):
        extract_features(Broken(3, 2), data, query)
