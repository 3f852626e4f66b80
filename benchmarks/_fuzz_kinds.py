"""The kinds of input that ``fuzz.py`` makes: how each is written into a folder, and how it is read from there."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from _fuzz_mutate import NASTY, TOKENS, changed_bytes, changed_data, changed_text

ROOT = Path(__file__).resolve().parents[1]
SMALL = 2_000_000
"""Weights of a network that is built, now and then, from an accepted genotype or space."""
BUILD_EVERY = 150
_accepted = itertools.count(1)
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True)
class Kind:
    """``make`` writes a random input into a folder, ``read`` reads it and raises ``InputError`` or returns."""

    name: str
    make: Callable[[random.Random, Path], None]
    read: Callable[[Path], Any]


# Settings: configurations, genotypes, spaces


@cache
def _configs() -> list[dict[str, Any]]:
    return [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "configs").glob("*.yaml"))]


@cache
def _spaces() -> list[dict[str, Any]]:
    small = {"nodes": 2, "cells": 2, "channels": 4, "reductions": [1], "operations": ["none", "skip_connect", "dcs"]}
    small["attention"] = ["none", "rga"]
    return [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "search_spaces").glob("*.yaml"))] + [small] * 3


@cache
def _genotypes() -> list[dict[str, Any]]:
    """Genotypes of every space, drawn at random."""
    from dcs_nas.settings import parse
    from dcs_nas.space import ChainSpec, SpaceSpec

    found: list[dict[str, Any]] = []
    rng = random.Random(0)
    for i, data in enumerate(_spaces()):
        if data.get("kind") == "chain":
            chain = parse(ChainSpec, {"name": f"s{i}", **data}, source="")
            found += [yaml.safe_load(_chain_genotype(chain, rng).to_yaml()) for _ in range(3)]
        else:
            cells = parse(SpaceSpec, {"name": f"s{i}", **data}, source="")
            found += [yaml.safe_load(_cell_genotype(cells, rng).to_yaml()) for _ in range(3)]
    return found


def _cell_genotype(space: Any, rng: random.Random) -> Any:
    from dcs_nas.space import CellGenotype, Edge, Genotype, SpaceReference

    def cell() -> CellGenotype:
        nodes = tuple(
            tuple(
                Edge(op=rng.choice(space.operations), source=s)
                for s in sorted(rng.sample(range(i + 2), space.edges_per_node))
            )
            for i in range(space.nodes)
        )
        return CellGenotype(nodes=nodes, attention=rng.choice(space.attention))

    network = space.network(32, 16)
    kinds = {network.kind(i) for i in range(network.cells)}
    return Genotype(
        space=SpaceReference.of(space, space.name), network=network, cells={kind: cell() for kind in sorted(kinds)}
    )


def _chain_genotype(space: Any, rng: random.Random) -> Any:
    from dcs_nas.space import BlockGenotype, ChainGenotype, ChainReference, StageGenotype

    stages = []
    for stage in space.stages:
        skipped = tuple(k for k in range(2, stage.blocks + 1) if stage.skip and rng.random() < 0.3)
        blocks = tuple(
            BlockGenotype(
                kernel=rng.choice(stage.kernels),
                expansion=rng.choice(stage.expansions),
                width=rng.choice(stage.widths),
                squeeze_excite=rng.choice(stage.squeeze_excite),
            )
            for _ in range(stage.blocks - len(skipped))
        )
        stages.append(StageGenotype(blocks=blocks, skipped=skipped, attention=rng.choice(stage.attention)))
    return ChainGenotype(
        space=ChainReference.of(space, space.name), network=space.network(32, 16), stages=tuple(stages)
    )


def _write_yaml(data: Any, rng: random.Random, path: Path) -> None:
    try:
        text = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    except Exception:  # keys or values that even the writer refuses
        text = repr(data)
    if rng.random() < 0.2:
        text = changed_text(text, rng)
    content = text.encode("utf-8", "surrogatepass")
    path.write_bytes(changed_bytes(content, rng) if rng.random() < 0.1 else content)


def _make_config(rng: random.Random, folder: Path) -> None:
    _write_yaml(changed_data(rng.choice(_configs()), rng), rng, folder / "job.yaml")
    keys = (
        "seed",
        "data.height",
        "search.epochs",
        "retrain.lr",
        "a..b",
        "",
        "data",
        "name",
        "search.cost.weight",
        "x" * 300,
    )
    values = [str(v) for v in NASTY] + TOKENS
    lines = [f"{rng.choice(keys)}={rng.choice(values)}" for _ in range(rng.random() < 0.2)]
    (folder / "overrides").write_text("\0\0".join(lines), encoding="utf-8", errors="surrogatepass")


def _read_config(folder: Path) -> Any:
    from dcs_nas.config import load_config
    from dcs_nas.settings import to_yaml

    text = (folder / "overrides").read_text(encoding="utf-8", errors="surrogatepass")
    config = load_config(folder / "job.yaml", text.split("\0\0") if text else [])
    (folder / "again.yaml").write_text(to_yaml(config), encoding="utf-8")
    again = load_config(folder / "again.yaml")
    assert again == config, "a configuration that is written does not read back equal"
    return config


def _make_genotype(rng: random.Random, folder: Path) -> None:
    original = rng.choice(_genotypes())
    data = changed_data(original, rng)
    if rng.random() < 0.6:
        _mend_hash(data)
    if rng.random() < 0.1:
        data = {"epoch": 1, "genotype": data}
    _write_yaml(data, rng, folder / "genotype.yaml")


def _mend_hash(data: Any) -> None:
    """The hash of a changed space, so that what comes after the check of the hash is reached."""
    from dcs_nas.errors import InputError
    from dcs_nas.settings import parse
    from dcs_nas.space import CellStructure, ChainStructure

    kind = ChainStructure if isinstance(data, dict) and data.get("kind") == "chain" else CellStructure
    with contextlib.suppress(InputError, TypeError, KeyError, AttributeError, ValueError):
        space = data["space"]
        space["hash"] = parse(kind, {k: space[k] for k in kind.model_fields if k in space}, source="").hash


def _read_genotype(folder: Path) -> Any:
    from dcs_nas.space import Genotype, load_genotype

    genotype = load_genotype(folder / "genotype.yaml")
    genotype.to_sample()
    for kind in genotype.cells if isinstance(genotype, Genotype) else [None]:
        genotype.graph(kind) if isinstance(genotype, Genotype) else genotype.graph()
    (folder / "again.yaml").write_text(genotype.to_yaml(), encoding="utf-8")
    assert load_genotype(folder / "again.yaml") == genotype, "a genotype that is written does not read back equal"
    if next(_accepted) % BUILD_EVERY == 0:
        _build(genotype)
    return genotype


def _build(genotype: Any) -> None:
    """The network of a small genotype, run once on a small image."""
    import torch

    from dcs_nas.models.cell_space import fixed_network
    from dcs_nas.models.chain_space import fixed_chain
    from dcs_nas.space import Genotype
    from dcs_nas.space.cells import cells_weights

    network = genotype.network
    if network.height * network.width > 4096:
        return
    if isinstance(genotype, Genotype):
        edges = genotype.space.nodes * genotype.space.edges_per_node
        if cells_weights(genotype.space, network, edges=edges) > SMALL:
            return
        model = fixed_network(genotype)
    else:
        model = fixed_chain(genotype)
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, network.height, network.width))


def _make_space(rng: random.Random, folder: Path) -> None:
    _write_yaml(changed_data(rng.choice(_spaces()), rng), rng, folder / "space.yaml")


def _read_space(folder: Path) -> Any:
    from dcs_nas.config import DataConfig, SearchConfig
    from dcs_nas.space import ChainSpec, load_space
    from dcs_nas.space.cells import cells_weights

    space = load_space(folder / "space.yaml")
    network = space.network(32, 16)
    assert len(space.hash) == 12
    if isinstance(space, ChainSpec):
        for _ in space.choices():
            pass
        return space
    small = cells_weights(space, network, edges=space.nodes * (space.nodes + 3) // 2) < SMALL
    if next(_accepted) % BUILD_EVERY == 0 and small and len(space.operations) < 12:
        from dcs_nas.models.build import build_supernet

        build_supernet(space, SearchConfig(space="x"), DataConfig(height=32, width=16), num_identities=4)
    return space


# Lists of images


def _odd_name(rng: random.Random) -> bytes:
    """The name of an image, mostly like Market-1501's."""
    person, camera = rng.choice(("-1", "0000", "0001", "0002", "0003")), rng.choice((0, *[1, 2, 3] * 10))
    name = f"{person}_c{camera}s1_{rng.randrange(10**6):06d}_00.jpg"
    if rng.random() < 0.08:
        name = changed_text(name, rng, most=2)
    raw = name.encode("utf-8", "surrogatepass")
    if rng.random() < 0.03:
        raw = changed_bytes(raw, rng, most=2)
    raw = raw.replace(b"/", b"_").replace(b"\0", b"_")[:250]
    return raw if raw not in (b"", b".", b"..") else b"x.jpg"


