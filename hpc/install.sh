#!/usr/bin/env bash
# Brings Apptainer and its rootless helpers to a Debian 12 host that lacks them.
#
# Debian 12 has no Apptainer package, and the package of later Debian releases needs a newer C library.
# Installing that with apt would replace the C library of the whole system, so it goes to a private folder
# and only Apptainer's own programs are pointed at it. Nothing else on the host changes.
set -euo pipefail
umask 022   # what root adds must be readable by every user

readonly PRIVATE=/opt/modelhub-hpc/apptainer
readonly SUITE_APPTAINER=sid          # the only Debian suite with a current package
readonly SUITE_LIBS=trixie            # a released suite with a C library that is new enough
readonly PRIVATE_PACKAGES=(libc6 libseccomp2 libsqlite3-0)
# Helpers are looked for where users find them and where Apptainer's own packages bundle them.
readonly HELPER_PATH="$PATH:/usr/sbin:/sbin:/usr/libexec/apptainer/bin:/usr/local/libexec/apptainer/bin"
# command:package (Debian name):why
readonly HELPERS=(
  "mksquashfs:squashfs-tools:writes image files"
  "squashfuse_ll:squashfuse:mounts image files without root"
  "fusermount3:fuse3:user mounts"
  "fuse-overlayfs:fuse-overlayfs:writable overlays without root"
  "newuidmap:uidmap:user namespaces with several ids"
  "mmdebstrap:mmdebstrap:makes root file systems for images"
)

assume_yes=no
check_only=no
scratch=""
packages=()        # Debian packages to install
steps=()           # files to add or change, for people to read
notes=()           # what this script will not change itself
need_apptainer=no
need_fuse=""       # "", "mode" or "node"
need_session=no

usage() {
  cat <<'TEXT'
usage: hpc/install.sh [--check] [--yes]

Brings Apptainer and its rootless helpers to this host; needs root only for the steps it names first.

  --check   report what is there and what is missing, change nothing (exit 0: all there, 5: not all)
  --yes     do not ask before using root
  --help    this text

exit codes: 0 all there, 2 wrong use, 5 this host can't be set up this way, 75 a download failed (try again)
TEXT
}

say() { printf '%s\n' "$*"; }

fail() {  # fail CODE LINE...
  local code=$1
  shift
  printf 'install.sh: %s\n' "$1" >&2
  shift
  if (($#)); then printf '  %s\n' "$@" >&2; fi
  exit "$code"
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif [ -t 0 ]; then
    sudo -- "$@"
  else
    sudo -n -- "$@"
  fi
}

read_arguments() {
  while (($#)); do
    case $1 in
      --check) check_only=yes ;;
      --yes | -y) assume_yes=yes ;;
      --help | -h)
        usage
        exit 0
        ;;
      *) fail 2 "unknown argument '$1'" "see: hpc/install.sh --help" ;;
    esac
    shift
  done
}

os_field() {  # os_field NAME -> value from os-release, empty when absent
  (
    # shellcheck disable=SC1091
    . /etc/os-release 2>/dev/null || true
    printf '%s' "${!1-}"
  )
}

have() { PATH=$HELPER_PATH command -v -- "$1" >/dev/null 2>&1; }

mark() {  # mark yes|no TEXT
  if [ "$1" = yes ]; then say "✔ $2"; else say "✘ $2"; fi
}

# ---- what is there ------------------------------------------------------------------------------

look_at_apptainer() {
  local version
  if version=$(apptainer --version 2>/dev/null) && [ -n "$version" ]; then
    mark yes "$version ($(command -v apptainer))"
    look_at_session_folder
    return
  fi
  mark no "Apptainer: no working 'apptainer' in PATH"
  need_apptainer=yes
}

look_at_session_folder() {
  local folder
  folder=$(apptainer buildcfg SESSIONDIR 2>/dev/null | sed 's/^SESSIONDIR=//') || folder=""
  if [ -n "$folder" ] && [ ! -d "$folder" ]; then
    mark no "mount folder $folder is missing"
    need_session=$folder
    steps+=("$folder   (new folder)")
  fi
}

