#!/bin/sh
# image-builder-service ROLE [ARGUMENT…] is what containers of the image image-builder-api run:
#
#   api, worker, all   image-builder-api serve in this role
#   migrate            bring PostgreSQL's schema up to date, and end
#   builder            a rootless BuildKit for workers that have its volume, at unix:///home/builder/buildkitd.sock there
#   health             whether what this container runs is well: for health checks
#
# Anything else is a verb of image-builder-api: keygen, key new, migrate status.
set -eu

socket=unix://$HOME/buildkitd.sock
# A volume, and so written to even where nothing else may be. A health check is told nothing of the role.
role=$HOME/.role

case ${1:-} in
api | worker | all)
  echo "$1" >"$role"
  exec image-builder-api serve --role "$@"
  ;;
migrate)
  echo "$1" >"$role"
  if [ $# -gt 1 ]; then exec image-builder-api "$@"; fi # down, status
  exec image-builder-api migrate up
  ;;
builder)
  echo "$1" >"$role"
  shift
  export XDG_RUNTIME_DIR="$HOME"
  # The output of a step arrives whole.
  export BUILDKIT_STEP_LOG_MAX_SIZE=-1 BUILDKIT_STEP_LOG_MAX_SPEED=-1
  exec rootlesskit --net=host --pidns --propagation=rslave --state-dir="$HOME/rootlesskit" \
    buildkitd --addr="$socket" --root="$HOME/buildkit" --oci-worker-net=host "$@"
  ;;
health)
  is=
  if [ -f "$role" ]; then read -r is <"$role"; fi
  case $is in
  builder) exec image-builder-api health --buildkit "$socket" ;;
  migrate) exit 0 ;; # its exit code says it
  esac
  exec image-builder-api health
  ;;
*) exec image-builder-api "$@" ;;
esac
