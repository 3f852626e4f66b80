"""Files made to do harm: nothing in them runs, nothing absurd is allocated, nothing outside is read."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dcs_nas.config import load_config
from dcs_nas.data.datasets import load_dataset
from dcs_nas.errors import InputError
from dcs_nas.evaluation import load_features
from dcs_nas.export.metadata import ExportInfo
from dcs_nas.export.onnx_model import OnnxModel
from dcs_nas.models.cell_space import build_fixed_network
from dcs_nas.models.latency import LatencyTable
from dcs_nas.models.weights_file import read_weights
from dcs_nas.runs import RunFolder
from dcs_nas.settings import DEEPEST, LARGEST_YAML, MOST_VALUES, parse_yaml, read_text
from dcs_nas.space import Genotype, find_shipped_file, load_genotype, load_space
from dcs_nas.training.checkpoints import load_checkpoint
from tests.make_datasets import cuhk03_names, write_cuhk03_mat, write_cuhk03_protocol
from tests.test_features_file import arrays

PACKAGE = Path(__file__).parents[1] / "dcs_nas"


class Payload:
    """Unpickled it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return eval, (f"open({self.path!r}, 'w').close() or {{}}",)


@pytest.fixture
def harm(tmp_path: Path) -> Any:
    """Where a payload would leave its mark; afterwards there must be none."""
    path = tmp_path / "harm"
    yield path
    assert not path.exists()


def _refused(read: Callable[[], object], message: str | None = None) -> str:
    with pytest.raises(InputError, match=message) as caught:
        read()
    assert str(caught.value).isprintable()
    return str(caught.value)


# Pickles


def test_the_payload_of_these_tests_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "mark")))
    assert (tmp_path / "mark").is_file()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path, harm: Path, zipped: bool) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {}, "epoch": Payload(harm)}, path, _use_new_zipfile_serialization=zipped)
    _refused(lambda: load_checkpoint(path), "last.ckpt")


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.ckpt", "w.bin", "w", "w.npz", "w.safetensors"])
def test_weights_that_would_run_code_are_refused(tmp_path: Path, harm: Path, name: str) -> None:
    for content in (pickle.dumps({"w": Payload(harm)}), _saved({"w": Payload(harm)}), _pickled_npz(w=harm)):
        (tmp_path / name).write_bytes(content)
        _refused(lambda: read_weights(tmp_path / name), "cannot be read")


def test_features_that_would_run_code_are_refused(tmp_path: Path, harm: Path) -> None:
    path = tmp_path / "f.npz"
    path.write_bytes(_pickled_npz(query_features=harm, **arrays(query_features=None)))
    _refused(lambda: load_features(path), "Object arrays cannot be loaded")
    path.write_bytes(pickle.dumps(Payload(harm)))
    _refused(lambda: load_features(path), "cannot be read")


def _saved(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def _pickled_npz(**values: Any) -> bytes:
    stream = io.BytesIO()
    odd = {k: np.array([Payload(v)], dtype=object) if isinstance(v, Path) else v for k, v in values.items()}
    np.savez(stream, allow_pickle=True, **odd)
    return stream.getvalue()


def test_no_module_unpickles_evaluates_or_unpacks_archives() -> None:
    forbidden = re.compile(
        r"pickle\.loads?\(|torch\.load\([^)]*weights_only=False|yaml\.(unsafe_|full_)?load\(|allow_pickle=True|[^.\w]eval\(|[^.\w]exec\(|"
        r"extractall\(|\.extract\(|tarfile|unpack_archive"
    )
    allowed = {
        ("settings.py", "yaml.load("),  # with a loader of plain data
        ("foreign.py", "pickle.load("),  # in the line that a refusal advises for one's own files
        ("extensions.py", "exec("),  # modules of the user's own, named on the command line or in a configuration
    }
    found = {
        (path.name, match[0].strip())
        for path in PACKAGE.rglob("*.py")
        for match in forbidden.finditer(path.read_text(encoding="utf-8"))
    }
    assert found <= allowed


# Exported files


INFO = ExportInfo(
    height=16, width=8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), metric="cosine", features=4, cameras="unused",
    network="test", trained_on="nothing", run="run", checkpoint="last", seed=0, version="0",
)  # fmt: skip