look_at_helpers() {
  local entry command rest
  for entry in "${HELPERS[@]}"; do
    command=${entry%%:*}
    rest=${entry#*:}
    if have "$command"; then
      mark yes "$command (${rest#*:})"
    else
      mark no "$command (${rest#*:})"
      packages+=("${rest%%:*}")
    fi
  done
  if [ "$need_apptainer" = yes ] && ! have patchelf; then packages+=(patchelf); fi
}

look_at_venv() {
  local python=/usr/bin/python3
  [ -x "$python" ] || return 0
  if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    mark yes "$python can make virtual environments"
  else
    mark no "$python can't make virtual environments"
    packages+=(python3-venv)
  fi
}

look_at_time_zone() {
  if [ -e /etc/localtime ]; then
    mark yes "/etc/localtime (Apptainer shows it to containers)"
  else
    mark no "/etc/localtime is missing, and Apptainer starts no container without it"
    packages+=(tzdata)
  fi
}

look_at_fuse() {
  local mode
  if [ ! -c /dev/fuse ]; then
    mark no "/dev/fuse is missing"
    need_fuse=node
    steps+=("/dev/fuse   (new device node, kernel module 'fuse' loaded)")
    return
  fi
  mode=$(stat -c %a /dev/fuse)
  if (((8#$mode & 8#6) == 8#6)); then
    mark yes "/dev/fuse is open to users (mode $mode)"
  else
    mark no "/dev/fuse is closed to ordinary users (mode $mode)"
    need_fuse=mode
    steps+=("/dev/fuse   (mode $mode -> 666)")
  fi
}

look_at_namespaces() {
  local name value
  for name in user/max_user_namespaces kernel/unprivileged_userns_clone; do
    value=$(cat "/proc/sys/$name" 2>/dev/null) || continue
    if [ "$value" = 0 ]; then
      mark no "user namespaces are switched off (/proc/sys/$name is 0)"
      notes+=("an administrator must allow user namespaces: sysctl -w ${name//\//.}=15000 (1 for a switch)")
      return
    fi
  done
  mark yes "user namespaces are allowed"
}

look_at_ids() {
  local user
  user=${SUDO_USER:-$(id -un)}
  if [ "$user" = root ] || grep -qs "^$user:" /etc/subuid; then return 0; fi
  notes+=("'$user' has no line in /etc/subuid: running images works, making root file systems does not;"
    "  as root, run: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $user")
}

look() {
  look_at_apptainer
  look_at_helpers
  if [ "$(os_field ID)" = debian ]; then look_at_venv; fi
  look_at_time_zone
  look_at_fuse
  look_at_namespaces
  look_at_ids
}

# ---- the plan -----------------------------------------------------------------------------------

refuse_other_hosts() {
  local id like version head
  id=$(os_field ID)
  like=" $id $(os_field ID_LIKE) "
  version=$(os_field VERSION_ID)
  if [ "$id" = debian ] && [ "$version" = 12 ]; then return 0; fi
  head="this script sets up Debian 12 only; here is $(os_field PRETTY_NAME). Run instead:"
  case $like in
    *" ubuntu "*) fail 5 "$head" \
      "sudo add-apt-repository -y ppa:apptainer/ppa" \
      "sudo apt-get update" "sudo apt-get install -y apptainer squashfuse fuse-overlayfs uidmap mmdebstrap" ;;
    *" debian "*)
      if [ "${version:-99}" -ge 13 ] 2>/dev/null; then
        fail 5 "$head" "sudo apt-get install -y apptainer squashfuse fuse-overlayfs uidmap mmdebstrap" \
          "(where apt finds no 'apptainer', first add the suite 'sid' to its sources, with a low priority)"
      fi
      fail 5 "$head" "upgrade to Debian 12 or later first; older releases can't run a current Apptainer" ;;
    *" rhel "* | *" centos "* | *" fedora "*) fail 5 "$head" \
      "sudo dnf install -y epel-release    (not on Fedora)" "sudo dnf install -y apptainer" ;;
    *" suse "* | *" opensuse "*) fail 5 "$head" "sudo zypper install -y apptainer" ;;
    *) fail 5 "$head" "what Apptainer's administrator guide says (1.2 or later), then: $0 --check" ;;
  esac
}

plan_apptainer() {
  local libs
  libs=$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || gcc_triplet)
  steps+=(
    "/usr/bin/apptainer   (unpacked from 'apptainer', suite $SUITE_APPTAINER; its library path changed)"
    "/usr/lib/$libs/apptainer/   (the same; library path of its programs changed)"
    "/etc/apptainer/   (the same; files already there are kept)"
    "/usr/share/bash-completion/completions/apptainer"
    "/usr/share/doc/apptainer/copyright"
    "/var/lib/apptainer/mnt/session, /var/lib/apptainer/mnt/source   (empty folders)"
    "$PRIVATE/lib/    (private copies of ${PRIVATE_PACKAGES[*]}, suite $SUITE_LIBS)"
    "$PRIVATE/files   (list of every file added)"
  )
}

