#!/bin/sh
# Make a virtual environment of the files that the lock files name, to the hash, and get Graphviz's dot where it is
# missing. HASHES=no takes the same versions without hashes: for a build of torch of your own.
set -eu
venv=$1
python=${PYTHON:-python3}

if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
    found=$("$python" --version 2>&1 || true)
    echo "setup: $python is ${found:-missing}, expected Python 3.11 to 3.13; name another with make PYTHON=python3.11" >&2
    exit 1
fi

echo "setup: installing into $venv (once; a few minutes)"
rm -f "$venv"/ready-*
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip() {
    "$venv/bin/python" -m pip "$@" -qq --disable-pip-version-check
}

# Wheels only, so that nothing of a package runs before its hash is checked; --no-deps, since the lock names everything.
locked() {
    pip install --require-hashes --no-deps --only-binary :all: -r "$@" || {
        echo "setup: pip failed, see above: the package index must be reachable once, and a file that does not have its hash" \
            "in $1 is refused. With a build of torch of your own: make HASHES=no" >&2
        exit 1
    }
}

case ${HASHES:-yes}-$(uname -sm) in
yes-Linux\ x86_64 | yes-Darwin\ arm64)
    locked requirements.lock
    # pip chooses the build of torch, CUDA or CPU, by how it is set up; what it chose is then checked like all else.
    version=$(sed -n 's/^torch==//p' constraints.txt)
    torch=$(mktemp -d)
    trap 'rm -rf "$torch"' EXIT
    "$venv/bin/python" -c "from importlib.metadata import version as v; assert v('torch').split('+')[0] == '$version'" \
        2>/dev/null || pip download --no-deps --only-binary :all: --dest "$torch" "torch==$version" || {
        echo "setup: torch $version could not be fetched, see above; the package index must be reachable once" >&2
        exit 1
    }
    locked requirements-torch.lock --no-index --find-links "$torch"
    if "$venv/bin/python" scripts/wants_cuda.py; then
        locked requirements-cuda.lock
    fi
    pip install --no-deps --no-build-isolation -e .
    "$venv/bin/python" -m pip check --disable-pip-version-check || {
        echo "setup: the lock files do not fit each other or pyproject.toml; regenerate them by scripts/lock.sh" >&2
        exit 1
    }
    ;;
*)
    echo "setup: versions as in constraints.txt, hashes not checked ($([ "${HASHES:-yes}" = yes ] && uname -sm || echo HASHES=no))"
    pip install -c constraints.txt -e '.[dev,docs,export]' || {
        echo "setup: pip failed, see above; the package index must be reachable once" >&2
        exit 1
    }
    ;;
esac

if ! command -v dot >/dev/null 2>&1; then
    echo "setup: Graphviz's dot is missing, trying the system's package manager"
    sudo=""
    [ "$(id -u)" = 0 ] || { command -v sudo >/dev/null 2>&1 && sudo="sudo -n"; }
    if command -v apt-get >/dev/null 2>&1; then
        { $sudo apt-get update -qq && $sudo apt-get install -y -qq --no-install-recommends graphviz fonts-dejavu-core; } >/dev/null 2>&1 || true
    elif command -v dnf >/dev/null 2>&1; then
        $sudo dnf install -y -q graphviz dejavu-sans-fonts >/dev/null 2>&1 || true
    elif command -v brew >/dev/null 2>&1; then
        brew install --quiet graphviz >/dev/null 2>&1 || true
    fi
    command -v dot >/dev/null 2>&1 ||
        echo "setup: dot could not be installed; cells will be drawn by matplotlib instead. Install the package graphviz for the real thing"
fi
echo "setup: done"
