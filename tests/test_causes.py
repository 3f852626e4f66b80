"""Each refusal that has several causes names the true one, and its advice works: causes x commands, on tiny data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import yaml

from dcs_nas.data.datasets import load_dataset
from dcs_nas.data.samplers import hold_out_identities, require_queries
from dcs_nas.errors import InputError
from dcs_nas.evaluation import FeatureSet, rank, save_features
from dcs_nas.runs import read_metrics
from tests.command_line import refused, run_command
from tests.make_datasets import write_folder, write_images
from tests.run_folders import genotypes, trained

SPACE = """
cells: 2
channels: 4
nodes: 1
reductions: [1]
stem: stride2
operations: [none, skip_connect, sep_conv_3x3]
attention: [none]
"""
JOB = """
name: tiny
data: {name: folder, height: 32, width: 16, identities_per_batch: 2, images_per_identity: 2}
augment: {pad: 2}
search:
  {strategy: bilevel, epochs: 1, guard: {eigenvalue_iterations: 0},
   trials: {trials: 2, epochs: 1, validation: 0.4}}
retrain: {epochs: 1, warmup_epochs: 0}
trainer: {accelerator: cpu, threads: 1}
"""
Tree = dict[str, list[str]]
NO_FILTER = "evaluate.protocol=no_camera_filter"


def _tree(cameras: Callable[[int], Iterable[str]], *, images: int = 2, people: int = 6) -> Tree:
    """``people`` to train on and two to test on, person i with ``images`` by each of ``cameras(i)``."""
    tree = {f"train/p{i}/{c}": [f"{k}.jpg" for k in range(images)] for i in range(people) for c in cameras(i)}
    for i in range(2):
        query, *others = cameras(i)
        tree |= {f"query/q{i}/{query}": ["1.jpg"], f"gallery/q{i}/{others[0] if others else query}": ["2.jpg"]}
    return tree


def _seen_twice() -> int:
    """Who is not among the third of six people that seed 0 holds out, but among the half."""
    third, half = (set(hold_out_identities(range(6), share=share, seed=0)[1]) for share in (0.34, 0.5))
    (person,) = half - third
    return person


def _without(tree: Tree, *parts: str) -> Tree:
    return {folder: names for folder, names in tree.items() if folder.partition("/")[0] not in parts}


WHOLE = _tree(lambda i: ("door", "hall"))
DATA: dict[str, Tree] = {
    "whole": WHOLE,
    "one camera": _tree(lambda i: ["door"]),
    "a camera each": _tree(lambda i: [f"c{i}"]),
    "few by two": _tree(lambda i: ("door", "hall") if i == _seen_twice() else ["door"]),
    "single images": _tree(lambda i: ["door"], images=1),
    "some single": _tree(lambda i: ["door"], images=1) | {"train/p0/hall": ["1.jpg"]},
    "three people": _tree(lambda i: ("door", "hall"), people=3),
    "one person": _tree(lambda i: ("door", "hall"), people=1),
    "strangers": {folder.replace("gallery/q", "gallery/x"): names for folder, names in WHOLE.items()},
    "nothing to train on": _without(WHOLE, "train"),
    "nothing to test on": _without(WHOLE, "query", "gallery"),
}


class Case(NamedTuple):
    """A command on one of ``DATA`` that refuses with ``said``, and the arguments by which its line says it works."""

    data: str
    command: str
    arguments: str
    said: str
    advice: tuple[str, ...]


VALIDATED = {
    "retrain": "retrain.validation=0.4",
    "search": "search.validation=0.4",
    "search ": "search.validation=0.4 search.derivation=retrieval search.relaxation.kind=gumbel",
    "search  ": "search.validation=0.4 search.strategy=nni.darts",
    "search   ": "search.strategy=random",
}
DO_WITHOUT = {
    "retrain": ("retrain.validation=0",),
    "search": ("search.validation=0", "search.derivation=strongest", "search.choose=last"),
}
APART = "search.identity_overlap=0"
CASES = [
    Case("one camera", "datasets", "", "all come from the query's own camera", ("camera=none",)),
    Case("one camera", "evaluate", "", "only_same_camera 2: ", ("--protocol no_camera_filter",)),
    Case("one camera", "rank", "", "only_same_camera 2: ", ("--protocol no_camera_filter",)),
    Case("a camera each", "datasets", "", "all come from the query's own camera", ("camera=none",)),
    Case("a camera each", "evaluate", "", "only_same_camera 2: ", ("--protocol no_camera_filter",)),
    Case("a camera each", "rank", "", "only_same_camera 2: ", ("--protocol no_camera_filter",)),
    *(Case("one camera", c, a, "(their images all come from one camera)", (NO_FILTER,)) for c, a in VALIDATED.items()),
    Case("a camera each", "retrain", VALIDATED["retrain"], "(their images come from 6 cameras)", (NO_FILTER,)),
    Case("a camera each", "search", VALIDATED["search"], "(their images come from 6 cameras)", (NO_FILTER,)),
    *(
        Case("few by two", c, f"{c}.validation=0.34", "of the 2 identities held out is seen by two cameras", advice)
        for c in DO_WITHOUT
        for advice in ((f"{c}.validation=0.5",), (NO_FILTER,))
    ),
    Case("single images", "retrain", "retrain.validation=0.4", "6 identities to train on has a single image",
         DO_WITHOUT["retrain"]),
    Case("single images", "search", "search.validation=0.4 search.identity_overlap=0", "has a single image",
         DO_WITHOUT["search"]),
    Case("single images", "search", "", "6 of the 6 identities to search on have a single image", (APART,)),
    Case("single images", "search", "data.identities_per_batch=4", "one half has 0 identities, expected at least 4",
         (APART, "data.identities_per_batch=3")),
    Case("single images", "search", "search.strategy=nni.darts", "have a single image",
         (APART, "search.strategy=bilevel")),
    Case("single images", "search", "search.strategy=random search.identity_overlap=0", "has a single image",
         ("search.strategy=bilevel",)),
    Case("single images", "search", f"{APART} data.identities_per_batch=4", "show 3 identities, expected at least 4",
         ("data.identities_per_batch=3",)),
    Case("some single", "search", "", "5 of the 6 identities to search on have a single image", (APART,)),
    Case("three people", "retrain", "retrain.validation=0.4", "holding out 2 of 3 identities", DO_WITHOUT["retrain"]),
    Case("three people", "search", "search.validation=0.4", "holding out 2 of 3 identities", DO_WITHOUT["search"]),
    Case("whole", "retrain", "retrain.validation=0.9", "holding out 5 of 6 identities", ("retrain.validation=0.66",)),
    Case("whole", "search", "search.validation=0.9", "holding out 5 of 6 identities", ("search.validation=0.66",)),
    Case("whole", "search", "search.strategy=random search.trials.validation=0.9", "holding out 5 of 6 identities",
         ("search.trials.validation=0.66",)),
    Case("whole", "retrain", "data.identities_per_batch=7", "show 6 identities, expected at least 7 for a batch",
         ("data.identities_per_batch=6",)),
    Case("whole", "search", "data.identities_per_batch=7", "show 6 identities, expected at least 7 for a batch",
         ("data.identities_per_batch=6",)),
    Case("nothing to train on", "retrain", "", "has no images to train on", ("data.root=", "data.test=")),
    Case("nothing to train on", "search", "", "has no images to train on", ("data.root=", "data.test=")),
    Case("nothing to test on", "evaluate", "", "has no queries or gallery to evaluate on", ("--root",)),
]  # fmt: skip


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The folder of each of ``DATA``."""
    base = tmp_path_factory.mktemp("causes")
    return {name: write_folder(base / name.replace(" ", "_"), tree) for name, tree in DATA.items()}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration without a data set, a genotype, and a trained run."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "space.yaml").write_text(SPACE)
    settings = yaml.safe_load(JOB)
    settings["data"]["cache"], settings["search"]["space"] = str(folder / "cache"), str(folder / "space.yaml")
    (folder / "job.yaml").write_text(yaml.safe_dump(settings))
    settings.pop("search")
    (folder / "train.yaml").write_text(yaml.safe_dump(settings))
    (folder / "genotype.yaml").write_text(genotypes(1)[0].to_yaml())
    trained(folder / "run", folder)
    return folder


