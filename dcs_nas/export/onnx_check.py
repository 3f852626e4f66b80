"""What an ONNX file refers to, read from its bytes before any runtime sees it, with neither onnx nor protobuf.

Field numbers: github.com/onnx/onnx, onnx/onnx.proto. Wire format: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator

_INSIDE = {  # message: number of a field to the message that it holds
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_DEEPEST = 50


def refers_to_other_files(content: bytes) -> bool:
    """Whether a tensor of the model has its values in another file, by whatever path.

    Raises:
        ValueError: the bytes are no protocol buffer, or its messages are nested too deeply.
    """
    waiting: list[tuple[str, memoryview, int]] = [("model", memoryview(content), 0)]
    while waiting:
        message, data, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ValueError("its graphs are nested too deeply")
        for number, value in _fields(data):
            if message == "tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)):
                return True
            inner = _INSIDE[message].get(number)
            if inner is not None:
                if not isinstance(value, memoryview):
                    raise ValueError("a message is expected where a number stands")
                waiting.append((inner, value, depth + 1))
    return False


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Field numbers with their bytes or integers; fixed-size numbers come as 0."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, place = _varint(data, place)
            yield number, value
        elif wire == 2:
            length, place = _varint(data, place)
            if length > len(data) - place:
                raise ValueError("a field goes beyond the end of its message")
            yield number, data[place : place + length]
            place += length
        elif wire in (1, 5):
            place += 8 if wire == 1 else 4
            yield number, 0
        else:
            raise ValueError(f"a field has the unknown wire type {wire}")


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            break
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("a number goes beyond the end of its message, or beyond 64 bits")