def _touch(folder: bytes, rng: random.Random) -> bytes:
    name = _odd_name(rng)
    place = folder + b"/" + name
    with contextlib.suppress(OSError):
        what = rng.random()
        if what < 0.96:
            open(place, "wb").close()
        elif what < 0.97:
            os.symlink(name, place)
        elif what < 0.98:
            os.mkfifo(place)
        elif what < 0.99:
            os.symlink("no/such", place)
        else:
            os.mkdir(place)
    return name


def _make_folder(rng: random.Random, folder: Path) -> None:
    """A data set of one of four layouts: file names, and lists of them, are changed."""
    layout = rng.choice(("market1501", "csv", "folder", "msmt17"))
    (folder / "layout").write_text(layout)
    root = folder / "data"
    if layout == "market1501":
        for part in ("bounding_box_train", "query", "bounding_box_test")[: rng.choice((3, 3, 3, 2))]:
            (root / part).mkdir(parents=True)
            for _ in range(rng.choice((0, *[1, 2, 3] * 7))):
                _touch(os.fsencode(root / part), rng)
    elif layout == "folder":
        for split in ("train", "query", "gallery")[: rng.choice((3, 3, 2))]:
            place = os.fsencode(root / split) + b"/" + _odd_name(rng)[:100] + b"/" + _odd_name(rng)[:100]
            with contextlib.suppress(OSError):
                os.makedirs(place)
                _touch(place, rng)
    elif layout == "csv":
        root.mkdir()
        names = [_touch(os.fsencode(root), rng) for _ in range(3)]
        rows = [
            f"{n.decode('utf-8', 'replace')},p{i % 2},c{i},{s}"
            for i, (n, s) in enumerate(zip(names, ("train", "query", "gallery")))
        ]
        text = "path,person,camera,split\n" + "\n".join(rows) + "\n"
        text = changed_text(text, rng, most=2) if rng.random() < 0.7 else text
        raw = text.encode("utf-8", "surrogatepass")
        (root / "images.csv").write_bytes(changed_bytes(raw, rng) if rng.random() < 0.2 else raw)
    else:
        for part in ("train", "test"):
            (root / part / "0000").mkdir(parents=True)
            (root / part / "0000" / "0000_000_01_0303morning_0015_0.jpg").touch()
        for name in ("list_train.txt", "list_query.txt", "list_gallery.txt"):
            text = "0000/0000_000_01_0303morning_0015_0.jpg 0\n" * rng.randrange(1, 3)
            raw = (changed_text(text, rng, most=2) if rng.random() < 0.4 else text).encode("utf-8", "surrogatepass")
            (root / name).write_bytes(raw)