def _onnx(location: str | None, *, inside: str = "graph") -> bytes:
    """A model whose weights are in the file ``location``, or in itself."""
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.zeros((1, 4), dtype=np.float32), "w")
    if location is not None:
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        entry = weights.external_data.add()
        entry.key, entry.value = "location", location
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 3, 16, 8])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 4])
    constant = helper.make_node("Constant", [], ["w"], value=weights)
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["m", "one"], ["u"]),
        helper.make_node("Add", ["u", "w"], ["features"]),
    ]
    one = numpy_helper.from_array(np.array([1]), "one")
    initial = [one, weights] if inside == "graph" else [one]
    graph = helper.make_graph(nodes if inside == "graph" else [constant, *nodes], "g", [images], [features], initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, INFO.to_properties())
    return model.SerializeToString()


@pytest.mark.parametrize("inside", ["graph", "node"])
@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "beside", "../../../../etc/passwd"])
def test_an_onnx_file_that_reads_other_files_is_refused(tmp_path: Path, location: str, inside: str) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for path in (tmp_path / "secret", folder / "beside"):
        path.write_bytes(bytes(16))
    (folder / "m.onnx").write_bytes(_onnx(location, inside=inside))
    _refused(lambda: OnnxModel(folder / "m.onnx"), "takes weights from other files, which is refused")