gcc_triplet() {  # dpkg-architecture is in a development package; the C library's own folder tells the same
  local library
  library=$(ldconfig -p | sed -n 's/.*libc\.so\.6 .*=> //p' | head -n 1)
  basename "$(dirname "$(readlink -f "$library")")"
}

show_plan() {
  say ""
  say "To do, with root rights:"
  if ((${#packages[@]})); then
    say "  Debian packages, with what they depend on (apt-get update, then apt-get install):"
    printf '    %s\n' "${packages[@]}"
  fi
  if [ "$need_apptainer" = yes ]; then
    say "  Debian packages unpacked without apt (from the same mirror, signatures checked by apt):"
    printf '    %s\n' "apptainer ($SUITE_APPTAINER)" "${PRIVATE_PACKAGES[@]/%/ ($SUITE_LIBS)}"
  fi
  if ((${#steps[@]})); then
    say "  Files and folders:"
    printf '    %s\n' "${steps[@]}"
  fi
}

show_notes() { if ((${#notes[@]})); then printf 'note: %s\n' "${notes[@]}"; fi; }

agree() {
  local answer
  if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
    fail 5 "the steps above need root, and there is no sudo here" "as root, run: $0 --yes"
  fi
  if [ "$assume_yes" = yes ]; then return 0; fi
  if [ ! -t 0 ]; then
    fail 5 "the steps above need your agreement, and there is no terminal to ask on" \
      "if you agree, run: $0 --yes"
  fi
  read -r -p "Do this now? [y/N] " answer
  case $answer in
    y | Y | yes) ;;
    *) fail 5 "nothing was changed" "to do it later, run: $0" ;;
  esac
}

# ---- doing it -----------------------------------------------------------------------------------

install_packages() {
  ((${#packages[@]})) || return 0
  local options=(-q -y -o DPkg::Lock::Timeout=300 -o APT::Install-Recommends=false)
  as_root apt-get "${options[@]}" update || say "note: some package lists could not be refreshed"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" install "${packages[@]}" ||
    fail 75 "apt-get could not install: ${packages[*]}" "its reason is above; after mending it, run: $0"
}

debian_mirror() {  # prints the base URI from which this host's own apt gets Debian
  local codename
  codename=$(os_field VERSION_CODENAME)
  # shellcheck disable=SC2016
  apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(CODENAME)|$(COMPONENT)|$(REPO_URI)' \
    'Created-By: Packages' | sed -n "s/^Debian|Debian|$codename|main|//p" | head -n 1
}

private_apt() {  # apt with sources, lists and cache of its own; the host's stay as they are
  apt-get -q \
    -o Dir::Etc::SourceList="$scratch/sources.list" -o Dir::Etc::SourceParts=/dev/null \
    -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
    -o Dir::State::Lists="$scratch/lists" -o Dir::Cache="$scratch/cache" \
    -o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Sandbox::User=root \
    -o APT::Update::Post-Invoke-Success= "$@"
}

write_sources() {
  local mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg signed="" suite
  mirror=$(debian_mirror)
  if [ -z "$mirror" ]; then
    fail 5 "apt has no Debian source on this host, so there is no mirror to ask" "check: apt-get indextargets"
  fi
  if [ -r "$keyring" ]; then signed="[signed-by=$keyring] "; fi
  for suite in "$SUITE_APPTAINER" "$SUITE_LIBS"; do
    say "deb $signed$mirror $suite main"
  done >"$scratch/sources.list"
}

fetch() {
  scratch=$(mktemp -d)
  mkdir -p "$scratch/lists/partial" "$scratch/cache/archives/partial" "$scratch/debs"
  write_sources
  private_apt update ||
    fail 75 "the package lists of $SUITE_APPTAINER and $SUITE_LIBS could not be fetched" "run again: $0"
  (cd "$scratch/debs" &&
    private_apt download "apptainer/$SUITE_APPTAINER" "${PRIVATE_PACKAGES[@]/%//$SUITE_LIBS}") ||
    fail 75 "a package could not be downloaded" "run again: $0"
}

unpack() {  # leaves in $scratch/new exactly what goes to /
  local deb package triplet new="$scratch/new" all="$scratch/all"
  mkdir -p "$new" "$all"
  for deb in "$scratch"/debs/*.deb; do
    package=$(dpkg-deb -f "$deb" Package)
    dpkg-deb -x "$deb" "$all/$package"
  done
  triplet=$(basename "$(dirname "$(find "$all/libc6" -name libc.so.6)")")
  (cd "$all/apptainer" && cp -a --parents -t "$new/" usr/bin/apptainer "usr/lib/$triplet/apptainer" \
    etc/apptainer usr/share/bash-completion/completions/apptainer usr/share/doc/apptainer/copyright)
  mkdir -p "$new/var/lib/apptainer/mnt/session" "$new/var/lib/apptainer/mnt/source" "$new$PRIVATE/lib"
  for package in "${PRIVATE_PACKAGES[@]}"; do
    find "$all/$package/usr/lib/$triplet" -maxdepth 1 -name '*.so*' -exec cp -a -t "$new$PRIVATE/lib" {} +
  done
}

repoint() {  # lets Apptainer's own programs, and nothing else, use the private libraries
  local file loader count=0 new="$scratch/new"
  while IFS= read -r -d '' file; do
    loader=$(patchelf --print-interpreter "$file" 2>/dev/null) || continue
    patchelf --set-interpreter "$PRIVATE/lib/$(basename "$loader")" --set-rpath "$PRIVATE/lib" \
      --force-rpath "$file"
    count=$((count + 1))
  done < <(find "$new/usr/bin" "$new"/usr/lib/*/apptainer/bin -type f -print0)
  ((count >= 2)) || fail 5 "the apptainer package is not laid out as expected: $count programs, not 2 or more"
}

refuse_foreign_files() {  # a file that belongs to an installed package stays that package's
  local owner
  owner=$(cd "$scratch/new" && find . -type f -printf '/%P\0' |
    xargs -0 dpkg -S 2>/dev/null | head -n 1) || true   # it fails where it finds none, which is the good case
  if [ -n "$owner" ]; then
    fail 5 "an installed Debian package already owns a file of Apptainer: $owner" \
      "mend or remove that package first"
  fi
}

put_in_place() {
  local new="$scratch/new"
  refuse_foreign_files
  (cd "$new" && find . -type f -printf '/%P\n' | sort) >"$scratch/files"
  as_root mkdir -p /var/lib/apptainer/mnt/session /var/lib/apptainer/mnt/source
  # tar leaves the modes of folders that exist, and removes a file before it writes the new one, so a
  # running program keeps its old file. An administrator's own settings under /etc stay.
  tar -C "$new" -cf "$scratch/settings.tar" etc
  tar -C "$new" -cf "$scratch/programs.tar" usr opt
  as_root tar -C / -xf "$scratch/settings.tar" --no-same-owner --skip-old-files
  as_root tar -C / -xf "$scratch/programs.tar" --no-same-owner
  as_root install -m 644 "$scratch/files" "$PRIVATE/files"
}

install_apptainer() {
  [ "$need_apptainer" = yes ] || return 0
  fetch
  unpack
  PATH=$HELPER_PATH repoint
  put_in_place
  hash -r
  apptainer --version >/dev/null ||
    fail 5 "Apptainer is in place but does not start: its own message is above"
  say "installed $(apptainer --version): $(wc -l <"$PRIVATE/files") files, listed in $PRIVATE/files"
}

mend_fuse() {
  if [ "$need_fuse" = node ]; then
    as_root modprobe fuse 2>/dev/null || true   # built into many kernels; the node below tells
    [ -c /dev/fuse ] || as_root mknod /dev/fuse c 10 229
  fi
  if [ -n "$need_fuse" ]; then as_root chmod 666 /dev/fuse; fi
}

clean_up() { if [ -n "$scratch" ]; then rm -rf -- "$scratch"; fi; }

main() {
  trap clean_up EXIT
  read_arguments "$@"
  look
  if [ "$need_apptainer" = yes ] || ((${#packages[@]} + ${#steps[@]})); then
    if [ "$check_only" = yes ]; then
      show_notes
      fail 5 "not everything is there" "to see what would be done and then agree to it, run: $0"
    fi
    refuse_other_hosts
    if [ "$need_apptainer" = yes ]; then plan_apptainer; fi
    show_plan
    agree
    install_packages
    install_apptainer
    if [ "$need_session" != no ]; then as_root mkdir -p "$need_session"; fi
    mend_fuse
    show_notes
    say "done"
  else
    show_notes
    say "nothing to do"
  fi
}

main "$@"