def _read_folder(folder: Path) -> Any:
    from dcs_nas.data.check import check_dataset
    from dcs_nas.data.datasets import load_dataset

    layout = (folder / "layout").read_text()
    options = {"version": "V1"} if layout == "msmt17" else {}
    report = check_dataset(layout, folder / "data", options=options)
    "\n".join(report.lines()).encode()
    report.to_dict()
    return load_dataset(layout, folder / "data", **options)


# Arrays


@cache
def _features() -> dict[str, np.ndarray]:
    values = np.random.default_rng(0)
    return {
        "query_features": values.normal(size=(4, 3)).astype(np.float32),
        "gallery_features": values.normal(size=(6, 3)).astype(np.float32),
        "query_pids": np.array([1, 2, 1, 2]),
        "gallery_pids": np.array([1, 2, 0, -1, 1, 2]),
        "query_camids": np.array([0, 0, 1, 1]),
        "gallery_camids": np.array([1, 1, 1, 1, 0, 0]),
        "query_paths": np.array(["a.jpg", "b.jpg", "c.jpg", "d.jpg"]),
        "gallery_paths": np.array([f"{i}.jpg" for i in range(6)]),
    }


def _odd_array(array: np.ndarray, rng: random.Random) -> np.ndarray:
    what = rng.randrange(10)
    if what == 0 and array.dtype.kind != "U":
        return array.astype(rng.choice(("f2", "f8", "f16", "i1", "u8", ">f4", ">i8", "c8", "?", "S3", "U3", "i4")))
    if what == 1:
        return array[: rng.randrange(len(array) + 1)]
    if what == 2:
        return array.reshape(rng.choice(((-1,), (1, -1), (-1, 1), (1, 1, -1))))
    if what == 3:
        return np.full(array.shape, rng.choice((np.nan, np.inf, -np.inf, 1e30, 1e-40, -1, 0, 2**31)))
    if what == 4:
        return np.array([None, {"a": 1}], dtype=object)
    if what == 5:
        return np.zeros(rng.choice(((), (0,), (0, 3), (3, 0), (1,) * 30)), dtype=array.dtype)
    if what == 6:
        return np.zeros(len(array), dtype=[("a", "f4"), ("b", "i4")])
    if what == 7:
        return np.concatenate([array, array])
    if what == 8 and array.dtype.kind in "iu":
        return array + rng.choice((-(2**62), 2**62, 2**31, -5))
    return np.asfortranarray(array)


