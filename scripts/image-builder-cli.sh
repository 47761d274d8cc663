#!/usr/bin/env bash
# image-builder-cli.sh INPUT [FLAG…] does what `image-builder build INPUT [FLAG…]` does, in a container, on a machine with
# nothing but Docker, or Podman as root. INPUT is a build_params document, or - for standard input. docs/container-images.md has the whole story.
#
#   --docker-socket          build with the machine's Docker Engine, by its socket. Who has the socket is root on the machine, so
#                            it is not given to the container otherwise: BuildKit then runs in the container, without any rights
#
#   IMAGE_BUILDER_IMAGE      image to run; default image-builder:latest, which `make images` makes
#   IMAGE_BUILDER_NETWORK    network of the container, as host; default that of the engine
#   IMAGE_BUILDER_VOLUME     volume that keeps the build cache for the next time; default none. One build at a time
#   IMAGE_BUILDER_DOCKER     docker or podman (as root); default the first that is there
#
# Besides INPUT, the container sees what INPUT and FLAGs name of this machine, read-only, under the same path, and the environment
# variables that they name, those of image-builder, and the proxies. Exit codes are those of image-builder.
set -euo pipefail

readonly default_image=image-builder:latest
# The image's user; for others, a passwd file is mounted.
readonly builder=builder builder_id=1000 home=/home/builder
readonly try_again=75

fail() {
  printf 'error: %s\n' "$1" >&2
  if [ $# -gt 1 ]; then printf 'hint: %s\n' "$2" >&2; fi
  exit $try_again
}

usage() {
  sed -n '2,/^set /s/^# \{0,1\}//p' "$0" | sed '$d' >&2
  exit 2
}

find_docker() {
  local name
  for name in ${IMAGE_BUILDER_DOCKER:-docker podman}; do
    if command -v "$name" >/dev/null; then
      docker=$name
      break
    fi
  done
  if [ "${docker##*/}" = podman ] && [ "$(id -u)" != 0 ]; then
    fail "a rootless podman has too few ids to give rootless BuildKit its own" "sudo $0, or docker"
  fi
  if [ -n "$docker" ]; then return; fi
  fail "there is neither docker nor podman" "install one of them, or run image-builder itself"
}

find_image() {
  image=${IMAGE_BUILDER_IMAGE:-$default_image}
  "$docker" image inspect "$image" >/dev/null 2>"$work/said" && return
  if ! "$docker" version >/dev/null 2>&1; then
    cat "$work/said" >&2
    fail "$docker does not answer"
  fi
  # The default is a name that somebody else may have given to an image of theirs on a registry.
  if [ "$image" = "$default_image" ]; then
    fail "there is no image $image" "make it with 'make images' and load it with '$docker load', or name one with IMAGE_BUILDER_IMAGE"
  fi
  "$docker" pull "$image" >&2 || fail "there is no image $image"
}

# identify decides as whom the container runs: as the one who calls, so that it may read what is theirs and nothing else.
identify() {
  uid=$(id -u) gid=$(id -g)
  if [ "$uid" = 0 ]; then
    uid=${SUDO_UID:-0} gid=${SUDO_GID:-0}
    if [ "$uid" = 0 ]; then uid=$builder_id gid=$builder_id; fi
  fi
  printf 'root:x:0:0:root:/root:/bin/sh\n%s:x:%d:%d::%s:/bin/sh\n' "$builder" "$uid" "$gid" "$home" >"$work/passwd"
  chmod 0644 "$work/passwd"
}

# mount PATH TARGET [readonly] adds a bind mount. Quotes let a path hold a comma.
mount() {
  mounts+=(--mount "type=bind,\"source=${1//\"/\"\"}\",\"target=${2//\"/\"\"}\"${3:+,$3}")
}

# show WORD PATH mounts what is there and is not mounted yet.
show() {
  case $shown in *$'\n'"$2"$'\n'*) return ;; esac
  shown+=$2$'\n'
  if [ ! -e "$2" ]; then return; fi # image-builder then says so
  if [ "$1" = write ]; then mount "$2" "$2"; else mount "$2" "$2" readonly; fi
}

