"""Search, retraining and evaluation end to end, on eight synthetic people."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.optim.optimizer import register_optimizer_step_pre_hook

from dcs_nas.config import Config, load_config
from dcs_nas.data.datamodule import ReidData
from dcs_nas.errors import InputError, TrainingError
from dcs_nas.runs import read_metrics
from dcs_nas.space import load_genotype
from dcs_nas.strategies.job import run_search
from dcs_nas.training.checkpoints import load_checkpoint
from dcs_nas.training.evaluate import evaluate_run, load_trained
from dcs_nas.training.features import extract_features
from dcs_nas.training.retrain_job import run_retraining
from dcs_nas.training.retraining import Retraining
from tests.command_line import refused, run_command
from tests.run_folders import foreign_names
from tests.two_processes import start, wait_for

SPACE = """
cells: 2
channels: 4
nodes: 2
reductions: [1]
stem: stride2
operations: [none, skip_connect, max_pool_3x3, sep_conv_3x3, dcs]
attention: [none, dcs, harmonious, rga]
"""
JOB = """
name: tiny
seed: 3
data: {name: market1501, height: 32, width: 16, identities_per_batch: 4, images_per_identity: 2}
augment: {pad: 2}
loss: {ib_kind: ibb, ib_weight: 0.1, ib_grid: [4, 2], ib_temperature: auto}
search: {strategy: bilevel, epochs: 3, arch_lr: 0.1}
retrain: {epochs: 3, lr: 0.005, warmup_epochs: 1}
trainer: {accelerator: cpu, threads: 1}
"""


@pytest.fixture(scope="module")
def job(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration file beside its space."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "space.yaml").write_text(SPACE)
    path = folder / "job.yaml"
    data = yaml.safe_load(JOB)
    data["data"] |= {"root": str(people), "cache": str(folder / "cache")}
    data["search"]["space"] = str(folder / "space.yaml")
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.fixture(scope="module")
def searched(job: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an uninterrupted search."""
    folder = tmp_path_factory.mktemp("runs") / "search"
    run_search(load_config(job), folder)
    return folder


@pytest.fixture(scope="module")
def trained(job: Path, searched: Path) -> Path:
    """The run folder of an uninterrupted retraining of what was searched."""
    folder = searched.parent / "retrain"
    run_retraining(load_config(job), folder, genotype=searched / "genotype.yaml")
    return folder


def _alphas(folder: Path) -> dict[str, torch.Tensor]:
    state = load_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
    return {name: value for name, value in state.items() if name.endswith(".alpha")}


def _differing(a: Path, b: Path) -> list[str]:
    """Names of the tensors that are not bit-equal in the last checkpoints of two runs; NaN equals NaN."""
    first, second = (load_checkpoint(f / "checkpoints" / "last.ckpt")["state_dict"] for f in (a, b))
    assert first.keys() == second.keys()
    return [name for name, value in first.items() if not _bit_equal(value, second[name])]


def _bit_equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a, b) or bool(a.isnan().all() and b.isnan().all())


def test_a_search_leaves_everything_behind_that_it_promises(searched: Path) -> None:
    genotype = load_genotype(searched / "genotype.yaml")
    assert genotype.space.name == "space"
    assert genotype.origin.epoch == 2
    for epoch in range(3):
        record = yaml.safe_load((searched / "architecture" / f"epoch_{epoch:03d}.yaml").read_text())
        assert set(record["alphas"]) == {"normal", "reduce", "normal_attention", "reduce_attention"}
    assert load_genotype(searched / "architecture" / "epoch_002.yaml") == genotype
    rows = read_metrics(searched / "metrics.csv")
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    terms = {"loss", "identity", "triplet", "ib", "ib_compression", "ib_relevance"}
    for half in ("weights", "architecture"):
        assert {f"{half}/{term}" for term in terms} <= set(rows[0])
    assert rows[1]["tau"] == pytest.approx(5.0 * 0.956)
    assert rows[2]["weights/ib"] != 0
    assert list((searched / "tensorboard").glob("events*"))
    log = (searched / "log.txt").read_text()
    assert re.search(r"32-true: [\d,]+ parameters, \d+ batches of 8 images an epoch\n", log)
    assert not foreign_names(searched)
    assert "epoch 3/3" in log


