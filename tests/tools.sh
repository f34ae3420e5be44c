#!/usr/bin/env bash
# Brings what only the tests need and a machine may lack, into a folder, without root: Debian's container registry,
# and its SLURM.
#   tests/tools.sh DIR        afterwards DIR/bin and DIR/slurm hold them, unless PATH has them anyway; nothing is started
set -euo pipefail

readonly REGISTRY=docker-registry
readonly SLURM=(slurmctld slurmd slurm-client munge)
space=""

have() { PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" command -v -- "$1" > /dev/null; }

fetch() {  # fetch PACKAGE... -> $space/unpacked
  rm -rf "$space"
  mkdir "$space"
  # root's apt would rather be another user, who can't write here
  (cd "$space" && apt-get --quiet --quiet -o APT::Sandbox::User=root download "$@")
  for package in "$space"/*.deb; do
    dpkg-deb --extract "$package" "$space/unpacked"
  done
}

fetch_registry() {
  if have "$REGISTRY" || [ -x "$1/bin/$REGISTRY" ]; then
    return
  fi
  fetch "$REGISTRY"
  mkdir -p "$1/bin"
  # a static program but for libc; it appears whole
  mv --no-target-directory "$space/unpacked/usr/bin/$REGISTRY" "$1/bin/$REGISTRY"
}

fetch_slurm() {
  local names
  if { have slurmctld && have slurmd && have sbatch && have munged; } || [ -e "$1/slurm" ]; then
    return
  fi
  # what apt would install beside them; lines of packages that it would only renew look different
  names=$(apt-get --simulate --no-install-recommends install "${SLURM[@]}" patchelf 2> /dev/null \
    | sed -n 's/^Inst \([^ ]*\) (.*/\1/p') || true
  if [ -z "$names" ]; then
    echo "No SLURM here, and apt-get knows none: the tests on a test cluster are skipped." >&2
    return
  fi
  # shellcheck disable=SC2086  # a list
  fetch $names
  point_at_libraries "$space/unpacked"
  mv --no-target-directory "$space/unpacked" "$1/slurm"
}

point_at_libraries() {  # lets the programs below ROOT, and nothing else, use the libraries there
  local root=$1 libraries file
  libraries=$(basename "$(dirname "$(find "$root/usr/lib" -type d -name slurm-wlm)")")
  for file in "$root"/usr/bin/* "$root"/usr/sbin/* "$root/usr/lib/$libraries"/*.so.* "$root"/usr/lib/*/slurm-wlm/*.so; do
    if [ -f "$file" ] && [ ! -L "$file" ] && [ "$(head --bytes 4 "$file" | tail --bytes 3)" = ELF ]; then
      # by a copy: patchelf may be one of them
      PATH="$PATH:$root/usr/bin" patchelf --output "$file.new" --force-rpath --set-rpath \
        "\$ORIGIN/../lib/$libraries/slurm-wlm:\$ORIGIN/../lib/$libraries:\$ORIGIN:\$ORIGIN/.." "$file"
      chmod --reference "$file" "$file.new"
      mv "$file.new" "$file"
    fi
  done
  for file in slurmctld slurmd slurmstepd; do  # names that the packages make when they are installed
    if [ ! -e "$root/usr/sbin/$file" ]; then ln -s "$file-wlm" "$root/usr/sbin/$file"; fi
  done
}

main() {
  local folder=${1:?usage: tests/tools.sh DIR}
  if ! have apt-get || ! have dpkg-deb; then
    echo "No apt-get to fetch $REGISTRY and SLURM: where they are missing, the tests that need them are skipped." >&2
    return
  fi
  mkdir -p "$folder"
  space=$(mktemp --directory "$folder/.tools.XXXXXX")
  # shellcheck disable=SC2064  # the folder of now
  trap "rm -rf '$space'" EXIT
  fetch_registry "$folder"
  fetch_slurm "$folder"
}

main "$@"
