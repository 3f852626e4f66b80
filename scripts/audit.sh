#!/bin/sh
# Ask PyPI's and OSV's lists of known vulnerabilities about every version in the lock files. Exit code 0: asked, nothing
# known; 1: something is known, or a question failed; 2: neither list could be reached, nothing is known either way.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -qq --disable-pip-version-check pip-audit || {
    echo "audit: pip-audit could not be installed, so nothing was checked" >&2
    exit 2
}

# --strict, since a mirror of PyPI without its lists answers every question by "not found", which is no all-clear.
ask() {
    "$work/venv/bin/pip-audit" --strict --vulnerability-service "$1" --no-deps --disable-pip --progress-spinner off -r "$2"
}

grep -h '^pillow==' constraints.txt | tail -n 1 | sed 's/ ;.*//' >"$work/one.txt"
asked=0 known=0
for service in pypi osv; do
    # One package first: it distinguishes a list that cannot be reached from one that knows something.
    if ! ask "$service" "$work/one.txt" >"$work/said" 2>&1 && ! grep -q 'known vulnerabilit' "$work/said"; then
        echo "audit: $service cannot be asked from here: $(tail -n 1 "$work/said" | cut -c 1-200)"
        continue
    fi
    asked=1
    for lock in requirements.lock requirements-torch.lock requirements-cuda.lock; do
        echo "audit: $lock by $service"
        ask "$service" "$lock" || known=1
    done
done
[ "$asked" = 1 ] || {
    echo "audit: no list of vulnerabilities could be reached, so nothing was checked" >&2
    exit 2
}
exit "$known"
