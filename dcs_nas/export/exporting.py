"""From a trained run to files: ONNX, and torch.export's ``.pt2``. B images, H x W pixels, D features.

A file is kept only if it computes the trained network's features after it has been read back, for random images and
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
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dcs_nas.config import Config
from dcs_nas.data.datasets import load_dataset
from dcs_nas.data.images import read_image
from dcs_nas.errors import InputError, choices
from dcs_nas.export.metadata import ExportInfo
from dcs_nas.export.onnx_model import OnnxModel, build_model, require
from dcs_nas.export.run_model import Extractor, describe_run
from dcs_nas.files import atomic_path
from dcs_nas.models.blocks import DCSAttention
from dcs_nas.training.evaluate import load_trained

FORMATS = ("onnx", "pt2")
TOLERANCE = {"onnx": 1e-4, "pt2": 1e-5}
"""Largest difference of a feature, as a share of the image's largest one where that is above 1."""
AT_A_STEP = 1e-2
"""The same for images at a step of DCS-Attention, see ``mark_steps``."""
INFO_FILE = "dcs_nas.json"
_RANDOM, _REAL = 8, 8  # images of each kind to check a file on
_ROUNDING = 1e-5  # of float32 logits, as a share of the largest


@dataclass(frozen=True, eq=False)
class Deployable:
    """An extractor in evaluation mode, its metadata, images of its data (n, 3, H, W) uint8, and notes for the user."""

    extractor: Extractor
    info: ExportInfo
    samples: Tensor
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ExportedFile:
    """A file written, the number of images that it was checked on, and the largest error on them.

    ``at_a_step`` of the images, with an error of their own, are at a step of DCS-Attention.
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
    for name in formats:
        if name not in FORMATS:
            raise InputError(f"unknown format '{name}' of an export; {choices(name, FORMATS)}")
    if not formats:
        raise InputError(f"no format to export to, expected at least one; known: {', '.join(FORMATS)}")
    if "onnx" in formats:
        require("onnx", "onnxscript", "onnxruntime", purpose="export to ONNX")
    source = _load(folder, checkpoint)
    program = trace(source)
    size = (_RANDOM, 3, source.info.height, source.info.width)
    noise = torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = torch.cat([noise, source.samples])
    steps = mark_steps(source.extractor, images)
    writers = {"onnx": _write_onnx, "pt2": _write_pt2}
    files = []
    for name in dict.fromkeys(formats):
        path = out / f"model.{name}"
        with atomic_path(path) as temporary:
            errors = measure_errors(writers[name](program, source.info, temporary), source, images)
            file = ExportedFile(
                path, len(images), _largest(errors[~steps]), TOLERANCE[name], int(steps.sum()), _largest(errors[steps])
            )
            if not (file.error <= file.tolerance and file.error_at_a_step <= AT_A_STEP):
                raise RuntimeError(f"{path.name} differs from the trained network, nothing was written: {file}")
        files.append(file)
    return files, source


def _load(folder: Path, checkpoint: str) -> Deployable:
    """Return the feature extractor of a trained run, and some images of its data."""
    config, network = load_trained(folder, checkpoint=checkpoint)
    notes = []
    if network.cameras:
        notes.append("the network uses cameras; the file takes all as unknown, as evaluation on another data set does")
    images, missing = _samples(config)
    notes += [missing] if missing else []
    info = describe_run(config, network, folder, checkpoint)
    return Deployable(Extractor(network, config.data.mean, config.data.std).eval(), info, images, tuple(notes))


def _samples(config: Config) -> tuple[Tensor, str]:
    """Return some query images of the run's own data, and the reason if there are none."""
    data = config.data
    source = data.test or data.own
    try:
        if source.root is None:
            raise InputError("data.root is not set")
        tested = load_dataset(source.name, source.root.expanduser(), **source.options)
        paths = [tested.root / record.path for record in (tested.query or tested.train)[:_REAL]]
        images = [torch.tensor(read_image(path, height=data.height, width=data.width)) for path in paths]
    except (InputError, OSError) as error:
        return torch.empty(0, 3, data.height, data.width, dtype=torch.uint8), f"no real images to check on: {error}"
    return torch.stack(images).permute(0, 3, 1, 2).contiguous(), ""


@torch.no_grad()
def mark_steps(extractor: Extractor, images: Tensor) -> Tensor:
    """Return, as booleans (B,), which images have a DCS-Attention logit T that is 0 up to rounding.

    There the mask 1[T > 0] may differ under another runtime, as between any two devices: the network itself jumps, by
    one channel of one token.
    """
    mask = torch.zeros(len(images), dtype=torch.bool)

    def look(_module: nn.Module, _inputs: object, logits: Tensor) -> None:
        sizes = logits.abs().flatten(1)
        mask.logical_or_(sizes.amin(1) <= _ROUNDING * sizes.amax(1))

    blocks = [module for module in extractor.modules() if isinstance(module, DCSAttention)]
    handles = [block.selector.register_forward_hook(look) for block in blocks]
    try:
        extractor(images)
    finally:
        for handle in handles:
            handle.remove()
    return mask


def trace(source: Deployable) -> ExportedProgram:
    """Return the extractor as a graph for any number of images."""
    images = torch.zeros(2, 3, source.info.height, source.info.width, dtype=torch.uint8)
    with _quiet(), torch.no_grad():
        program = torch.export.export(source.extractor, (images,), dynamic_shapes={"images": {0: Dim("batch")}})
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


@torch.no_grad()
def measure_errors(run: Callable[[Tensor], Tensor], source: Deployable, images: Tensor) -> Tensor:
    """Return the errors (B,) of ``run`` against the extractor on images (B, 3, H, W), all at once and the first alone.

    The error of an image is its largest difference, as a share of its largest feature where that is above 1.
    """
    expected = source.extractor(images)
    scale = expected.abs().amax(1).clamp_min(1)
    features = run(images)
    alone = run(images[:1])
    errors = (features - expected).abs().amax(1) / scale
    errors[0] = errors[0].maximum((alone[0] - expected[0]).abs().max() / scale[0])
    return errors.nan_to_num(torch.inf)


def _largest(errors: Tensor) -> float:
    return float(errors.max()) if len(errors) else 0.0


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
    """Silence warnings and the exporters' logs of their own internals within the block."""
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
