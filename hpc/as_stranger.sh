#!/bin/sh
# Runs a command as a user who is neither root nor the caller, in a mount namespace of its own:
#   unshare --mount ... hpc/as_stranger.sh UID PLACE SCRATCH NAME=PATH... -- COMMAND...
#
# SCRATCH is shown as PLACE, and each PATH as PLACE/NAME, since that user can enter neither the caller's home nor
# private folders. The command's own folders below SCRATCH (home, work, ...) become writable for that user.
set -eu

uid=$1 place=$2 scratch=$3
shift 3

while [ "$1" != -- ]; do
  name=${1%%=*} path=${1#*=}
  if [ -d "$path" ]; then mkdir -p "$scratch/$name"; else : > "$scratch/$name"; fi
  mount --bind "$path" "$scratch/$name"
  shift
done
shift

chmod 0711 "$scratch"
for folder in home work output working temp input; do chmod 0777 "$scratch/$folder"; done
mount --rbind "$scratch" "$place"
umask 0 # what that user leaves, the caller must be able to remove
exec setpriv --reuid "$uid" --regid "$uid" --clear-groups --inh-caps=-all "$@"
