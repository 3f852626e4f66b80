#!/bin/sh
# Make a virtual environment with what constraints.txt pins, and get Graphviz's dot where it is missing.
set -eu
venv=$1
python=${PYTHON:-python3}

if ! "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
    found=$("$python" --version 2>&1 || true)
    echo "setup: $python is ${found:-missing}, expected Python 3.10 to 3.13; name another with make PYTHON=python3.11" >&2
    exit 1
fi

echo "setup: installing into $venv (once; a few minutes)"
rm -f "$venv"/ready-*
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev,export]' || {
    echo "setup: pip failed, see above; the package index must be reachable once" >&2
    exit 1
}

if ! command -v dot >/dev/null 2>&1; then
    echo "setup: Graphviz's dot is missing, trying the system's package manager"
    sudo=""
    [ "$(id -u)" = 0 ] || { command -v sudo >/dev/null 2>&1 && sudo="sudo -n"; }
    if command -v apt-get >/dev/null 2>&1; then
        { $sudo apt-get update -qq && $sudo apt-get install -y -qq --no-install-recommends graphviz fonts-dejavu-core; } >/dev/null 2>&1 || true
    elif command -v dnf >/dev/null 2>&1; then
        $sudo dnf install -y -q graphviz >/dev/null 2>&1 || true
    elif command -v brew >/dev/null 2>&1; then
        brew install --quiet graphviz >/dev/null 2>&1 || true
    fi
    command -v dot >/dev/null 2>&1 ||
        echo "setup: dot could not be installed; cells will be drawn by matplotlib instead. Install the package graphviz for the real thing"
fi
echo "setup: done"
