#!/usr/bin/env bash
# Gets the Docker Engines that tests build with, into .work/engines, and does nothing where they are there:
#
#   engines.sh [debian] [28] [29] [compose]    only these, and without any of them all
#
#   bin/dockerd-28, bin/dockerd-29   from the modules in scripts/engines; some minutes each on two cores
#   bin/docker-compose               from the module in scripts/engines/compose; some minutes
#   debian/                          Debian's docker.io, containerd and openssh-server, unpacked and not installed
#
# All of them use that containerd. Nothing of the machine is changed, and no daemon is started.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly out=$PWD/.work/engines
readonly packages=(docker.io containerd libdevmapper1.02.1 openssh-server libwrap0)
readonly tags='netgo osusergo static_build nri_no_wasm'

say() { printf 'engines: %s\n' "$*" >&2; }

# fresh STAMP INPUTS tells whether STAMP says INPUTS.
fresh() { [ -f "$1" ] && [ "$(<"$1")" = "$2" ]; }

# build NUMBER PACKAGE builds an Engine's daemon from its module, at low priority: it takes all processors for minutes.
build() {
  local module=scripts/engines/docker$1 target=$out/bin/dockerd-$1 stamp=$out/docker$1.stamp inputs
  inputs=$(go version; sha256sum "$module/go.mod" "$module/go.sum" scripts/engines.sh)
  if fresh "$stamp" "$inputs" && [ -x "$target" ]; then return; fi
  say "building dockerd $1; the first time takes some minutes"
  CGO_ENABLED=0 GOFLAGS=-buildvcs=false nice -n 15 go -C "$module" build -trimpath -tags "$tags" -ldflags='-s -w' -o "$target" "$2"
  printf '%s\n' "$inputs" >"$stamp"
}

# compose builds Docker Compose, which is a program of its own where it is not put beside docker.
compose() {
  local module=scripts/engines/compose target=$out/bin/docker-compose stamp=$out/compose.stamp inputs
  inputs=$(go version; sha256sum "$module/go.mod" "$module/go.sum")
  if fresh "$stamp" "$inputs" && [ -x "$target" ]; then return; fi
  say "building docker-compose; the first time takes some minutes"
  CGO_ENABLED=0 GOFLAGS=-buildvcs=false nice -n 15 go -C "$module" build -trimpath -ldflags='-s -w' -o "$target" github.com/docker/compose/v2/cmd
  printf '%s\n' "$inputs" >"$stamp"
}

download() { (cd "$1" && apt-get -o APT::Sandbox::User=root download -qq "${packages[@]}"); }

debian() {
  local work
  if fresh "$out/debian/packages" "${packages[*]}"; then return; fi
  say "unpacking Debian's ${packages[*]}"
  work=$(mktemp -d "$out/debs.XXXXXX")
  # shellcheck disable=SC2064 # the folder of now
  trap "rm -rf '$work'" EXIT
  if ! download "$work"; then
    say "once more, with fresh package lists"
    apt-get update -qq || say "some package list was not updated; going on with what there is"
    download "$work"
  fi
  mkdir "$work/root"
  for package in "$work"/*.deb; do dpkg-deb -x "$package" "$work/root"; done
  printf '%s\n' "${packages[*]}" >"$work/root/packages"
  rm -rf "$out/debian"
  mv "$work/root" "$out/debian"
}

mkdir -p "$out/bin"
exec 9>"$out/.lock"
flock 9
if [ $# = 0 ]; then set -- debian 28 29 compose; fi
for engine in "$@"; do
  case $engine in
  debian | compose) "$engine" ;;
  28) build 28 github.com/docker/docker/cmd/dockerd ;;
  29) build 29 github.com/moby/moby/v2/cmd/dockerd ;;
  *)
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
  esac
done
