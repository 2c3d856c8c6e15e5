#!/bin/sh
# Sets up all that Kowalski needs in this folder: the few system packages that are missing, a
# Python environment in .venv, the locked packages (checked by hash) and the project itself.
#
# Usage: scripts/setup.sh [runtime | dev | bench]
#   runtime  what a node needs (the default)
#   dev      that, and what the tests and checks need
#   bench    the first, and what the benchmark compares with
#
# It may be run again at any time: each step looks first and does only what is missing, and where
# nothing is, it ends at once, without the network. PYTHON=/path/to/python chooses the Python. pip
# finds packages as it is configured on this machine.
set -eu

group=${1:-runtime}
case $group in
runtime | dev | bench) ;;
*)
    echo "setup: unknown group '$group': it is runtime, dev or bench" >&2
    exit 2
    ;;
esac

cd "$(dirname "$0")/.."
root=$(pwd -P)
stamps=.venv/kowalski-setup
log=.setup.log

# --------------------------------------------------------------------- what is there already

# A group's stamp is a copy of the locks that it was installed from. The project's stamp also says
# which folder that was, because neither it nor the environment's commands survive a move.
locks_installed() {
    cat requirements/build.lock "requirements/$1.lock" | cmp -s - "$stamps/$1"
}

project_stamp() {
    echo "$root"
    cat pyproject.toml
}

environment_works() {
    head -n 2 .venv/bin/pip 2>/dev/null | grep -qF "$root/.venv/" && .venv/bin/python -c '' 2>/dev/null
}

# The other groups hold all that a node needs.
packages_ready() {
    locks_installed "$group" ||
        { [ "$group" = runtime ] && { locks_installed dev || locks_installed bench; }; }
}

project_ready() {
    project_stamp | cmp -s - "$stamps/project"
}

on_linux() {
    [ "$(uname -s)" = Linux ]
}

sandbox_ready() {
    ! on_linux || command -v bwrap >/dev/null
}

# Only root can make the network namespaces that the partition tests use.
namespaces_ready() {
    [ "$group" != dev ] || ! on_linux || [ "$(id -u)" -ne 0 ] || command -v ip >/dev/null
}

# Tests of wrong clocks preload its library into a node. Only Debian's place for it is looked at, by
# the tests as well as here; where apt-get is not, they are skipped.
clocks_ready() {
    [ "$group" != dev ] || ! on_linux || ! command -v apt-get >/dev/null ||
        [ -n "$(find /usr/lib/*/faketime -name libfaketimeMT.so.1 2>/dev/null)" ]
}

# Programs in other languages are run by tests where those languages are; where a change is judged,
# all of them have to be.
languages_ready() {
    [ "$group" != dev ] || [ -z "${CI:-}" ] || ! command -v apt-get >/dev/null ||
        { command -v node && command -v rustc && command -v cc && command -v javac; } >/dev/null
}

if environment_works && packages_ready && project_ready && sandbox_ready && namespaces_ready &&
    clocks_ready && languages_ready; then
    exit 0
fi

# --------------------------------------------------------------------------- how it is told

child=
scratch=$(mktemp -d)
began=$(date +%s)

say() {
    printf '  %-13s%s\n' "$1" "$2"
}

fail() {
    printf '\nsetup: %s\n' "$1" >&2
    exit 1
}

