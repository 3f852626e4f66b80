"""From a trained run to files: ONNX, and torch.export's ``.pt2``. B images, H x W pixels, D features.

A file is kept only after it has been read back and computes the trained network's features, for random images and
for images of the run's data, in batches of one and of several.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from dcs_nas.errors import InputError, choices
from dcs_nas.export.extractor import Deployable, at_a_step, deployable
from dcs_nas.export.metadata import ExportInfo
from dcs_nas.export.onnx_model import OnnxModel, build_model, require
from dcs_nas.files import atomic_path

FORMATS = ("onnx", "pt2")
TOLERANCE = {"onnx": 1e-4, "pt2": 1e-5}
"""Largest difference of a feature, as a share of the image's largest one where that is above 1."""
AT_A_STEP = 1e-2
"""The same for images at a step of DCS-Attention, see ``at_a_step``."""
INFO_FILE = "dcs_nas.json"
_RANDOM = 8


@dataclass(frozen=True)
class ExportedFile:
    """A file written, on how many images it was checked, and the largest error on them.

    ``at_a_step`` of the images, and their error, are apart.
    """

    path: Path
    images: int
    error: float
    tolerance: float
    at_a_step: int
    error_at_a_step: float


def export_run(
    folder: Path, out: Path, *, formats: Sequence[str] = FORMATS, checkpoint: str = "last"
) -> tuple[list[ExportedFile], Deployable]:
    """Write ``model.onnx`` and ``model.pt2`` of a trained run into the folder ``out``.

    Raises:
        InputError: an unknown format, missing packages, or a folder that holds no trained run.
    """
    _check(formats)
    source = deployable(folder, checkpoint=checkpoint)
    program = trace(source)
    images = _images(source)
    steps = at_a_step(source.extractor, images)
    writers = {"onnx": _write_onnx, "pt2": _write_pt2}
    files = []
    for name in dict.fromkeys(formats):
        path = out / f"model.{name}"
        with atomic_path(path) as temporary:
            errors = differences(writers[name](program, source.info, temporary), source, images)
            file = ExportedFile(
                path, len(images), _largest(errors[~steps]), TOLERANCE[name], int(steps.sum()), _largest(errors[steps])
            )
            if not (file.error <= file.tolerance and file.error_at_a_step <= AT_A_STEP):
                raise RuntimeError(f"{path.name} differs from the trained network, nothing was written: {file}")
        files.append(file)
    return files, source


def trace(source: Deployable) -> ExportedProgram:
    """Return the extractor as a graph for any number of images."""
    images = torch.zeros(2, 3, source.info.height, source.info.width, dtype=torch.uint8)
    with _quiet(), torch.no_grad():
        program = torch.export.export(source.extractor, (images,), dynamic_shapes={"images": {0: Dim("batch")}})
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


@torch.no_grad()
def differences(run: Callable[[Tensor], Tensor], source: Deployable, images: Tensor) -> Tensor:
    """Return how far ``run`` is from the extractor on each of images (B, 3, H, W), all at once and one alone: (B,)."""
    expected = source.extractor(images)
    scale = expected.abs().amax(1).clamp_min(1)
    features = run(images)
    alone = run(images[:1])
    errors = (features - expected).abs().amax(1) / scale
    errors[0] = errors[0].maximum((alone[0] - expected[0]).abs().max() / scale[0])
    return errors.nan_to_num(torch.inf)


def _largest(errors: Tensor) -> float:
    return float(errors.max()) if len(errors) else 0.0


def _check(formats: Sequence[str]) -> None:
    for name in formats:
        if name not in FORMATS:
            raise InputError(f"unknown format '{name}' of an export; {choices(name, FORMATS)}")
    if not formats:
        raise InputError(f"no format to export to; known: {', '.join(FORMATS)}")
    if "onnx" in formats:
        require("onnx", "onnxscript", "onnxruntime", purpose="export to ONNX")


def _images(source: Deployable) -> Tensor:
    """Return random images and those of the data: (n, 3, H, W) uint8."""
    size = (_RANDOM, 3, source.info.height, source.info.width)
    noise = torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return torch.cat([noise, source.samples])


def _write_onnx(program: ExportedProgram, info: ExportInfo, path: Path) -> Callable[[Tensor], Tensor]:
    import onnx

    with _quiet(), torch.no_grad():
        converted = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=["images"], output_names=["features"]
        )
    assert converted is not None
    onnx.save_model(build_model(converted.model_proto, info), path)
    model = OnnxModel(path)
    return lambda images: torch.from_numpy(model.run(images.numpy()))


def _write_pt2(program: ExportedProgram, info: ExportInfo, path: Path) -> Callable[[Tensor], Tensor]:
    with _quiet():
        content = io.BytesIO()  # a file's name would become part of its content
        torch.export.save(program, content, extra_files={INFO_FILE: info.model_dump_json(indent=2)})
    path.write_bytes(content.getvalue())
    with _quiet():
        return torch.export.load(path).module()


@contextmanager
def _quiet() -> Iterator[None]:
    """Within it, what torch's exporters say of their own internals stays silent."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
