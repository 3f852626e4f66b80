#!/bin/sh
# Measure this project on one GPU in about 9 minutes, into results/reference/gpu.json: benchmarks/gpu_check.py.
# WHEELS=folder holds packages that the machine lacks and can't fetch, PYTHON=python3 names the interpreter.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
if [ -n "${WHEELS:-}" ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl
    PYTHONPATH=$PYTHONPATH:$site # behind what the machine has
fi
export PYTHONPATH
"$python" benchmarks/gpu_check.py "$@"
