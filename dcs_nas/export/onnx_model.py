"""ONNX files: written with metadata and checked, and run on image files. B images, D features."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from dcs_nas.errors import InputError
from dcs_nas.export.feature_model import FeatureModel, describe_weights
from dcs_nas.export.metadata import ExportInfo, read_properties

_LARGEST = 2**31  # bytes, the format's own limit


def require(*packages: str, purpose: str) -> None:
    """Raise ``InputError`` that names the packages that are not installed."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise InputError(f"{purpose} needs {', '.join(missing)}, not installed here; pip install {' '.join(missing)}")


def build_model(model: Any, info: ExportInfo) -> Any:
    """Return an ``onnx.ModelProto`` with our metadata, batch size ``batch``, and without the paths of this machine."""
    import onnx

    graph = model.graph
    unknown = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in chain(graph.input, graph.output, graph.value_info):
        del value.metadata_props[:]
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == unknown:
                dimension.dim_param = "batch"
    for node in chain(graph.node, *(function.node for function in model.functions)):
        del node.metadata_props[:]
        node.doc_string = ""
    del graph.metadata_props[:]
    onnx.helper.set_model_props(model, info.to_properties())
    onnx.checker.check_model(model)
    return model


class OnnxModel(FeatureModel):
    """A feature extractor that ``dcs-nas export`` wrote, run by onnxruntime.

    The file is complete in itself: one that takes weights from other files is refused, wherever they are.

    Raises:
        InputError: no such file, no ONNX file, one that ``dcs-nas export`` did not write, or onnxruntime is missing.
    """

    def __init__(self, path: Path) -> None:
        require("onnx", "onnxruntime", purpose="running an ONNX file")
        import onnxruntime

        if not path.is_file():
            raise InputError(f"there is no file {path}; check the path, or write one with dcs-nas export RUN")
        self.path, content = path, _complete(path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        available = onnxruntime.get_available_providers()
        providers = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in available]
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=providers)
        except Exception as error:  # a damaged file can make its parser raise anything
            raise InputError(
                f"{path} is damaged or no ONNX file ({type(error).__name__}); export the run again"
            ) from None
        self.info = read_properties(self._session.get_modelmeta().custom_metadata_map, source=str(path))
        self.identity = describe_weights(path)
        names = [[value.name for value in side()] for side in (self._session.get_inputs, self._session.get_outputs)]
        if names != [["images"], ["features"]]:
            raise InputError(f"{path} maps {names[0]} to {names[1]}, expected images to features; export the run again")

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return features (B, D) of images (B, 3, H, W) uint8; raise ``InputError`` for another output."""
        try:
            features = self._session.run(["features"], {"images": images})[0]
        except Exception as error:  # an untrusted graph can make the runtime raise anything
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{self.path} does not run on images of its own size ({reason}); export the run again"
            ) from None
        if not isinstance(features, np.ndarray) or features.ndim != 2 or len(features) != len(images):
            shape = getattr(features, "shape", type(features).__name__)
            raise InputError(
                f"{self.path} returned {shape} for {len(images)} images, expected a row of features for each; "
                "export the run again"
            )
        return features


def _complete(path: Path) -> bytes:
    """Return the bytes of an ONNX file; raise ``InputError`` where a tensor's values are in another file."""
    import onnx

    if path.stat().st_size > _LARGEST:
        raise InputError(
            f"{path} has {path.stat().st_size:,} bytes, expected at most {_LARGEST:,}; export the run again"
        )
    content = path.read_bytes()
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's own kind of error
        raise InputError(f"{path} is damaged or no ONNX file ({type(error).__name__}); export the run again") from None
    if any(tensor.external_data or tensor.data_location == tensor.EXTERNAL for tensor in _tensors(model)):
        raise InputError(
            f"{path} takes weights from other files, which is refused; dcs-nas export writes all into one file"
        )
    return content


def _tensors(message: Any) -> Iterator[Any]:
    """Yield every tensor in a message of ONNX and in the messages inside it, of any type."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in [value] if hasattr(value, "ListFields") else value:
                yield from _tensors(inner)
