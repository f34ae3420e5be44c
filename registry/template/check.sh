#!/bin/sh
# What must hold before this model is published; for continuous integration, or by hand.
#
#   MH_HPC_INSTALL   what pip installs where mh-hpc is missing: a wheel, a folder, or git+URL of modelhub-hpc
#   MODEL_IMAGE      where the model's image comes from if it is not in the image store, as `mh-hpc convert` takes it
set -eu
cd "$(dirname "$0")"

if ! command -v mh-hpc > /dev/null; then
  tools=$(mktemp -d)
  trap 'rm -rf "$tools"' EXIT
  python3 -m venv "$tools"
  "$tools/bin/pip" install --quiet "${MH_HPC_INSTALL:?says what pip is to install as mh-hpc is not here}"
  PATH="$tools/bin:$PATH"
fi

mh-hpc validate .
if [ -n "${MODEL_IMAGE:-}" ]; then mh-hpc convert "$MODEL_IMAGE"; fi
mh-hpc test .
