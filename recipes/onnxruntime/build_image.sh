#!/usr/bin/env bash
# Makes the environment image modelhub-hpc/onnxruntime:1 as a `docker save` archive, as an ordinary user
# and without an image registry: layer 1 is a Debian root file system, layer 2 the wheels.
set -euo pipefail
umask 022

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly HERE
readonly IMAGE=modelhub-hpc/onnxruntime:1
readonly SUITE=bookworm
readonly PYTHON_TAG=311                                   # the Python of that suite
readonly SITE=usr/local/lib/python3.11/dist-packages
readonly LIBRARIES=python3-numpy,python3-pil,python3-h5py,python3-flask,python3-waitress
# media-types satisfies Python's dependency that would otherwise bring in perl (50 MB)
readonly PACKAGES=python3,$LIBRARIES,media-types
# They serve to make models, not to run them
readonly UNUSED_IN_ONNXRUNTIME=(datasets quantization tools transformers)
# Every time stamp that is not older becomes this one, so that the same packages give the same layers.
export SOURCE_DATE_EPOCH=1700000000
readonly CREATED=2023-11-14T22:13:20Z

mirror=""
archive=""
work=""

usage() {
  cat <<'TEXT'
usage: recipes/onnxruntime/build_image.sh [--mirror URI] OUT.tar

Writes a docker archive; then:  apptainer build image.sif docker-archive:OUT.tar

  --mirror URI   Debian mirror (default: the one this host's apt uses)

exit codes: 0 made, 2 wrong use, 5 this host can't make it, 75 a download failed (try again)
TEXT
}

fail() {  # fail CODE LINE...
  local code=$1
  shift
  printf 'build_image.sh: %s\n' "$1" >&2
  shift
  if (($#)); then printf '  %s\n' "$@" >&2; fi
  exit "$code"
}

read_arguments() {
  while (($#)); do
    case $1 in
      --help | -h)
        usage
        exit 0
        ;;
      --mirror)
        (($# >= 2)) || fail 2 "--mirror needs a URI"
        mirror=$2
        shift
        ;;
      -*) fail 2 "unknown option '$1'" "see: build_image.sh --help" ;;
      *)
        [ -z "$archive" ] || fail 2 "one output file is wanted, got '$archive' and '$1'"
        archive=$1
        ;;
    esac
    shift
  done
  [ -n "$archive" ] || fail 2 "no output file given" "see: build_image.sh --help"
  archive=$(realpath -m -- "$archive")   # absolute: tar takes no name for an option or a remote host
  [ -d "$(dirname "$archive")" ] || fail 2 "no such folder: $(dirname "$archive")"
}

check_host() {
  command -v mmdebstrap >/dev/null || fail 5 "mmdebstrap is not installed" "run: hpc/install.sh"
  [ "$(id -u)" -eq 0 ] && return 0
  command -v newuidmap >/dev/null || fail 5 "newuidmap is not installed" "run: hpc/install.sh"
  grep -qs "^$(id -un):" /etc/subuid ||
    fail 5 "'$(id -un)' has no line in /etc/subuid, so no file system with several owners can be made" \
      "as root, run: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $(id -un)"
}

sources() {  # prints apt source lines of the suite: main, updates and security, as this host has them
  if [ -n "$mirror" ]; then
    printf 'deb %s %s main\n' "$mirror" "$SUITE"
    return
  fi
  # shellcheck disable=SC2016
  apt-get indextargets --format '$(ORIGIN)|$(COMPONENT)|$(CODENAME)|$(REPO_URI)' 'Created-By: Packages' |
    sed -nE "s/^Debian\|main\|($SUITE(-updates|-security)?)\|(.*)$/deb \3 \1 main/p" | sort -u
}

host_python_with_pip() {
  if python3 -m pip --version >/dev/null 2>&1; then
    printf 'python3'
  else
    python3 -m venv "$work/venv" >&2 || fail 5 "python3 here has neither pip nor venv" "run: hpc/install.sh"
    printf '%s' "$work/venv/bin/python"
  fi
}

wheel_platforms() {  # the newest C library these wheels may ask for is 2.35; the suite has 2.36
  local machine minor
  machine=$(uname -m)
  for minor in 17 24 26 27 28 31 34 35; do printf -- '--platform manylinux_2_%s_%s ' "$minor" "$machine"; done
  printf -- '--platform manylinux2014_%s' "$machine"
}

collect_wheels() {  # -> $work/wheels
  local python folder record
  python=$(host_python_with_pip)
  # shellcheck disable=SC2046
  "$python" -m pip --disable-pip-version-check install --quiet --root-user-action ignore --no-compile --no-deps --require-hashes \
    --only-binary=:all: --python-version "$PYTHON_TAG" --implementation cp $(wheel_platforms) \
    --abi "cp$PYTHON_TAG" --abi abi3 --abi none \
    --target "$work/wheels" --requirement "$HERE/requirements.txt" ||
    fail 75 "the wheels could not be fetched; pip's reason is above" "run again, or check: pip config list"
  for folder in "${UNUSED_IN_ONNXRUNTIME[@]}"; do rm -rf -- "$work/wheels/onnxruntime/$folder"; done
  rm -rf -- "$work/wheels/bin"
  for record in "$work"/wheels/*.dist-info/RECORD; do
    LC_ALL=C sort -o "$record" "$record"   # the order differs between versions of pip
  done
}

# The wheels are byte-compiled by the image's own Python: a read-only image can't keep what it compiles,
# and compiling SimpleITK anew takes longer than a prediction. "unchecked": time stamps don't matter then.
make_layers() {  # -> $work/layer1.tar, $work/layer2.tar
  local lines
  lines=$(sources)
  [ -n "$lines" ] || fail 5 "apt on this host knows no mirror of Debian $SUITE" \
    "run apt-get update as root, or give --mirror URI"
  mkdir "$work/compiled"
  mmdebstrap --quiet --mode="$(if [ "$(id -u)" -eq 0 ]; then echo root; else echo unshare; fi)" \
    --variant=essential --include="$PACKAGES" --skip=output/dev \
    --aptopt='Acquire::Retries "3"' --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --customize-hook="mkdir -p \"\$1/$SITE\"" \
    --customize-hook="sync-in '$work/wheels' /$SITE" \
    --customize-hook="chroot \"\$1\" python3 -m compileall -qj 0 --invalidation-mode=unchecked-hash /$SITE" \
    --customize-hook="sync-out /$SITE '$work/compiled'" \
    --customize-hook="rm -rf \"\$1/$SITE\"; mkdir -p \"\$1/$SITE\"" \
    "$SUITE" "$work/layer1.tar" <<<"$lines" - ||
    fail 75 "the root file system could not be made; mmdebstrap's reason is above" \
      "run again, or try another --mirror"
}

pack_wheels() {
  local root="$work/layer2"
  mkdir -p "$root/$(dirname "$SITE")"
  mv "$work/compiled" "$root/$SITE"
  # ModelHub's folders: engine, contribution, results, working files, and inputs
  mkdir "$root"/{framework,contrib_src,output,working,temp,data,input}
  tar_reproducibly -C "$root" -cf "$work/layer2.tar" .
}

tar_reproducibly() {
  tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
    --mode=u+rwX,go+rX,go-w --format=gnu "$@"
}

sum() { sha256sum "$1" | cut -c 1-64; }

write_archive() {
  local save="$work/save" first second config
  first=$(sum "$work/layer1.tar")
  second=$(sum "$work/layer2.tar")
  mkdir -p "$save/$first" "$save/$second"
  mv "$work/layer1.tar" "$save/$first/layer.tar"
  mv "$work/layer2.tar" "$save/$second/layer.tar"
  image_config "$first" "$second" >"$work/config.json"
  config=$(sum "$work/config.json").json
  mv "$work/config.json" "$save/$config"
  printf '[{"Config":"%s","RepoTags":["%s"],"Layers":["%s/layer.tar","%s/layer.tar"]}]\n' \
    "$config" "$IMAGE" "$first" "$second" >"$save/manifest.json"
  tar_reproducibly -C "$save" -cf "$archive.part.$$" manifest.json "$config" "$first" "$second"
  mv -- "$archive.part.$$" "$archive"
}

image_config() {  # image_config DIGEST1 DIGEST2
  cat <<JSON
{"created": "$CREATED", "architecture": "$(dpkg --print-architecture)", "os": "linux",
 "config": {
  "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8",
          "PYTHONPATH=/usr/local:/framework/:/contrib_src/"],
  "WorkingDir": "/contrib_src", "Cmd": ["python3", "run.py"],
  "Labels": {"org.opencontainers.image.title": "$IMAGE",
             "org.opencontainers.image.description":
               "Debian $SUITE, Python, numpy, Pillow, h5py, $(wheel_names)"}},
 "rootfs": {"type": "layers", "diff_ids": ["sha256:$1", "sha256:$2"]},
 "history": [{"created": "$CREATED", "created_by": "mmdebstrap $SUITE $PACKAGES"},
             {"created": "$CREATED", "created_by": "pip install --target $(wheel_names)"}]}
JSON
}

wheel_names() {
  sed -nE 's/^([A-Za-z]+)==([0-9.]+).*/\1 \2/p' "$HERE/requirements.txt" | paste -sd ',' | sed 's/,/, /g'
}

clean_up() {
  if [ -n "$work" ]; then rm -rf -- "$work"; fi
  if [ -n "$archive" ]; then rm -f -- "$archive.part.$$"; fi
}

main() {
  trap clean_up EXIT
  read_arguments "$@"
  check_host
  # apt can't work below a folder with a space or a colon in its name
  case ${TMPDIR:-/tmp} in *[!A-Za-z0-9_./-]*) export TMPDIR=/tmp ;; esac
  work=$(mktemp -d)
  chmod 755 "$work"   # the user namespace's own ids pass through it
  collect_wheels
  make_layers
  pack_wheels
  write_archive
  printf '%s: %s, %s MB\n' "$archive" "$IMAGE" "$(($(stat -c %s "$archive") / 1000000))"
}

main "$@"
