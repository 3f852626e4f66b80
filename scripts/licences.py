"""The licences of all that the package needs at run time, as installed here: docs/licences.md.

    python scripts/licences.py            # write the list
    python scripts/licences.py --check    # only tell what is not allowed

Exit code 1 where a licence is unknown or not on the list of those allowed, and not named with a reason.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE, EXTRAS = "dcs-nas", ("export",)
LIST = Path(__file__).parents[1] / "docs" / "licences.md"
ALLOWED = {
    *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0"),
    *("CC0-1.0", "HPND", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib"),
}
NAMED = {
    re.compile(r"nvidia-.*|cuda-.*"): "NVIDIA's own licence; comes with torch's CUDA build alone, which needs a GPU",
}
"""Packages whose licence is none of the allowed, and why they may be here."""
_SPDX = {
    "apache 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "bsd license": "BSD",
    "revised bsd license (license.txt)": "BSD-3-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
    "the unlicense (unlicense)": "Unlicense",
}
_HEAD = """# Licences of installed packages

dcs-nas is under the MIT licence. It needs these packages at run time, the extra `export` included, with the licences
that their metadata state (as installed with Python {python}). A test refuses a licence that is unknown or not allowed.
Contents of wheels are named in the wheels' own licence files. torch's CUDA build adds NVIDIA's libraries (`nvidia-*`,
`cuda-*`), under NVIDIA's own licence. `python scripts/licences.py` writes this page.

| licence | packages |
|---|---|
"""
_LONG = 60  # characters, beyond which a License field is the licence's text


@dataclass(frozen=True)
class Licence:
    """What a package says of itself: ``stated`` in SPDX's words, a tuple of independent statements."""

    package: str
    version: str
    stated: tuple[str, ...]

    @property
    def fault(self) -> str | None:
        """Why it may not be here; None where it may."""
        wrong = [text for text in self.stated if not is_allowed(text)]
        if (self.stated and not wrong) or any(pattern.fullmatch(self.package) for pattern in NAMED):
            return None
        said = f"is under {wrong[0]}, which is not on the list of those allowed" if wrong else "states no licence"
        return f"{self.package} {self.version} {said}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    found = [licence_of(d) for d in dependencies(PACKAGE, EXTRAS)]
    faults = [licence.fault for licence in found if licence.fault]
    for fault in faults:
        print(f"licences: {fault}", file=sys.stderr)
    if not arguments.check:
        LIST.write_text(as_page(found), encoding="utf-8")
    print(f"{len(found)} packages, {len(faults)} licences not allowed")
    return 1 if faults else 0


def dependencies(package: str, extras: Iterable[str] = ()) -> list[Distribution]:
    """What ``package`` with ``extras`` needs on this machine, directly or not, by name; if installed."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    left = [(package, extra) for extra in ("", *extras)]
    while left:
        name, extra = left.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue
        for line in found[name].requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                left += [(canonicalize_name(needed.name), e) for e in ("", *needed.extras)]
    return [found[name] for name in sorted(found) if name != package]


def licence_of(package: Distribution) -> Licence:
    """The licence that a package's metadata state: the SPDX expression, else the field and the classifiers."""
    fields = package.metadata
    name = canonicalize_name(fields["Name"])
    expression = fields.get("License-Expression")
    if expression:
        return Licence(name, package.version, (expression,))
    classified = [c.split(" :: ")[-1] for c in fields.get_all("Classifier") or [] if c.startswith("License ::")]
    field = (fields.get("License") or "").strip()
    short = [field] if field and "\n" not in field and len(field) <= _LONG and field != "UNKNOWN" else []
    stated = (_SPDX.get(text.lower(), text) for text in (*short, *classified) if text != "OSI Approved")
    return Licence(name, package.version, tuple(dict.fromkeys(stated)))


def is_allowed(expression: str) -> bool:
    """Whether an SPDX expression can be met by the allowed licences: all of an AND, one of an OR."""
    flat = expression.strip()
    inner = re.search(r"\(([^()]*)\)", flat)
    if inner and re.search(r"\b(AND|OR)\b", flat):
        verdict = "MIT" if is_allowed(inner[1]) else "refused"
        return is_allowed(flat[: inner.start()] + verdict + flat[inner.end() :])
    return any(all(part.strip() in ALLOWED for part in re.split(r"\bAND\b", way)) for way in re.split(r"\bOR\b", flat))


def as_page(found: list[Licence]) -> str:
    """Return the page: one row for each licence, with its packages and their versions."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    by_licence: dict[str, list[str]] = {}
    for one in found:
        by_licence.setdefault(one.stated[0] if one.stated else "not stated", []).append(f"{one.package} {one.version}")
    rows = [f"| {licence} | {', '.join(packages)} |" for licence, packages in sorted(by_licence.items())]
    return _HEAD.format(python=python) + "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.exit(main())
