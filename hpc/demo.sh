#!/usr/bin/env bash
# The main job on real input: classify the 899 handwritten digits that digits-cnn was not trained on.
#   hpc/demo.sh BUILD_FOLDER IMAGE       (make demo calls it, with the environment in BUILD_FOLDER/venv)
set -euo pipefail

build=$1
image=$2
python=$build/venv/bin/python
model=registry/contributions/digits-cnn
run=$build/demo-run

if ! command -v apptainer > /dev/null && [ -t 0 ]; then
  hpc/install.sh || true # it says why not
fi
if command -v apptainer > /dev/null; then
  runtime=apptainer
  make image
else
  runtime=host
  echo "Apptainer is not on this machine (see hpc/install.sh): the model runs without a container, --runtime host." >&2
  "$python" -m pip install --quiet --editable '.[host]'
fi

"$python" "$model/make_images.py" "$build/digits"
rm -rf "$run"
code=0
"$build/venv/bin/mh-hpc" submit --model digits-cnn --inputs "$build/digits" --outdir "$run" \
  --executor local --runtime "$runtime" --image "$image" || code=$?
"$python" "$model/score.py" "$run" "$build/digits/labels.csv"
exit "$code"
