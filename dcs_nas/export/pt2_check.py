"""``.pt2`` files read without trusting them.

``torch.export.load`` unpickles tensors and example inputs, calls any function of torch that a file names, and executes
text of it (sizes, guards, names) as Python. So a file is first taken apart here: every member, every call and every
text must be one that an export of ours can hold, and what torch gets is a new archive of those parts alone, without
pickles. What a graph then computes is limited to operations of torch on tensors; their time and memory are not.
"""

from __future__ import annotations

import ast
import io
import json
import keyword
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

_MODEL, _INPUTS = "models/model.json", "data/sample_inputs/model.pt"
_WEIGHTS, _CONSTANTS = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"
_NEEDED = {_MODEL, _INPUTS, _WEIGHTS, _CONSTANTS}
_PLAIN = {"archive_format", "archive_version", ".data/version", ".data/serialization_id", "byteorder", "version"}
_PAYLOAD = re.compile(r"data/(weights/weight|constants/tensor)_\d{1,6}")
_EXTRA = re.compile(r"extra/[A-Za-z0-9_]{1,40}\.json")

_WORD = re.compile(r"[A-Za-z0-9_.+-]{0,400}")
_SETTING = re.compile(r"[a-z_]{0,20}")
_OPERATION = re.compile(r"torch\.ops\.aten\.([a-z_A-Z0-9]{1,60})\.([a-z_A-Z0-9]{1,60})")
_OTHER_CALLS = re.compile(
    r"torch\.ops\.higher_order\.wrap_with_(autocast|set_grad_enabled)|_operator\.(getitem|add|sub|mul|floordiv|mod|neg)"
)
_WORD_ARGUMENTS = {"approximate", "rounding_mode", "mode", "padding", "padding_mode", "reduce"}
_ARGUMENTS = {"tensor", "int", "float", "bool", "sym_int", "sym_float", "sym_bool", "optional_tensor"}
_KINDS = {f"as_{kind}{s}" for kind in _ARGUMENTS for s in ("", "s")} | {
    f"as_{kind}"
    for kind in ("none", "string", "scalar_type", "memory_format", "layout", "device", "expr", "name", "graph")
}
_SYMBOLIC = {"Symbol", "Integer", "Mul", "Add", "Pow", "Max", "Min", "FloorDiv", "CeilDiv", "Mod", "PythonMod", "floor"}
_CONTAINERS = {None, "builtins.tuple", "builtins.list", "builtins.dict"}
_DEEPEST = 60


def checked_archive(path: Path) -> tuple[io.BytesIO, dict[str, str]]:
    """A new archive of the parts of a ``.pt2`` file that were checked, and its extra files by name.

    Raises:
        ValueError: anything that an export of ours does not hold, in a few words.
    """
    with zipfile.ZipFile(path) as archive:
        members = _members(archive)
        graph = _graph(json.loads(members[_MODEL]))
    for config, folder in ((_WEIGHTS, "data/weights/"), (_CONSTANTS, "data/constants/")):
        _check_payloads(json.loads(members[config]), folder, members)
    members[_MODEL] = json.dumps(graph).encode()
    members[_INPUTS] = b""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"archive/{name}", data)
    content.seek(0)
    extra = {n.partition("/")[2]: data.decode() for n, data in members.items() if n.startswith("extra/")}
    return content, extra


def _members(archive: zipfile.ZipFile) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for member in archive.infolist():
        name = member.filename.partition("/")[2]
        if not (name in _NEEDED or name in _PLAIN or _PAYLOAD.fullmatch(name) or _EXTRA.fullmatch(name)):
            raise ValueError(f"it holds {member.filename[:100]!r}, which no export of ours does")
        if name in found or member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"it holds {name!r} twice or compressed")
        found[name] = archive.read(member)
    if not found.keys() >= _NEEDED:
        raise ValueError(f"it lacks {', '.join(sorted(_NEEDED - found.keys()))}")
    return found


