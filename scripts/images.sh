#!/usr/bin/env bash
# images.sh CONTEXT "IMAGE…" ARCHITECTURE… fills the folder CONTEXT with what the container images of image-builder are made of: image-builder,
# image-builder-api, image-builder-postgres and image-builder-registry, for the architectures amd64 and arm64:
#
#   root/SET/ARCHITECTURE   Debian's packages, unpacked: git, runc and what they need (SET builder), PostgreSQL (postgres), the registry (registry)
#   bin/ARCHITECTURE        image-builder, its plugin, the REST service, BuildKit's daemon and rootlesskit, compiled for it
#   files/IMAGE             scripts and settings of the image, from schemas/examples/own-images
#   empty                   a folder to make others of
#   tools/ARCHITECTURE      of this machine's own only: setcap, which builds run
#
# The packages are those of the Debian release below, whatever this machine's own is, through its mirror and keyring (or
# DEBIAN_MIRROR=URI), with a package state of apt's that lives in a temporary folder: no foreign architecture is added, no
# list or setting of the machine is touched, and no root is needed. The same packages give the same files: nothing of this machine
# gets into them, and no time after SOURCE_DATE_EPOCH (default: that of the newest packaged file).
#
# Debian's part is unpacked in .work/images/debian, for all contexts. It is left alone until this script changes, or for DAYS days
# (default 7): by then Debian may have mended something.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=scripts/bases.sh
source scripts/bases.sh # for its functions

readonly suite=bookworm debian_keyring=/usr/share/keyrings/debian-archive-keyring.gpg
readonly debian=.work/images/debian examples=schemas/examples/own-images
readonly images=(image-builder image-builder-api image-builder-postgres image-builder-registry)
declare -rA set_of=([image-builder]=builder [image-builder-api]=builder [image-builder-postgres]=postgres [image-builder-registry]=registry)
declare -rA packages=(
  [builder]='base-files ca-certificates dash git git-lfs runc tini uidmap'
  [postgres]='base-files busybox libc-bin postgresql-15 tzdata'
  [registry]='apache2-utils base-files busybox ca-certificates docker-registry'
  [tools]='libcap2-bin'
)
# What is left out of what these depend on: only their installation, and parts that are not used, need it.
declare -rA without=(
  [all]='adduser debconf debianutils dpkg init-system-helpers lsb-base mawk openssl passwd perl tar'
  [builder]='libc-bin liberror-perl tzdata'
  # the compiler of queries is several times the rest
  [postgres]='libllvm14 locales postgresql-client-common postgresql-common ssl-cert'
  [registry]='libc-bin tzdata'
  [tools]='libc-bin tzdata'
)
# Who runs in an image: name, id and home. Ids of a build's RUNs are a range that no user of a machine has.
declare -rA users=([builder]='builder 1000 /home/builder' [postgres]='postgres 999 /var/lib/postgresql' [registry]='registry 998 /var/lib/registry')
readonly first_id=100000 ids=65536
# What busybox is called by: enough for scripts, and for somebody who looks inside.
readonly applets=(sh cat chmod cp date df du echo env false find grep head id kill ls mkdir mv ps pwd rm rmdir sed sleep sort stat tail test touch true vi wc wget)

say() { printf 'images: %s\n' "$*" >&2; }

# prepare APT ARCHITECTURE makes a package state of apt's in the folder APT, with fresh lists; APT_CONFIG leads to it.
prepare() {
  local apt=$1 line uri key part try
  architectures=("$2") # for configure
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
  printf 'APT::Architecture "%s";\nAPT::Install-Recommends "0";\nDebug::NoLocking "1";\n' "$2" >>"$apt/apt.conf"
  for ((try = 1; try <= tries; try++)); do
    if apt-get update -qq; then return; fi
    say "try $try of $tries did not get the package lists"
    sleep 5
  done
  exit 75
}