def test_an_onnx_file_that_is_complete_runs_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    whole = _onnx(None)
    path.write_bytes(whole)
    model = OnnxModel(path)
    assert model.run(np.zeros((2, 3, 16, 8), dtype=np.uint8)).shape == (2, 4)
    _refused(lambda: model.run(np.zeros((2, 3, 9, 9), dtype=np.uint8)), "does not run on images of its own size")
    for content in (b"", whole[: len(whole) // 2], b"\xff" * 50, b"\x0b" * 50, b"\x3a\xff\xff\xff\xff\x7f"):
        path.write_bytes(content)
        _refused(lambda: OnnxModel(path), "m.onnx")


# YAML


BILLION = "a: &a [x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BILLION, "aliases"),
        ("[" * 100_000, f"more than {DEEPEST} lists and mappings inside one another"),
        ("a:\n" + "".join(" " * 4 * i + "- a:\n" for i in range(1, 300)), f"more than {DEEPEST} lists"),
        ("{a: " * 5000 + "1" + "}" * 5000, f"more than {DEEPEST} lists"),
        ("[" + "1," * MOST_VALUES + "1]", f"more than {MOST_VALUES:,} values"),
        ("a: " + "x" * LARGEST_YAML, f"characters of YAML, expected at most {LARGEST_YAML:,}"),
        ("!!python/object/apply:os.system ['touch harm']", "could not determine a constructor for the tag"),
        ("!!python/name:os.system", "could not determine a constructor"),
        ("!<tag:yaml.org,2002:python/object/new:os.system> [x]", "could not determine a constructor"),
        ("a: 1\nb: 2\na: 3", "key 'a' is given twice"),
        ("1: x\n1: y", "key '1' is given twice"),
        ("<<: {a: 1}", "not valid YAML"),
        ("? [1]\n: 2", "not valid YAML"),
        ("a: \0", "not valid YAML"),
        ('a: "\\0"', "a string holds a control character"),
        ('a: "\\x1b[2J"', "a string holds a control character"),
        ('a: "\\ud800"', "not valid YAML"),
        ("a: " + "9" * 5000, "a number of 5,000 characters"),
        ("a: !!bool x", "not valid YAML"),
        ("a: !!int ''", "not valid YAML"),
        ("a: !!timestamp x", "not valid YAML"),
        ("a: 2001-99-99", "not valid YAML"),
    ],
)
def test_harmful_yaml_is_refused_at_once(text: str, message: str, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    began = time.process_time()
    _refused(lambda: parse_yaml(text, source="job.yaml"), re.escape(message))
    assert time.process_time() - began < 30
    assert not list(tmp_path.iterdir())


def test_what_is_no_small_text_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(b"a: \xff")
    _refused(lambda: load_config(path), "is not UTF-8 text")
    with path.open("wb") as file:
        file.truncate(10**10)
    _refused(lambda: load_config(path), "has 10,000,000,000 bytes")
    path.unlink()
    os.mkfifo(path)
    _refused(lambda: read_text(path), "there is no file")


def test_numbers_that_are_none_are_refused_in_settings(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("search: {space: demo_cells}")
    for value in (".nan", ".inf", "-.inf", "1e999"):
        _refused(partial(load_config, tmp_path / "job.yaml", [f"search.lr={value}"]))


@pytest.mark.parametrize("value", [".inf", ".nan", "2001-01-01", "!!binary AAAA", "{1: 2}", "[[.inf]]", "!!set {a}"])
def test_what_would_not_read_back_as_it_was_written_is_refused_where_any_value_is_taken(
    tmp_path: Path, value: str
) -> None:
    (tmp_path / "job.yaml").write_text(f"data: {{options: {{x: {value}}}}}")
    _refused(lambda: load_config(tmp_path / "job.yaml"), r"data.options.x.*expected (text|keys)")


# Genotypes and spaces


SPACE = {
    "name": "s", "nodes": 2, "cells": 2, "channels": 4, "operations": ["skip_connect", "sep_conv_3x3"],
    "attention": ["none", "rga"], "reductions": [],
}  # fmt: skip


def _genotype(**network: Any) -> dict[str, Any]:
    from dcs_nas.settings import parse
    from dcs_nas.space import SpaceReference, SpaceSpec

    space = parse(SpaceSpec, SPACE, source="")
    edges = [[{"op": "skip_connect", "from": s} for s in (i, i + 1)] for i in range(2)]
    sizes = {"channels": 4, "cells": 2, "reductions": [], "height": 32, "width": 16}
    return {
        "format": 1,
        "space": SpaceReference.of(space, "s").model_dump(mode="json", by_alias=True),
        "network": {**sizes, **network},
        "cells": {"normal": {"nodes": edges}, "reduce": {"nodes": edges}},
    }


def _write(path: Path, data: Any) -> Path:
    path.write_text(yaml.safe_dump(json.loads(json.dumps(data))))  # without shared parts, which would become aliases
    return path


@pytest.mark.parametrize(
    "network",
    [
        {"channels": 10**9},
        {"cells": 10**6},
        {"height": 10**9},
        {"channels": 10**30},
        {"channels": -4},
        {"stem_multiplier": 10**6},
        {"channels": 2048, "cells": 100, "reductions": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]},
        {"height": 4096, "width": 4096},  # relations of 2048 x 2048 positions
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_allocated(tmp_path: Path, network: dict[str, Any]) -> None:
    path = _write(tmp_path / "g.yaml", _genotype(**network))
    tracemalloc.start()
    _refused(lambda: load_genotype(path), "g.yaml")
    assert tracemalloc.get_traced_memory()[1] < 5 * 2**20
    tracemalloc.stop()


def test_a_genotype_that_is_blown_up_later_is_refused_before_it_is_built(tmp_path: Path) -> None:
    genotype = load_genotype(_write(tmp_path / "g.yaml", _genotype()))
    assert isinstance(genotype, Genotype)
    huge = genotype.network.model_copy(update={"channels": 2048, "cells": 100})
    _refused(lambda: build_fixed_network(genotype.model_copy(update={"network": huge})), "weights, expected at most")


@pytest.mark.parametrize(
    "change",
    [
        {"channels": 10**9}, {"cells": 10**6}, {"nodes": 10**6}, {"nodes": -1}, {"operations": ["a"] * 1000},
        {"operations": [f"o{i}" for i in range(100)]}, {"cells": 1e400}, {"nodes": "16" * 100},
    ],
)  # fmt: skip
def test_an_absurd_space_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    _refused(lambda: load_space(_write(tmp_path / "s.yaml", {**SPACE, **change})), "s.yaml")


def test_a_space_whose_supernet_would_be_absurd_is_refused_with_its_images(tmp_path: Path) -> None:
    space = load_space(_write(tmp_path / "s.yaml", {**SPACE, "channels": 2048, "cells": 100}))
    _refused(lambda: space.network(64, 32), "its supernet would have at least .* weights")
    chain = load_space(find_shipped_file("search_spaces", "demo_chain"))
    _refused(lambda: chain.network(4096, 4096), "its attention would have at least .* weights")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g["cells"]["normal"]["nodes"][0][0].update({"from": 2}), "node 0 reads state 2"),
        (lambda g: g["cells"]["normal"]["nodes"][1][0].update({"from": 3}), "node 1 reads state 3"),
        (lambda g: g["cells"]["normal"]["nodes"][1][0].update({"from": -1}), "greater than or equal to 0"),
        (lambda g: g["cells"]["normal"]["nodes"].pop(), "has 1 nodes; expected 2"),
        (lambda g: g["cells"].pop("normal"), "cells of kind normal are missing"),
        (lambda g: g.update(cells={}), "cells of kind normal are missing"),
        (lambda g: g.update(cells=[g["cells"]]), "cells"),
        (lambda g: g.update(format=0), "no 'format' number"),
        (lambda g: g.update(format=10**40), "reads up to 1"),
    ],
)
def test_a_genotype_with_cycles_or_gaps_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    data = _genotype()
    change(data)
    _refused(lambda: load_genotype(_write(tmp_path / "g.yaml", data)), re.escape(message))


