"""The report: what is on the page, what happens to missing, damaged and hostile files, and the page in a browser."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image

from dcs_nas.cli import main
from dcs_nas.errors import Attempts, InputError
from dcs_nas.evaluation import DistanceBlocks, FeatureSet, RankingResult
from dcs_nas.models.build import build_fixed
from dcs_nas.models.flops import count
from dcs_nas.report.architecture import draw_architecture, read_heat_maps
from dcs_nas.report.charts import CmcCurve, Series, draw_cmc, draw_line_chart
from dcs_nas.report.graphs import draw_animation, draw_history, read_epochs
from dcs_nas.report.metric_charts import draw_curves
from dcs_nas.report.page import Options, find_shown, list_differing_settings, write_report
from dcs_nas.report.ranked_pictures import RankedPictures
from dcs_nas.report.retrieval import draw_lists, find_easiest_lists, find_hardest_lists
from dcs_nas.report.run_page import make_cost_table, make_run_page, summarize
from dcs_nas.report.score_table import Score, are_comparable, explain_spreads, make_rows, name_evaluations
from dcs_nas.runs import Evaluation, RunFolder, read_metrics
from dcs_nas.space import Genotype
from dcs_nas.training.evaluate import evaluate_run
from tests import browser
from tests.chains import chain_space, random_chain
from tests.run_folders import (
    SEARCH_COLUMNS,
    config,
    evaluation,
    genotypes,
    searched,
    start_run,
    trained,
    weights,
    write_record,
)

EVIL = '"></script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">'
STAGES = [{"blocks": 2, "stride": 2, "widths": [4, 8], "kernels": [3, 5]}, {"blocks": 1, "widths": [8], "kernels": [3]}]
needs_browser = pytest.mark.skipif(browser.PROGRAM is None, reason="no chromium on this machine")


class _Page(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._raw = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._raw = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._raw = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._raw else data


@pytest.fixture(scope="module")
def root(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """results/NAME with search/ and retrain/."""
    folder = tmp_path_factory.mktemp("results") / "tiny"
    searched(folder / "search", people)
    trained(folder / "retrain", people)
    return folder


@pytest.fixture(scope="module")
def page(root: Path) -> Path:
    """The report of both, with everything on it."""
    return write_report([root], root.parent / "all.html", options=Options(maps=2, ranked=1)).file


@pytest.fixture(scope="module")
def hostile(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of runs of which everything that can be is named with a script in it."""
    folder = tmp_path_factory.mktemp("hostile") / "<script>window.hacked=1<" / "search"
    shutil.copytree(searched(tmp_path_factory.mktemp("own") / "search", people), folder)
    (folder / "data.json").write_text(json.dumps({"version": EVIL}))
    (folder / "environment.json").write_text(json.dumps({"command": [EVIL], "versions": {EVIL: EVIL}, "git": EVIL}))
    (folder / "metrics.csv").write_text('epoch,"{0}","weights/{0}"\n0,1,2\n1,3,4\n'.format(EVIL.replace('"', '""')))
    (folder / "evaluation.json").write_text(json.dumps(evaluation(0.5, features=EVIL, data={"version": EVIL})))
    (folder / "evaluation_x.json").write_text(EVIL)
    settings = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(settings.replace("name: tiny", f"name: {json.dumps(EVIL)}"))
    for record in (folder / "architecture").glob("*.yaml"):
        text = record.read_text().replace("operations: [none,", f"operations: [{json.dumps(EVIL)},", 1)
        record.write_text(text)
    (folder.parent / "retrain").mkdir()
    shutil.copy(folder / "config.yaml", folder.parent / "retrain")
    return write_report([folder.parent], folder.parents[1] / "hostile.html").file


def test_every_figure_of_a_search_is_on_its_page(root: Path, tmp_path: Path) -> None:
    found = write_report([root / "search"], tmp_path / "page.html")
    assert found.notes == []
    page = _Page(found.file.read_text())
    charts = [json.loads(a["data-chart"] or "") for _, a in page.tags if "data-chart" in a]
    drawn = [tuple(line["values"]) for chart in charts for line in chart["lines"]]
    rows = read_metrics(root / "search" / "metrics.csv")
    assert sorted(drawn) == sorted(tuple(row[column] for row in rows) for column in SEARCH_COLUMNS)
    for words in ("Collapse diagnostics", "Information bottleneck", "What changed during the search", "darts, order 1"):
        assert words in page.text
    assert "finished, 3 of 3 epochs" in page.text