def _check_payloads(config: Any, folder: str, members: dict[str, bytes]) -> None:
    _check(config, "", 0)
    for name, payload in config["config"].items():
        place = folder + payload["path_name"]
        if payload["use_pickle"] is not False or not _PAYLOAD.fullmatch(place) or place not in members:
            raise ValueError(f"the values of {name[:100]} are pickled or missing")
        sizes = [size.get("as_int") for size in payload["tensor_meta"]["sizes"]]
        if not members[place] and 0 not in sizes:
            raise ValueError(f"{name[:100]} has a shape and no bytes")


def _graph(program: Any) -> Any:
    """The program as it was, without what says where it came from, once all of it is found harmless."""
    if program.get("guards_code") not in (None, []):
        raise ValueError("it holds guards, which are code")
    program = _without_metadata(program, 0)
    _check(program, "", 0)
    return program


def _without_metadata(value: Any, depth: int) -> Any:
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    if isinstance(value, dict):
        return {k: {} if k == "metadata" else _without_metadata(v, depth + 1) for k, v in value.items()}
    return [_without_metadata(v, depth + 1) for v in value] if isinstance(value, list) else value


def _check(value: Any, key: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    if isinstance(value, dict):
        if key == "custom_obj_values" and value:
            raise ValueError("it holds objects, which are pickled")
        for name, inner in value.items():
            if not _WORD.fullmatch(name) or (name.startswith("as_") and name not in _KINDS):
                raise ValueError(f"it holds the entry {name[:100]!r}")
            _check(inner, name, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, key, depth + 1)
    elif isinstance(value, str) and not _harmless(value, key):
        raise ValueError(f"its '{key}' {value[:100]!r} is none of an export of ours")


def _harmless(text: str, key: str) -> bool:
    if key == "target":
        return _is_operation(text)
    if key == "expr_str":
        return len(text) < 10_000 and _is_size(text)
    if key in ("in_spec", "out_spec"):
        return _is_structure(json.loads(text)[1], 0)
    if key == "name":
        return text == "" or (text.isascii() and text.isidentifier() and not keyword.iskeyword(text))
    return (_SETTING if key == "as_string" else _WORD).fullmatch(text) is not None


def _is_operation(target: str) -> bool:
    """Whether this is an operation on tensors that takes no text but the name of a variant, such as "bilinear"."""
    if _OTHER_CALLS.fullmatch(target):
        return True
    match = _OPERATION.fullmatch(target)
    overload = getattr(getattr(torch.ops.aten, match[1], None), match[2], None) if match else None
    if not isinstance(overload, torch._ops.OpOverload):
        return False
    texts = [a.name for a in overload._schema.arguments if "str" in str(a.type)]
    return set(texts) <= _WORD_ARGUMENTS and "..." not in str(overload._schema)


def _is_size(text: str) -> bool:
    """Whether a size is a term of symbols and integers, as sympy writes it out, and nothing else."""
    return all(_is_term(node) for node in ast.walk(ast.parse(text, mode="eval")))


def _is_term(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in _SYMBOLIC
    if isinstance(node, ast.Constant):
        known = isinstance(node.value, str) and re.fullmatch(r"[a-z]{1,4}\d{1,6}", node.value)
        return isinstance(node.value, int) or bool(known)
    if isinstance(node, ast.Name):
        return node.id in _SYMBOLIC or re.fullmatch(r"[suz]\d{1,6}", node.id) is not None
    return isinstance(node, (ast.Expression, ast.keyword, ast.Load, ast.UnaryOp, ast.USub))


def _is_structure(spec: Any, depth: int) -> bool:
    """Whether the arguments or results are tuples, lists and dicts of tensors."""
    context = spec["context"]
    plain = context is None or json.loads(context) is None or all(_WORD.fullmatch(k) for k in _strings(context))
    inner = spec["children_spec"]
    return depth < 10 and plain and spec["type"] in _CONTAINERS and all(_is_structure(s, depth + 1) for s in inner)


def _strings(context: str) -> Iterator[str]:
    for value in json.loads(context):
        yield value if isinstance(value, str) else "?"
