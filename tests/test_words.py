"""The words of the package: docstrings of functions open with a verb, and names and texts use the field's nouns."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dcs_nas"
NO_VERBS = set(
    re.findall(
        r"\w+",
        """a all an and another any as at both by each every everything for from how if in it its many more most no none
        nothing one only other several some that the their these they this those to two what whatever when where
        whether which who whose why with yes""",
    )
)
VERBS_IN_S = {"assess", "compress", "cross", "discuss", "express", "focus", "guess", "pass", "process", "suppress"}
PARTICIPLE = re.compile(
    r"_*(?!(?:embed|feed|seed|exceed)(?:_|$)|\w+_(?:loss|distances|sum|norms?|product)$)"
    r"(?:[a-z]+ed|drawn|given|kept|known|made|shown|taken|told)(?:_|$)"
)
"""How the name of a function must not begin."""
BANNED_NAMES = {
    "found",
    "made",
    "given",
    "tried",
    "joined",
    "others",
    "person",
    "people",
    "somebody",
    "mend",
    "mended",
    "cure",
    "cures",
    "reckon",
}
"""Parts of the names of functions, classes, arguments and variables (words between underscores)."""
BANNED_TEXT = re.compile(
    r"\b(?:people(?:'s)?|person(?!(?:\W+|_)(?:re-?id|search))|somebody|mend(?:s|ed|ing)?|cure[sd]?|reckon\w*|dearest|anew|"
    r"patience|own code|meant|and so on|told|tells?|hears?|heard|meets?|gives|go(?:es)? on|went on)\b",
    re.IGNORECASE,
)
"""What docstrings and other strings say in other words, see the module's docstring."""
KEYS = {
    "columns.person", "Person Transfer GAN", "person personid pid", "the people filmed", "``people``",
    "--train-people", "--test-people", "--distractor-people", "people, or tiles",
    "synth people", "root=people", "root people", "people/bounding_box_test",
    "images of the query's person from the query's camera are removed",
}  # fmt: skip
"""Keys of settings, options, folders of examples and contents of files, which stay."""
VALUES = {"people", "person"}
"""Values of settings and keys of files, which stay."""


def _words(name: str) -> set[str]:
    return set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_"))


def _without_keys(text: str) -> str:
    if text in VALUES:
        return ""
    for key in KEYS:
        text = text.replace(key, "")
    return text


def _is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("property" in ast.unparse(d) or ast.unparse(d).endswith(".setter") for d in node.decorator_list)


def _is_registered(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether the docstring of a factory describes what it builds, for lists of names."""
    return any("register" in ast.unparse(d) for d in node.decorator_list)


def _opens_without_a_verb(docstring: str) -> bool:
    first = docstring.split(maxsplit=1)[0].strip(".,;:()")
    word = first.lower()
    return word in NO_VERBS or not first.isalpha() or (word.endswith("s") and word not in VERBS_IN_S)


def _faults(source: str) -> Iterator[tuple[int, str]]:
    """Return (line, fault) of each docstring, name and text that breaks the rules."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.append(node.name)
            exempt = _is_property(node) or _is_registered(node)
            if not exempt and PARTICIPLE.match(node.name):
                yield node.lineno, f"the name {node.name} is no verb but a participle"
            docstring = ast.get_docstring(node)
            if docstring and not exempt and _opens_without_a_verb(docstring):
                yield node.lineno, f"the docstring of {node.name} opens with no verb: {docstring.splitlines()[0]}"
        elif isinstance(node, ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.arg):
            names.append(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.append(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            for match in BANNED_TEXT.finditer(_without_keys(node.value)):
                yield node.lineno, f"the text says '{match.group()}'"
        for name in names:
            for word in sorted(_words(_without_keys(name)) & BANNED_NAMES):
                yield node.lineno, f"the name {name} holds '{word}'"
    for number, line in enumerate(source.splitlines(), 1):
        comment = re.search(r"(?:^|\s)# (.*)$", line)
        if comment and (match := BANNED_TEXT.search(_without_keys(comment.group(1)))):
            yield number, f"the comment says '{match.group()}'"


MODULES = sorted(p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*.py"))


def test_modules_are_written_in_plain_words() -> None:
    texts = {module: (PACKAGE / module).read_text(encoding="utf-8") for module in MODULES}
    assert [f"{m}:{line}: {fault}" for m, text in texts.items() for line, fault in _faults(text)] == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ('def f():\n    """The weights."""', "opens with no verb"),
        ('def f():\n    """Returns the weights."""', "opens with no verb"),
        ("def drawn_weights(): ...", "participle"),
        ("def f(given): ...", "holds 'given'"),
        ("found = 1", "holds 'found'"),
        ("num_people = 1", "holds 'people'"),
        ('raise ValueError("8 people")', "says 'people'"),
        ("x = 1  # one per person", "says 'person'"),
    ],
)
def test_a_fault_is_noticed(source: str, fault: str) -> None:
    assert [message for _, message in _faults(source) if fault in message]


@pytest.mark.parametrize(
    "source",
    [
        'def f():\n    """Return the weights."""',
        'class A:\n    @property\n    def shape(self):\n        """The shape."""',
        'raise ValueError("found 1, expected 2")',
        'x = "person re-identification, data.identities_per_batch"',
    ],
)
def test_plain_words_pass(source: str) -> None:
    assert list(_faults(source)) == []
