#!/usr/bin/env bash
# image.sh CONTEXT ARCHITECTURE… fills the folder CONTEXT with what the container image of image-builder is made of, for
# the architectures amd64 and arm64:
#
#   root/ARCHITECTURE    Debian's packages, unpacked: git, runc and what they need
#   bin/ARCHITECTURE     image-builder, its plugin, the REST service, BuildKit's daemon and rootlesskit, compiled for it
#   tools/ARCHITECTURE   of this machine's own only: setcap, which the image's build runs
#
# The packages are those of the Debian release below, whatever this machine's own is, through its mirror and keyring (or
# DEBIAN_MIRROR=URI), with a package state of apt's that lives in a temporary folder: no foreign architecture is added, no
# list or setting of the machine is touched, and no root is needed. The same packages give the same files: nothing of this machine
# gets into them, and no time after SOURCE_DATE_EPOCH (default: that of the newest packaged file).
#
# Folders that are complete are left alone until this script changes, or for DAYS days (default 7): by then Debian may have mended something.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=scripts/bases.sh
source scripts/bases.sh # for its functions

readonly suite=bookworm debian_keyring=/usr/share/keyrings/debian-archive-keyring.gpg
readonly packages=(base-files ca-certificates dash git git-lfs runc tini uidmap)
readonly tools=(libcap2-bin)
# What is left out of what these depend on: only their installation, and parts of git that are not used, need it.
readonly without=(debconf debianutils dpkg libc-bin liberror-perl mawk openssl passwd perl tar tzdata)
# The one who builds. Ids of its RUNs are a range that no user of a machine has.
readonly user=builder uid=1000 first_id=100000 ids=65536

say() { printf 'image: %s\n' "$*" >&2; }

# packages_of ARCHITECTURE OUT NAME… downloads packages and what they need into the folder OUT.
packages_of() {
  local architecture=$1 out=$2 apt line uri key part
  shift 2
  apt=$work/apt-$architecture
  architectures=("$architecture") # for configure
  APT_CONFIG=$(configure "$apt" "${DEBIAN_MIRROR:-}" "$debian_keyring" "$suite")
  export APT_CONFIG
  if [ -z "${DEBIAN_MIRROR:-}" ]; then
    : >"$apt/sources.list"
    for part in "$suite" "$suite-updates" "$suite-security"; do
      line=$(source_line "$part" /etc/apt)
      if [ -z "$line" ]; then continue; fi
      IFS=$'\t' read -r uri key <<<"$line"
      printf 'deb [signed-by=%s] %s %s main\n' "${key:-$debian_keyring}" "$uri" "$part" >>"$apt/sources.list"
    done
    if ! [ -s "$apt/sources.list" ]; then
      say "no source of Debian $suite in /etc/apt; name a mirror: DEBIAN_MIRROR=https://mirror.example.com/debian"
      exit 75 # EX_TEMPFAIL: the same call succeeds once that is done
    fi
  fi
  printf 'APT::Architecture "%s";\nAPT::Install-Recommends "0";\nDebug::NoLocking "1";\n' "$architecture" >>"$apt/apt.conf"
  # apt takes for installed what is to be left out.
  for part in "${without[@]}"; do
    printf 'Package: %s\nStatus: install ok installed\nVersion: 1:9999\nArchitecture: %s\nMulti-Arch: allowed\nProvides: awk\nMaintainer: none\nDescription: left out\n\n' \
      "$part" "$architecture"
  done >"$apt/status"
  for ((try = 1; try <= tries; try++)); do
    if apt-get update -qq && apt-get install -qq --yes --download-only "$@" >"$apt/said" 2>&1; then
      mkdir -p "$out"
      mv "$apt"/cache/archives/*.deb "$out"
      return
    fi
    cat "$apt/said" >&2 2>/dev/null || true
    say "try $try of $tries did not get the packages"
    sleep 5
  done
  exit 75
}

# unpack DEBS ROOT unpacks packages into a root folder with /usr merged, without documentation but with licences, and writes
# down what they are, where scanners look for it.
unpack() {
  local debs=$1 root=$2 deb name
  mkdir -p "$root"/usr/{bin,sbin,lib,lib64} "$root/var/lib/dpkg/status.d"
  ln -s usr/bin usr/sbin usr/lib usr/lib64 "$root"
  for deb in "$debs"/*.deb; do
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" --no-same-owner --keep-directory-symlink --wildcards --wildcards-match-slash \
      --exclude='./usr/share/doc/*/[!c]*' --exclude='./usr/share/doc/*/c[!o]*' --exclude='./usr/share/doc/*/co[!p]*' \
      --exclude='./usr/share/man*' --exclude='./usr/share/locale*' --exclude='./usr/share/info*' --exclude='./usr/share/menu*' --exclude='./usr/share/perl5*' \
      --exclude='./usr/share/lintian*' --exclude='./usr/share/bash-completion*' --exclude='./usr/share/doc-base*' --exclude='./usr/share/gitweb*' \
      --exclude='./usr/lib/*/gconv*' --exclude='./usr/lib/*/audit*' --exclude='./usr/share/git-core/contrib*' --exclude='./var/lib/git*' \
      --exclude='./etc/init.d*' --exclude='./etc/default*' --exclude='./etc/cron*' --exclude='./etc/bash_completion.d*'
    name=$(dpkg-deb -f "$deb" Package)
    { dpkg-deb -f "$deb" && echo 'Status: install ok installed'; } >"$root/var/lib/dpkg/status.d/$name"
  done
}