# packages_of SET ARCHITECTURE OUT links the packages of a set, and what they need, into the folder OUT. Sets share downloads.
packages_of() {
  local apt=$work/apt-$2 part try name
  if ! [ -d "$apt" ]; then prepare "$apt" "$2"; fi
  export APT_CONFIG=$apt/apt.conf
  # apt takes for installed what is to be left out.
  for part in ${without[all]} ${without[$1]}; do
    printf 'Package: %s\nStatus: install ok installed\nVersion: 1:9999\nArchitecture: %s\nMulti-Arch: allowed\nProvides: awk\nMaintainer: none\nDescription: left out\n\n' \
      "$part" "$2"
  done >"$apt/status"
  for ((try = 1; try <= tries; try++)); do
    # shellcheck disable=SC2086 # words
    if apt-get install -qq --yes --download-only ${packages[$1]} >"$apt/said" 2>&1; then
      mkdir -p "$3"
      # shellcheck disable=SC2086
      apt-get install -qq --yes --simulate ${packages[$1]} | sed -n 's/^Inst \([^ ]*\) .*/\1/p' >"$apt/names"
      while read -r name; do ln "$apt/cache/archives/${name%:*}"_*.deb "$3"; done <"$apt/names"
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
      --exclude='./usr/share/postgresql/*/man*' --exclude='./usr/lib/postgresql/*/lib/bitcode*' --exclude='./usr/lib/systemd*' --exclude='./usr/share/initramfs-tools*' \
      --exclude='./etc/init.d*' --exclude='./etc/default*' --exclude='./etc/cron*' --exclude='./etc/bash_completion.d*' --exclude='./etc/logrotate.d*'
    name=$(dpkg-deb -f "$deb" Package)
    { dpkg-deb -f "$deb" && echo 'Status: install ok installed'; } >"$root/var/lib/dpkg/status.d/$name"
  done
}

# only FOLDER NAME… takes away what else is in a folder.
only() {
  local folder=$1 keep entry
  shift
  for entry in "$folder"/*; do
    for keep in "$@"; do
      # shellcheck disable=SC2053 # a pattern
      if [[ ${entry##*/} == $keep ]]; then continue 2; fi
    done
    rm -rf "$entry"
  done
}

# slim_SET ROOT takes away what is not used.
slim_builder() {
  only "$1/usr/lib/git-core" git git-remote-http git-remote-https # what fetching needs
  rm -f "$1"/usr/bin/{git-shell,git-receive-pack,git-upload-archive,git-upload-pack,scalar,tini-static}
}

slim_postgres() {
  only "$1/usr/bin" busybox locale
  only "$1/usr/sbin"
  only "$1/usr/lib/postgresql/15/bin" createdb createuser dropdb initdb pg_ctl pg_controldata pg_dump pg_dumpall pg_isready pg_resetwal pg_restore postgres psql reindexdb vacuumdb
  rm -rf "$1"/usr/lib/postgresql/15/lib/{llvmjit*,pgxs} "$1"/usr/share/zoneinfo/{posix,right} "$1/usr/share/postgresql-common"
}

slim_registry() {
  only "$1/usr/bin" busybox docker-registry htpasswd
  only "$1/usr/sbin"
  rm -rf "$1/etc/docker"
}

