"""Random changes of plain data, of text and of bytes: valid examples in, what no one expects out."""

from __future__ import annotations

import copy
import datetime
import random
import string
from typing import Any

NASTY: list[Any] = [
    None, True, False, -1, 0, 1, 2, 3, 7, 16, 17, 100, 10**6, 10**9, 2**31, 2**63, 2**64, 10**30, -(10**30), 0.5,
    -0.0, 1e-320, 1e308, float("nan"), float("inf"), -float("inf"), "", " ", "none", "nan", "1", "1e5", "dcs",
    "sep_conv_3x3", "../../etc/passwd", "/etc/passwd", "~nobody-of-this-name", "~", "a/b", "a\nb", "\t",
    "<script>alert(1)</script>", "日本語", "e\u0301", "💃", "%s{}", "-rf", "'", '"', "x" * 5000,
    "!!python/object:os.system", "*a", "&a", [], {}, [[]], [None], [{}], {"a": {}}, {1: 2}, {"": ""}, {None: 1},
    {"from": 0, "op": "dcs"}, datetime.date(2001, 1, 1), b"\x00\xff", [1] * 200, list(range(40)),
]  # fmt: skip
TOKENS = [
    "&a ", "*a", "!!python/object/apply:os.system ['true']", "!!bool x", "!!int x", "!!timestamp x", "!!binary '&'",
    "!!set {[1]}", "!!int ''", "!!omap [1]", "!!pairs [{a: 1, b: 2}]", "!!float 1:2:99", "<<: {a: 1}", "<<: *a",
    "? [1]\n: 2\n", "{", "[" * 100, "]", "}", "- ", "\t", "\x00", "\x85", "\ufeff", '"\\ud800"', '"\\0"',
    '"\\x1b[2J"', "|\n", ">-", "%YAML 9.9\n", "---\n", "...\n", "9" * 5000, "0x" + "f" * 500, "1:1:1:1:1", ".inf",
    ".nan", "2001-99-99", "=", "a: 1\na: 2\n", "#", "'", '"', "\\", "\r", ",", ";", "\n\n", "é", "\ud83d", '"a\nb"',
    "-1", "0o77", "_", "~", ": ", "::", "\x1b[31m", "..", "/", "\\\\", "1_000", "1e999",
]  # fmt: skip


def changed_data(data: Any, rng: random.Random, most: int = 4) -> Any:
    """A copy of plain data with up to ``most`` values, keys or places changed, mostly one."""
    data = copy.deepcopy(data)
    for _ in range(rng.choice((0, 1, 1, 1, 1, 1, 2, most))):
        places = list(_places(data))
        if not places:
            return rng.choice(NASTY)
        _change(rng.choice(places), rng, places)
    return data


def changed_text(text: str, rng: random.Random, most: int = 4) -> str:
    """The text with one to ``most`` tokens put in, cut out, doubled or exchanged."""
    for _ in range(rng.randint(1, most)):
        at, to = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
        to = min(to, at + rng.choice((1, 1, 3, 10, 200)))
        what = rng.randrange(5)
        if what == 0:
            text = text[:at] + rng.choice(TOKENS) + text[at:]
        elif what == 1:
            text = text[:at] + text[to:]
        elif what == 2:
            text = text[:to] + text[at:to] * rng.choice((1, 2, 50)) + text[to:]
        elif what == 3:
            text = text[:at] + rng.choice(TOKENS) + text[to:]
        else:
            text = text[:at] + rng.choice(string.printable) + text[at + 1 :]
    return text[:200_000]


def changed_bytes(data: bytes, rng: random.Random, most: int = 6) -> bytes:
    """The bytes with one to ``most`` of them flipped, replaced, cut out, doubled or cut off."""
    buffer = bytearray(data)
    for _ in range(rng.randint(1, most)):
        if not buffer:
            break
        at = rng.randrange(len(buffer))
        what = rng.randrange(6)
        if what == 0:
            buffer[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            buffer[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif what == 2:
            buffer[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\1\0"))
        elif what == 3:
            del buffer[at : at + rng.choice((1, 4, 64))]
        elif what == 4:
            buffer[at:at] = buffer[at : at + rng.choice((1, 8, 64))]
        else:
            del buffer[at:]
    return bytes(buffer)


def _places(data: Any, depth: int = 0) -> Any:
    """Every (container, key) in plain data."""
    if depth < 12 and isinstance(data, (dict, list)):
        for key, value in list(data.items()) if isinstance(data, dict) else list(enumerate(data)):
            yield data, key
            yield from _places(value, depth + 1)


def _another(value: Any, key: Any, rng: random.Random, places: list[tuple[Any, Any]]) -> Any:
    """A value of the same kind: such as stands elsewhere under this key, or near the old one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return max(0, value + rng.choice((-2, -1, 1, 2, 8)))
    if isinstance(value, float):
        return value * rng.choice((0.1, 0.5, 2, 10))
    if isinstance(value, list) and value:
        kept = [v for v in value if rng.random() < 0.8]
        return kept if rng.random() < 0.5 else rng.sample(value, len(value))
    alike = [box[k] for box, k in places if (k == key or isinstance(key, int)) and k in _keys(box)]
    alike = [other for other in alike if type(other) is type(value)]
    return copy.deepcopy(rng.choice(alike)) if alike else value


def _keys(box: Any) -> Any:
    return box if isinstance(box, dict) else range(len(box))


def _change(place: tuple[Any, Any], rng: random.Random, places: list[tuple[Any, Any]]) -> None:
    box, key = place
    try:
        value = box[key]
    except (KeyError, IndexError):  # an earlier change took it away
        return
    if rng.random() < 0.6:
        box[key] = _another(value, key, rng, places)
        return
    what = rng.randrange(9)
    if what <= 2:
        box[key] = rng.choice(NASTY)
    elif what == 3:
        del box[key]
    elif what == 4:
        other, name = rng.choice(places)
        try:
            box[key] = copy.deepcopy(other[name])
        except (KeyError, IndexError):
            return
    elif what == 5 and isinstance(box, dict):
        box[rng.choice([*(k for _, k in places if isinstance(k, str)), "x", "", 0, None])] = box.pop(key)
    elif what == 6:
        box[key] = value * rng.choice((0, 2, 30)) if isinstance(value, (list, str)) and len(value) < 200 else [value]
    elif what == 7 and isinstance(value, (int, float)) and not isinstance(value, bool):
        box[key] = value + rng.choice((-1, 1, 10**9)) if rng.random() < 0.7 else -value
    else:
        for _ in range(rng.choice((1, 3, 100))):
            value = [value] if rng.random() < 0.5 else {"a": value}
        box[key] = value