cleanup() {
    [ -z "$child" ] || kill "$child" 2>/dev/null || true
    rm -rf "$scratch"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# run_logged LABEL TEXT COMMAND...: runs a command with its output in the log. Where somebody
# watches it shows the seconds while they pass; where the command fails, the end of the log.
run_logged() {
    label=$1
    text=$2
    shift 2
    start=$(date +%s)
    output=$scratch/output
    status=0
    if [ -t 1 ]; then
        ("$@") >"$output" 2>&1 </dev/null &
        child=$!
        while kill -0 "$child" 2>/dev/null; do
            collected=$(grep -c '^Collecting ' "$output" || true)
            printf '\r  %-13s%s (%s s%s) ' "$label" "$text" "$(($(date +%s) - start))" \
                "$([ "$collected" -eq 0 ] || echo ", $collected collected")"
            sleep 0.2 2>/dev/null || sleep 1
        done
        wait "$child" || status=$?
        child=
        printf '\r\033[K'
    else
        say "$label" "$text ..."
        ("$@") >"$output" 2>&1 </dev/null || status=$?
    fi
    {
        echo
        echo "\$ $*"
        cat "$output"
    } >>"$log"
    seconds=$(($(date +%s) - start))
    [ "$status" -ne 0 ] || {
        say "$label" "$text: done in $seconds s"
        return 0
    }
    say "$label" "$text: failed after $seconds s, with these last lines"
    echo
    tail -n 20 "$output" | sed 's/^/    /'
    if grep -qE 'NewConnectionError|NameResolution|Temporary failure|Could not resolve|ReadTimeout' \
        "$output"; then
        fail "the package server could not be reached: is this machine online? (All output: $log)"
    elif grep -q 'from versions: none' "$output"; then
        fail "pip found no such package: is this machine online, and does the package server that pip
is configured to use have it? (All output: $log)"
    fi
    fail "this step failed: $text. The whole output is in $log"
}

# ----------------------------------------------------------------------------------- Python

# usable PYTHON UPPER: whether it is a CPython from 3.11 up to, not including, 3.UPPER. It is
# started, because a version manager may put names on the path that have no Python behind them.
usable() {
    "$1" -c "import sys
sys.exit(sys.implementation.name != 'cpython' or not (3, 11) <= sys.version_info < (3, $2))" \
        >/dev/null 2>&1
}

# Sets `python`. 3.11 to 3.13 come first: for newer ones more dependencies have to be compiled.
find_python() {
    if [ -n "${PYTHON:-}" ]; then
        usable "$PYTHON" 99 || fail "PYTHON=$PYTHON is not a CPython of 3.11 or newer."
        python=$(command -v "$PYTHON")
        return
    fi
    for upper in 14 99; do
        for candidate in python3 python3.13 python3.12 python3.11 python3.14; do
            if usable "$candidate" "$upper"; then
                python=$(command -v "$candidate")
                return
            fi
        done
    done
    fail "Kowalski needs Python 3.11 or newer; here is $(python3 --version 2>/dev/null || echo none).
Debian 12, Ubuntu 24.04 and newer have it: apt-get install python3
If it stands elsewhere: make setup PYTHON=/path/to/python3.11"
}

ask_python() {
    "$python" -c "import sys, sysconfig; print($1)"
}

# -------------------------------------------------------------------------- system packages

# A dependency of libp2p (fastecdsa) is published as C source alone: it wants a compiler, Python's
# headers and libgmp. The check is to compile and link a few lines with the compiler that pip uses.
links() {
    printf '%s\n' "$1" >"$scratch/try.c"
    # shellcheck disable=SC2086 # the variables hold several words
    $compiler ${CFLAGS:-} "$scratch/try.c" ${LDFLAGS:-} $2 -o "$scratch/try" >/dev/null 2>&1
}

# needed PACKAGES WORDS: adds Debian packages, and what they are for, to what is missing.
needed() {
    missing="$missing $1"
    missing_words="${missing_words:+$missing_words, }$2"
}

find_missing() {
    missing=
    missing_words=
    series=$(ask_python '"python%d.%d" % sys.version_info[:2]')
    if ! environment_works; then
        "$python" -c 'import ensurepip, venv' 2>/dev/null ||
            needed "$series-venv" "Python's venv module"
    fi
    if ! environment_works || ! .venv/bin/python -c 'import fastecdsa.curvemath' 2>/dev/null; then
        compiler=${CC:-$(ask_python '(sysconfig.get_config_var("CC") or "cc").split()[0]')}
        if ! links 'int main(void) { return 0; }' ''; then
            needed "gcc libc6-dev libgmp-dev" "a C compiler, the headers of libgmp"
        elif ! links '#include <gmp.h>
int main(void) { mpz_t n; mpz_init(n); return 0; }' -lgmp; then
            needed libgmp-dev "the headers of libgmp"
        fi
        [ -f "$(ask_python 'sysconfig.get_path("include")')/Python.h" ] ||
            needed "$series-dev" "Python's C headers"
    fi
    sandbox_ready || needed bubblewrap "bubblewrap (the sandbox)"
    namespaces_ready || needed iproute2 "the ip command (for tests of partitions)"
    clocks_ready || needed faketime "libfaketime (for tests of wrong clocks)"
    if ! languages_ready; then
        command -v node >/dev/null || needed nodejs "Node.js (for tests of languages)"
        command -v rustc >/dev/null || needed rustc "Rust (for tests of languages)"
        command -v cc >/dev/null || needed gcc "a linker (for tests of languages)"
        command -v javac >/dev/null || needed default-jdk-headless "Java (for tests of languages)"
    fi
}

# apt_install [sudo]: the package lists are fetched only where the ones at hand don't do.
apt_install() {
    set -- "$@" env DEBIAN_FRONTEND=noninteractive apt-get
    # shellcheck disable=SC2086
    set -- "$@" install --yes --no-install-recommends -o DPkg::Lock::Timeout=120 $missing
    "$@" || { ${sudo:-} apt-get update && "$@"; }
}

install_missing() {
    packages=${missing# }
    again="Run this once, then the same command again:"
    sudo=
    if ! command -v apt-get >/dev/null; then
        fail "this machine lacks: $missing_words.
Install that with its package manager (Debian's names are: $packages), then run the same again."
    elif [ "$(id -u)" -ne 0 ]; then
        sudo=sudo
        if ! command -v sudo >/dev/null; then
            fail "this machine lacks: $missing_words. $again

    su -c 'apt-get update && apt-get install --yes $packages'"
        elif ! sudo -n true 2>/dev/null; then
            if [ -t 0 ] && [ -t 1 ]; then
                say system "missing: $missing_words; to install that, sudo asks for your password"
            fi
            { [ -t 0 ] && [ -t 1 ] && sudo -v; } || fail "this machine lacks: $missing_words. $again

    sudo apt-get update && sudo apt-get install --yes $packages"
        fi
    fi
    # shellcheck disable=SC2086
    run_logged system "installing $packages" apt_install $sudo
    hash -r
    find_missing
    [ -z "$missing" ] || fail "installing $packages went well, and still this machine lacks: $missing_words."
}

# --------------------------------------------------------------------------------- the work

# Replaces the subshell that it runs in, so that an interrupt reaches pip itself.
pip_install() {
    # shellcheck disable=SC2086
    PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 exec .venv/bin/python -m pip install \
        --no-input --progress-bar off "$@"
}

install_packages() {
    # What was installed from other locks than today's is about to change under its stamp.
    mkdir -p "$stamps"
    for other in runtime dev bench; do
        locks_installed "$other" || rm -f "$stamps/$other"
    done
    run_logged packages "installing the build tools" \
        pip_install --require-hashes --requirement requirements/build.lock
    # On the platforms that are tested it is known what is compiled, and the locked build tools do
    # it; elsewhere pip fetches for each such package the tools that it asks for.
    isolation=
    if on_linux && usable .venv/bin/python 14; then
        isolation=--no-build-isolation
    fi
    # shellcheck disable=SC2086
    run_logged packages "installing requirements/$group.lock" \
        pip_install --require-hashes $isolation --requirement "requirements/$group.lock"
    # libp2p brings trio-typing, whose stubs for an old trio would hide trio's own types from the
    # type checker: pyproject.toml has it look here first.
    mkdir -p .venv/types
    (cd .venv/types && ln -sfn ../lib/python3*/site-packages/trio trio)
    cat requirements/build.lock "requirements/$group.lock" >"$stamps/$group"
}

install_project() {
    run_logged kowalski "installing this folder, as it is edited" \
        pip_install --no-deps --no-build-isolation --editable .
    project_stamp >"$stamps/project"
}

echo "Setting up Kowalski ($group) in $root"
: >"$log"
find_python
say python "$(ask_python '"%d.%d.%d" % sys.version_info[:3]') at $python"
find_missing
if [ -n "$missing" ]; then
    install_missing
else
    say system "nothing is missing"
fi
environment_works || run_logged environment "making .venv" "$python" -m venv --clear .venv
packages_ready || install_packages
project_ready || install_project
say ready "in $(($(date +%s) - began)) s"
