#!/usr/bin/env bash
# Makes images as ModelHub's were published in 2018, as `docker save` archives, to test with what they need:
# Python 2.7 or 3.6, an engine of that time in /framework, weights and even an interpreter in /root that only root
# may enter, private files in the libraries, ports below 1024, and nothing that an ordinary user may write to.

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly HERE
# shellcheck source-path=SCRIPTDIR source=../archive.sh
source "$HERE/../archive.sh"

options[python]=2.7

usage() {
  cat <<'TEXT'
usage: recipes/legacy/build_image.sh [--python 2.7|3.6] [--mirror URI] OUT.tar

Writes a docker archive; then:  mh-hpc convert docker-archive:OUT.tar --name modelhub/legacy-modelhub:TAG
where TAG is 1.0.0 for Python 2.7 and 2.0.0 for Python 3.6.

  --python V     its Python (default 2.7): Debian's own 2.7, or a copy of a 3.6 on this host (pyenv's, or on PATH)
  --mirror URI   Debian mirror (default: the one this host's apt uses)

exit codes: 0 made, 2 wrong use, 5 this host can't make it, 75 a download failed (try again)
TEXT
}

choose() {  # what differs between the two
  case ${options[python]} in
    2.7)
      IMAGE=modelhub/legacy-modelhub:1.0.0
      SUITE=bullseye   # the last Debian with a Python 2.7
      PACKAGES=python2.7,libmagic1,libstdc++6,media-types
      FOLDER=usr/local/lib/python2.7/dist-packages
      COMPILER="python2.7 -m compileall -q -x /jinja2/async"   # which is Python 3
      LIBRARIES=$FOLDER
      ABI=cp27mu
      ;;
    3.6)
      IMAGE=modelhub/legacy-modelhub:2.0.0
      SUITE=$(own_suite)   # whose C library the interpreter was built for
      PACKAGES=libstdc++6
      FOLDER=root/python3.6
      COMPILER="env LD_LIBRARY_PATH=/$FOLDER/lib /$FOLDER/bin/python3.6 -m compileall -q -j 0"
      LIBRARIES=$FOLDER/lib/python3.6/site-packages
      ABI=cp36m
      ;;
    *) fail 2 "there is no recipe for Python '${options[python]}'" "give --python 2.7 or 3.6" ;;
  esac
  [ "$(uname -m)" = x86_64 ] || fail 5 "wheels of that age are for x86_64 only; this host is $(uname -m)"
  readonly IMAGE SUITE PACKAGES FOLDER COMPILER LIBRARIES ABI
}

stage() {  # -> $work/staged, what lies in FOLDER
  local wheels=$work/staged/${LIBRARIES#"$FOLDER"}
  if [ "${options[python]}" = 3.6 ]; then copy_python; fi
  install_wheels "$wheels" --require-hashes --python-version "${options[python]}" --abi "$ABI" \
    --platform manylinux1_x86_64 --platform manylinux2010_x86_64 --requirement "$HERE/requirements-${options[python]}.txt"
  # the compiled files of that age name the time of their source
  find "$work/staged" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
}

copy_python() {  # -> $work/staged: the interpreter, and the shared libraries it needs beside the C library
  local prefix target=$work/staged library
  prefix=$(python36_prefix)
  [ -n "$prefix" ] || fail 5 "this host has no Python 3.6 to copy" "looked on PATH and in ${PYENV_ROOT:-$HOME/.pyenv}"
  mkdir -p "$target/bin" "$target/lib"
  cp "$prefix/bin/python3.6" "$target/bin"
  ln -s python3.6 "$target/bin/python3"
  tar -C "$prefix/lib" --exclude='__pycache__' --exclude='test' --exclude='tests' --exclude='site-packages' \
    --exclude='config-3.6*' --exclude='idlelib' --exclude='lib2to3' --exclude='ensurepip' --exclude='tkinter' \
    --exclude='_tkinter.*' --exclude='_curses*' --exclude='readline.*' --exclude='nis.*' --exclude='ossaudiodev.*' \
    --exclude='_test*' --exclude='*.exe' -cf - python3.6 | tar -C "$target/lib" -xf -
  for library in $(shared_libraries "$prefix"/bin/python3.6 "$target"/lib/python3.6/lib-dynload/*.so); do
    cp --dereference "$library" "$target/lib"
  done
}

python36_prefix() {
  local command
  for command in python3.6 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.6.*/bin/python3.6; do
    "$command" -c 'import sys; print(sys.base_prefix)' 2>/dev/null && return
  done
  true
}

shared_libraries() {  # shared_libraries FILE... : the files that the loader finds for them, but the C library's own
  ldd "$@" | sed -nE 's/^.* => (\/.*) \(0x[0-9a-f]+\)$/\1/p' | sort -u |
    grep -vE '/(libc|libm|libdl|libpthread|librt|libutil|libresolv|libnsl|libcrypt)\.so'
}

pack_wheels() {  # -> $work/wheels.tar
  local root=$work/wheels
  mkdir -p "$root/$(dirname "$FOLDER")"
  mv "$work/compiled" "$root/$FOLDER"
  if [ "${options[python]}" = 2.7 ]; then
    mkdir -p "$root/usr/local/bin"
    ln -s /usr/bin/python2.7 "$root/usr/local/bin/python"
  else
    chmod 700 "$root/root"
  fi
  layer "$root" "$work/wheels.tar" --mode=go-w
}

pack_modelhub() {  # -> $work/modelhub.tar, the layer of ModelHub itself
  local root=$work/modelhub
  mkdir -p "$root"/{framework,contrib_src,output,working,etc,root/weights,usr/local/bin,"$LIBRARIES"}
  cp -R "$HERE/framework/." "$root/framework"
  python3 "$HERE/make_weights.py" "$root/root/weights/w.npy"
  cp "$work/wheels/$LIBRARIES/six.py" "$root/$LIBRARIES/six.py"
  printf '#!/bin/sh\nexec %s run.py\n' "$(python_name)" >"$root/usr/local/bin/start-model"
  : >"$root/etc/.wh.apt"   # hides the folder of that name in the layers below
  chmod -R u+rwX,go+rX,go-w "$root"
  chmod 4755 "$root/usr/local/bin/start-model"
  chmod 600 "$root/$LIBRARIES/six.py" "$root/root/weights/w.npy"
  chmod 700 "$root/root"
  layer "$root" "$work/modelhub.tar"
}

python_name() { if [ "${options[python]}" = 2.7 ]; then echo python; else echo python3; fi; }

container_config() {  # with the empty last entry that appending to an unset PYTHONPATH gave
  local path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin libraries=""
  if [ "${options[python]}" = 3.6 ]; then
    path=/$FOLDER/bin:$path
    libraries="\"LD_LIBRARY_PATH=/$FOLDER/lib\","
  fi
  cat <<JSON
{
  "Env": ["PATH=$path", $libraries "PYTHONPATH=/usr/local:/framework/:/contrib_src/:"],
  "User": "root", "WorkingDir": "/contrib_src", "Cmd": ["$(python_name)", "run.py"],
  "ExposedPorts": {"80/tcp": {}, "8080/tcp": {}}}
JSON
}

main() {
  read_arguments "$@"
  choose
  check_host
  open_work
  stage
  make_base "$SUITE" "$PACKAGES" "$FOLDER" "$COMPILER"
  pack_wheels
  pack_modelhub
  write_archive "$IMAGE" "mmdebstrap $SUITE $PACKAGES" "$work/base.tar" \
    "pip install -r requirements-${options[python]}.txt" "$work/wheels.tar" \
    "ADD framework weights" "$work/modelhub.tar"
}

main "$@"
