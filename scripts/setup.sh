#!/usr/bin/env bash
# Prepare .venv with the package and what its tests need; install missing Debian packages.
# Usage: scripts/setup.sh [COMMAND:DEBIAN-PACKAGE ...]   commands that must exist afterwards
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
# The kernel path is compiled when the package is built.
command -v clang >/dev/null || missing+=(clang)
[[ -e /usr/include/bpf/bpf_helpers.h ]] || missing+=(libbpf-dev)
[[ -e /usr/include/linux/bpf.h ]] || missing+=(linux-libc-dev)
python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    missing+=(python3 python3-venv)
if ((${#missing[@]})); then
    if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
        echo "setup: install these first: ${missing[*]}" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt=(apt-get -qq -o DPkg::Lock::Timeout=300)
    "${apt[@]}" update </dev/null
    "${apt[@]}" install -y --no-install-recommends "${missing[@]}" </dev/null >/dev/null
fi

# uv makes the environment in seconds; it is itself pinned and hashed.
stamp=.venv/.complete
inputs=(requirements pyproject.toml hatch_build.py gwlbtun/bpf/*.[ch])
if [[ ! -e $stamp ]] || [[ -n $(find "${inputs[@]}" -newer "$stamp") ]]; then
    rm -f "$stamp"
    [[ -x .cache/uv/bin/pip ]] || python3 -m venv .cache/uv
    .cache/uv/bin/pip --quiet --disable-pip-version-check install \
        --require-hashes -r requirements/bootstrap.txt
    uv=.cache/uv/bin/uv
    [[ -x .venv/bin/python ]] || "$uv" --quiet venv --python "$(command -v python3)" .venv
    export VIRTUAL_ENV=.venv
    "$uv" --quiet pip install --require-hashes -r requirements/dev.txt
    "$uv" --quiet pip install --no-deps --no-build-isolation -e .
    touch "$stamp"
fi