def test_names_that_cannot_be_looked_up_are_refused() -> None:
    for name in ("x" * 5000, "~nobody-of-this-name", "a\0b", "../" * 2000):
        _refused(partial(find_shipped_file, "search_spaces", name))


# Arrays


def test_an_archive_that_unpacks_to_far_more_than_its_size_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("query_features.npy", "w") as member,
    ):
        member.write(b"\x93NUMPY\x01\x00")
        for _ in range(260):
            member.write(bytes(2**20))
    assert path.stat().st_size < 2**22
    for read in (load_features, read_weights):
        _refused(partial(read, path), "unpacks to .* get the file from a source you trust")


def test_an_archive_in_several_volumes_is_refused(tmp_path: Path) -> None:
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, 0, 0, 0)
    for name, read in {"f.npz": load_features, "w.pth": read_weights}.items():
        (tmp_path / name).write_bytes(struct.pack("<4sLQL", b"PK\6\7", 0, 0, 2) + end)
        _refused(partial(read, tmp_path / name), "span multiple disks")


def _header(text: str) -> bytes:
    padded = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded


@pytest.mark.parametrize(
    "shape", ["(1000000000000,)", "(-1,)", "(2147483648, 2147483648)", "('a',)", "(" * 300, "((1,),)"]
)
def test_arrays_whose_header_lies_are_refused(tmp_path: Path, shape: str) -> None:
    path = tmp_path / "f.npz"
    np.savez(path, **arrays(query_features=None))
    with zipfile.ZipFile(path, "a") as archive:
        content = _header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}") + bytes(64)
        archive.writestr("query_features.npy", content)
    _refused(lambda: load_features(path), "f.npz")


def test_a_member_that_is_no_array_and_labels_beyond_64_bits_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    np.savez(path, **arrays(query_features=None))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("query_features.npy", b"plain text")
    _refused(lambda: load_features(path), "query_features is not an array")
    np.savez(path, **arrays(query_pids=np.full(4, 2**64 - 1, dtype=np.uint64)))
    _refused(lambda: load_features(path), "query_pids holds 18446744073709551615; expected integers below 2")


def test_pipes_and_folders_are_not_waited_for(tmp_path: Path) -> None:
    for name in ("f.npz", "w.pth", "m.onnx", "last.ckpt"):
        os.mkfifo(tmp_path / name)
    readers = {"f.npz": load_features, "w.pth": read_weights, "m.onnx": OnnxModel}
    for name, read in {**readers, "last.ckpt": load_checkpoint}.items():
        _refused(partial(read, tmp_path / name), re.escape(name))


def test_a_safetensors_file_that_promises_what_it_has_not_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for entry in (
        {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 10**12]},
        {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 8]},
        {"dtype": "OBJ", "shape": [1], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
    ):
        header = json.dumps({"w": entry}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
        _refused(lambda: read_weights(path), "cannot be read")
    path.write_bytes(struct.pack("<Q", 5000) + b"[" * 5000)
    _refused(lambda: read_weights(path), "cannot be read")


# Paths that lead out


@pytest.mark.parametrize(
    "path", ["../secret.jpg", "/etc/secret.jpg", "a/../../secret.jpg", "..\\secret.jpg", "C:\\x.jpg"]
)
def test_lists_cannot_name_images_outside_their_folder(tmp_path: Path, path: str) -> None:
    (tmp_path / "secret.jpg").touch()
    root = tmp_path / "data"
    (root / "train" / "0000").mkdir(parents=True)
    (root / "test").mkdir()
    (root / "images.csv").write_text(f"path,person,camera,split\n{path},p,c,train\n")
    _refused(lambda: load_dataset("csv", root), "leads out of the data set")
    name = path.replace("secret", "0000_000_01_0303morning_0015_0")
    for part in ("train", "query", "gallery"):
        (root / f"list_{part}.txt").write_text(f"{name} 0\n")
    _refused(lambda: load_dataset("msmt17", root, version="V1"), "leads out of the data set|does not parse")


def test_a_list_with_absurd_numbers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train" / "0000").mkdir(parents=True)
    (tmp_path / "train" / "0000" / "0000_000_01_0303morning_0015_0.jpg").touch()
    (tmp_path / "test").mkdir()
    for camera, person in (("01", "9" * 5000), ("9" * 5000, "0"), ("0" * 5000, "0")):
        (tmp_path / "list_train.txt").write_text(f"0000/0000_000_{camera}_0303morning_0015_0.jpg {person}\n")
        _refused(partial(load_dataset, "msmt17", tmp_path, version="V1"), "does not parse")


def test_the_list_itself_cannot_be_outside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jpg").touch()
    (tmp_path / "secret.csv").write_text("path,person,camera,split\na.jpg,p,c,train\n")
    for file in ("../secret.csv", str(tmp_path / "secret.csv")):
        _refused(partial(load_dataset, "csv", tmp_path / "data", file=file), "leads out of the data set")


def test_a_list_of_absurd_length_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "images.csv").open("wb") as file:
        file.truncate(10**10)
    _refused(lambda: load_dataset("csv", tmp_path), "has 10,000,000,000 bytes, expected at most")