def _npy(array: np.ndarray, rng: random.Random) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    data = stream.getvalue()
    if rng.random() < 0.03:  # another header
        shape = rng.choice(
            (
                "(10**9,)",
                "(1000000000000,)",
                "(-1,)",
                "(3, 4)",
                "((1,),)",
                "('a',)",
                "(" * 200,
                "(2147483648, 2147483648)",
            )
        )
        descr = rng.choice(("'<f4'", "'|O'", "'<U999999999'", "[('a', '<f4')]", "'bad'", "None", "'<f16'", "'<M8[s]'"))
        order = rng.choice(("False", "True", "3"))
        text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
        data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data[128:]
    return changed_bytes(data, rng) if rng.random() < 0.02 else data


def _make_features(rng: random.Random, folder: Path) -> None:
    arrays = dict(_features())
    for _ in range(rng.randrange(3)):
        key = rng.choice(sorted(arrays))
        with contextlib.suppress(TypeError, ValueError, OverflowError):  # a change that an earlier one has ruled out
            arrays[key] = _odd_array(arrays[key], rng)
    if rng.random() < 0.1:
        arrays.pop(rng.choice(sorted(arrays)))
    stream = io.BytesIO()
    packing = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(stream, "w", packing) as archive:
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", _npy(array, rng))
    content = stream.getvalue()
    (folder / "features.npz").write_bytes(changed_bytes(content, rng) if rng.random() < 0.2 else content)


def _read_features(folder: Path) -> Any:
    from dcs_nas.evaluation import load_features, rank

    features = load_features(folder / "features.npz")
    return rank(**features.arrays(), metric="cosine")


