#!/bin/sh
# Says in one line what this machine lacks for an installation, and stops; else prints the Python to use.
#
#   PYTHON      the Python to use; default: the first of python3, python3.14 … that is new enough
#   VENV        where the installation goes
#   NEED_GB     free space that is needed: 2 for the packages, 1.5 for the demo's models, 0.5 to build
#   PIP_FLAGS   options for pip; with --only-binary no compiler is needed
set -eu
venv=${VENV:-.venv}
need_gb=${NEED_GB:-4}

missing() {
    echo "Cannot install: $1" >&2
    exit 1
}

# Python

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}

python=
for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python3.10}; do
    if new_enough "$candidate"; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    found=$("${PYTHON:-python3}" --version 2>/dev/null) || found=
    missing "no Python 3.10 or newer: ${PYTHON:-python3} is ${found:-not there} (another one: make … PYTHON=/path/to/python3)"
fi
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    missing "$python has no venv or ensurepip module (Debian, Ubuntu: apt install python3-venv)"
fi

# Compiler: tried with a header, because on some systems the command is there and the rest is not.

compiles() {
    printf '#include <%s>\nint main(void) { return 0; }\n' "$2" |
        "$1" -x "$3" -fsyntax-only - >/dev/null 2>&1
}

any_compiles() {
    header=$1 language=$2
    shift 2
    for compiler in "$@"; do
        if compiles "$compiler" "$header" "$language"; then return 0; fi
    done
    return 1
}

installed() {
    "$venv/bin/python" -c \
        'import importlib.util as u, sys; sys.exit(u.find_spec("llama_cpp") is None)' 2>/dev/null
}

needs_compiler=yes
case "${PIP_FLAGS:-}" in *--only-binary*) needs_compiler=no ;; esac
if installed; then needs_compiler=no; fi
if [ "$needs_compiler" = yes ]; then
    # The compilers that cmake looks for. It comes itself as a wheel, with the build.
    any_compiles stdio.h c ${CC:-cc gcc clang} ||
        missing "no C compiler (Debian, Ubuntu: apt install build-essential; macOS: xcode-select --install)"
    any_compiles vector c++ ${CXX:-c++ g++ clang++} ||
        missing "no C++ compiler (Debian, Ubuntu: apt install build-essential; macOS: xcode-select --install)"
fi

# Disk: what is installed already is not needed again.

free_kb=$(df -Pk . | awk 'NR == 2 { print $4 }')
have_kb=$( (du -sk "$venv" 2>/dev/null || echo 0) | awk '{ print $1 }')
if [ $((free_kb + have_kb)) -lt $((need_gb * 1000 * 1000)) ]; then
    missing "not enough disk space: $((free_kb / 1000000)) GB free in $(pwd), about $need_gb GB needed (to try all the same: make … NEED_GB=0)"
fi

echo "$python"