# settle SET ROOT makes the files that packages make when they are installed.
settle() {
  local root=$2 user uid home applet certificate
  read -r user uid home <<<"${users[$1]}"
  mkdir -p "$root"/etc/ssl/certs "$root"/{dev,proc,sys,run,tmp}
  rm -rf "$root/var/run" # a package of its own has it as a folder
  rm -rf "$root/var/run"
  ln -s /run "$root/var/run"
  printf 'root:x:0:0:root:/root:/bin/sh\n%s:x:%d:%d::%s:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n' \
    "$user" "$uid" "$uid" "$home" >"$root/etc/passwd"
  printf 'root:x:0:\n%s:x:%d:\nnogroup:x:65534:\n' "$user" "$uid" >"$root/etc/group"
  printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
  if [ "$1" = builder ]; then
    printf '%s:%d:%d\n' "$user" "$first_id" "$ids" | tee "$root/etc/subuid" >"$root/etc/subgid"
    # Builds give them the capabilities that they have instead of the setuid bit: root without privileges, which the bit would make
    # of us, may not map ids.
    chmod 0755 "$root"/usr/bin/new{u,g}idmap
    mkdir -p "$root$home"
  fi
  if [ -e "$root/usr/bin/busybox" ]; then
    for applet in "${applets[@]}"; do ln -s busybox "$root/usr/bin/$applet"; done
  fi
  if [ -d "$root/usr/share/ca-certificates" ]; then
    for certificate in "$root"/usr/share/ca-certificates/mozilla/*.crt; do cat "$certificate"; done >"$root/etc/ssl/certs/ca-certificates.crt"
    rm -rf "$root/usr/share/ca-certificates"
  fi
  chmod -R u+w,go+rX-w "$root"
  chmod 1777 "$root/tmp"
  if [ "$1" = builder ]; then chmod 1777 "$root$home"; fi # also for who is started as another user than the image's
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

# fresh STAMP tells whether what STAMP stands for was made by this script, lately.
fresh() { [ -f "$1" ] && [ "$(<"$1")" = "$inputs" ] && [ -n "$(find "$1" -mtime "-${DAYS:-7}")" ]; }

# root SET ARCHITECTURE makes the file system of a set, if it is not there or is old.
root() {
  local made=$work/root-$1-$2
  if fresh "$debian/$1-$2.stamp"; then return; fi
  say "unpacking Debian's packages for $1, $2"
  packages_of "$1" "$2" "$work/debs-$1-$2"
  unpack "$work/debs-$1-$2" "$made"
  if [ "$1" != tools ]; then # which are in no image
    "slim_$1" "$made"
    settle "$1" "$made"
    date_back "$made"
  fi
  rm -rf "${debian:?}/$1-$2"
  mv "$made" "$debian/$1-$2"
  printf '%s\n' "$inputs" >"$debian/$1-$2.stamp"
}

# link SET ARCHITECTURE TARGET gives a context a file system. What is the same already keeps its folders, and builds their cache.
link() {
  if [ -f "$3.stamp" ] && [ "$3.stamp" -nt "$debian/$1-$2.stamp" ]; then return; fi
  mkdir -p "$(dirname "$3")"
  rm -rf "$3"
  cp -al "$debian/$1-$2" "$3"
  touch "$3.stamp"
}

# programs ARCHITECTURE OUT PROGRAM… compiles.
programs() {
  local architecture=$1 out=$2 version
  version=$(go -C scripts/tools list -m -f '{{.Version}}' github.com/moby/buildkit)
  mkdir -p "$out"
  CGO_ENABLED=0 GOARCH=$architecture go -C scripts/tools build -trimpath -ldflags="-s -w -X github.com/moby/buildkit/version.Version=$version" -o "$out/" \
    github.com/moby/buildkit/cmd/buildkitd github.com/rootless-containers/rootlesskit/v2/cmd/rootlesskit
  CGO_ENABLED=0 GOARCH=$architecture go build -trimpath -buildvcs=false -ldflags="-s -w -X main.version=${VERSION:-dev}" -o "$out/" "${@:3}"
}

[ $# -ge 3 ] || {
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2
  exit 2
}
mkdir -p "$1" "$debian"
context=$(cd "$1" && pwd)
read -ra wanted <<<"$2"
shift 2
for image in "${wanted[@]}"; do
  [ -n "${set_of[$image]:-}" ] || {
    say "there is no image $image; there are ${images[*]}"
    exit 2
  }
done
work=$(mktemp -d "$PWD/$debian/work.XXXXXX") # where folders can be renamed to their places
trap 'rm -rf "$work"' EXIT
exec 9>"$debian/.lock"
flock 9
inputs=$(sha256sum scripts/images.sh scripts/bases.sh)
native=$(dpkg --print-architecture)
mkdir -p "$context/empty" "$context/files"
mains=()
for image in "${wanted[@]}"; do
  rm -rf "${context:?}/files/$image"
  cp -r "$examples/$image" "$context/files/$image"
  chmod -R u=rwX,go=rX "$context/files/$image" # whatever the umask was
  case $image in
  image-builder) mains+=(./cmd/image-builder ./cmd/image-builder-plugin) ;;
  image-builder-api) mains+=(./cmd/image-builder-api ./cmd/image-builder-plugin) ;;
  esac
  for architecture in "$@"; do
    root "${set_of[$image]}" "$architecture"
    link "${set_of[$image]}" "$architecture" "$context/root/${set_of[$image]}/$architecture"
  done
done
if [ ${#mains[@]} -gt 0 ]; then
  root tools "$native"
  link tools "$native" "$context/tools/$native"
fi
exec 9>&- # to compile takes minutes the first time, and is the context's own affair
if [ ${#mains[@]} -gt 0 ]; then
  for architecture in "$@"; do programs "$architecture" "$context/bin/$architecture" "${mains[@]}"; done
fi
