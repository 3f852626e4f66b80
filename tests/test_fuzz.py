"""Files changed at random are read, or refused in one line: hypothesis draws the changes, the same in every run."""

from __future__ import annotations

import copy
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from dcs_nas.config import load_config
from dcs_nas.data.check import check_dataset
from dcs_nas.data.datasets import load_dataset
from dcs_nas.data.images import read_image
from dcs_nas.errors import InputError
from dcs_nas.evaluation import load_features, rank
from dcs_nas.models.weights_file import read_weights
from dcs_nas.runs import RunFolder
from dcs_nas.settings import to_yaml
from dcs_nas.space import load_genotype, load_space
from tests.chains import chain_space, random_chain
from tests.run_folders import genotypes

ROOT = Path(__file__).parents[1]
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
    st.sampled_from([10**300, -(2**63), 1e308, "x" * 10_000, "../..", "!!python/object:os.system", "\u202e", "1e5"]),
)  # fmt: skip
VALUES = st.recursive(
    ODD, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner), max_leaves=8
)


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Containers and keys of everything in nested data."""
    for key in list(data) if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ():
        yield data, key
        yield from places(data[key])


@st.composite
def changed_data(draw: st.DrawFn, examples: list[Any]) -> Any:
    """One of the examples, with up to three places removed, replaced, renamed or doubled."""
    data = copy.deepcopy(draw(st.sampled_from(examples)))
    for _ in range(draw(st.integers(0, 3))):
        holder, key = draw(st.sampled_from(list(places(data)))) if list(places(data)) else (None, None)
        how = draw(st.sampled_from(["replace", "replace", "remove", "double", "rename"]))
        if holder is None:
            return draw(VALUES)
        if how == "replace":
            holder[key] = draw(VALUES)
        elif how == "remove":
            del holder[key]
        elif how == "double" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif how == "rename" and isinstance(holder, dict):
            holder[draw(st.text(max_size=12))] = holder.pop(key)
    return data


@st.composite
def changed_bytes(draw: st.DrawFn, examples: list[bytes]) -> bytes:
    """One of the examples with a few bytes exchanged, perhaps cut short or with a part repeated."""
    content = bytearray(draw(st.sampled_from(examples)))
    for place, value in draw(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6)):
        content[min(int(place * len(content)), len(content) - 1)] = value
    end = draw(st.sampled_from([1.0, 1.0, 1.0, 0.5, 0.95]))
    return bytes(content[: int(end * len(content))]) * draw(st.sampled_from([1, 1, 1, 2]))


def as_yaml(data: Any) -> bytes:
    return yaml.safe_dump(data, allow_unicode=True).encode("utf-8", "surrogatepass")


def as_json(data: Any) -> bytes:
    return json.dumps(data).encode("utf-8", "surrogatepass")


def shipped(folder: str) -> list[Any]:
    return [yaml.safe_load(path.read_text()) for path in sorted((ROOT / folder).glob("*.yaml"))]


def all_genotypes() -> list[Any]:
    chains = [random_chain(chain_space(), seed) for seed in range(3)]
    return [yaml.safe_load(genotype.to_yaml()) for genotype in (*genotypes(3), *chains)]


def saved(save: Callable[[io.BytesIO], Any]) -> bytes:
    stream = io.BytesIO()
    save(stream)
    return stream.getvalue()


def weights_files() -> list[tuple[str, bytes]]:
    from safetensors.torch import save

    state = {"conv.weight": torch.ones(4, 3, 3, 3), "bn.bias": torch.zeros(4)}
    nested = {"state_dict": state, "epoch": 3}
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    return [
        ("a.pth", saved(lambda stream: torch.save(nested, stream))),
        ("a.pth", saved(lambda stream: torch.save(nested, stream, _use_new_zipfile_serialization=False))),
        ("a.npz", saved(lambda stream: np.savez(stream, **arrays))),
        ("a.safetensors", save(state)),
    ]


def images() -> list[bytes]:
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 12, 3), dtype=np.uint8))
    kinds = [
        ("RGB", "JPEG"),
        ("L", "JPEG"),
        ("CMYK", "JPEG"),
        ("RGBA", "PNG"),
        ("P", "GIF"),
        ("RGB", "BMP"),
        ("RGB", "TIFF"),
        ("RGB", "WEBP"),
    ]
    return [saved(lambda s, m=m, f=f: pixels.convert(m).save(s, format=f)) for m, f in kinds]  # type: ignore[misc]


def features() -> bytes:
    values = np.random.default_rng(0)
    arrays = {
        "query_features": values.normal(size=(4, 3)), "gallery_features": values.normal(size=(6, 3)),
        "query_pids": np.array([1, 2, 1, 2]), "gallery_pids": np.array([1, 2, 0, -1, 1, 2]),
        "query_camids": np.array([0, 0, 1, 1]), "gallery_camids": np.array([1, 1, 1, 1, 0, 0]),
    }  # fmt: skip
    return saved(lambda stream: np.savez(stream, **arrays))


def read_config(path: Path) -> None:
    config = load_config(path)
    path.write_text(to_yaml(config))
    assert load_config(path) == config, "a configuration that is written does not read back equal"


def read_list(path: Path) -> None:
    for name in "abcd":
        (path.parent / f"{name}.jpg").touch()
    check_dataset("csv", path.parent, options={}).lines()
    load_dataset("csv", path.parent)


def rank_features(path: Path) -> None:
    rank(**load_features(path).arrays(), metric="cosine")


def read_run(path: Path) -> None:
    """The file in the run folder of a finished search, which everything that lists or reports runs reads."""
    run = RunFolder(path.parent)
    for name in ("config.yaml", "environment.json"):
        if path.name != name:
            (path.parent / name).write_text("name: x\n" if name == "config.yaml" else "{}")
    run.contents()
    run.read()


LIST = b"path,pid,camid,split\na.jpg,1,0,train\nb.jpg,1,1,train\nc.jpg,2,0,query\nd.jpg,2,1,gallery\n"
EVALUATION = {"mAP": 0.5, "mINP": 0.1, "cmc": [0.5, 0.7], "queries": {"scored": 3}, "features": "network"}
Named = tuple[str, bytes]


def named(name: str, content: st.SearchStrategy[bytes]) -> st.SearchStrategy[Named]:
    return content.map(lambda changed: (name, changed))


def changed_weights(file: Named) -> st.SearchStrategy[Named]:
    return named(file[0], changed_bytes([file[1]]))


KINDS: dict[str, tuple[st.SearchStrategy[Named], Callable[[Path], Any], int]] = {
    "configurations": (named("job.yaml", changed_data(shipped("configs")).map(as_yaml)), read_config, 60),
    "spaces": (named("space.yaml", changed_data(shipped("search_spaces")).map(as_yaml)), load_space, 150),
    "genotypes": (named("genotype.yaml", changed_data(all_genotypes()).map(as_yaml)), load_genotype, 150),
    "YAML": (named("a.yaml", changed_bytes([as_yaml(data) for data in all_genotypes()])), load_genotype, 100),
    "lists": (named("images.csv", changed_bytes([LIST])), read_list, 100),
    "features": (named("a.npz", changed_bytes([features()])), rank_features, 100),
    "images": (named("a.jpg", changed_bytes(images())), lambda path: read_image(path, height=16, width=8), 150),
    "weights": (st.sampled_from(weights_files()).flatmap(changed_weights), read_weights, 150),
    "evaluations": (named("evaluation.json", changed_data([EVALUATION]).map(as_json)), read_run, 100),
    "metrics": (named("metrics.csv", changed_bytes([b"epoch,train/loss\n0,1.5\n1,nan\n"])), read_run, 100),
}


def refusal(read: Callable[[Path], Any], path: Path) -> str | None:
    try:
        read(path)
    except InputError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", KINDS)
def test_changed_files_are_read_or_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    files, read, count = KINDS[kind]
    outcomes = {"read": 0, "refused": 0}

    @settings(max_examples=count, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(files)
    def run(file: Named) -> None:
        folder = tmp_path / "input"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / file[0]).write_bytes(file[1])
        message = refusal(read, folder / file[0])
        outcomes["read" if message is None else "refused"] += 1
        assert message is None or (len(message.splitlines()) == 1 and len(message) <= 5000)

    run()
    assert outcomes["read"] >= 2, "hardly any input is valid: what comes behind the first check is not reached"
    assert outcomes["refused"] >= 2 or read is read_run
