#!/usr/bin/env bash
# Makes the environment image modelhub-hpc/onnxruntime:1 as a `docker save` archive, as an ordinary user
# and without an image registry: layer 1 is a Debian root file system, layer 2 the wheels. With Jupyter it is
# modelhub-hpc/onnxruntime-jupyter:1, for working with a model by hand.

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly HERE
# shellcheck source-path=SCRIPTDIR source=../archive.sh
source "$HERE/../archive.sh"

IMAGE=modelhub-hpc/onnxruntime:1
readonly SUITE=bookworm
readonly PYTHON_TAG=311                                   # the Python of that suite
readonly SITE=usr/local/lib/python3.11/dist-packages
readonly LIBRARIES=python3-numpy,python3-pil,python3-h5py,python3-flask,python3-waitress
# media-types satisfies Python's dependency that would otherwise bring in perl (50 MB)
readonly PACKAGES=python3,$LIBRARIES,media-types
# They serve to make models, not to run them
readonly UNUSED_IN_ONNXRUNTIME=(datasets quantization tools transformers)
# "unchecked": time stamps don't matter then
readonly COMPILER="python3 -m compileall -qj 0 --invalidation-mode=unchecked-hash"

usage() {
  cat <<'TEXT'
usage: recipes/onnxruntime/build_image.sh [--with jupyter] [--mirror URI] OUT.tar

Writes a docker archive; then:  apptainer build image.sif docker-archive:OUT.tar

  --with jupyter   also Jupyter, for `mh-hpc sandbox`: the image is then modelhub-hpc/onnxruntime-jupyter:1
  --mirror URI     Debian mirror (default: the one this host's apt uses)

exit codes: 0 made, 2 wrong use, 5 this host can't make it, 75 a download failed (try again)
TEXT
}

options[with]=""
wheel_lists=("$HERE/requirements.txt")

choose_wheels() {  # -> IMAGE, wheel_lists
  case ${options[with]} in
    "") ;;
    jupyter)
      IMAGE=modelhub-hpc/onnxruntime-jupyter:1
      wheel_lists+=("$HERE/jupyter.txt")
      ;;
    *) fail 2 "--with knows jupyter, not '${options[with]}'" ;;
  esac
}

wheel_platforms() {  # the newest C library these wheels may ask for is 2.35; the suite has 2.36
  local machine minor
  machine=$(uname -m)
  for minor in 17 24 26 27 28 31 34 35; do printf -- '--platform manylinux_2_%s_%s ' "$minor" "$machine"; done
  printf -- '--platform manylinux2014_%s' "$machine"
}

collect_wheels() {  # -> $work/staged
  local folder
  # shellcheck disable=SC2046
  install_wheels "$work/staged" --require-hashes --python-version "$PYTHON_TAG" $(wheel_platforms) \
    --abi "cp$PYTHON_TAG" --abi abi3 --abi none "${wheel_lists[@]/#/--requirement=}"
  for folder in "${UNUSED_IN_ONNXRUNTIME[@]}"; do rm -rf -- "$work/staged/onnxruntime/$folder"; done
}

pack_wheels() {  # -> $work/wheels.tar
  local root="$work/wheels"
  mkdir -p "$root/$(dirname "$SITE")"
  mv "$work/compiled" "$root/$SITE"
  # ModelHub's folders: engine, contribution, results, working files, and inputs
  mkdir "$root"/{framework,contrib_src,output,working,temp,data,input}
  layer "$root" "$work/wheels.tar" $PUBLIC_MODES
}

container_config() {
  cat <<JSON
{
  "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8",
          "PYTHONPATH=/usr/local:/framework/:/contrib_src/"],
  "WorkingDir": "/contrib_src", "Cmd": ["python3", "run.py"],
  "Labels": {"org.opencontainers.image.title": "$IMAGE",
             "org.opencontainers.image.description":
               "Debian $SUITE, Python, numpy, Pillow, h5py, $(wheel_names)"}}
JSON
}

wheel_names() {
  sed -nE 's/^(onnxruntime|SimpleITK|notebook)==([0-9.]+).*/\1 \2/p' "${wheel_lists[@]}" | paste -sd ',' | sed 's/,/, /g'
}

main() {
  read_arguments "$@"
  choose_wheels
  check_host
  open_work
  collect_wheels
  make_base "$SUITE" "$PACKAGES" "$SITE" "$COMPILER"
  pack_wheels
  write_archive "$IMAGE" "mmdebstrap $SUITE $PACKAGES" "$work/base.tar" \
    "pip install --target $(wheel_names)" "$work/wheels.tar"
}

main "$@"
