#!/bin/sh
# Rewrites constraints.txt (needs uv). torch's own GPU libraries are left out, so the file fits CPU and CUDA builds alike.
set -eu
cd "$(dirname "$0")/.."
new=$(mktemp)
trap 'rm -f "$new"' EXIT
uv pip compile pyproject.toml --extra dev --extra slurm --universal --python-version 3.11 \
    --constraints requirements/pins.txt --no-annotate --no-header --no-emit-index-url --no-emit-find-links --quiet --upgrade \
    --output-file "$new"
{
    echo "# Written by requirements/lock.sh; used as: pip install -c constraints.txt"
    grep -vE '^(nvidia-|cuda-|triton)' "$new"
} > constraints.txt