# HDF5


@pytest.fixture
def cuhk03(tmp_path: Path) -> Path:
    root = tmp_path / "cuhk03"
    root.mkdir()
    write_cuhk03_protocol(root, cuhk03_names())
    return root


@pytest.mark.parametrize("change", ["loop", "huge", "floats"])
def test_hdf5_links_to_themselves_and_absurd_arrays_are_refused(cuhk03: Path, change: str) -> None:
    import h5py

    mat = cuhk03 / "cuhk-03.mat"
    write_cuhk03_mat(mat)
    with h5py.File(mat, "a") as file:
        if change == "loop":
            del file["detected"]
            file["detected"] = h5py.SoftLink("/detected")
        else:
            people = file[file["detected"][()].ravel()[0]]
            cells = people[()]
            shape, kind = ((3, 10**7, 10**8), "u1") if change == "huge" else ((3, 8, 16), "f8")
            cells[0, 0] = file.create_dataset("bad", shape, kind, chunks=(1, 8, 16)).ref
            people[...] = cells
    message = "expected an image" if change == "floats" else "cannot be read"
    _refused(lambda: load_dataset("cuhk03", cuhk03), message)


# What a run leaves


def test_a_run_folder_with_junk_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: x\nseed: [1]\nsearch: 3\n")
    for name, content in [
        ("environment.json", "[" * 10_000),
        ("data.json", '{"version": NaN}'),
        ("evaluation.json", '{"mAP": NaN, "mINP": 1, "cmc": [1]}'),
        ("evaluation_x.json", '{"mAP": 1, "mINP": ' + "9" * 5000 + ', "cmc": [1]}'),
        ("genotype.yaml", "[" * 10_000),
        ("metrics.csv", "epoch,loss\n0,1,2,3\ninf,nan\n"),
    ]:
        (tmp_path / name).write_text(content)
    run = RunFolder(tmp_path).read()
    assert len(run.notes) == 5, run.notes
    assert run.metrics == []
    assert RunFolder(tmp_path).contents().steps_done == 0
    assert set(RunFolder(tmp_path).contents().scores) == set()
    for junk in ('epoch\n"' + "x" * 200_000 + '"\n', "epoch\ninf\n", "epoch\nx\n", "\0\n\0\n", "loss\n1\n"):
        (tmp_path / "metrics.csv").write_text(junk)
        assert RunFolder(tmp_path).contents().steps_done == 0
        assert any("metrics.csv: left out" in note for note in RunFolder(tmp_path).read().notes)
    (tmp_path / "evaluation.json").write_text("[" * 10_000)
    read = RunFolder(tmp_path).read()
    assert read.evaluations == []
    assert any(note.startswith("evaluation.json: left out") for note in read.notes)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), 1e13, "x", None, True, [1]])
def test_a_latency_table_with_absurd_values_is_refused(tmp_path: Path, value: Any) -> None:
    table = {"format": 1, "space": "s", "device": "d", "torch": "2", "threads": 1, "batch": 1, "rounds": 1}
    good = LatencyTable.read(_write(tmp_path / "t.yaml", {**table, "microseconds": {"a": 1.5}}))
    assert good["a"] == 1.5
    if value is not True:  # 1 microsecond
        _refused(
            lambda: LatencyTable.read(_write(tmp_path / "t.yaml", {**table, "microseconds": {"a": value}})), "t.yaml"
        )
