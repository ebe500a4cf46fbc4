#!/bin/sh
# Installs what it is given (`.`, `.[dev]`) into VENV, with the tested versions, and explains a failure in one line.
set -eu
what=$1
venv=${VENV:-.venv}
log=$venv/install.log
here=$(dirname "$0")

python=$(sh "$here/check_machine.sh")

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "Making $venv with $("$python" --version)"
    # A broken one is made anew; a folder that is no environment is never cleared.
    clear=
    if [ -f "$venv/pyvenv.cfg" ]; then clear=--clear; fi
    "$python" -m venv $clear "$venv"
fi

if ! "$venv/bin/python" -c 'import llama_cpp' >/dev/null 2>&1; then
    echo "Installing. The first time llama.cpp is compiled for this machine: 7 to 14 minutes on 2 cores,"
    echo "during which nothing is printed here; to look on: tail -f $log"
fi

logged() {
    grep -qiE "$1" "$log"
}

why() {
    # A download that was tried again leaves its warning in the log, so the network comes last.
    if logged 'No space left on device|Errno 28|not enough space'; then
        echo "the disk is full (here or in ${TMPDIR:-/tmp}; without a GPU a torch built for the CPU alone takes 5 GB less)"
    elif logged 'CMake Error|CMake build failed|CMake configuration failed|ninja: build stopped|Failed building wheel'; then
        echo "llama.cpp did not compile (too little memory is a frequent reason: CMAKE_BUILD_PARALLEL_LEVEL=1 makes it need less)"
    elif logged 'NewConnectionError|Failed to establish a new connection|name resolution|getaddrinfo|ConnectTimeoutError|ReadTimeoutError|Connection refused|Network is unreachable|ProxyError|SSLError|CERTIFICATE_VERIFY_FAILED|RemoteDisconnected|Connection reset'; then
        echo "no network, or it does not let pip through"
    elif logged 'ResolutionImpossible|No matching distribution|Could not find a version'; then
        echo "pip found no versions that fit: $(grep -E '^ERROR: ' "$log" | head -n 1 | cut -c 8-)"
    else
        echo "pip failed: $(grep -iE 'error' "$log" | tail -n 1)"
    fi
}

# PIP_FLAGS is split into words on purpose.
if ! "$venv/bin/python" -m pip install ${PIP_FLAGS:-} -c constraints.txt -e "$what" >"$log" 2>&1; then
    echo "Cannot install: $(why); the whole log: $log" >&2
    exit 1
fi