def test_the_page_of_a_training_has_scores_lists_maps_and_costs(page: Path) -> None:
    found = _Page(page.read_text())
    for words in ("50.0 %", "protocol cross_camera, cosine distance", "12 queries, gallery 40", "color histogram"):
        assert words in found.text
    for words in ("Worst queries, hardest first", "Best queries, easiest first", "DCS: share of the channels"):
        assert words in found.text
    assert "HA: soft mask" in found.text
    assert "HA: regions" in found.text
    assert "Cost, layer by layer" in found.text


def test_each_cell_is_drawn_once_outside_what_changed(page: Path) -> None:
    drawn = [a["alt"] for tag, a in _Page(page.read_text().partition("<nav>")[0]).tags if tag == "img"]
    assert drawn == ["the normal cell", "the reduce cell"]
    sources = [a["src"] for tag, a in _Page(page.read_text()).tags if tag == "img"]
    assert sources.count(sources[0]) == 1
    assert "attention after cell 1" in _Page(page.read_text()).text
    assert "attention.0" not in _Page(page.read_text()).text


def test_a_search_alone_says_that_it_has_no_scores_yet(root: Path, tmp_path: Path) -> None:
    assert make_run_page(RunFolder(root / "search").read(), "r0", maps=0, ranked=0).answers[:2] == [
        ("mAP", "–", "not trained yet"),
        ("rank-1", "–", "not trained yet"),
    ]


def test_the_page_loads_nothing_and_runs_one_script_only(page: Path) -> None:
    text = page.read_text()
    for tag, attributes in _Page(text).tags:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
        assert not any(name.startswith("on") for name in attributes)
    scripts = [a for tag, a in _Page(text).tags if tag == "script"]
    assert [a.get("type") for a in scripts] == ["application/json", None]
    assert "script-src 'sha256-" in text