# pass NAME… lets variables through, if they are set.
pass() {
  local name
  for name in "$@"; do
    if [ -n "${!name:-}" ] && [[ " ${names[*]-} " != *" $name "* ]]; then names+=("$name"); fi
  done
}

environment() {
  local name
  pass http_proxy https_proxy no_proxy all_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY ALL_PROXY \
    DOCKER_AUTH_CONFIG SSL_CERT_FILE SSL_CERT_DIR
  for name in $(compgen -e IMAGE_BUILDER_); do
    case $name in
    IMAGE_BUILDER_IMAGE | IMAGE_BUILDER_NETWORK | IMAGE_BUILDER_VOLUME | IMAGE_BUILDER_DOCKER) ;;               # our own
    IMAGE_BUILDER_PLUGIN | IMAGE_BUILDER_STATE_DIR | IMAGE_BUILDER_CACHE_DIR | IMAGE_BUILDER_ENVIRONMENT) ;; # of the machine
    *) pass "$name" ;;
    esac
  done
  # An address of another machine; a socket of this one is not in the container.
  if [[ ${BUILDKIT_HOST:-} == tcp://* ]]; then pass BUILDKIT_HOST; fi
  # These are no secrets, and paths of this machine.
  XDG_CONFIG_HOME=${XDG_CONFIG_HOME:-${HOME:-}/.config}
  DOCKER_CONFIG=${DOCKER_CONFIG:-${HOME:-}/.docker}
  pass XDG_CONFIG_HOME DOCKER_CONFIG
  for name in "$XDG_CONFIG_HOME/image-builder/config.yaml" /etc/image-builder/config.yaml "${SSL_CERT_FILE:-}" "${SSL_CERT_DIR:-}"; do
    if [ -n "$name" ]; then show read "$name"; fi
  done
}

# rights_to_build decides what building takes: the socket, or no more than a user namespace does.
rights_to_build() {
  local socket
  if [ -n "$by_socket" ]; then
    socket=${DOCKER_HOST:-unix:///var/run/docker.sock}
    case $socket in
    unix://*) socket=${socket#unix://} ;;
    *) fail "--docker-socket: DOCKER_HOST is $socket, which is no socket of this machine" "image-builder itself can build there, with --docker-host" ;;
    esac
    mount "$socket" /var/run/docker.sock
    rights+=(--group-add "$(stat -L -c %g "$socket")" --env DOCKER_HOST=unix:///var/run/docker.sock --env IMAGE_BUILDER_ENGINE=docker)
    return
  fi
  # rootlesskit needs calls that the default filter forbids, newuidmap and newgidmap one capability each, and a RUN a /proc of its own.
  rights+=(--cap-add SETUID --cap-add SETGID --security-opt seccomp=unconfined --security-opt apparmor=unconfined)
  if [ "${docker##*/}" = podman ]; then
    rights+=(--security-opt unmask=ALL --security-opt label=disable)
  else
    rights+=(--security-opt systempaths=unconfined)
  fi
  if [ -n "${IMAGE_BUILDER_VOLUME:-}" ]; then
    # The name is a lock: two engines on one cache would be each other's end.
    rights+=(--mount "type=volume,source=$IMAGE_BUILDER_VOLUME,target=$home" --name "image-builder-$IMAGE_BUILDER_VOLUME")
  fi
}

# give writes the environment into the pipe that the container reads: what is passed by --env can be seen by everybody who may
# ask the engine, and is written to its disk.
give() {
  local name
  for name in ${names[@]+"${names[@]}"}; do printf '%s=%s\0' "$name" "${!name}"; done >"$work/environment"
}

# contain OPTION… -- ARGUMENT… runs image-builder in a container, passes signals on to it, and leaves its exit code in code.
contain() {
  local also=() writer child signalled=''
  while [ "$1" != -- ]; do
    also+=("$1")
    shift
  done
  shift
  set -- run "${options[@]}" ${mounts[@]+"${mounts[@]}"} ${also[@]+"${also[@]}"} "$image" "$@"
  give &
  writer=$!
  code=0
  case " ${also[*]-} " in
  *' --tty '*) # the container's own terminal makes signals of keys
    trap : INT
    "$docker" "$@" || code=$?
    ;;
  *)
    trap 'signalled=1; kill -INT "$child" || true' INT
    trap 'signalled=1; kill -TERM "$child" || true' TERM HUP
    # In a group of its own: otherwise a terminal would send it ^C besides, and the second one ends a build without tidying.
    set -m
    "$docker" "$@" <&0 &
    child=$!
    set +m
    wait "$child" || code=$?
    while [ -n "$signalled" ]; do
      signalled='' code=0
      wait "$child" || code=$?
    done
    ;;
  esac
  trap - INT TERM HUP
  kill "$writer" 2>/dev/null || true # a container that was never started reads nothing
  wait "$writer" 2>/dev/null || true
  # 125 is the engine's own, which has said why; it is no code of image-builder's.
  if [ "$code" = 125 ]; then code=$try_again; fi
}