def test_alphas_move_in_every_epoch_and_the_loss_falls(searched: Path) -> None:
    records = [yaml.safe_load(p.read_text())["alphas"] for p in sorted((searched / "architecture").iterdir())]
    for name in records[0]:
        assert records[0][name] != records[1][name] != records[2][name]
    rows = read_metrics(searched / "metrics.csv")
    assert rows[2]["weights/identity"] < rows[0]["weights/identity"]


def test_another_seed_gives_other_bits(job: Path, searched: Path, tmp_path: Path) -> None:
    run_search(load_config(job, ["seed=4", "search.epochs=1"]), tmp_path / "other")
    assert _alphas(tmp_path / "other").keys() == _alphas(searched).keys()
    assert not torch.equal(_alphas(tmp_path / "other").popitem()[1], _alphas(searched).popitem()[1])


def test_a_killed_search_resumes_to_the_same_bits(job: Path, searched: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    process = start(["search", str(job), "--out", str(folder)], tmp_path / "said.txt")
    wait_for(folder / "architecture" / "epoch_001.yaml", process)
    process.kill()
    process.join()
    assert not (folder / "genotype.yaml").exists()
    run_search(load_config(job), folder, resume=True)
    assert not _differing(searched, folder)
    assert (folder / "genotype.yaml").read_bytes() == (searched / "genotype.yaml").read_bytes()
    assert [r["epoch"] for r in read_metrics(folder / "metrics.csv")] == [0, 1, 2]


def test_an_interrupted_search_says_so_and_exits_with_2(job: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    process = start(["search", str(job), "--out", str(folder), "-o", "search.epochs=500"], tmp_path / "said.txt")
    wait_for(folder / "architecture" / "epoch_000.yaml", process)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    process.kill()
    assert process.exitcode == 2
    said = (tmp_path / "said.txt").read_text()
    assert "interrupted; what was saved stays: search, pretrain, retrain and tune resume with --resume" in said
    assert "Traceback" not in said


def test_resuming_a_finished_search_changes_nothing(job: Path, searched: Path) -> None:
    before = (searched / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    assert run_search(load_config(job), searched, resume=True) == load_genotype(searched / "genotype.yaml")
    assert (searched / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before


def test_a_retraining_learns_and_is_evaluated(trained: Path) -> None:
    rows = read_metrics(trained / "metrics.csv")
    assert not foreign_names(trained)
    assert rows[-1]["train/identity"] < rows[0]["train/identity"]
    found = evaluate_run(trained).report
    assert set(found) >= {"mAP", "mINP", "cmc", "protocol", "queries", "versions", "seed", "data"}
    assert 0 < found["mAP"] <= found["cmc"][-1] <= 1
    assert found["queries"]["used"] == found["queries"]["total"] == 12
    assert evaluate_run(trained).report["mAP"] == found["mAP"]
    flipped = evaluate_run(trained, flip=True, rerank=True).report
    assert flipped["flip"] is True
    assert flipped["protocol"]["rerank"]["k1"] == 20
    histogram = evaluate_run(trained, features="color-histogram").report
    assert histogram["features"] == "color-histogram"
    assert histogram["protocol"]["metric"] == "euclidean"


def test_a_killed_retraining_resumes_to_the_same_bits(job: Path, searched: Path, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    arguments = ["retrain", str(job), "--genotype", str(searched / "genotype.yaml"), "--out", str(folder)]
    process = start(arguments, tmp_path / "said.txt")
    wait_for(folder / "checkpoints" / "last.ckpt", process)
    process.kill()
    process.join()
    run_retraining(load_config(job), folder, genotype=searched / "genotype.yaml", resume=True)
    assert not _differing(trained, folder)


def test_held_out_people_choose_the_best_checkpoint(
    job: Path, searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    changes = ["retrain.validation=0.3", "retrain.validate_every=1", "loss.center_weight=0.0005"]
    overrides = [word for change in changes for word in ("-o", change)]
    given = ["--genotype", searched / "genotype.yaml", "--out", tmp_path / "held"]
    code, out, _ = run_command(capsys, "retrain", job, *given, *overrides)
    assert code == 0
    scores = [row["validation/mAP"] for row in read_metrics(tmp_path / "held" / "metrics.csv")]
    assert len(scores) == 3
    assert "held-out mAP" in out
    assert f"{100 * scores[-1]:.2f} %" in out
    _, network = load_trained(tmp_path / "held", checkpoint="best")
    best = load_checkpoint(tmp_path / "held" / "checkpoints" / "best.ckpt")
    assert best["epoch"] == scores.index(max(scores))
    assert network.heads[0].classifier.out_features == 6
    assert evaluate_run(tmp_path / "held", checkpoint="best").report["checkpoint"] == "best"


@pytest.mark.parametrize(
    "changes", [["retrain.optimizer=sgd", "retrain.schedule=multistep"], ["retrain.optimizer=adamw"]]
)
def test_a_named_backbone_with_attention_is_trained(job: Path, tmp_path: Path, changes: list[str]) -> None:
    options = ["retrain.backbone=resnet10_small", "retrain.backbone_options={attention: dcs}", "retrain.epochs=1"]
    run_retraining(load_config(job, [*options, *changes]), tmp_path / "run")
    assert any("attention" in name for name, _ in load_trained(tmp_path / "run")[1].named_parameters())


def test_another_width_and_depth_can_be_trained_than_was_searched(job: Path, searched: Path, tmp_path: Path) -> None:
    config = load_config(job, ["retrain.channels=6", "retrain.cells=4", "retrain.epochs=1"])
    run_retraining(config, tmp_path / "wide", genotype=searched / "genotype.yaml")
    _, network = load_trained(tmp_path / "wide")
    assert len(network.backbone.cells) == 4
    assert network.num_features == 6 * 2 * 2


def test_a_run_is_evaluated_on_another_data_set(trained: Path, people: Path) -> None:
    found = evaluate_run(trained, data_name="synthetic", root=people).report
    assert found["data"]["name"] == "synthetic"
    assert found["trained_on"] == "market1501"
    with pytest.raises(InputError, match="--data dukemtmc needs --root"):
        evaluate_run(trained, data_name="dukemtmc")


def test_a_loss_that_is_not_finite_stops_with_step_term_and_files(job: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the term '\w+' became \S+ in .*step \d+ of epoch \d.*\.jpg"):
        run_search(load_config(job, ["search.lr=1e30", "search.grad_clip=1e30"]), tmp_path / "run")


def test_a_genotype_of_another_space_is_refused(job: Path, searched: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="belongs to space 'space' .* not to 'demo_cells'"):
        run_retraining(
            load_config(job, ["search.space=demo_cells"]), tmp_path / "run", genotype=searched / "genotype.yaml"
        )
    assert not (tmp_path / "run").exists()


def test_what_to_train_must_be_said_once(job: Path, searched: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a genotype nor retrain.backbone is given"):
        run_retraining(load_config(job), tmp_path / "run")
    config: Config = load_config(job, ["retrain.backbone=resnet18"])
    with pytest.raises(InputError, match="both a genotype and the backbone 'resnet18' are given"):
        run_retraining(config, tmp_path / "run", genotype=searched / "genotype.yaml")


def test_a_folder_without_a_trained_run_is_refused(searched: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a run folder"):
        load_trained(tmp_path)
    with pytest.raises(InputError, match="is a search and has no trained network; train what the search found"):
        load_trained(searched)


def test_a_damaged_checkpoint_is_named(trained: Path, tmp_path: Path) -> None:
    for name in ("config.yaml", "genotype.yaml"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    (tmp_path / "checkpoints").mkdir()
    whole = (trained / "checkpoints" / "last.ckpt").read_bytes()
    for content in (b"", b"junk", whole[: len(whole) // 2]):
        (tmp_path / "checkpoints" / "last.ckpt").write_bytes(content)
        with pytest.raises(InputError, match=r"last\.ckpt is damaged or was not written by dcs-nas"):
            load_trained(tmp_path)


def test_reports_are_json_with_nothing_left_out(trained: Path) -> None:
    report = evaluate_run(trained).report
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_a_backbone_that_knows_cameras_is_given_them(
    job: Path, people: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ["retrain.backbone=transreid_small", "retrain.backbone_options={cameras: 2}", "retrain.epochs=1"]
    options += ["data.height=64", "data.width=32"]
    run_retraining(load_config(job, options), tmp_path / "run")
    own = evaluate_run(tmp_path / "run")
    assert own.report["queries"]["used"] == 12
    moved = tmp_path / "moved"
    shutil.copytree(people, moved)
    np.testing.assert_array_equal(
        evaluate_run(tmp_path / "run", root=moved).features.query_features, own.features.query_features
    )
    assert "unknown to the network" not in caplog.text


def test_cameras_of_another_data_set_are_unknown_to_a_backbone(
    job: Path, people: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ["retrain.backbone=transreid_small", "retrain.backbone_options={cameras: 2}", "retrain.epochs=1"]
    options += ["data.height=64", "data.width=32"]
    with pytest.raises(InputError, match=r"retrain.backbone_options.cameras is 1, and .* has 2 cameras; set it to 2"):
        run_retraining(load_config(job, [*options, "retrain.backbone_options={cameras: 1}"]), tmp_path / "few")
    run_retraining(load_config(job, options), tmp_path / "run")
    other = tmp_path / "other"
    shutil.copytree(people, other)
    for image in other.glob("*/*_c1*"):  # one camera more, in other places
        if int(image.name.split("_")[0]) % 2 == 1 and not image.name.startswith("-"):
            image.rename(image.with_name(image.name.replace("_c1", "_c3")))
    with caplog.at_level("INFO", logger="dcs_nas"):
        tested = evaluate_run(tmp_path / "run", root=other)
    assert "are unknown to the network, which takes the mean of its cameras" in caplog.text
    _, network = load_trained(tmp_path / "run")
    own = evaluate_run(tmp_path / "run").features
    names = [Path(str(path)).name.replace("_c3", "_c1") for path in tested.features.gallery_paths]
    order = [names.index(Path(str(path)).name) for path in own.gallery_paths]
    assert not np.allclose(tested.features.gallery_features[order], own.gallery_features)
    with torch.no_grad():
        vectors = network.backbone.base.sie_embed
        vectors.copy_(vectors.mean(0, keepdim=True).expand_as(vectors))
    data = ReidData(load_config(job, options))
    same = extract_features(network, data, data.test()[1])
    np.testing.assert_allclose(tested.features.gallery_features[order], same, rtol=1e-4, atol=1e-5)


def test_peoples_own_images_are_searched_and_their_names_kept(job: Path, people: Path, tmp_path: Path) -> None:
    for source in sorted((people / "bounding_box_train").iterdir()):
        person, camera = source.name.split("_")[0], source.name.split("_")[1][:2]
        target = tmp_path / "own" / "train" / f"person {person}" / camera
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    options = ["data.name=folder", f"data.root={tmp_path / 'own'}", "search.epochs=1"]
    run_search(load_config(job, options), tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "labels.json").read_text())
    assert len(kept["people"]) == 8
    assert all(name.startswith("person ") for name in kept["people"])
    assert set(kept["cameras"]) == {"c1", "c2"}
    with pytest.raises(InputError, match="has no queries or gallery to evaluate on"):
        ReidData(load_config(job, options)).test()


def test_an_interrupted_demo_resumes_and_a_finished_one_restarts(
    job: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "my demo"
    shutil.copytree(people, out / "data")
    words = ["demo", "--out", out, "--config", job, "-o", "search.epochs=1", "-o", "retrain.epochs=1"]
    assert f"data.root is {people}, but the demo draws its own images" in refused(capsys, *words)
    words += ["-o", "data.root=null", "-o", "evaluate.max_rank=5"]
    code, shown, err = run_command(capsys, *words)
    assert code == 0
    assert "search ..." in err
    assert "colour histogram" in shown
    assert "rank-5" in shown
    assert "rank-10" not in shown
    assert shlex.split(re.findall(r"tensorboard --logdir .*", shown)[0])[-1] == str(out)
    summary = json.loads((out / "demo.json").read_text())
    assert summary["parameters"] > 0
    assert summary["multiply_adds"] > 0
    assert set(summary["minutes"]) == {"synth", "search", "retrain", "evaluate", "visualize", "report"}
    assert (out / summary["report"]).is_file()
    assert all((out / file).is_file() for file in summary["graphs"])

    own = out / "retrain/config.yaml"
    recorded = own.read_text()
    own.write_text(recorded.replace(str(out / "data"), str(people)))
    assert "is no run of the demo, so it is not replaced" in refused(capsys, *words)
    own.write_text(recorded)

    def stop(*_: object, **__: object) -> None:
        raise InputError("this is far enough")

    monkeypatch.setattr("dcs_nas.strategies.job.run_search", stop)
    code, _, err = run_command(capsys, *words)
    assert code == 1
    assert "holds a finished demo: starting again" in err
    assert "this is far enough" in err


def test_what_a_weights_file_gave_is_in_the_log_of_the_run(job: Path, tmp_path: Path) -> None:
    options = ["retrain.epochs=1", "retrain.warmup_epochs=0", "retrain.backbone=resnet10_small"]
    run_retraining(load_config(job, options), tmp_path / "first")
    weights = tmp_path / "first" / "checkpoints" / "last.ckpt"
    run_retraining(load_config(job, [*options, f"retrain.weights={weights}"]), tmp_path / "second")
    for folder, loaded in ((tmp_path / "first", 0), (tmp_path / "second", 1)):
        log = (folder / "log.txt").read_text()
        told = f"INFO {weights}: 72 tensors loaded of 'state_dict.network.backbone.', 308,976 of 308,976 numbers; "
        assert log.count(told) == loaded
        assert log.count("epoch 1/1") == 1
        assert "market1501" in log.splitlines()[0]


def test_a_searchs_own_checkpoint_is_refused_as_weights_and_taken_by_inherit(
    job: Path, searched: Path, tmp_path: Path
) -> None:
    config = load_config(job, ["retrain.epochs=1", f"retrain.weights={searched}/checkpoints/last.ckpt"])
    with pytest.raises(InputError, match=r"supplies .* starts from the supernet of a search by retrain\.inherit=RUN"):
        run_retraining(config, tmp_path / "run", genotype=searched / "genotype.yaml")
    assert not (tmp_path / "run").exists()
    config = load_config(job, ["retrain.epochs=1", f"retrain.inherit={searched}"])
    run_retraining(config, tmp_path / "run", genotype=searched / "genotype.yaml")
    assert "tensors inherited" in (tmp_path / "run" / "log.txt").read_text()
    for cells in (1, 6):
        deeper = load_config(job, ["retrain.epochs=1", f"retrain.inherit={searched}", f"retrain.cells={cells}"])
        with pytest.raises(InputError, match="train at the search's width, depth and image size"):
            run_retraining(deeper, tmp_path / f"cells{cells}", genotype=searched / "genotype.yaml")


def test_a_loss_scale_that_a_step_changed_does_not_scale_the_centres(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scale of 16-mixed halves within the network's step: gradients times 4 are then divided by 2."""

    def divide_too_little(optimizer: torch.optim.Optimizer, *_: object) -> None:
        if isinstance(optimizer, torch.optim.SGD):
            for parameter in optimizer.param_groups[0]["params"]:
                parameter.grad *= 2

    config = load_config(job, ["retrain.backbone=resnet10_small", "retrain.epochs=1", "loss.center_weight=0.01"])
    scales = itertools.cycle([4.0, 2.0])
    run_retraining(config, tmp_path / "plain")
    monkeypatch.setattr(Retraining, "_loss_scale", lambda self: next(scales))
    handle = register_optimizer_step_pre_hook(divide_too_little)
    try:
        run_retraining(config, tmp_path / "changed")
    finally:
        handle.remove()
    assert next(scales) == 4.0  # two reads a step
    states = [load_checkpoint(tmp_path / n / "checkpoints" / "last.ckpt")["state_dict"] for n in ("plain", "changed")]
    (name,) = (key for key in states[0] if "center" in key)
    assert torch.equal(states[0][name], states[1][name])