def test_what_a_run_does_not_have_is_left_out_with_a_word(people: Path, tmp_path: Path) -> None:
    searched(tmp_path / "search", people, epochs=2)
    trained(tmp_path / "retrain", people)
    for folder in ("search", "retrain"):
        for path in (tmp_path / folder).iterdir():
            if path.name not in ("config.yaml", "architecture"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    for record in (tmp_path / "search" / "architecture").iterdir():
        record.unlink()
    found = write_report([tmp_path], options=Options(maps=1, ranked=1))
    text = _Page(found.file.read_text()).text
    for words in (
        "No epoch is written down yet (metrics.csv)",
        "No genotype is derived yet",
        "Not evaluated yet: dcs-nas evaluate",
        "No epoch of the architecture is written down yet",
    ):
        assert words in text
    assert "not finished" in text
    assert any("attention maps: left out." in note for note in found.notes)
    assert any("ranked lists: left out." in note for note in found.notes)


def test_damaged_files_are_named_on_the_page_and_the_rest_is_shown(people: Path, tmp_path: Path) -> None:
    searched(tmp_path / "search", people, epochs=2)
    (tmp_path / "search" / "architecture" / "epoch_001.yaml").write_text("epoch: [")
    (tmp_path / "search" / "environment.json").write_text("[1]")
    (tmp_path / "search" / "data.json").write_text("{")
    (tmp_path / "search" / "evaluation.json").write_text(json.dumps(evaluation(0.5, cmc=["x"])))
    (tmp_path / "search" / "evaluation_odd.json").write_text(json.dumps(evaluation(0.5, queries=[1], data="x")))
    (tmp_path / "search" / "evaluation_good.json").write_text(json.dumps(evaluation(0.9)))
    (tmp_path / "search" / "metrics.csv").write_text("epoch,loss\n0,much\n")
    found = write_report([tmp_path / "search"])
    text = _Page(found.file.read_text()).text
    for words in ("epoch_001.yaml: left out", "environment.json: left out", "metrics.csv: left out"):
        assert words in text
    assert "evaluation.json: left out. its scores are not finite numbers" in text
    assert "evaluation_odd.json: left out." in text
    assert "90.0 %" in text
    assert "operations on its edges" in text


def test_a_run_that_recorded_settings_of_before_is_shown_whole(people: Path, tmp_path: Path) -> None:
    run = RunFolder(trained(tmp_path / "run", people))
    run.config_file.write_text(run.config_file.read_text().replace("weights_partial: false", "weights_share: 0.9"))
    assert "weights_share: 0.9" in run.config_file.read_text()
    text = write_report([run.path], tmp_path / "report.html", options=Options(maps=0, ranked=0)).file.read_text()
    assert "multiply-adds" in text
    assert "left out" not in text


def test_an_interrupted_run_and_gaps_in_its_metrics_are_shown(people: Path, tmp_path: Path) -> None:
    searched(tmp_path / "search", people, epochs=2)
    (tmp_path / "search" / "genotype.yaml").unlink()
    (tmp_path / "search" / "metrics.csv").write_text("epoch,weights/loss,guard/gap\n0,1.5,\n1,nan,2\n2,inf,\n")
    text = write_report([tmp_path / "search"]).file.read_text()
    assert "not finished, 3 of 2 epochs" in text
    charts = [json.loads(a["data-chart"] or "") for _, a in _Page(text).tags if "data-chart" in a]
    assert [chart["lines"][0]["values"] for chart in charts] == [[1.5, None, None], [2.0]]


def test_several_runs_are_compared(root: Path, people: Path, tmp_path: Path) -> None:
    other = trained(tmp_path / "more" / "retrain", people, attention=("rga", "none"))
    bounds = {"mAP": [0.4, 0.6], "mINP": [0.1, 0.2], "cmc": [[0.1, 0.9]] * 20, "level": 0.95}
    (other / "evaluation.json").write_text(json.dumps(evaluation(0.61, gallery_size=41, confidence=bounds)))
    found = write_report([root / "retrain", other], tmp_path / "page.html")
    page = _Page(found.file.read_text())
    for words in ("tiny/retrain", "more/retrain", "50.0 %", "61.0 %", "Architectures", "Small figures: 95 % intervals"):
        assert words in page.text
    charts = [json.loads(a["data-chart"] or "") for _, a in page.tags if "data-chart" in a]
    assert [line["name"] for line in charts[0]["lines"]] == ["tiny/retrain", "more/retrain"]
    assert "their scores do not compare" in page.text


def test_a_search_and_the_training_of_its_genotype_in_another_folder_are_one_page(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "retrain", tmp_path / "elsewhere" / "trained")
    shutil.copy(root / "search" / "genotype.yaml", tmp_path / "elsewhere" / "trained")
    page = write_report([root / "search", tmp_path / "elsewhere" / "trained"], tmp_path / "page.html")
    assert "search and training" in page.file.read_text()


def test_a_folder_of_runs_is_expanded(root: Path, people: Path, tmp_path: Path) -> None:
    assert [run.path.name for run in find_shown(root)] == ["search", "retrain"]
    assert [run.path for run in find_shown(root / "search")] == [root / "search"]
    for name in ("a", "b"):
        trained(tmp_path / name, people)
    assert write_report([tmp_path]).file == tmp_path / "comparison.html"
    with pytest.raises(InputError, match="found 2 runs to compare, but --maps and --ranked are for one"):
        write_report([tmp_path], options=Options(maps=1))


def _tuned(folder: Path, people: Path) -> Path:
    """The folder of a tuning of three trials."""
    run = start_run(folder, config(people, retrain={"validation": 0.2}))
    run.job_file.write_text("")
    rows = ["trial,state,validation/mAP,retrain.lr,seconds,message", "trial_001,finished,0.25,0.1,9,"]
    run.trials_file.write_text("\n".join([*rows, "trial_000,failed,,0.3,2,exit code 1"]) + "\n")
    return folder


def test_a_tuning_is_a_table_of_its_trials_and_left_out_beside_other_runs(
    root: Path, people: Path, tmp_path: Path
) -> None:
    _tuned(tmp_path / "tune", people)
    text = _Page(write_report([tmp_path]).file.read_text()).text
    for words in ("0.25", "trial_001", "1 finished", "exit code 1", "tuning of settings"):
        assert words in text
    for words in ("Not evaluated yet", "not trained yet", "No epoch is written down"):
        assert words not in text
    shutil.copytree(root / "search", tmp_path / "search")
    assert [run.path.name for run in find_shown(tmp_path)] == ["search"]
    assert "search and training" not in write_report([tmp_path / "search", tmp_path / "tune"]).file.read_text()
    shutil.copytree(root / "retrain", tmp_path / "retrain")
    assert "search and training" in write_report([tmp_path]).file.read_text()


def test_the_page_of_a_pretraining_has_accuracies_and_no_retrieval(people: Path, tmp_path: Path) -> None:
    run = start_run(tmp_path / "pretrain", config(people, pretrain={"epochs": 2}))
    for epoch in range(2):
        run.write_metrics(epoch, {"train/loss": 1.0, "validation/top-1": 0.5 + epoch / 10, "validation/top-5": 0.9})
    page = make_run_page(run.read(), "r0", maps=0, ranked=0)
    assert page.answers[:2] == [
        ("top-1", "60.0 %", "of held-out images, epoch 2"), ("top-5", "90.0 %", "of held-out images, epoch 2")
    ]  # fmt: skip
    text = _Page(write_report([run.path]).file.read_text()).text
    assert "share of held-out images whose class is the first" in text
    for words in ("evaluate", "by retrieval", "Scores", "Ranked lists", "Attention maps"):
        assert words not in text.partition("All settings")[0] + text.partition("tune: null")[2]


def test_maps_and_lists_of_a_search_are_refused(root: Path) -> None:
    with pytest.raises(InputError, match=r"--maps and --ranked are of a training .* leave them out, or name"):
        write_report([root / "search"], options=Options(maps=2))


def test_a_folder_whose_name_is_no_utf8_is_shown(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"bad\xff")
    shutil.copytree(root / "search", folder / "search")
    shutil.copytree(root / "retrain", folder / "retrain")
    assert "bad?" in write_report([folder]).file.read_text()
    assert "bad?/retrain" in write_report([root / "retrain", folder / "retrain"]).file.read_text()


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        write_report([tmp_path / "none"])
    with pytest.raises(InputError, match=r"holds no run: neither it nor a folder in it has a config\.yaml"):
        write_report([tmp_path])


def test_the_command_writes_the_page_and_says_where(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(root / "retrain"), "--out", str(tmp_path / "sub" / "page.html")])
    assert not stopped.value.code
    assert capsys.readouterr().out.strip() == str(tmp_path / "sub" / "page.html")
    assert (tmp_path / "sub" / "page.html").stat().st_size > 10_000