# ask has image-builder say what the build needs of this machine, and prepares that. Files that say more are read in another turn.
ask() {
  local before line again=yes
  while [ -n "$again" ]; do
    before=$shown again=''
    contain --network none ${interactive[@]+"${interactive[@]}"} -- needs "${arguments[@]}" < <(printf %s "$document") >"$work/needs"
    if [ "$code" != 0 ]; then exit "$code"; fi
    while IFS= read -r line; do
      case $line in
      read\ * | write\ *) show "${line%% *}" "${line#* }" ;;
      env\ *) pass "${line#* }" ;;
      again) again=yes ;;
      esac
    done <"$work/needs"
    if [ "$shown" = "$before" ]; then again=''; fi
  done
}

if [ $# = 0 ] || [ "$1" = -h ] || [ "$1" = --help ]; then usage; fi
by_socket='' arguments=()
for argument in "$@"; do
  if [ "$argument" = --docker-socket ]; then by_socket=yes; else arguments+=("$argument"); fi
done

umask 077
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
docker='' names=() mounts=() rights=() interactive=() shown=$'\n' document=''
find_docker
find_image
identify
mkfifo "$work/environment"
if [ "$(id -u)" = 0 ]; then chown "$uid:$gid" "$work/environment"; fi
mount "$work/passwd" /etc/passwd readonly
mount "$work/environment" /run/image-builder/environment readonly
options=(--rm --pull=never --log-driver=none --workdir "$PWD" --user "$uid:$gid" --cap-drop ALL
  --env IMAGE_BUILDER_ENVIRONMENT=/run/image-builder/environment
  # What a configuration file says of these is meant for the machine.
  --env IMAGE_BUILDER_ENGINE=auto --env "IMAGE_BUILDER_STATE_DIR=$home/engine" --env "IMAGE_BUILDER_CACHE_DIR=$home/cache")
environment
if [ "${arguments[0]-}" = - ]; then
  interactive=(--interactive)
  document=$(cat)
elif [ -e "${arguments[0]-}" ]; then
  show read "$(cd "$(dirname "${arguments[0]}")" && pwd)/$(basename "${arguments[0]}")"
fi
ask
rights_to_build
if [ -n "${IMAGE_BUILDER_NETWORK:-}" ]; then rights+=(--network "$IMAGE_BUILDER_NETWORK"); fi
if [ ${#interactive[@]} = 0 ] && [ -t 0 ] && [ -t 1 ] && [ -t 2 ]; then
  interactive=(--interactive --tty --env TERM)
  contain "${rights[@]}" "${interactive[@]}" -- build "${arguments[@]}"
else
  contain "${rights[@]}" ${interactive[@]+"${interactive[@]}"} -- build "${arguments[@]}" < <(printf %s "$document")
fi
exit "$code"
