#!/usr/bin/env bash
# Gets what image-builder needs on this machine, and does nothing where it is there already.
#
#   setup.sh engine              bin/buildkitd, bin/buildctl and bin/rootlesskit, from the module in scripts/tools
#   setup.sh packages [NAME…]    Debian packages: runc and git, uidmap for users other than root, and NAME…;
#                                as root or through sudo it installs what is missing, otherwise it names it
#   setup.sh emulation           qemu-user-static, registered so that a RUN can be carried out for foreign platforms;
#                                needs bin/image-builder, and root or sudo
#   setup.sh lint                golangci-lint, into .work/tools
#   setup.sh node                Node.js and what tests run on it, into .work/node, from scripts/node; npm is a Debian package
#   setup.sh puccini             puccini-tosca, into .work/tools, from the module in scripts/puccini: tests let it check our TOSCA
#
# No foreign architecture is added, and no package list or daemon configuration is changed.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly lint_version=v2.15.0
readonly buildkit=github.com/moby/buildkit rootlesskit=github.com/rootless-containers/rootlesskit/v2

say() { printf 'setup: %s\n' "$*" >&2; }

# fresh STAMP INPUTS tells whether STAMP says INPUTS; done_with writes it.
fresh() { [ -f "$1" ] && [ "$(<"$1")" = "$2" ]; }
done_with() { mkdir -p "$(dirname "$1")" && printf '%s\n' "$2" >"$1"; }

# The flags are those of our own executables, so that both share what the Go command has compiled.
engine() {
  local stamp=.work/engine.stamp version inputs
  inputs=$(go version; sha256sum scripts/tools/go.mod scripts/tools/go.sum scripts/setup.sh)
  if fresh "$stamp" "$inputs" && [ -x bin/buildkitd ] && [ -x bin/buildctl ] && [ -x bin/rootlesskit ]; then return; fi
  say "building buildkitd and rootlesskit; the first time takes a minute or three"
  mkdir -p bin
  version=$(go -C scripts/tools list -m -f '{{.Version}}' $buildkit) # BuildKit does not find out by itself
  CGO_ENABLED=0 go -C scripts/tools build -trimpath -ldflags="-s -w -X $buildkit/version.Version=$version" -o "$PWD/bin/" \
    $buildkit/cmd/buildkitd $buildkit/cmd/buildctl $rootlesskit/cmd/rootlesskit
  done_with "$stamp" "$inputs"
}

lint() {
  local tools=$PWD/.work/tools
  if fresh .work/lint.stamp "$lint_version" && [ -x "$tools/golangci-lint" ]; then return; fi
  say "building golangci-lint $lint_version"
  GOBIN=$tools GOFLAGS='' CGO_ENABLED=0 go install -trimpath -ldflags='-s -w' "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$lint_version"
  done_with .work/lint.stamp "$lint_version"
}

puccini() {
  local stamp=.work/puccini.stamp inputs
  inputs=$(go version; sha256sum scripts/puccini/go.mod scripts/puccini/go.sum)
  if fresh "$stamp" "$inputs" && [ -x .work/tools/puccini-tosca ]; then return; fi
  say "building puccini-tosca; the first time takes a minute"
  CGO_ENABLED=0 go -C scripts/puccini build -trimpath -ldflags='-s -w' -o "$PWD/.work/tools/" github.com/tliron/puccini/executables/puccini-tosca
  done_with "$stamp" "$inputs"
}

# Node.js itself comes from the npm registry too: Debian 12 has version 18, and the OpenID provider wants 20 or newer.
node() {
  local stamp=.work/node.stamp inputs
  inputs=$(uname -m; sha256sum scripts/node/package.json scripts/node/package-lock.json)
  if fresh "$stamp" "$inputs" && [ -d .work/node/node_modules/oidc-provider ]; then return; fi
  packages npm
  say "installing Node.js and what tests run on it"
  mkdir -p .work/node
  cp scripts/node/package.json scripts/node/package-lock.json .work/node/
  # The programs of the packages are not wanted, so their installation scripts are not run.
  npm ci --prefix .work/node --ignore-scripts --no-audit --no-fund --loglevel error >&2
  done_with "$stamp" "$inputs"
}

# Without root or sudo, image-builder says what to do, and that nothing is to be done where all is there.
emulation() {
  local root=()
  packages qemu-user-static
  if [ "$(id -u)" != 0 ] && sudo -n true 2>/dev/null; then root=(sudo -n); fi
  "${root[@]}" bin/image-builder doctor --fix --output table >/dev/null
}

# program PACKAGE prints what a package is known by.
program() {
  case $1 in
  uidmap) echo newuidmap ;;
  iproute2) echo ip ;;
  openssh-client) echo ssh ;;
  util-linux) echo losetup ;;
  e2fsprogs) echo mkfs.ext4 ;;
  default-jre-headless) echo java ;;
  maven) echo mvn ;;
  # Debian keeps each version's server programs apart from PATH; tests start their own, and not the cluster of the package
  postgresql) printf '%s\n' /usr/lib/postgresql/*/bin/initdb | tail -n 1 ;;
  qemu-user-static) echo qemu-s390x-static ;;
  *) echo "$1" ;;
  esac
}

packages() {
  local needed=(runc git "$@") missing=() name root=()
  if [ "$(id -u)" != 0 ]; then needed+=(uidmap); fi
  for name in "${needed[@]}"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "$(program "$name")" >/dev/null || missing+=("$name")
  done
  if [ ${#missing[@]} = 0 ]; then return; fi
  local install=(apt-get install --yes --no-install-recommends "${missing[@]}")
  if [ "$(id -u)" != 0 ]; then
    if ! sudo -n true 2>/dev/null; then
      say "missing: ${missing[*]}. As root: ${install[*]}"
      exit 75 # EX_TEMPFAIL: the same call succeeds once that is done
    fi
    root=(sudo -n)
  fi
  say "${install[*]}"
  root+=(env DEBIAN_FRONTEND=noninteractive)
  install+=(-o DPkg::Lock::Timeout=600) # another may install too
  if "${root[@]}" "${install[@]}" >&2; then return; fi
  say "once more, with fresh package lists"
  "${root[@]}" apt-get update -qq || say "some package list was not updated; going on with what there is"
  "${root[@]}" "${install[@]}" >&2
}

case ${1-} in
engine | emulation | lint | node | packages | puccini) "$@" ;;
*)
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2
  exit 2
  ;;
esac