def test_names_with_scripts_are_text(hostile: Path) -> None:
    text = hostile.read_text()
    assert "<script>window" not in text
    assert "<img src=x" not in text
    page = _Page(text)
    assert EVIL in page.text
    assert "<script>window.hacked=1<" in page.text
    assert [a.get("type") for tag, a in page.tags if tag == "script"] == ["application/json", None]


def test_heat_maps_hold_the_recorded_weights_and_mark_what_was_kept(root: Path) -> None:
    found = read_heat_maps(RunFolder(root / "search").read())
    assert found is not None
    assert found.epochs == [1, 2, 3]
    tables = {table.key: table for table in found.tables}
    assert list(tables) == ["normal", "normal_attention", "reduce", "reduce_attention"]
    assert tables["normal"].rows == ["c(k-2) → 0", "c(k-1) → 0", "c(k-2) → 1", "c(k-1) → 1", "0 → 1"]
    for epoch, genotype in enumerate(genotypes(3)):
        np.testing.assert_allclose(tables["reduce"].values[epoch], weights(epoch)["reduce"])
        for kind, cell in genotype.cells.items():
            kept = {(tables[kind].rows[r], tables[kind].columns[c]) for r, c in tables[kind].kept[epoch]}
            names = ("c(k-2)", "c(k-1)", "0")
            assert kept == {(f"{names[e.source]} → {i}", e.op) for i, edges in enumerate(cell.nodes) for e in edges}
            ((_, column),) = tables[f"{kind}_attention"].kept[epoch]
            assert tables[f"{kind}_attention"].columns[column] == cell.attention


