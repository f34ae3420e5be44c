#!/usr/bin/env bash
# Brings what only the tests need and a machine may lack, into a folder, without root: Debian's container registry.
#   tests/tools.sh DIR        afterwards DIR/bin holds it, unless PATH has it anyway; nothing is started
set -euo pipefail

readonly PACKAGE=docker-registry

main() {
  local folder=${1:?usage: tests/tools.sh DIR} space
  if command -v "$PACKAGE" > /dev/null || [ -x "$folder/bin/$PACKAGE" ]; then
    return
  fi
  if ! command -v apt-get > /dev/null; then
    echo "No $PACKAGE here, and no apt-get to fetch it: the tests that pull images are skipped." >&2
    return
  fi
  mkdir -p "$folder/bin"
  space=$(mktemp --directory "$folder/.tools.XXXXXX")
  # shellcheck disable=SC2064  # the folder of now
  trap "rm -rf '$space'" EXIT
  (cd "$space" && apt-get --quiet --quiet download "$PACKAGE")
  dpkg-deb --extract "$space/$PACKAGE"_*.deb "$space/unpacked"
  # a static program but for libc; it appears whole
  mv --no-target-directory "$space/unpacked/usr/bin/$PACKAGE" "$folder/bin/$PACKAGE"
}

main "$@"
