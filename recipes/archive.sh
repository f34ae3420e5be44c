# shellcheck shell=bash
# What the scripts share that make images as `docker save` archives: sourced by them, not run.
#
# A script defines usage() and container_config(), may add to `options`, and then calls these in the order below.
# Everything works as an ordinary user and asks no image registry. What is made here depends only on the versions
# of the packages: time stamps, owners and the order of files are fixed.
set -euo pipefail
umask 022

# Every time stamp that is not older becomes this one.
export SOURCE_DATE_EPOCH=1700000000
readonly CREATED=2023-11-14T22:13:20Z

declare -A options=([mirror]="")   # of the command line, --NAME VALUE
archive=""                         # the file to write
work=""                            # a private folder, removed at the end

fail() {  # fail CODE LINE...
  local code=$1
  shift
  printf '%s: %s\n' "${0##*/}" "$1" >&2
  shift
  if (($#)); then printf '  %s\n' "$@" >&2; fi
  exit "$code"
}

read_arguments() {  # -> options, archive
  local name
  while (($#)); do
    name=${1#--}
    case $1 in
      --help | -h)
        usage
        exit 0
        ;;
      -*)
        [ -n "${options[$name]+known}" ] || fail 2 "unknown option '$1'" "see: ${0##*/} --help"
        (($# >= 2)) || fail 2 "$1 needs a value"
        options[$name]=$2
        shift
        ;;
      *)
        [ -z "$archive" ] || fail 2 "one output file is wanted, got '$archive' and '$1'"
        archive=$1
        ;;
    esac
    shift
  done
  [ -n "$archive" ] || fail 2 "no output file given" "see: ${0##*/} --help"
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

open_work() {  # -> $work
  trap clean_up EXIT
  # apt can't work below a folder with a space or a colon in its name
  case ${TMPDIR:-/tmp} in *[!A-Za-z0-9_./-]*) export TMPDIR=/tmp ;; esac
  work=$(mktemp -d)
  chmod 755 "$work"   # the user namespace's own ids pass through it
}

clean_up() {
  if [ -n "$work" ]; then rm -rf -- "$work"; fi
  if [ -n "$archive" ]; then rm -f -- "$archive.part.$$"; fi
}

install_wheels() {  # install_wheels FOLDER PIP_OPTION... ; unpacks wheels for another Python than this host's
  local folder=$1 python record
  shift
  python=$(host_python_with_pip)
  "$python" -m pip --disable-pip-version-check install --quiet --root-user-action ignore --no-compile --no-deps \
    --only-binary=:all: --implementation cp --target "$folder" --upgrade "$@" ||
    fail 75 "the wheels could not be fetched; pip's reason is above" "run again, or check: pip config list"
  rm -rf -- "${folder:?}/bin"
  for record in "$folder"/*.dist-info/RECORD; do
    LC_ALL=C sort -o "$record" "$record"   # the order differs between versions of pip
  done
}

host_python_with_pip() {
  if python3 -m pip --version >/dev/null 2>&1; then
    printf 'python3'
  else
    [ -d "$work/venv" ] || python3 -m venv "$work/venv" >&2 ||
      fail 5 "python3 here has neither pip nor venv" "run: hpc/install.sh"
    printf '%s' "$work/venv/bin/python"
  fi
}

# make_base SUITE PACKAGES FOLDER COMPILER... -> $work/base.tar, $work/compiled
#
# A Debian root file system with an empty FOLDER; and $work/staged, which is what shall lie in FOLDER, with its
# Python code compiled by the command COMPILER... FOLDER inside that file system: a read-only image can't keep what
# it compiles, and compiling SimpleITK anew takes longer than a prediction. (What Debian's installer of Python code
# compiles of itself is not the same every time, and goes.)
make_base() {
  local suite=$1 packages=$2 folder=$3 lines
  shift 3
  lines=$(sources "$suite")
  [ -n "$lines" ] || fail 5 "apt on this host knows no mirror of Debian" \
    "run apt-get update as root, or give --mirror URI"
  mkdir "$work/compiled"
  mmdebstrap --quiet --mode="$(if [ "$(id -u)" -eq 0 ]; then echo root; else echo unshare; fi)" \
    --variant=essential --include="$packages" --skip=output/dev \
    --aptopt='Acquire::Retries "3"' --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --customize-hook="mkdir -p \"\$1/$folder\"" \
    --customize-hook="sync-in '$work/staged' /$folder" \
    --customize-hook="chroot \"\$1\" $* /$folder" \
    --customize-hook="sync-out /$folder '$work/compiled'" \
    --customize-hook="rm -rf \"\$1/$folder\"; mkdir -p \"\$1/$folder\"" \
    --customize-hook="rm -rf \"\$1\"/usr/share/python*/debpython/__pycache__" \
    "$suite" "$work/base.tar" <<<"$lines" - ||
    fail 75 "the root file system could not be made; mmdebstrap's reason is above" \
      "run again, or try another --mirror"
}

# sources SUITE: prints apt source lines of the suite, its updates and security, from the mirrors of this host's own
# Debian, whichever release that is
sources() {
  local suite=$1 own
  if [ -n "${options[mirror]}" ]; then
    printf 'deb %s %s main\n' "${options[mirror]}" "$suite"
    return
  fi
  own=$(own_suite)
  # shellcheck disable=SC2016
  apt-get indextargets --format '$(ORIGIN)|$(COMPONENT)|$(CODENAME)|$(REPO_URI)' 'Created-By: Packages' |
    sed -nE "s/^Debian\|main\|$own((-updates|-security)?)\|(.*)$/deb \3 $suite\1 main/p" | sort -u
}

own_suite() { sed -nE 's/^VERSION_CODENAME=//p' /etc/os-release; }

layer() {  # layer FOLDER FILE.tar [TAR_OPTION...]
  local folder=$1 file=$2
  shift 2
  tar_reproducibly "$@" -C "$folder" -cf "$file" .
}

readonly PUBLIC_MODES=--mode=u+rwX,go+rX,go-w

tar_reproducibly() {
  tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --format=gnu "$@"
}

write_archive() {  # write_archive IMAGE [STEP LAYER.tar]... ; a step is what made the layer, in words
  local image=$1 save="$work/save" digests=() steps=() config digest
  shift
  while (($#)); do
    digest=$(sum "$2")
    mkdir -p "$save/$digest"
    mv "$2" "$save/$digest/layer.tar"
    steps+=("$1") digests+=("$digest")
    shift 2
  done
  image_config >"$work/config.json"
  config=$(sum "$work/config.json").json
  mv "$work/config.json" "$save/$config"
  printf '[{"Config":"%s","RepoTags":["%s"],"Layers":[%s]}]\n' \
    "$config" "$image" "$(listed '"%s/layer.tar"' "${digests[@]}")" >"$save/manifest.json"
  tar_reproducibly $PUBLIC_MODES -C "$save" -cf "$archive.part.$$" manifest.json "$config" "${digests[@]}"
  mv -- "$archive.part.$$" "$archive"
  printf '%s: %s, %s MB\n' "$archive" "$image" "$(($(stat -c %s "$archive") / 1000000))"
}

image_config() {  # of write_archive's steps and digests
  cat <<JSON
{"created": "$CREATED", "architecture": "$(dpkg --print-architecture)", "os": "linux",
 "config": $(container_config),
 "rootfs": {"type": "layers", "diff_ids": [$(listed '"sha256:%s"' "${digests[@]}")]},
 "history": [$(listed "{\"created\": \"$CREATED\", \"created_by\": \"%s\"}" "${steps[@]}")]}
JSON
}

listed() {  # listed FORMAT WORD... ; each word in the format, with commas between
  local format=$1 text
  shift
  # shellcheck disable=SC2059
  text=$(printf "$format, " "$@")
  printf '%s' "${text%, }"
}

sum() { sha256sum "$1" | cut -c 1-64; }
