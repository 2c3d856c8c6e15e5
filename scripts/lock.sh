#!/bin/sh
# Writes requirements/*.lock from pyproject.toml and requirements/build.in: exact versions with
# hashes, for every supported platform at once. What is locked stays as it is unless `--upgrade`
# is given. The locks build on each other (runtime <= dev, runtime <= bench, with dev's versions),
# so that all three can be installed into one environment.
#
# Usage: scripts/lock.sh [--upgrade | --upgrade-package NAME]...
set -eu

cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || { echo "lock: run 'make setup' first" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
.venv/bin/python -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --requirement requirements/lock.in

# lock NAME INPUT... [-- OPTION...]: compiles into requirements/NAME.lock, in place, so that what
# is locked already is kept.
lock() {
    name=$1
    shift
    echo "locking requirements/$name.lock"
    "$work/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 \
        --generate-hashes --annotation-style line --system-certs \
        --custom-compile-command "make lock" \
        --output-file "requirements/$name.lock" "$@" >/dev/null
}

lock runtime pyproject.toml "$@"
lock dev pyproject.toml --extra dev --constraint requirements/runtime.lock "$@"
lock bench pyproject.toml --extra bench --constraint requirements/runtime.lock \
    --constraint requirements/dev.lock "$@"
lock build requirements/build.in --constraint requirements/dev.lock "$@"