@cache
def _weights() -> dict[str, bytes]:
    import json

    import torch

    state = {"conv.weight": torch.ones(4, 3, 3, 3), "bn.bias": torch.zeros(4)}
    files = {}
    for name, options in (("a.pth", {}), ("b.pth", {"_use_new_zipfile_serialization": False})):
        stream = io.BytesIO()
        torch.save({"state_dict": state, "epoch": 3}, stream, **options)
        files[name] = stream.getvalue()
    stream = io.BytesIO()
    np.savez(stream, **{name: tensor.numpy() for name, tensor in state.items()})  # type: ignore[arg-type]
    files["a.npz"] = stream.getvalue()
    header = json.dumps({"x": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).encode()
    files["a.safetensors"] = struct.pack("<Q", len(header)) + header + bytes(16)
    return files


def _make_weights(rng: random.Random, folder: Path) -> None:
    name = rng.choice(sorted(_weights()))
    (folder / name).write_bytes(changed_bytes(_weights()[name], rng))


def _read_weights(folder: Path) -> Any:
    from dcs_nas.models.weights import read_weights

    return read_weights(next(folder.iterdir()))


# Images


@cache
def _images() -> list[bytes]:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (24, 12, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    found = []
    for mode, format, options in [
        ("RGB", "JPEG", {"exif": exif}), ("L", "JPEG", {"progressive": True}), ("CMYK", "JPEG", {}),
        ("RGB", "PNG", {}), ("RGBA", "PNG", {}), ("P", "PNG", {"transparency": 0}), ("P", "GIF", {}),
        ("RGB", "BMP", {}), ("RGB", "TIFF", {}), ("RGB", "TIFF", {"compression": "tiff_lzw"}), ("RGB", "PPM", {}),
        ("RGB", "WEBP", {}), ("RGBA", "WEBP", {"lossless": True}),
    ]:  # fmt: skip
        stream = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(stream, format=format, **options)
        found.append(stream.getvalue())
    stream = io.BytesIO()
    Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257).save(stream, format="PNG")
    return [*found, stream.getvalue()]


def _make_image(rng: random.Random, folder: Path) -> None:
    (folder / "a.jpg").write_bytes(changed_bytes(rng.choice(_images()), rng))


def _read_image(folder: Path) -> Any:
    from dcs_nas.data.images import read_image

    found = read_image(folder / "a.jpg", height=16, width=8)
    assert found.shape == (16, 8, 3)
    assert found.dtype == np.uint8
    return found


# What a run leaves


def _make_run(rng: random.Random, folder: Path) -> None:
    import json

    run = folder / "run"
    (run / "architecture").mkdir(parents=True)
    _write_yaml(changed_data(rng.choice(_configs()), rng, most=2), rng, run / "config.yaml")
    evaluation = {
        "mAP": 0.5,
        "mINP": 0.1,
        "cmc": [0.5, 0.7],
        "queries": {"scored": 3},
        "protocol": {"name": "x"},
        "features": "network",
    }
    epoch = {
        "epoch": 0,
        "weights": {"a": [[0.1, 0.9]]},
        "names": {"a": ["none", "dcs"]},
        "genotype": rng.choice(_genotypes()),
    }
    for name, data in (
        ("environment.json", {"command": ["dcs-nas", "search"], "versions": {}}),
        ("data.json", {"version": "x"}),
        ("evaluation.json", evaluation),
    ):
        try:
            text = json.dumps(changed_data(data, rng), default=str)
        except (ValueError, TypeError):  # what JSON cannot say
            text = "{"
        text = rng.choice(("[" * 5000, "9" * 5000, "NaN", changed_text(text, rng))) if rng.random() < 0.3 else text
        (run / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    _write_yaml(changed_data(epoch, rng), rng, run / "architecture" / "epoch_000.yaml")
    _write_yaml(changed_data(rng.choice(_genotypes()), rng, most=1), rng, run / "genotype.yaml")
    text = changed_text("epoch,train/loss,val/mAP\n0,1.5,0.1\n1,1.0,\n", rng)
    text = text.replace("1.5", rng.choice(("1.5", "nan", "inf", "1e999", "x", "-", '"' + "x" * 140_000 + '"')))
    (run / "metrics.csv").write_bytes(text.encode("utf-8", "surrogatepass"))


def _read_run(folder: Path) -> Any:
    from dcs_nas.runs import RunFolder, flat

    run = RunFolder(folder / "run")
    assert run.is_run()
    flat(run.contents().config)
    assert run.contents().scores is not None
    return run.read()


KINDS = [
    Kind("configurations", _make_config, _read_config),
    Kind("genotypes", _make_genotype, _read_genotype),
    Kind("search spaces", _make_space, _read_space),
    Kind("file lists", _make_folder, _read_folder),
    Kind("features files", _make_features, _read_features),
    Kind("weights files", _make_weights, _read_weights),
    Kind("images", _make_image, _read_image),
    Kind("run folders", _make_run, _read_run),
]


def fresh(folder: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
