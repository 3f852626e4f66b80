#!/bin/sh
# Write requirements.lock, requirements-torch.lock, requirements-cuda.lock and constraints.txt from pyproject.toml. What
# is pinned stays as it is where it still fits; arguments go to uv, e.g. scripts/lock.sh --upgrade, scripts/lock.sh --upgrade-package pillow.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -qq --disable-pip-version-check uv

# What builds the package is locked like what it needs: setup.sh builds without an environment of pip's own.
printf 'hatchling\neditables\n' >"$work/build.in"
cat requirements.lock requirements-torch.lock requirements-cuda.lock >"$work/all.lock" 2>/dev/null || cp constraints.txt "$work/all.lock"
"$work/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --all-extras \
    --no-header --no-annotate --no-emit-index-url --output-file "$work/all.lock" "$@" pyproject.toml "$work/build.in" >/dev/null

# The CPU build of torch has other files than PyPI's. Where pip is set up to prefer it, its hash is added.
torch=$(sed -n 's/^torch==\([^ ]*\).*/\1/p' "$work/all.lock")
"$work/venv/bin/python" -m pip download -qq --disable-pip-version-check --no-deps --dest "$work/torch" "torch==$torch"

"$work/venv/bin/python" scripts/split_lock.py "$work/all.lock" "$work"/torch/*.whl
