#!/usr/bin/env bash
# Prints a Python that can make the environment of mh-hpc: 3.10 or newer, with venv and pip.
#   --install  as root on Debian or Ubuntu, install python3-venv where no such Python is found
#   --explain  say what is wanted
set -euo pipefail

find_python() {
  local python
  for python in python3 /usr/bin/python3 python3.13 python3.12 python3.11 python3.10; do
    if "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' 2> /dev/null; then
      command -v "$python"
      return
    fi
  done
  return 1
}

case ${1:-} in
  --explain)
    echo "mh-hpc needs Python 3.10 or newer with venv; on Debian and Ubuntu: apt-get install python3-venv" >&2 ;;
  --install)
    find_python || { apt-get install --yes --quiet python3-venv >&2 && find_python; } ;;
  *)
    find_python || true ;;
esac
