#!/usr/bin/env bash
# Renew the locked requirements: every package with its hashes, no registry named.
set -euo pipefail
cd "$(dirname "$0")/.."
compile=(.cache/uv/bin/uv --quiet pip compile --upgrade --universal --python-version 3.11
    --generate-hashes --no-emit-index-url --custom-compile-command 'make lock')
"${compile[@]}" -o requirements/bootstrap.txt requirements/bootstrap.in
"${compile[@]}" -o requirements/runtime.txt pyproject.toml
"${compile[@]}" -c requirements/runtime.txt -o requirements/dev.txt \
    pyproject.toml requirements/dev.in