def test_choices_of_a_chain_are_one_table(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = searched(tmp_path / "search", people, epochs=2)
    chains = [random_chain(chain_space(STAGES), seed) for seed in (0, 3)]
    choices = [choice for choice in chains[0].space.choices() if len(choice.options) > 1]
    for epoch, chain in enumerate(chains):
        mixture = {c.label: [np.linspace(epoch, 1, len(c.options)).tolist()] for c in choices}
        names = {choice.label: list(choice.options) for choice in choices}
        RunFolder(folder).write_epoch(epoch, chain, names=names, weights=mixture)
    (folder / "genotype.yaml").write_text(chains[-1].to_yaml())
    found = read_heat_maps(RunFolder(folder).read())
    assert found is not None
    (table,) = found.tables
    assert table.options[0] == [str(option) for option in choices[0].options]
    kept = {table.rows[r]: table.options[r][c] for r, c in table.kept[0]}
    sample = chains[0].to_sample()
    assert kept == {c.label.replace("_", " "): str(sample[c.label]) for c in choices}
    text = _Page(write_report([folder]).file.read_text()).text
    assert "choices of the chain" in text
    drawing = draw_history(folder, tmp_path / "out", formats=("svg",))
    assert [f.name for f in drawing.files] == ["difference_chain.svg", "animation_chain.gif"]
    assert drawing.note == "difference_chain: from epoch 1 to epoch 2"
    monkeypatch.setattr("dcs_nas.report.dot.shutil.which", lambda name: None)
    note = draw_history(folder, tmp_path / "plain", formats=("svg",)).note
    assert note.startswith(f"{drawing.note}; the drawings are plain ones by matplotlib, because Graphviz'")


def test_every_column_has_one_place(root: Path) -> None:
    groups = draw_curves([RunFolder(root / "search").read()])
    assert [group.key for group in groups] == ["losses", "ib", "validation", "schedule", "collapse", "other"]
    titles = {group.key: [chart.title for chart in group.charts] for group in groups}
    assert titles["collapse"] == ["entropy", "guard/eigenvalue", "guard/gap", "skips"]
    assert titles["losses"] == ["loss", "identity"]


def test_a_line_chart_has_the_places_of_its_values_and_stops_at_gaps() -> None:
    chart = draw_line_chart(
        "loss", [Series("empty", [1], [None]), Series("a", [1, 2, 3, 4, 5], [0.0, 1.0, None, 4.0, 2.0])]
    )
    assert chart is not None
    assert chart.facts["lines"] == [{"name": "a", "values": [0.0, 1.0, None, 4.0, 2.0]}]
    np.testing.assert_allclose(np.diff(chart.facts["places"], 2), 0, atol=2e-4)
    svg = ElementTree.fromstring(base64.b64decode(chart.picture.light.partition(",")[2]))
    width = float(svg.attrib["viewBox"].split()[2])
    paths = [e.attrib["d"] for e in svg.iter() if e.tag.endswith("path") and e.attrib.get("clip-path")]
    (line,) = [path for path in paths if path.count("M") == 2]  # one part before the gap and one behind it
    xs = [float(x) / width for x in re.findall(r"[ML] ([\d.]+)", line)]
    np.testing.assert_allclose(xs, [chart.facts["places"][i] for i in (0, 1, 3, 4)], atol=1e-3)
    assert chart.picture.light != chart.picture.dark
    assert draw_line_chart("none", [Series("empty", [1], [None])]) is None


def test_settings_that_differ_are_found_at_any_depth() -> None:
    a = {"seed": 1, "search": {"lr": 0.1, "space": "x"}, "name": "n"}
    b = {"seed": 1, "search": {"lr": 0.2, "space": "x"}, "retrain": {"epochs": 3}, "name": "n"}
    assert list_differing_settings([a, b]) == [("search.lr", ["0.1", "0.2"]), ("retrain.epochs", ["–", "3"])]


def _rows(named: list[tuple[str, Evaluation]]) -> list[Score]:
    notes: list[str] = []
    rows, _ = make_rows(named, Attempts(notes))
    assert notes == []
    return rows


def test_scores_name_their_rules_and_leave_out_what_was_not_measured() -> None:
    bounds = {"mAP": [0.4, 0.6], "mINP": [0.1, 0.2], "cmc": [[0.1, 0.9]] * 3, "level": 0.95}
    report = evaluation(0.5, cmc=[0.5, 0.6, 0.7], confidence=bounds)
    report["protocol"] |= {"rerank": {"k1": 20, "k2": 6, "weight": 0.3}, "metric": "euclidean"}
    mean = {**evaluation(0.4), "standard_deviation": {"mAP": 0.01, "mINP": 0.02, "cmc": [0.03] * 20}}
    mean["evaluations"] = [evaluation(0.3), evaluation(0.5)]
    one, two = _rows([("a", Evaluation("a", report)), ("b", Evaluation("b", mean))])
    assert one.cells == ["50.0 %", "25.0 %", "50.0 %", "–", "–"]
    assert one.intervals == ["40.0–60.0", "10.0–20.0", "10.0–90.0", "", ""]
    assert one.rules == "protocol cross_camera, euclidean distance, re-ranked with k1 20, k2 6, lambda 0.3"
    assert two.intervals[:2] == ["± 1.0", "± 2.0"]
    assert explain_spreads([one, two, one]) == (
        "Small figures: 95 % intervals of the choice of queries (bootstrap); ± the standard deviation of 2 evaluations."
    )
    assert two.counts == "mean of 2 evaluations, each 12 queries, gallery 40"
    assert not are_comparable([one, two])
    assert are_comparable(_rows([("a", Evaluation("a", evaluation(0.5))), ("b", Evaluation("b", evaluation(0.4)))]))


def test_evaluations_of_one_run_have_names_of_their_own() -> None:
    twice = [Evaluation("evaluation", evaluation(0.5)), Evaluation("evaluation_b", evaluation(0.5))]
    assert [n for n, _ in name_evaluations(twice)] == ["network, evaluation", "network, evaluation_b"]
    other = [twice[0], Evaluation("evaluation_duke", evaluation(0.5, data={"version": "duke"}))]
    assert [n for n, _ in name_evaluations(other)] == ["network on synthetic", "network on duke"]


def test_costs_are_those_of_the_network_that_was_trained(root: Path) -> None:
    run = RunFolder(root / "retrain").read()
    found = make_cost_table(run)
    assert found is not None
    settings = config(Path(run.config["data"]["root"]), retrain={"epochs": 3, "warmup_epochs": 1, "channels": 6})
    assert settings.retrain is not None
    assert isinstance(run.genotype, Genotype)
    assert run.genotype.resize(64, 32, channels=settings.retrain.channels).network.channels == 6
    backbone = build_fixed(settings.retrain, settings.data, 1, run.genotype).backbone
    expected = count(backbone, 32, 16)
    assert (found.parameters, found.macs) == (expected.parameters, expected.macs)
    assert sum(share for _, share in found.rows) == pytest.approx(1)


def test_the_easiest_queries_are_the_hardest_in_reverse(root: Path) -> None:
    found = evaluate_run(root / "retrain")
    given: tuple[RankingResult, DistanceBlocks, FeatureSet] = (found.result, found.distances, found.features)
    total = len(found.result.used)
    hard, easy = find_hardest_lists(*given, count=total), find_easiest_lists(*given, count=total)
    assert [r.query for r in easy] == [r.query for r in hard][::-1]
    assert [r.difficulty for r in easy] == list(range(1, total + 1))
    assert all(r.easy for r in easy)
    assert not any(r.easy for r in hard)


def test_lists_by_re_ranked_distances_say_so(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(trained(tmp_path / "run", people))
    run.config_file.write_text(run.config_file.read_text().replace("rerank: false", "rerank: true"))
    subtitles = []
    monkeypatch.setattr(
        RankedPictures, "picture", lambda self, _: (subtitles.append(self.subtitle), Image.new("RGB", (9, 9)))[1]
    )
    draw_lists(run.read(), count=1)
    assert set(subtitles) == {"Market-1501, cosine distance, re-ranked"}


def test_the_command_of_a_run_can_be_pasted_into_a_shell(root: Path, tmp_path: Path) -> None:
    run = RunFolder(Path(shutil.copytree(root / "search", tmp_path / "search")))
    run.environment_file.write_text(json.dumps({"command": ["dcs-nas", "search", "my job.yaml"]}))
    assert ("command", "dcs-nas search 'my job.yaml'") in summarize(run.read()).origin


def test_names_with_dollar_signs_are_no_formulas(tmp_path: Path) -> None:
    for file in draw_cmc([CmcCurve(r"$\frac{a}$", [0.5, 1.0], 0.5)], tmp_path, title="$x"):
        assert file.stat().st_size > 1000


def test_the_thousandth_epoch_comes_after_the_others(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "search" / "architecture", tmp_path / "architecture")
    last = (tmp_path / "architecture" / "epoch_002.yaml").read_text()
    (tmp_path / "architecture" / "epoch_1000.yaml").write_text(last.replace("epoch: 2", "epoch: 1000"))
    assert [epoch for epoch, _ in read_epochs(tmp_path)] == [1, 2, 3, 1001]
    assert RunFolder(tmp_path).contents().epochs[-1].number == 1000


def test_an_animation_has_a_frame_for_each_epoch(root: Path, tmp_path: Path) -> None:
    epochs = read_epochs(root / "search")
    assert [epoch for epoch, _ in epochs] == [1, 2, 3]
    assert read_epochs(root / "search" / "architecture") == epochs
    files = draw_animation(epochs, tmp_path, theme="dark")
    assert [f.name for f in files] == ["animation_normal.gif", "animation_reduce.gif"]
    with Image.open(files[0]) as animation:
        assert animation.n_frames == 3
        frames = []
        for i in range(3):
            animation.seek(i)
            frames.append(np.asarray(animation.convert("RGB")).astype(int))
            assert animation.info["duration"] == (700 if i < 2 else 2500)
        assert all((a != b).any() for a, b in pairwise(frames))
        assert tuple(frames[0][-1, -1]) == (0x14, 0x17, 0x1C)


def test_epochs_without_a_change_share_a_frame_that_stays_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dcs_nas.report import graphs

    painted = []
    paint = graphs.paint_graph
    monkeypatch.setattr(graphs, "paint_graph", lambda *a: (painted.append(a), paint(*a))[1])
    a, b = genotypes(2)
    epochs = [(epoch + 1, b if epoch == 3 else a) for epoch in range(20)]
    file, _ = draw_animation(epochs, tmp_path)
    with Image.open(file) as animation:
        durations = [(animation.seek(i), animation.info["duration"])[1] for i in range(animation.n_frames)]
    assert durations == [3 * 700, 700, 5000]
    assert len(painted) == 6


def test_a_strip_of_many_changes_has_the_first_and_the_last_ones(people: Path, tmp_path: Path) -> None:
    run = RunFolder(searched(tmp_path / "search", people, epochs=2))
    a, b = genotypes(2)
    for epoch in range(40):  # the 12th and the 29th change are to the same cell
        write_record(run.path, epoch, (a, b)[epoch % 2], weights(epoch))
    drawn = draw_architecture(run.read())
    assert drawn is not None
    svg = base64.b64decode(drawn.strips[0].light.partition(",")[2]).decode()
    assert set(re.findall(r">(epoch \d+)<", svg)) == {f"epoch {i}" for i in (*range(1, 13), *range(29, 41))}
    assert drawn.strips[0].caption == "normal cell; 16 panels between the first and the last 12 are left out"


def test_an_epoch_without_a_readable_genotype_keeps_the_picture_before_it(people: Path, tmp_path: Path) -> None:
    run = RunFolder(searched(tmp_path / "search", people, epochs=4))
    for epoch in (0, 2, 3):
        record = yaml.safe_load(run.epoch_file(epoch).read_text())
        run.epoch_file(epoch).write_text(yaml.safe_dump({**record, "genotype": {"format": 99}}))
    drawn = draw_architecture(run.read())
    assert drawn is not None
    assert drawn.films[0].frames == {1: 0, 2: 0, 3: 0, 4: 0}
    assert write_report([run.path]).notes == []


def test_visualize_draws_a_run_over_its_epochs(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["visualize", str(root / "search" / "architecture"), "--out", str(tmp_path), "--format", "pdf"])
    assert not stopped.value.code
    printed = [Path(line).name for line in capsys.readouterr().out.split()]
    assert printed == ["strip_normal.pdf", "strip_reduce.pdf", "animation_normal.gif", "animation_reduce.gif"]
    assert (tmp_path / "strip_normal.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(SystemExit) as stopped:
        main(["visualize", str(root / "retrain")])
    assert stopped.value.code == 1
    assert "holds no epochs of a search (architecture/epoch_NNN.yaml)" in capsys.readouterr().err


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Tab]:
    """A tab of a headless browser."""
    with browser.opened(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def _open(tab: browser.Tab, page: Path, **how: int) -> None:
    tab.problems.clear()
    tab.requests.clear()
    tab.open(page, **how)
    tab.run("document.querySelectorAll('details').forEach(part => { part.open = true; })")


@needs_browser
@pytest.mark.parametrize(("width", "height"), [(1300, 900), (390, 844)])
def test_the_first_screen_has_scores_size_and_a_cell_and_the_rest_is_folded(
    tab: browser.Tab, page: Path, width: int, height: int
) -> None:
    tab.open(page, width=width, height=height)
    ends = "[...document.querySelectorAll('%s')].map(part => part.getBoundingClientRect().bottom)"
    shown = tab.run("[...document.querySelectorAll('.answers dt')].map(part => part.textContent)")
    assert shown == ["mAP", "rank-1", "parameters", "multiply-adds"]
    assert max(tab.run(ends % ".answers")) < height
    assert max(tab.run(ends % ".first figure:nth-of-type(1)")) < height
    charts = "[...document.querySelectorAll('.chart, .film, .maps, .cost')].map(part => part.checkVisibility())"
    assert tab.run(charts)
    assert not any(tab.run(charts))
    tab.run("document.querySelector('nav a[href$=curves]').click()")
    opened = "document.querySelector('.chart').checkVisibility()"
    assert tab.run(f"new Promise(done => setTimeout(() => done({opened}), 200))")


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_opens_without_errors_requests_or_missing_pictures(tab: browser.Tab, page: Path, width: int) -> None:
    _open(tab, page, width=width)
    widths = tab.run("Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))")
    assert len(widths) > 20
    assert min(widths) > 0
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.requests == [page.resolve().as_uri()]
    assert tab.problems == []


@needs_browser
def test_the_slider_goes_through_the_epochs(tab: browser.Tab, page: Path, root: Path) -> None:
    _open(tab, page)
    shown = (
        "(() => {const s = document.querySelector('.slider input'); s.value = %d;"
        "s.dispatchEvent(new Event('input', {bubbles: true}));"
        "const cells = [...document.querySelector('table.heat').querySelectorAll('td')];"
        "const frames = [...document.querySelector('.film').querySelectorAll('.frame')];"
        "return {epoch: document.querySelector('.slider output').textContent, values: cells.map(c => c.innerText),"
        "kept: cells.map(c => c.classList.contains('kept')), frames: frames.map(f => f.checkVisibility())}})()"
    )
    found = read_heat_maps(RunFolder(root / "search").read())
    assert found is not None
    table = found.tables[0]
    assert tab.run("document.querySelector('.slider input').max") == "2"
    cells = [g.cells["normal"] for g in genotypes(3)]
    frame = [sum(a != b for a, b in pairwise(cells[: i + 1])) for i in range(3)]
    for epoch in (0, 2, 1):
        state = tab.run(shown % epoch)
        assert state["epoch"] == str(epoch + 1)
        assert state["values"] == [f"{value:.2f}" for row in table.values[epoch] for value in row]
        kept = {tuple(pair) for pair in table.kept[epoch]}
        assert state["kept"] == [(r, c) in kept for r in range(5) for c in range(3)]
        assert [i for i, visible in enumerate(state["frames"]) if visible] == [frame[epoch]]
    assert tab.problems == []


@needs_browser
def test_pointing_at_a_chart_shows_its_values(tab: browser.Tab, page: Path) -> None:
    _open(tab, page)
    said = tab.run(
        "(() => {const c = document.querySelector('.chart'), s = c.querySelector('.plot');"
        "const b = s.getBoundingClientRect();"
        "s.dispatchEvent(new PointerEvent('pointermove', {clientX: b.right, clientY: b.top}));"
        "return [JSON.parse(c.dataset.chart).lines, c.querySelector('output').textContent]})()"
    )
    words = [f"{line['name']} {float(format(line['values'][-1], '.4g')):g}" for line in said[0]]
    assert said[1] == f"epoch 3: {', '.join(words)}"


@needs_browser
def test_names_with_scripts_do_nothing_in_a_browser(tab: browser.Tab, hostile: Path) -> None:
    _open(tab, hostile)
    assert tab.run("window.hacked === undefined")
    assert tab.run("document.scripts.length") == 2
    assert tab.run("[...document.images].every(i => i.src.startsWith('data:'))")
    assert EVIL in tab.run("document.body.innerText")
    tab.run("document.querySelector('.slider input').dispatchEvent(new Event('input'))")
    assert tab.run("window.hacked === undefined")
    assert tab.problems == []


@needs_browser
def test_a_script_that_slipped_in_would_not_run(tab: browser.Tab, page: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.html"
    copy.write_text(page.read_text().replace("<main>", "<main><script>window.hacked=1</script>"))
    _open(tab, copy)
    assert tab.run("window.hacked === undefined")
    assert any("Content Security Policy" in problem for problem in tab.problems)