# slim ROOT takes away programs of git that fetching does not need: most of its size.
slim() {
  local program
  for program in "$1"/usr/lib/git-core/*; do
    case ${program##*/} in
    git | git-remote-http | git-remote-https) ;;
    *) rm -rf "$program" ;;
    esac
  done
  rm -f "$1"/usr/bin/{git-shell,git-receive-pack,git-upload-archive,git-upload-pack,scalar,tini-static}
}

# settle ROOT makes the files that packages make when they are installed.
settle() {
  local root=$1 certificate
  mkdir -p "$root"/etc/ssl/certs "$root/home/$user" "$root"/{dev,proc,sys,run,tmp}
  chmod 1777 "$root/tmp" "$root/home/$user" # also for who is started as another user than the image's
  printf 'root:x:0:0:root:/root:/bin/sh\n%s:x:%d:%d::/home/%s:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n' \
    "$user" "$uid" "$uid" "$user" >"$root/etc/passwd"
  printf 'root:x:0:\n%s:x:%d:\nnogroup:x:65534:\n' "$user" "$uid" >"$root/etc/group"
  printf '%s:%d:%d\n' "$user" "$first_id" "$ids" | tee "$root/etc/subuid" >"$root/etc/subgid"
  printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
  for certificate in "$root"/usr/share/ca-certificates/mozilla/*.crt; do cat "$certificate"; done >"$root/etc/ssl/certs/ca-certificates.crt"
  rm -rf "$root/usr/share/ca-certificates"
  chmod -R u+w,go+rX-w "$root"
  chmod 1777 "$root/tmp" "$root/home/$user"
}

# date_back ROOT gives no file a time after the epoch.
date_back() {
  local epoch=${SOURCE_DATE_EPOCH:-}
  if [ -z "$epoch" ]; then
    # The folders are made now, and so is what settle writes; links may be.
    epoch=$(find "$1/usr" -type f -path '*/bin/*' -printf '%T@\n' | sort -n | tail -1)
    epoch=${epoch%.*}
  fi
  find "$1" -newermt "@$epoch" -exec touch -h -d "@$epoch" {} +
}

# root ARCHITECTURE OUT fills OUT with the image's file system.
root() {
  packages_of "$1" "$work/debs-$1" "${packages[@]}"
  unpack "$work/debs-$1" "$work/root-$1"
  slim "$work/root-$1"
  settle "$work/root-$1"
  # The image's build gives them the capabilities that they have instead of the setuid bit: root without privileges,
  # which the bit would make of us, may not map ids.
  chmod 0755 "$work/root-$1"/usr/bin/new{u,g}idmap
  date_back "$work/root-$1"
  replace "$work/root-$1" "$2"
}

tools() {
  packages_of "$1" "$work/debs-tools-$1" "${tools[@]}"
  unpack "$work/debs-tools-$1" "$work/tools-$1"
  replace "$work/tools-$1" "$2"
}

replace() {
  mkdir -p "$(dirname "$2")"
  rm -rf "$2"
  mv "$1" "$2"
}

# fresh STAMP tells whether what STAMP stands for was made by this script, lately.
fresh() { [ -f "$1" ] && [ "$(<"$1")" = "$inputs" ] && [ -n "$(find "$1" -mtime "-${DAYS:-7}")" ]; }

programs() {
  local version
  version=$(go -C scripts/tools list -m -f '{{.Version}}' github.com/moby/buildkit)
  mkdir -p "$2"
  CGO_ENABLED=0 GOARCH=$1 go -C scripts/tools build -trimpath -ldflags="-s -w -X github.com/moby/buildkit/version.Version=$version" -o "$2/" \
    github.com/moby/buildkit/cmd/buildkitd github.com/rootless-containers/rootlesskit/v2/cmd/rootlesskit
  CGO_ENABLED=0 GOARCH=$1 go build -trimpath -buildvcs=false -ldflags="-s -w -X main.version=${VERSION:-dev}" -o "$2/" ./cmd/image-builder ./cmd/image-builder-plugin ./cmd/image-builder-api
}

[ $# -ge 2 ] || {
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2
  exit 2
}
mkdir -p "$1"
context=$(cd "$1" && pwd)
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
exec 9>"$context/.lock"
flock 9
inputs=$(sha256sum scripts/image.sh scripts/bases.sh)
native=$(dpkg --print-architecture)
for architecture in "$@"; do
  if ! fresh "$context/$architecture.stamp"; then
    say "unpacking Debian's packages for $architecture"
    root "$architecture" "$context/root/$architecture"
    printf '%s\n' "$inputs" >"$context/$architecture.stamp"
  fi
  programs "$architecture" "$context/bin/$architecture"
done
if ! fresh "$context/tools.stamp"; then
  tools "$native" "$context/tools/$native"
  printf '%s\n' "$inputs" >"$context/tools.stamp"
fi
