"""The error for what a user can mend: bad settings, bad files, bad folders."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """What was found, what was expected, and how to mend it, in one line.

    The command line prints it as it is and exits with 1; every other exception is a defect of ours.
    """


def choices(name: str, known: Iterable[str]) -> str:
    """The end of an error line: the name most like ``name``, if any, and all that are known.

    >>> choices("dsc", ["dcs", "rga"])
    'did you mean dcs? known: dcs, rga'
    """
    names = [str(k) for k in known]
    near = difflib.get_close_matches(str(name), names, n=1)
    listing = f"known: {', '.join(names)}"
    return f"did you mean {near[0]}? {listing}" if near else listing


class TrainingError(RuntimeError):
    """Training cannot go on, in one line: the step, the term, the files. Printed like an ``InputError``."""
