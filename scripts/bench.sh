#!/usr/bin/env bash
# Gets the programs that `make bench` measures image-builder against, and does nothing where they are there:
#
#   .work/bench/buildx   docker buildx, which also runs without docker, from the module in scripts/bench
#   .work/bench/vegeta   the load generator for the service, from the same module
#   buildah              Debian's, as root or through sudo
#
# buildctl comes from scripts/setup.sh, with the daemon.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly out=$PWD/.work/bench module=scripts/bench buildx=github.com/docker/buildx

scripts/setup.sh packages buildah

inputs=$(go version; sha256sum $module/go.mod $module/go.sum scripts/bench.sh)
if [ -x "$out/buildx" ] && [ -x "$out/vegeta" ] && [ -f "$out/buildx.stamp" ] && [ "$(<"$out/buildx.stamp")" = "$inputs" ]; then exit 0; fi
echo "bench: building buildx and vegeta; the first time takes a minute or two" >&2
mkdir -p "$out"
version=$(go -C $module list -m -f '{{.Version}}' $buildx) # buildx does not find out by itself
CGO_ENABLED=0 go -C $module build -trimpath -buildvcs=false -ldflags="-s -w -X $buildx/version.Version=$version" -o "$out/buildx" $buildx/cmd/buildx
CGO_ENABLED=0 go -C $module build -trimpath -buildvcs=false -ldflags="-s -w" -o "$out/vegeta" github.com/tsenart/vegeta/v12
printf '%s\n' "$inputs" >"$out/buildx.stamp"
