#!/bin/sh
# Measures the training loop on a GPU, on a machine that has Python, torch, transformers and triton and no package index:
#
#     make gpu-wheels           # where there is an index; copies to build/gpu what the machine lacks, and this script
#     sh gpu.sh [--seconds 360] [--out FILE] [--model FOLDER] [--tiny]
#
# Prints progress to stderr and, as the last line of stdout, one JSON object. Nothing is installed: wheels are unpacked to a
# temporary folder, and counts only where the machine has no such package.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
wheels=${WHEELS:-$here}
test -n "$(find "$wheels" -maxdepth 1 -name '*.whl' 2> /dev/null | head -1)" || wheels=$here/../build/gpu
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
for wheel in "$wheels"/*.whl; do
  test -e "$wheel" || { echo "no wheels in $wheels: what is installed has to do (make gpu-wheels builds them)" >&2; break; }
  "$python" -m zipfile -e "$wheel" "$site"
done
# the code of a checkout before the carried wheel, where this is one
test -d "$here/../alpagasus_ray" && PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}" && export PYTHONPATH
CARRIED="$site" "$python" "$here/gpu.py" "$@"
