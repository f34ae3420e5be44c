#!/usr/bin/env bash
# Runs a command in a copy of this checkout as an unprivileged user: rootless is what is to be tested.
#   tests/as_user.sh COMMAND...          (root only; the user is modelhub-tester, its home /var/lib/modelhub-tester)
set -euo pipefail

readonly USER_NAME=modelhub-tester
readonly HOME_FOLDER=/var/lib/modelhub-tester
readonly COPY=$HOME_FOLDER/modelhub-hpc

cd "$(dirname "$0")/.."
if ! id "$USER_NAME" > /dev/null 2>&1; then
  # useradd gives the user its lines in /etc/subuid and /etc/subgid, as on a normal host
  useradd --create-home --home-dir "$HOME_FOLDER" --shell /bin/bash "$USER_NAME"
fi
grep -q "^$USER_NAME:" /etc/subuid || usermod --add-subuids 300000-365535 --add-subgids 300000-365535 "$USER_NAME"

# build/ of an earlier run stays, so that the environment and the image are made once
mkdir -p "$COPY"
find "$COPY" -mindepth 1 -maxdepth 1 ! -name build -exec rm -rf {} +
git -c safe.directory='*' ls-files -z --cached --others --exclude-standard \
  | tar --create --null --files-from=- --ignore-failed-read \
  | tar --extract --directory "$COPY" --no-same-owner
chown -R "$USER_NAME:" "$COPY"

settings=()
while IFS= read -r setting; do
  settings+=("$setting")
done < <(env | grep -E '^(PIP_[A-Z_]+|CI|TESTS|MH_TEST_[A-Z_]+)=' | grep -v '^MH_TEST_CACHE=' || true)

cd "$COPY"
exec runuser --user "$USER_NAME" -- env --ignore-environment \
  HOME="$HOME_FOLDER" USER="$USER_NAME" LOGNAME="$USER_NAME" LANG=C.UTF-8 \
  PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin "${settings[@]}" "$@"