def _arguments(command: str, job: Path, root: Path, out: Path) -> list[str]:
    """A command on the data set in ``root`` with what it needs."""
    name = command.strip()
    if name == "datasets":
        return [name, "folder", "--root", str(root)]
    if name == "evaluate":
        return [name, str(job / "run"), "--data", "folder", "--root", str(root), "--json", str(out / "scores.json")]
    if name == "rank":
        return [name, str(_features(root, out / "features.npz"))]
    words = [str(job / "job.yaml")] if name == "search" else [str(job / "train.yaml"), "--genotype", "genotype.yaml"]
    return [name, *words, "--out", str(out / "run"), "-o", f"data.root={root}"]


def _features(root: Path, file: Path) -> Path:
    data = load_dataset("folder", root)
    parts = {"query": data.query, "gallery": data.gallery}
    arrays = {f"{p}_features": np.random.default_rng(0).random((len(records), 4)) for p, records in parts.items()}
    arrays |= {f"{p}_pids": np.array([r.identity for r in records]) for p, records in parts.items()}
    arrays |= {f"{p}_camids": np.array([r.camera for r in records]) for p, records in parts.items()}
    save_features(file, FeatureSet(**arrays))
    return file


def _as_given(texts: Iterable[str], roots: Mapping[str, Path]) -> list[str]:
    """Settings as -o, options as they are, and a data set that has what is missing."""
    filled = {
        "data.root=": f"data.root={roots['whole']}",
        "data.test=": f"data.test={{name: folder, root: {roots['nothing to train on']}}}",
        "--root": f"--root {roots['whole']}",
    }
    words = [filled.get(text, text) for text in texts]
    return [word for text in words for word in (text.split() if text.startswith("--") else ["-o", text])]


