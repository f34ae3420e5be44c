#!/bin/sh
# What must hold before this model is published; for continuous integration, or by hand.
#
#   MODEL_TOOLS   what pip installs where mh-hpc is missing: a wheel, a folder, or git+URL of modelhub-hpc
#   MODEL_IMAGE   where the model's image comes from if it is not in the image store, as `mh-hpc convert` takes it
set -eu
cd "$(dirname "$0")"

if ! command -v mh-hpc > /dev/null; then
  : "${MODEL_TOOLS:?must say what pip is to install, as mh-hpc is not here}"
  tools=$(mktemp -d)
  trap 'rm -rf "$tools"' EXIT
  python3 -m venv "$tools"
  "$tools/bin/pip" install --quiet "$MODEL_TOOLS"
  PATH="$tools/bin:$PATH"
fi

mh-hpc validate .
if [ -n "${MODEL_IMAGE:-}" ]; then
  name=$(sed -n 's/.*"docker_id": *"\([^"]*\)".*/\1/p' init/init.json)
  mh-hpc convert "$MODEL_IMAGE" --name "$name"
fi
mh-hpc test .
