"""Former names of settings are read everywhere, with one line that names the present one."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcs_nas.config import load_config
from dcs_nas.data.datasets import load_dataset
from dcs_nas.data.synthetic import SyntheticSettings
from dcs_nas.errors import InputError
from dcs_nas.former_keys import FORMER_KEYS
from dcs_nas.runs import RunFolder
from dcs_nas.settings import to_yaml
from dcs_nas.tune.space import apply_values, read_space
from tests.command_line import run_command
from tests.make_datasets import write_csv

FORMER = "name: job\nsearch: {space: demo_cells}\ndata: {people_per_batch: 6, images_per_person: 3}\n"
PRESENT = FORMER.replace("people_per_batch", "identities_per_batch").replace("per_person", "per_identity")


def _write(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text)
    return path


def test_a_configuration_with_former_keys_equals_one_with_the_present_ones(tmp_path, caplog) -> None:
    present = load_config(_write(tmp_path, PRESENT))
    assert caplog.messages == []
    assert load_config(_write(tmp_path, FORMER)) == present
    assert caplog.messages == [
        f"{tmp_path / 'job.yaml'}: data.{former} is now called data.{key}; the former name is read in this version only"
        for former, key in (("people_per_batch", "identities_per_batch"), ("images_per_person", "images_per_identity"))
    ]


@pytest.mark.parametrize("text", [FORMER, PRESENT])
@pytest.mark.parametrize("override", ["data.people_per_batch=8", "data={people_per_batch: 8}"])
def test_an_override_may_use_a_former_key(text: str, override: str, tmp_path, caplog) -> None:
    assert load_config(_write(tmp_path, text), [override]).data.identities_per_batch == 8
    assert "data.people_per_batch is now called data.identities_per_batch" in caplog.messages[-1]


def test_both_names_of_a_setting_are_refused(tmp_path) -> None:
    text = PRESENT.replace("data: {", "data: {people_per_batch: 6, ")
    with pytest.raises(InputError) as error:
        load_config(_write(tmp_path, text))
    assert "and both are set; set data.identities_per_batch alone" in str(error.value)


def test_a_run_recorded_with_former_keys_is_read_without_a_remark(tmp_path, caplog) -> None:
    config = load_config(_write(tmp_path, PRESENT))
    recorded = to_yaml(config).replace("identities_per_batch: 6", "people_per_batch: 6")
    (tmp_path / "config.yaml").write_text(recorded.replace("images_per_identity: 3", "images_per_person: 3"))
    run = RunFolder(tmp_path)
    assert "people_per_batch" in run.config_file.read_text()
    assert run.config().data == config.data
    assert caplog.messages == []


def test_a_tuning_may_use_a_former_key(tmp_path, caplog) -> None:
    text = PRESENT.replace("search: {space: demo_cells}", "retrain: {}") + (
        "tune: {space: {data.people_per_batch: {choice: [4, 8]}}}\n"
    )
    config = load_config(_write(tmp_path, text))
    (parameter,) = read_space(config)
    assert caplog.messages[-1].startswith("tune.space: data.people_per_batch is now called")
    assert apply_values(config, {parameter.key: 4}).data.identities_per_batch == 4


def test_synthetic_settings_take_former_names(caplog) -> None:
    settings = SyntheticSettings(train_people=5, test_people=4, distractor_people=3)  # type: ignore[call-arg]
    assert settings == SyntheticSettings(train_identities=5, test_identities=4, distractor_identities=3)
    assert len(caplog.messages) == 3
    with pytest.raises(InputError, match="both are set"):
        SyntheticSettings(train_people=5, train_identities=5)  # type: ignore[call-arg]


def test_options_of_the_command_line_take_former_names(tmp_path, capsys, caplog) -> None:
    small = ["--test-people", 2, "--distractor-people", 0, "--junk-images", 0, "--cameras", 2, "--images-per-camera", 2]
    code, _, err = run_command(capsys, "synth", tmp_path / "images", "--train-people=3", *small)
    assert code == 0, err
    assert "the command line: --train-people is now called --train-identities" in "\n".join(caplog.messages)
    assert len({p.name[:4] for p in (tmp_path / "images/bounding_box_train").iterdir()}) == 3


def test_a_column_of_a_csv_file_keeps_its_former_name(tmp_path, caplog) -> None:
    rows = ["1.jpg,id_1,door,train", "2.jpg,id_2,door,train"]
    write_csv(tmp_path, rows, header="path,who,camera,split")
    data = load_dataset("csv", tmp_path, columns={"person": "who"})
    assert sorted(data.label_map) == ["id_1", "id_2"]
    assert "columns.person is now called columns.identity" in caplog.messages[-1]


def test_the_description_of_a_setting_is_found_by_its_former_name(capsys, caplog) -> None:
    code, out, _ = run_command(capsys, "config", "data.people_per_batch")
    assert (code, out.splitlines()[0]) == (0, "data.identities_per_batch")
    assert caplog.messages[-1].startswith("dcs-nas config: data.people_per_batch is now called")


def test_no_former_name_is_a_present_one() -> None:
    assert not set(FORMER_KEYS) & set(FORMER_KEYS.values())