@pytest.mark.parametrize(
    "case", CASES, ids=lambda c: f"{c.data}-{c.command.strip()}-{c.arguments}-{'+'.join(c.advice)}"
)
def test_a_refusal_names_its_cause_and_its_advice_works(
    case: Case, roots: Mapping[str, Path], job: Path, tmp_path: Path, capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(job)
    command = _arguments(case.command, job, roots[case.data], tmp_path)
    command += _as_given(case.arguments.split(), roots)
    code, out, err = run_command(capsys, *command)
    text = out if case.command == "datasets" else err.strip().splitlines()[-1]
    assert code == 1
    assert case.said in text
    for advice in case.advice:
        name, _, value = advice.partition("=")
        wanted = name if value == "" or (name.endswith(".validation") and value != "0") else advice
        assert wanted in text or f"lower {name} to {value}" in text
    assert not (tmp_path / "run").exists()
    code, out, err = run_command(capsys, *command, *_as_given(case.advice, roots))
    assert code == 0, err


@pytest.mark.parametrize("command", VALIDATED)
def test_data_without_cameras_are_validated_by_their_own_protocol(
    command: str, roots: Mapping[str, Path], job: Path, tmp_path: Path, capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(job)
    tree = {f"{part}/{person}": [f"{k}.jpg" for k in range(4)] for part, person in _people()}
    root = write_folder(tmp_path / "data", tree)
    words = _as_given([*VALIDATED[command].split(), "data.options.camera=none"], roots)
    code, _, err = run_command(capsys, *_arguments(command, job, root, tmp_path), *words)
    assert code == 0, err
    assert 0 < read_metrics(tmp_path / "run" / "metrics.csv")[-1]["validation/mAP"] <= 1


def _people() -> list[tuple[str, str]]:
    return [("train", f"p{i}") for i in range(6)] + [(part, f"q{i}") for i in range(2) for part in ("query", "gallery")]


@pytest.mark.parametrize("command", ["datasets", "evaluate", "rank"])
def test_queries_whose_identities_are_not_in_the_gallery_are_told_so(
    command: str, roots: Mapping[str, Path], job: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    code, out, err = run_command(capsys, *_arguments(command, job, roots["strangers"], tmp_path))
    text = out if command == "datasets" else err.strip().splitlines()[-1]
    said = {"datasets": "the identity has no image in the gallery: give an identity the same name"}
    assert code == 1
    assert said.get(command, "no_match_in_gallery 2: their identities are not in the gallery") in text
    assert "camera" not in text.partition("no query has a match")[2].splitlines()[0]
    assert run_command(capsys, *_arguments(command, job, roots["whole"], tmp_path))[0] == 0


def test_each_cause_of_a_ranking_without_a_match_is_counted_with_its_own_advice() -> None:
    features = np.eye(4)
    with pytest.raises(InputError) as caught:
        rank(features, features, [-1, 1, 2, 2], [2, 2, 3, 3], [0, 0, 0, 0], [0, 0, 0, 0])
    message = str(caught.value)
    assert "only_same_camera 2: " in message
    assert "no_match_in_gallery 1: their identities" in message
    assert "junk 1: identity -1 is junk" in message


def test_a_query_finds_its_own_image_in_no_validation(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dcs_nas.config import load_config
    from dcs_nas.data.datamodule import ReidData
    from dcs_nas.training import features as retrieval

    root = write_folder(tmp_path / "data", {f"train/p{i}": [f"{k}.jpg" for k in range(4)] for i in range(6)})
    config = load_config(job / "train.yaml", [f"data.root={root}", "data.options.camera=none"])
    data = ReidData(config)
    _, held = data.load_training_and_validation(share=0.4)
    assert held is not None
    features = np.random.default_rng(0).random((len(held), 3)).astype(np.float32)
    monkeypatch.setattr(retrieval, "extract_features", lambda *_: features)
    distances = ((features[:, None] - features[None]) ** 2).sum(2)
    expected = []
    for query in range(len(held)):
        order = [i for i in np.argsort(distances[query], kind="stable") if i != query]
        hits = np.array([held.labels[i] == held.labels[query] for i in order])
        expected.append((hits.cumsum() / (1 + np.arange(len(order))))[hits].mean())
    assert retrieval.validate(torch.nn.Identity(), data, held, metric="euclidean") == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_the_best_checkpoint_of_a_run_without_validation_is_told_so(
    command: str, roots: Mapping[str, Path], job: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = [command, job / "run", *(["--out", tmp_path] if command == "export" else ["--data", "folder"])]
    words += [] if command == "export" else ["--root", roots["whole"], "--json", tmp_path / "scores.json"]
    said = refused(capsys, *words, "--checkpoint", "best")
    assert "held out no identities (retrain.validation is 0): no best checkpoint; use --checkpoint last" in said
    assert "retrain.validation above 0" in said
    assert "unknown checkpoint 'bset'; did you mean best?" in refused(capsys, *words, "--checkpoint", "bset")
    assert run_command(capsys, *words, "--checkpoint", "last")[0] == 0


def test_the_best_checkpoint_is_there_after_a_validation(
    roots: Mapping[str, Path], job: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(job)
    command = _arguments("retrain", job, roots["whole"], tmp_path)
    assert run_command(capsys, *command, "-o", "retrain.validation=0.4")[0] == 0
    best = ["evaluate", tmp_path / "run", "--checkpoint", "best"]
    assert run_command(capsys, *best)[0] == 0
    (tmp_path / "run" / "checkpoints" / "best.ckpt").unlink()
    assert "has no best checkpoint yet: it is validated after every 10 epochs" in refused(capsys, *best)


def test_what_no_setting_asks_for_is_no_cause() -> None:
    people, cameras = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 0])
    require_queries(people, cameras, [0, 1], camera_filter=True, setting="retrain.validation")
    require_queries(people, cameras, [2, 3], camera_filter=False, setting="retrain.validation")


def test_one_person_to_train_on_is_too_few(
    roots: Mapping[str, Path], job: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(job)
    for command in ("search", "retrain"):
        said = refused(capsys, *_arguments(command, job, roots["one person"], tmp_path))
        assert "show 1 identities, expected at least 2 for a batch; add images of further identities" in said


def test_query_images_that_find_themselves_are_logged(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture, plain_log: None
) -> None:
    root = write_images(tmp_path / "data", [f"a/{k}.jpg" for k in range(4)])
    rows = [f"a/{k}.jpg,p{k // 2},{part}" for k in range(4) for part in ("query", "gallery")]
    (root / "images.csv").write_text("\n".join(["path,person,split", *rows]))
    evaluation = ["evaluate", job / "run", "--data", "csv", "--root", root, "--json", tmp_path / "scores.json"]
    code, out, err = run_command(capsys, *evaluation)
    assert code == 0
    assert "4 query images are gallery images too, and protocol no_camera_filter does not remove them" in out + err
